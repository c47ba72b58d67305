//! How container engines call netbpf: each speaks its own protocol and is a client of
//! the daemon's socket like the command line. None of them keeps anything.

pub mod cni;
pub mod oci;

use std::{
    future::Future,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::Duration,
};

use crate::{
    client::{Client, ClientError},
    error::Code,
    model::OpenNetns,
    sys::netns::Namespace,
};

/// How long the daemon may take: an engine waits for us, and its users for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How it ended.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It may be done later.
    #[error("the daemon on {socket} did not answer within {seconds} s")]
    Late { socket: String, seconds: u64 },
}

impl CallError {
    /// Whether nobody is there to do what was asked for, or whoever was has gone or hangs
    /// while it is being done: the daemon finishes or undoes it when it can.
    fn is_away(&self) -> bool {
        match self {
            CallError::Late { .. } | CallError::Client(ClientError::Lost { .. }) => true,
            CallError::Client(ClientError::Unreachable { source, .. }) => {
                source.kind() != std::io::ErrorKind::PermissionDenied
            }
            CallError::Client(error) => is_refusal(error, Code::Unavailable),
        }
    }
}

/// Waits for the daemon, and not for ever.
async fn in_time<T, E>(
    client: &Client,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E>
where
    E: From<CallError>,
{
    let late = || CallError::Late {
        socket: client.socket().display().to_string(),
        seconds: limit.as_secs(),
    };
    let limited = tokio::time::timeout(limit, work).await;
    limited.unwrap_or_else(|_| Err(late().into()))
}

/// Whether the daemon has refused something for this reason.
fn is_refusal(error: &ClientError, code: Code) -> bool {
    matches!(error, ClientError::Refused(info) if info.code == code.as_str())
}

/// A namespace that we hold open, as the daemon finds it: a path leads there from our
/// mounts and processes, which need not be the daemon's.
fn held(namespace: &Namespace, path: &str) -> OpenNetns {
    OpenNetns {
        path: path.to_owned(),
        pid: std::process::id().cast_signed(),
        fd: namespace.as_fd().as_raw_fd(),
        inode: namespace.id().inode,
    }
}

/// Opens a namespace as long as it is one.
fn open(path: &str) -> Option<Namespace> {
    Namespace::open(Path::new(path)).ok()
}

/// Digits of an id as engines show it: of a long one the first twelve. Some put a name in
/// front of them.
fn short_id(id: &str) -> String {
    const LONGEST: usize = 63;
    const DIGITS: usize = 12;
    let digits = id.rsplit('-').next().unwrap_or(id);
    let is_hex = digits.len() >= 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let chosen = match (is_hex, id.len()) {
        (true, _) => &digits[..DIGITS],
        (false, ..=LONGEST) => id,
        (false, _) => &id[..LONGEST],
    };
    // What an id may have and a name may not.
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let name: String = chosen
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .collect();
    match name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        true => name,
        false => format!("c{}", &name[..name.len().min(LONGEST - 1)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_names() {
        let hex = "3f2a9c41d7e0".repeat(5) + "beef";
        for (id, name) in [
            ("web", "web"),
            (&hex, &hex[..12]),
            (&format!("default-{hex}"), &hex[..12]),
            ("a+b", "a-b"),
            ("_x", "c_x"),
            (&"y".repeat(80), &"y".repeat(63)),
        ] {
            assert_eq!(short_id(id), *name);
            assert!(crate::control::check_name("endpoint", &short_id(id)).is_ok());
        }
    }
}
