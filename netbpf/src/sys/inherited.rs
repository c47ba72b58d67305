//! A listening socket from whoever started us, as `sd_listen_fds(3)` says.

use std::{
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    sync::atomic::{AtomicBool, Ordering},
};

use nix::sys::{
    socket::sockopt,
    socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt},
};

use super::{Result, SysError};

/// The socket, once; None when none was handed over to this process.
pub fn unix_listener() -> Result<Option<UnixListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let failed = |e| SysError::io("sockets from systemd", e);
    let fds: Vec<RawFd> = sd_notify::listen_fds().map_err(failed)?.collect();
    let fd = match fds[..] {
        [] => return Ok(None),
        [fd] => fd,
        _ => {
            let reason = format!("systemd hands over {} sockets; netbpf takes one", fds.len());
            return Err(SysError::Held { reason });
        }
    };
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    // SAFETY: whoever set LISTEN_PID to our process id gave us this descriptor, and
    // it is taken only once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    check(&fd)?;
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Some(listener))
}

fn check(fd: &OwnedFd) -> Result<()> {
    use std::os::fd::AsRawFd;

    let address: SockaddrStorage =
        getsockname(fd.as_raw_fd()).map_err(|e| SysError::io("the socket from systemd", e))?;
    let kind = getsockopt(fd, sockopt::SockType);
    let listens = getsockopt(fd, sockopt::AcceptConn);
    match (address.family(), kind, listens) {
        (Some(AddressFamily::Unix), Ok(SockType::Stream), Ok(true)) => Ok(()),
        _ => Err(SysError::Held {
            reason: "the descriptor from systemd is no listening stream socket of unix".into(),
        }),
    }
}
