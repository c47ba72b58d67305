//! Errors as the CNI specification wants them: a code and a message, as JSON on standard
//! output.

use serde::Serialize;

use super::version::SpecVersion;
use crate::{
    client::ClientError,
    error::{Code, Error},
    integrations::CallError,
};

/// Codes of the specification, and above 99 our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    InputOutput = 5,
    CannotDecode = 6,
    InvalidConfiguration = 7,
    TryAgainLater = 11,
    /// Of STATUS: ADD cannot be served.
    NotAvailable = 50,
    AlreadyExists = 100,
    SubnetOverlap = 101,
    AddressInUse = 102,
    PoolExhausted = 103,
    PortInUse = 104,
    InterfaceExists = 105,
    Conflict = 106,
    /// Of CHECK: the container is not attached as it was.
    NotAsMade = 107,
    Other = 199,
}

#[cfg(test)]
impl Number {
    pub const ALL: [Number; 18] = [
        Number::IncompatibleVersion,
        Number::UnsupportedField,
        Number::UnknownContainer,
        Number::InvalidEnvironment,
        Number::InputOutput,
        Number::CannotDecode,
        Number::InvalidConfiguration,
        Number::TryAgainLater,
        Number::NotAvailable,
        Number::AlreadyExists,
        Number::SubnetOverlap,
        Number::AddressInUse,
        Number::PoolExhausted,
        Number::PortInUse,
        Number::InterfaceExists,
        Number::Conflict,
        Number::NotAsMade,
        Number::Other,
    ];
}

/// A failure of the plug-in.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    pub number: Number,
    pub message: String,
}

impl CniError {
    pub fn new(number: Number, message: impl Into<String>) -> CniError {
        CniError {
            number,
            message: message.into(),
        }
    }

    /// What is printed, for a caller that speaks this version.
    pub fn json(&self, version: SpecVersion) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            cni_version: &'static str,
            code: u32,
            msg: &'a str,
        }
        let body = Body {
            cni_version: version.as_str(),
            code: self.number as u32,
            msg: &self.message,
        };
        // Strings and a number cannot fail to be JSON.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> CniError {
        CallError::from(error).into()
    }
}

impl From<CallError> for CniError {
    fn from(error: CallError) -> CniError {
        let number = match &error {
            error if error.is_away() => Number::TryAgainLater,
            CallError::Client(ClientError::Refused(info)) => of_code(&info.code),
            CallError::Client(ClientError::Busy { .. }) => Number::TryAgainLater,
            // No permission, or an answer that cannot be read.
            _ => Number::InputOutput,
        };
        CniError::new(number, error.to_string())
    }
}

impl From<Error> for CniError {
    fn from(error: Error) -> CniError {
        CniError::new(of_code(error.code.as_str()), error.message)
    }
}

fn of_code(code: &str) -> Number {
    match Code::ALL.into_iter().find(|c| c.as_str() == code) {
        Some(Code::InvalidArgument | Code::AddressNotInSubnet) => Number::InvalidConfiguration,
        Some(Code::NotFound) => Number::UnknownContainer,
        Some(Code::AlreadyExists) => Number::AlreadyExists,
        Some(Code::SubnetOverlap) => Number::SubnetOverlap,
        Some(Code::AddressInUse) => Number::AddressInUse,
        Some(Code::PoolExhausted) => Number::PoolExhausted,
        Some(Code::PortInUse) => Number::PortInUse,
        Some(Code::InterfaceExists) => Number::InterfaceExists,
        Some(Code::Conflict | Code::NetworkInUse) => Number::Conflict,
        Some(Code::NotImplemented) => Number::UnsupportedField,
        Some(
            Code::TooManyRequests
            | Code::Unavailable
            | Code::StoreUnavailable
            | Code::ClusterUnavailable,
        ) => Number::TryAgainLater,
        Some(
            Code::MissingCapability | Code::UnsupportedKernel | Code::StoreCorrupt | Code::Internal,
        )
        | None => Number::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_json_of_the_callers_version() {
        let error = CniError::new(Number::TryAgainLater, "no daemon \"here\"");
        assert_eq!(
            error.json(SpecVersion::V0_4_0),
            r#"{"cniVersion":"0.4.0","code":11,"msg":"no daemon \"here\""}"#
        );
    }

    #[test]
    fn own_codes_are_not_those_of_the_specification() {
        for code in Code::ALL {
            let number = of_code(code.as_str()) as u32;
            assert!(number <= 11 || (100..200).contains(&number), "{code:?}");
        }
        assert_eq!(of_code("brand_new"), Number::Other);
    }
}
