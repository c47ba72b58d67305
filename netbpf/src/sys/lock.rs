//! What one daemon holds against all others: its network namespace and its
//! directory of pins. The kernel lets go of both when the process ends.

use std::{
    fs::{File, TryLockError},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::Path,
};

use nix::sys::socket::{getsockopt, sockopt};

use super::{Result, SysError};

/// Abstract names are a network namespace's own (`unix_find_socket_byname`), and
/// no file of theirs is left behind.
const NAME: &[u8] = b"netbpf";

/// Held by the daemon of a network namespace, or by who takes away what one has
/// left there.
#[derive(Debug)]
pub struct NamespaceLock {
    _socket: UnixListener,
}

impl NamespaceLock {
    /// That of the calling thread's namespace; [`SysError::Held`] where there is
    /// a daemon.
    pub fn take() -> Result<NamespaceLock> {
        let what = || "take the lock of the network namespace";
        let address = SocketAddr::from_abstract_name(NAME).map_err(|e| SysError::io(what(), e))?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(NamespaceLock { _socket: socket }),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                let holder = holder(&address).map_or(String::new(), |pid| format!(" (pid {pid})"));
                Err(SysError::Held {
                    reason: format!("another netbpf daemon{holder} runs in this network namespace"),
                })
            }
            Err(e) => Err(SysError::io(what(), e)),
        }
    }
}

/// The process that holds the name, unless it is out of our sight.
fn holder(address: &SocketAddr) -> Option<i32> {
    let stream = UnixStream::connect_addr(address).ok()?;
    let pid = getsockopt(&stream, sockopt::PeerCredentials).ok()?.pid();
    (pid > 0).then_some(pid)
}

/// Held by the daemon that has its pins in a directory.
#[derive(Debug)]
pub struct DirectoryLock {
    _directory: File,
}

impl DirectoryLock {
    pub fn take(path: &Path) -> Result<DirectoryLock> {
        let what = || format!("lock {}", path.display());
        let directory = File::open(path).map_err(|e| SysError::io(what(), e))?;
        match directory.try_lock() {
            Ok(()) => Ok(DirectoryLock {
                _directory: directory,
            }),
            Err(TryLockError::WouldBlock) => Err(SysError::Held {
                reason: format!("another netbpf daemon has its pins in {}", path.display()),
            }),
            Err(TryLockError::Error(e)) => Err(SysError::io(what(), e)),
        }
    }
}
