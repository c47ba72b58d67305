//! The kernel outside of eBPF: netlink, namespaces, sysctls, bpffs, sockets.
//!
//! With `datapath` the only place that talks to the kernel, and the only user of
//! rtnetlink, nix and rustix. Everything here is blocking and quick; it decides nothing
//! and knows no networks or endpoints.

pub mod bpffs;
pub mod capabilities;
pub mod cgroup;
pub mod directories;
pub mod fault;
pub mod inherited;
pub mod lock;
pub mod netfilter;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod sock_diag;
pub mod sockets;
pub mod sysctl;

use std::{io, path::PathBuf};

/// Why the kernel, or what stands for it in files, refused.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{what} not found")]
    NotFound { what: String },
    #[error("{path} is not a network namespace")]
    NotANamespace { path: PathBuf },
    #[error("{path} is not a cgroup of version 2")]
    NotACgroup { path: PathBuf },
    #[error("namespace {path} cannot be opened: the kernel denies the permission")]
    Unseen { path: PathBuf },
    #[error("{path} can hold no pins: {reason}")]
    NotBpffs { path: PathBuf, reason: String },
    #[error("{reason}")]
    Held { reason: String },
    #[error("this kernel lacks {feature}")]
    Unsupported { feature: &'static str },
    #[error("this process lacks {capability}, which it needs to {purpose}")]
    MissingCapability {
        capability: &'static str,
        purpose: &'static str,
    },
}

pub type Result<T, E = SysError> = std::result::Result<T, E>;

impl SysError {
    pub fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        SysError::Io {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            SysError::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// What was to be made is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// What was to be changed or removed is gone: device, route or address.
    pub fn is_gone(&self) -> bool {
        matches!(self, SysError::NotFound { .. })
            || matches!(
                self.errno(),
                Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL)
            )
    }
}

#[cfg(test)]
pub mod tests;
