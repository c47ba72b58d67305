//! Network namespaces: finding them, and doing things inside of them.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use serde::{Deserialize, Serialize};

use super::{Result, SysError, capabilities};

/// Which namespace it is, as long as it lives: the inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamespaceId {
    pub device: u64,
    pub inode: u64,
}

/// The cookie of the calling thread's namespace (`SO_NETNS_COOKIE`), by which programs
/// tell its sockets from others.
pub fn cookie() -> Result<u64> {
    let failed = |e: io::Error| SysError::io("ask for the cookie of the network namespace", e);
    // Not bound: there may be no port left.
    let (family, kind) = (AddressFamily::Unix, SockType::Datagram);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.map_err(|e| failed(e.into()))?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes `length` bytes at most.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    let error = io::Error::last_os_error();
    match (done, error.raw_os_error()) {
        (0, _) => Ok(cookie),
        (_, Some(libc::ENOPROTOOPT)) => Err(SysError::Unsupported {
            feature: "SO_NETNS_COOKIE, which came with Linux 5.14: netbpf needs 6.1 or newer",
        }),
        _ => Err(failed(error)),
    }
}

/// An open network namespace. It lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
    id: NamespaceId,
}

impl Namespace {
    /// Opens the namespace at that path.
    pub fn open(path: &Path) -> Result<Namespace> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => SysError::NotFound {
                what: format!("namespace {}", path.display()),
            },
            io::ErrorKind::PermissionDenied => unseen(path),
            _ => SysError::io(format!("open namespace {}", path.display()), e),
        };
        // Only looked at, until it is known to be of nsfs: to open a FIFO or a
        // device may wait for ever or set something off.
        let place = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path)
            .map_err(failed)?;
        if !is_on_nsfs(&place) {
            return Err(SysError::NotANamespace { path: path.into() });
        }
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd())).map_err(failed)?;
        if !is_network_namespace(&file) {
            return Err(SysError::NotANamespace { path: path.into() });
        }
        let metadata = file
            .metadata()
            .map_err(|e| SysError::io(format!("look at namespace {}", path.display()), e))?;
        Ok(Namespace {
            id: NamespaceId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
            path: path.into(),
            file,
        })
    }

    /// The same, where another process found it at `path` and holds it open.
    pub fn open_of(path: &Path, pid: i32, fd: i32) -> Result<Namespace> {
        let place = format!("/proc/{pid}/fd/{fd}");
        let mut namespace = Namespace::open(Path::new(&place))?;
        namespace.path = path.into();
        Ok(namespace)
    }

    /// The calling thread's own.
    pub fn own() -> Result<Namespace> {
        Namespace::open(Path::new("/proc/thread-self/ns/net"))
    }

    pub fn id(&self) -> NamespaceId {
        self.id
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in a thread of its own that is in this namespace. No other
    /// thread ever changes its namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let what = || format!("enter namespace {}", self.path.display());
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("netns".into())
                .stack_size(512 * 1024)
                .spawn_scoped(scope, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                    Ok::<T, nix::errno::Errno>(work())
                })
                .map_err(|e| SysError::io(what(), e))?;
            match thread.join() {
                Ok(done) => done.map_err(|e| SysError::io(what(), e)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Looks for a namespace among those of all processes, for one whose path is
/// gone while something still lives in it.
pub fn find(id: NamespaceId) -> Option<Namespace> {
    let processes = fs::read_dir("/proc").ok()?;
    processes
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .filter_map(|entry| Namespace::open(&entry.path().join("ns/net")).ok())
        .find(|namespace| namespace.id == id)
}

/// Of another's process, which takes the right to trace it.
fn unseen(path: &Path) -> SysError {
    let path = path.into();
    match capabilities::has_ptrace() {
        false => SysError::MissingCapability {
            capability: "CAP_SYS_PTRACE",
            purpose: "open the namespaces of other users' processes",
        },
        true => SysError::Unseen { path },
    }
}

fn is_on_nsfs(file: &File) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    nix::sys::statfs::fstatfs(file).is_ok_and(|s| s.filesystem_type().0 == NSFS_MAGIC)
}

/// For a file of nsfs: the request means something else to a device.
fn is_network_namespace(file: &File) -> bool {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the request takes no argument and the descriptor is open.
    unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) == libc::CLONE_NEWNET }
}
