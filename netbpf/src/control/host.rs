//! Published ports for the host's own programs: by cgroup hooks where there is a
//! cgroup of version 2, and packet by packet on `lo` for what those leave.

use super::{Inner, state::State};
use crate::{
    error::Result,
    sys::{
        cgroup::{self, Cgroup},
        sock_diag::SockDiag,
    },
};

/// How the host's own programs reach published ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Translated when they connect; published ports are held.
    Cgroup,
    /// Packet by packet, and published ports are not held; why.
    PacketsOnly(String),
}

impl Hooks {
    /// As `status` says it.
    pub fn shown(&self) -> String {
        match self {
            Hooks::Cgroup => "cgroup".into(),
            Hooks::PacketsOnly(why) => format!("no: {why}"),
        }
    }
}

/// Hangs up what serves the host's own programs. A cgroup that the operator named
/// must be one; that of the system may be missing.
pub fn attach(inner: &Inner, state: &mut State) -> Result<()> {
    inner.datapath.attach_loopback()?;
    let hooks = match cgroup(inner)? {
        None => {
            inner.datapath.detach_cgroups()?;
            Hooks::PacketsOnly("no cgroup of version 2 is mounted".into())
        }
        Some(cgroup) => match inner.datapath.attach_cgroup(&cgroup) {
            Ok(()) => Hooks::Cgroup,
            Err(error) => {
                tracing::warn!(%error, "the host's programs reach published ports packet by packet");
                inner.datapath.detach_cgroups()?;
                Hooks::PacketsOnly(error.to_string())
            }
        },
    };
    if let Hooks::PacketsOnly(why) = &hooks {
        state.notes.push(format!(
            "published ports are not held against programs of the host that bind them later: {why}"
        ));
    }
    state.hooks = Some(hooks);
    Ok(())
}

/// Forgets connections whose end no program saw, because they were taken off meanwhile.
pub fn forget_connections(inner: &Inner) -> Result<()> {
    let mut left = inner.datapath.settled_host_connections()?;
    if left.is_empty() {
        return Ok(());
    }
    // A cookie is never used again.
    for socket in SockDiag::open()?.connections(None)? {
        left.remove(&socket.cookie);
    }
    // Nor is an entry that was made anew since, which is of a socket that lives.
    let settled = inner.datapath.settled_host_connections()?;
    left.retain(|cookie| settled.contains(cookie));
    if !left.is_empty() {
        tracing::info!(connections = left.len(), "of the host, ended unseen");
    }
    Ok(inner.datapath.forget_host_connections(&left)?)
}

/// The cgroup whose processes are served, if there is one.
pub fn cgroup(inner: &Inner) -> Result<Option<Cgroup>> {
    let path = match &inner.settings().cgroup {
        Some(path) => Some(path.clone()),
        None => cgroup::root()?,
    };
    Ok(path.map(|path| Cgroup::open(&path)).transpose()?)
}
