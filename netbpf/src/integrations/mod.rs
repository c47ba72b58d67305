//! How container engines call netbpf: each speaks its own protocol and is a client of
//! the daemon's socket like the command line. None of them keeps anything.

pub mod cni;
pub mod oci;

use std::time::Duration;

use crate::{client::ClientError, error::Code};

/// How long the daemon may take: an engine waits for us, and its users for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the daemon has refused something for this reason.
fn is_refusal(error: &ClientError, code: Code) -> bool {
    matches!(error, ClientError::Refused(info) if info.code == code.as_str())
}

/// Whether nobody is there to do what was asked for, or whoever was has gone while it was
/// being done: the daemon finishes or undoes it when it starts.
fn is_away(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => {
            source.kind() != std::io::ErrorKind::PermissionDenied
        }
        ClientError::Lost { .. } => true,
        ClientError::Refused(_) | ClientError::Busy { .. } | ClientError::Garbled { .. } => false,
    }
}
