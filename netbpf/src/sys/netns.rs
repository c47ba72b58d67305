//! Network namespaces: finding them, and doing things inside of them.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use super::{Result, SysError};

/// Which namespace it is, as long as it lives: the inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NamespaceId {
    pub device: u64,
    pub inode: u64,
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
        let file = File::open(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => SysError::NotFound {
                what: format!("namespace {}", path.display()),
            },
            _ => SysError::io(format!("open namespace {}", path.display()), e),
        })?;
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
    let processes = std::fs::read_dir("/proc").ok()?;
    processes
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .filter_map(|entry| Namespace::open(&entry.path().join("ns/net")).ok())
        .find(|namespace| namespace.id == id)
}

fn is_network_namespace(file: &File) -> bool {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    // Asked first, since the request means something else to a device.
    let on_nsfs =
        nix::sys::statfs::fstatfs(file).is_ok_and(|s| s.filesystem_type().0 == NSFS_MAGIC);
    // SAFETY: the request takes no argument and the descriptor is open.
    on_nsfs && unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) } == libc::CLONE_NEWNET
}
