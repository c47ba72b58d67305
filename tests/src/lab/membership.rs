//! This process as a member of a host's cgroup, for a while.

use std::{fs, io, path::PathBuf};

use super::sweep::{cgroup_root, enter};

/// Until it is dropped this process, with all of its threads, is in another cgroup.
pub struct Membership {
    before: PathBuf,
}

impl Membership {
    pub fn take(cgroup: PathBuf) -> io::Result<Membership> {
        let root = cgroup_root().ok_or_else(|| io::Error::other("no cgroup v2"))?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = own.ok_or_else(|| io::Error::other("this process is in no cgroup v2"))?;
        enter(&cgroup)?;
        Ok(Membership {
            before: root.join(own),
        })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // Whoever cleans up the cgroup leaves it at the latest.
        if let Err(error) = enter(&self.before) {
            eprintln!("back into {}: {error}", self.before.display());
        }
    }
}
