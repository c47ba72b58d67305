//! A limit of the memory that processes have, and the kernel for them: of the controller
//! `memory`, in cgroup v1 or v2.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::sweep;

/// A cgroup with such a limit.
#[derive(Debug)]
pub struct Memory {
    cgroup: PathBuf,
    is_v1: bool,
}

impl Memory {
    /// A cgroup without a limit yet; `None` where the controller is not to be had.
    pub fn new(name: &str) -> Option<Memory> {
        let name = format!("{}{name}-memory", sweep::own_prefix());
        let v1 = sweep::controller_root("memory").map(|root| (root, true));
        let (root, is_v1) = v1.or_else(|| sweep::cgroup_root().map(|root| (root, false)))?;
        let cgroup = root.join(name);
        fs::create_dir(&cgroup).ok()?;
        let memory = Memory { cgroup, is_v1 };
        memory
            .file("limit_in_bytes", "max")
            .exists()
            .then(|| memory.without_swap())
    }

    /// What does not fit is not put elsewhere. Where there is no such file, there is no swap.
    fn without_swap(self) -> Memory {
        let file = self.file("swappiness", "swap.max");
        if file.exists() {
            fs::write(&file, "0").unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        }
        self
    }

    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn file(&self, v1: &str, v2: &str) -> PathBuf {
        let name = if self.is_v1 { v1 } else { v2 };
        self.cgroup.join(format!("memory.{name}"))
    }

    fn number(&self, path: &Path, field: &str) -> u64 {
        let text = fs::read_to_string(path).expect("what the cgroup says");
        let lines = text.lines().map(|line| line.strip_prefix(field));
        let number = lines.flatten().find_map(|text| text.trim().parse().ok());
        number.unwrap_or_else(|| panic!("no {field:?} in {}: {text}", path.display()))
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.number(&self.file("usage_in_bytes", "current"), "")
    }

    /// How often a process was killed for want of memory.
    pub fn kills(&self) -> u64 {
        self.number(&self.file("oom_control", "events"), "oom_kill ")
    }

    /// Sets the most that may be in use, in bytes; what is in use beyond stays.
    #[track_caller]
    pub fn limit(&self, bytes: u64) {
        let path = self.file("limit_in_bytes", "max");
        let set = fs::write(&path, bytes.to_string());
        set.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Its host has ended what ran in it; what is left goes with what this process made.
        _ = fs::remove_dir(&self.cgroup);
    }
}
