//! Removal of what a process that was killed left behind: namespaces, mounts,
//! cgroups and directories whose name carries its process id.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::Signal,
};

use super::{Cmd, command, until};

/// Everything of the lab is named `nbt-<pid>-<n>…`.
const PREFIX: &str = "nbt-";

/// The prefix of what this process makes.
pub(super) fn own_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// The root of cgroup v2, if it is mounted.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| target.into())
    })
}

/// Removes what processes that are gone have left.
pub fn remove_stale() {
    let mut pids = BTreeSet::new();
    for dir in [
        Some("/run/netns".into()),
        Some(std::env::temp_dir()),
        cgroup_root(),
    ]
    .into_iter()
    .flatten()
    {
        pids.extend(entries(&dir, PREFIX).iter().filter_map(|path| pid_of(path)));
    }
    for pid in pids {
        if !Path::new(&format!("/proc/{pid}")).exists() {
            remove_of(pid);
        }
    }
}

/// Removes everything that the process has made, also its own.
pub fn remove_of(pid: u32) {
    let prefix = format!("{PREFIX}{pid}-");
    if let Some(root) = cgroup_root() {
        for path in entries(&root, &prefix) {
            end_processes(&path);
            until(Duration::from_secs(1), || {
                remove_cgroup(&path);
                !path.exists()
            });
        }
    }
    for path in entries(Path::new("/run/netns"), &prefix) {
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            _ = Cmd::new(&["ip", "netns", "del", name]).output();
        }
    }
    for path in entries(&std::env::temp_dir(), &prefix) {
        unmount_below(&path);
        _ = fs::remove_dir_all(path);
    }
}

/// Kills what runs in a cgroup of ours: a host's daemon and commands.
fn end_processes(cgroup: &Path) {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()) {
        command::send_signal(pid, Signal::SIGKILL);
    }
}

/// Removes a cgroup and those below it.
pub(super) fn remove_cgroup(path: &Path) {
    for child in fs::read_dir(path).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_cgroup(&child.path());
        }
    }
    _ = fs::remove_dir(path);
}

/// Unmounts whatever is mounted below a directory.
pub(super) fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let below: Vec<&str> = targets
        .filter(|target| Path::new(target).starts_with(dir))
        .collect();
    for target in below.iter().rev() {
        _ = umount2(*target, MntFlags::MNT_DETACH);
    }
}

fn entries(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

fn pid_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}
