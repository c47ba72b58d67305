//! Cgroups of version 2.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use super::{Result, SysError};

/// A cgroup, open.
#[derive(Debug)]
pub struct Cgroup {
    pub file: File,
    /// The kernel's number for it.
    pub id: u64,
}

impl Cgroup {
    /// Opens the directory of a cgroup of version 2.
    pub fn open(path: &Path) -> Result<Cgroup> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => SysError::NotFound {
                what: format!("cgroup {}", path.display()),
            },
            _ => SysError::io(format!("open cgroup {}", path.display()), e),
        };
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path)
            .map_err(failed)?;
        if !is_version_2(&file).map_err(failed)? {
            return Err(SysError::NotACgroup { path: path.into() });
        }
        let id = file.metadata().map_err(failed)?.ino();
        Ok(Cgroup { file, id })
    }
}

fn is_version_2(file: &File) -> io::Result<bool> {
    // SAFETY: the structure is written whole by the kernel, which has no use for
    // what was in it.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, the pointer valid for the call.
    match unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } {
        0 => Ok(stat.f_type as u32 == libc::CGROUP2_SUPER_MAGIC as u32),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where the cgroups of version 2 are mounted, if they are.
pub fn root() -> Result<Option<PathBuf>> {
    let path = "/proc/self/mountinfo";
    let mounts =
        std::fs::read_to_string(path).map_err(|e| SysError::io(format!("read {path}"), e))?;
    Ok(mounts.lines().find_map(mounted).map(PathBuf::from))
}

/// `36 35 98:0 ROOT POINT OPTIONS - TYPE SOURCE OPTIONS`
fn mounted(line: &str) -> Option<&str> {
    let (mount, fs) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (fs.starts_with("cgroup2 ") && root == "/").then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_version_2_is_found() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu";
        let v2 = "29 25 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw";
        assert_eq!(mounted(v1), None);
        assert_eq!(mounted(v2), Some("/sys/fs/cgroup/unified"));
        let part = "29 25 0:27 /a /mnt rw - cgroup2 cgroup2 rw";
        assert_eq!(mounted(part), None);
    }

    #[test]
    fn what_is_no_cgroup_is_said_so() {
        let no = Cgroup::open(Path::new("/proc")).unwrap_err();
        assert_eq!(no.to_string(), "/proc is not a cgroup of version 2");
        let gone = Cgroup::open(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(gone.to_string(), "cgroup /nonexistent not found");
    }
}
