//! Errors of the components, as the API names them.

use crate::{
    datapath::DatapathError,
    error::{Code, Error},
    sys::SysError,
};

impl From<SysError> for Error {
    fn from(error: SysError) -> Error {
        let code = match &error {
            SysError::NotFound { .. } => Code::NotFound,
            SysError::NotANamespace { .. }
            | SysError::NotACgroup { .. }
            | SysError::Unseen { .. }
            | SysError::NotBpffs { .. } => Code::InvalidArgument,
            SysError::MissingCapability { .. } => Code::MissingCapability,
            SysError::Unsupported { .. } => Code::UnsupportedKernel,
            SysError::Held { .. } => Code::Conflict,
            SysError::Io { .. } => Code::Internal,
        };
        Error::new(code, error.to_string())
    }
}

impl From<DatapathError> for Error {
    fn from(error: DatapathError) -> Error {
        let code = match &error {
            DatapathError::Layout { .. } | DatapathError::Map { .. } => Code::Conflict,
            DatapathError::MissingCapability { .. } => Code::MissingCapability,
            DatapathError::UnsupportedKernel { .. } => Code::UnsupportedKernel,
            DatapathError::Full { .. } => Code::PoolExhausted,
            DatapathError::Verifier { .. }
            | DatapathError::DeviceGone { .. }
            | DatapathError::Io { .. }
            | DatapathError::Other { .. } => Code::Internal,
        };
        Error::new(code, error.to_string())
    }
}

pub fn no_network(name: &str) -> Error {
    Error::new(Code::NotFound, format!("network {name:?} not found"))
}

pub fn no_endpoint(name: &str, network: Option<&str>) -> Error {
    let message = match network {
        Some(network) => format!("endpoint {name:?} on network {network:?} not found"),
        None => format!("endpoint {name:?} not found"),
    };
    Error::new(Code::NotFound, message)
}

pub fn not_implemented(what: &str) -> Error {
    Error::new(
        Code::NotImplemented,
        format!("{what} is not implemented yet"),
    )
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}`, as for Docker's containers and networks.
pub fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    match first && rest && name.len() <= 63 {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{what} {name:?}: a name begins with a letter or digit and has at most 63 letters, digits, '_', '.' and '-'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_docker() {
        for good in ["a", "web-1", "A.b_c", "0", &"x".repeat(63)] {
            assert!(check_name("network", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", &"x".repeat(64)] {
            let error = check_name("network", bad).expect_err(bad);
            assert!(error.message.contains(&format!("{bad:?}")));
        }
    }
}
