//! The directory that programs and maps are pinned in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::statfs,
};

use super::{Result, SysError};

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// How [`prepare`] came by the directory, for [`release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prepared {
    /// It was there.
    Found,
    /// Made in a bpffs that was there.
    Made,
    /// A bpffs was mounted on it.
    Mounted,
}

/// Sees to it that `path` is a directory in a bpffs: used if it is one, made if
/// its parent is in one, else a bpffs is mounted on it if it is empty or missing.
pub fn prepare(path: &Path) -> Result<Prepared> {
    if !path.is_absolute() {
        return refuse(path, "the path must be absolute");
    }
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => refuse(path, "it is not a directory"),
        Ok(_) if is_bpffs(path) => Ok(Prepared::Found),
        Ok(_) if !is_empty(path)? => {
            refuse(path, "it is neither in a bpffs nor an empty directory")
        }
        Ok(_) => mount_on(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => make(path),
        Err(e) => refuse(path, &format!("it cannot be looked at ({e})")),
    }
}

fn make(path: &Path) -> Result<Prepared> {
    let existing = path.ancestors().skip(1).find(|p| p.exists());
    let in_bpffs = existing.is_some_and(is_bpffs);
    if let Err(e) = fs::create_dir_all(path) {
        return refuse(
            path,
            &format!("it cannot be made ({e}); mount a bpffs, or name another directory"),
        );
    }
    if in_bpffs {
        return Ok(Prepared::Made);
    }
    let mounted = mount_on(path);
    if mounted.is_err() {
        // What was made for it, from the innermost.
        let made = path.ancestors().take_while(|p| Some(*p) != existing);
        for directory in made {
            let _ = fs::remove_dir(directory);
        }
    }
    mounted
}

fn mount_on(path: &Path) -> Result<Prepared> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|e| match e {
        Errno::ENODEV => SysError::Unsupported {
            feature: "the file system bpf (CONFIG_BPF_SYSCALL)",
        },
        Errno::EPERM => SysError::MissingCapability {
            capability: "CAP_SYS_ADMIN in the user namespace of its mounts",
            purpose: "mount a bpffs",
        },
        e => SysError::io(format!("mount a bpffs on {}", path.display()), e),
    })?;
    Ok(Prepared::Mounted)
}

/// Takes back what [`prepare`] did, once all pins are gone; the directory stays
/// where others use it.
pub fn release(path: &Path, prepared: Prepared) -> Result<()> {
    match prepared {
        Prepared::Found => Ok(()),
        Prepared::Made => match fs::remove_dir(path) {
            Err(e)
                if !matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) && e.raw_os_error() != Some(libc::EBUSY) =>
            {
                Err(SysError::io(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        },
        Prepared::Mounted => match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(e) => Err(SysError::io(format!("unmount {}", path.display()), e)),
        },
    }
}

pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type().0 == BPF_FS_MAGIC)
}

/// The kernel's own `maps.debug` and `progs.debug` do not count.
fn is_empty(path: &Path) -> Result<bool> {
    let what = || format!("list {}", path.display());
    for entry in fs::read_dir(path).map_err(|e| SysError::io(what(), e))? {
        let name = entry.map_err(|e| SysError::io(what(), e))?.file_name();
        if !name.as_encoded_bytes().ends_with(b".debug") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn refuse<T>(path: &Path, reason: &str) -> Result<T> {
    Err(SysError::NotBpffs {
        path: PathBuf::from(path),
        reason: reason.into(),
    })
}
