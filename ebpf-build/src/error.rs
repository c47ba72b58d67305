//! One kind of error: a sentence for the person who builds, with what to do.

use std::{fmt, io, path::Path};

/// What went wrong and what helps.
#[derive(Debug)]
pub struct Error(String);

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    pub(crate) fn io(what: &str, path: &Path, source: &io::Error) -> Self {
        Self(format!("cannot {what} {}: {source}", path.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
