//! The one error of the API: a stable code and a message that names the object
//! and the value. Components have errors of their own and turn into this.

use crate::model::{ErrorBody, ErrorInfo};

/// Stable codes, as interface and API promise them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    NetworkInUse,
    SubnetOverlap,
    AddressInUse,
    AddressNotInSubnet,
    PoolExhausted,
    PortInUse,
    InterfaceExists,
    MissingCapability,
    UnsupportedKernel,
    StoreUnavailable,
    StoreCorrupt,
    ClusterUnavailable,
    Conflict,
    TooManyRequests,
    Unavailable,
    NotImplemented,
    Internal,
}

impl Code {
    /// In the order in which they are documented.
    pub const ALL: [Code; 20] = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::AlreadyExists,
        Code::NetworkInUse,
        Code::SubnetOverlap,
        Code::AddressInUse,
        Code::AddressNotInSubnet,
        Code::PoolExhausted,
        Code::PortInUse,
        Code::InterfaceExists,
        Code::MissingCapability,
        Code::UnsupportedKernel,
        Code::StoreUnavailable,
        Code::StoreCorrupt,
        Code::ClusterUnavailable,
        Code::Conflict,
        Code::TooManyRequests,
        Code::Unavailable,
        Code::NotImplemented,
        Code::Internal,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "invalid_argument",
            Code::NotFound => "not_found",
            Code::AlreadyExists => "already_exists",
            Code::NetworkInUse => "network_in_use",
            Code::SubnetOverlap => "subnet_overlap",
            Code::AddressInUse => "address_in_use",
            Code::AddressNotInSubnet => "address_not_in_subnet",
            Code::PoolExhausted => "pool_exhausted",
            Code::PortInUse => "port_in_use",
            Code::InterfaceExists => "interface_exists",
            Code::MissingCapability => "missing_capability",
            Code::UnsupportedKernel => "unsupported_kernel",
            Code::StoreUnavailable => "store_unavailable",
            Code::StoreCorrupt => "store_corrupt",
            Code::ClusterUnavailable => "cluster_unavailable",
            Code::Conflict => "conflict",
            Code::TooManyRequests => "too_many_requests",
            Code::Unavailable => "unavailable",
            Code::NotImplemented => "not_implemented",
            Code::Internal => "internal",
        }
    }

    /// What it says, for the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Code::InvalidArgument => "a value makes no sense, or is not allowed there",
            Code::NotFound => {
                "there is no such network, endpoint, port, namespace or node: the message says which"
            }
            Code::AlreadyExists => "the name is taken",
            Code::NetworkInUse => "the network has endpoints",
            Code::SubnetOverlap => {
                "the subnet overlaps a route, an address or a network of the host"
            }
            Code::AddressInUse => "the address is another endpoint's, or the gateway's",
            Code::AddressNotInSubnet => "the address is in no subnet of the network",
            Code::PoolExhausted => "no subnet, address or place is left",
            Code::PortInUse => {
                "the port is published already, or a program of the host listens on it"
            }
            Code::InterfaceExists => "the container has an interface of that name",
            Code::MissingCapability => "the daemon lacks a capability: the message says which",
            Code::UnsupportedKernel => "the kernel lacks a feature: the message says which",
            Code::StoreUnavailable => "the state cannot be read or written",
            Code::StoreCorrupt => "the state is damaged",
            Code::ClusterUnavailable => "the cluster cannot be reached",
            Code::Conflict => "another daemon, or another state of things, is in the way",
            Code::TooManyRequests => {
                "more is asked for at a time than the daemon takes; the command line tries again by itself"
            }
            Code::Unavailable => {
                "the daemon is about to end, or cannot be reached: then the exit status is 3"
            }
            Code::NotImplemented => "a later version will do it",
            Code::Internal => "anything else",
        }
    }

    /// HTTP status of an answer with this code.
    pub const fn http_status(self) -> u16 {
        match self {
            Code::InvalidArgument | Code::AddressNotInSubnet => 400,
            Code::NotFound => 404,
            Code::AlreadyExists
            | Code::NetworkInUse
            | Code::SubnetOverlap
            | Code::AddressInUse
            | Code::PortInUse
            | Code::InterfaceExists
            | Code::Conflict => 409,
            Code::TooManyRequests => 429,
            Code::PoolExhausted => 507,
            Code::NotImplemented => 501,
            Code::StoreUnavailable | Code::ClusterUnavailable | Code::Unavailable => 503,
            Code::MissingCapability
            | Code::UnsupportedKernel
            | Code::StoreCorrupt
            | Code::Internal => 500,
        }
    }
}

/// A refusal or failure, ready to be shown.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: Code,
    pub message: String,
}

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error {
            code,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(Code::InvalidArgument, message)
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Error::new(Code::Internal, message.to_string())
    }

    /// The body of an HTTP answer.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorInfo {
                code: self.code.as_str().into(),
                message: shown(&self.message),
            },
        }
    }
}

/// Longest message in an answer, in characters.
pub const LONGEST_MESSAGE: usize = 1000;

/// A message on one line of a terminal, whatever the values in it: what a terminal would
/// obey is escaped, and the middle of what is too long is left out.
pub fn shown(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for char in message.chars() {
        match is_obeyed(char) {
            true => text.extend(char.escape_default()),
            false => text.push(char),
        }
    }
    let length = text.chars().count();
    if length <= LONGEST_MESSAGE {
        return text;
    }
    let half = (LONGEST_MESSAGE - 3) / 2;
    let head = text.chars().take(half);
    head.chain(" … ".chars())
        .chain(text.chars().skip(length - half))
        .collect()
}

/// What says how the rest is shown, and is not seen itself: control characters, the ends of
/// lines and paragraphs, marks of direction and of format. Letters of all scripts are none,
/// with what is put on top of them or joins them.
fn is_obeyed(char: char) -> bool {
    char.is_control()
        || matches!(char,
            '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_for_a_terminal() {
        let message = |text: &str| Error::invalid(text).body().error.message;
        // Letters with marks of their own and joined ones among them.
        let scripts = "Grün u\u{308} \\ 网络 म\u{947} می\u{200c}خواهم";
        for text in ["web: \"8080:80\" isn't a port", scripts, ""] {
            assert_eq!(message(text), text);
        }
        let obeyed = message("name a\nb\u{1b}[31m\u{202e}\u{2028}\0");
        assert_eq!(obeyed, "name a\\nb\\u{1b}[31m\\u{202e}\\u{2028}\\u{0}");
        assert_eq!(message(&obeyed), obeyed);
        let long = message(&format!("name {:?} is too long", "ü".repeat(5000)));
        assert!(long.chars().count() <= LONGEST_MESSAGE, "{long}");
        assert!(
            long.starts_with("name \"ü") && long.ends_with("ü\" is too long"),
            "{long}"
        );
    }
}
