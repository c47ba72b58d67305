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

/// Something that is mounted.
struct Mount {
    target: PathBuf,
    kind: String,
    options: String,
}

/// All that is mounted, in the order in which it was.
fn mounts() -> Vec<Mount> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        Some(Mount {
            target: fields.next()?.into(),
            kind: fields.next()?.into(),
            options: fields.next()?.into(),
        })
    };
    mounts.lines().filter_map(mount).collect()
}

/// The root of cgroup v2, if it is mounted.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    let mut mounts = mounts().into_iter();
    Some(mounts.find(|mount| mount.kind == "cgroup2")?.target)
}

/// The root of a controller of cgroup v1, if it is mounted.
pub(super) fn controller_root(controller: &str) -> Option<PathBuf> {
    let has = |mount: &Mount| mount.options.split(',').any(|option| option == controller);
    let mut mounts = mounts().into_iter();
    let found = mounts.find(|mount| mount.kind == "cgroup" && has(mount));
    Some(found?.target)
}

/// The root of every hierarchy of cgroups; engines make theirs in all of them.
fn cgroup_roots() -> Vec<PathBuf> {
    let all = mounts().into_iter();
    let of_cgroups = all.filter(|mount| mount.kind.starts_with("cgroup"));
    of_cgroups.map(|mount| mount.target).collect()
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
            clear_cgroup(&path);
        }
    }
    for path in cgroup_roots().iter().flat_map(|r| entries(r, &prefix)) {
        remove_cgroup(&path);
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

/// Kills what runs in a cgroup of ours and below it: a host's daemon and commands,
/// engines and their containers. Children of those count, wherever an engine has put
/// them.
fn end_processes(cgroup: &Path) {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            end_processes(&child.path());
        }
    }
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()) {
        // Whoever cleans up may be a member for a while: it leaves.
        if pid == std::process::id() {
            leave();
        } else {
            end_with_children(pid);
        }
    }
}

/// Out of every cgroup of ours.
fn leave() {
    if let Some(root) = cgroup_root()
        && let Err(error) = enter(&root)
    {
        eprintln!("out of the cgroup: {error}");
    }
}

/// Moves this process with all of its threads.
pub(super) fn enter(cgroup: &Path) -> std::io::Result<()> {
    // 0 is whoever writes.
    fs::write(cgroup.join("cgroup.procs"), "0")
}

fn end_with_children(pid: u32) {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    command::send_signal(pid, Signal::SIGKILL);
    for child in children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
    {
        end_with_children(child);
    }
}

/// Ends what runs in a cgroup of ours and removes it and its like in the other
/// hierarchies.
pub fn clear_cgroup(cgroup: &Path) {
    let gone = until(Duration::from_secs(5), || {
        end_processes(cgroup);
        remove_cgroup(cgroup);
        !cgroup.exists()
    });
    if !gone {
        eprintln!("{} cannot be removed", cgroup.display());
    }
    let Some(name) = cgroup_root().and_then(|root| {
        let name = cgroup.strip_prefix(root).ok()?;
        Some(name.to_owned())
    }) else {
        return;
    };
    for root in cgroup_roots() {
        remove_cgroup(&root.join(&name));
    }
}

/// The cgroups of this name, in every hierarchy.
pub fn cgroups(name: &str) -> Vec<PathBuf> {
    let name = name.trim_start_matches('/');
    let paths = cgroup_roots().into_iter().map(|root| root.join(name));
    paths.filter(|path| path.is_dir()).collect()
}

/// Removes the cgroups of this name, in every hierarchy, where nothing is left in them.
pub fn remove_empty_cgroups(name: &str) {
    for path in cgroups(name) {
        // One that is in use cannot be removed, and shall not.
        _ = fs::remove_dir(path);
    }
}

/// Removes a cgroup and those below it.
fn remove_cgroup(path: &Path) {
    for child in fs::read_dir(path).into_iter().flatten().flatten() {
        if child.path().is_dir() {
            remove_cgroup(&child.path());
        }
    }
    _ = fs::remove_dir(path);
}

/// Unmounts whatever is mounted below a directory.
pub(super) fn unmount_below(dir: &Path) {
    let all = mounts();
    for mount in all
        .iter()
        .rev()
        .filter(|mount| mount.target.starts_with(dir))
    {
        _ = umount2(&mount.target, MntFlags::MNT_DETACH);
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
