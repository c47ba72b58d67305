//! Where things are pinned below the daemon's bpffs directory.
//!
//! ```text
//! <bpffs>/endpoints …                 maps
//! <bpffs>/programs/from_container …   programs
//! <bpffs>/programs/of_0123…           a directory: they are all of one object
//! <bpffs>/links/12_ingress_tcx        a TCX link on device 12
//! <bpffs>/links/12_ingress_clsact     the program of a clsact filter there
//! <bpffs>/links/12_qdisc              a directory: the clsact qdisc there is ours
//! <bpffs>/links/12_xdp                an XDP link on device 12
//! <bpffs>/links/cgroup_1_host_bind4   a link on the cgroup with that number
//! ```

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Result,
    types::{AttachKind, DatapathError},
};
use crate::sys::fault;

pub(super) fn map(bpffs: &Path, name: &str) -> PathBuf {
    bpffs.join(name)
}

pub(super) fn program(bpffs: &Path, name: &str) -> PathBuf {
    bpffs.join("programs").join(name)
}

fn links(bpffs: &Path) -> PathBuf {
    bpffs.join("links")
}

/// Which way a program hangs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// In which they are taken off: what leaves changed finds its way back until the end.
    pub(super) const BOTH: [Direction; 2] = [Direction::Egress, Direction::Ingress];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

pub(super) const fn kind_label(kind: AttachKind) -> &'static str {
    match kind {
        AttachKind::Tcx => "tcx",
        AttachKind::Clsact => "clsact",
    }
}

/// One attachment as its pin tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hook {
    pub ifindex: u32,
    pub direction: Direction,
    pub clsact: bool,
}

pub(super) fn link(bpffs: &Path, ifindex: u32, direction: Direction, kind: AttachKind) -> PathBuf {
    links(bpffs).join(format!(
        "{ifindex}_{}_{}",
        direction.label(),
        kind_label(kind)
    ))
}

const XDP: &str = "_xdp";

/// The XDP link of a device.
pub(super) fn xdp_link(bpffs: &Path, ifindex: u32) -> PathBuf {
    links(bpffs).join(format!("{ifindex}{XDP}"))
}

/// Devices with an XDP link, by ifindex, and the links.
pub(super) fn xdp_links(bpffs: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let names = link_names(bpffs)?;
    let parse = |name: &String| -> Option<(u32, PathBuf)> {
        let ifindex = name.strip_suffix(XDP)?.parse().ok()?;
        Some((ifindex, links(bpffs).join(name)))
    };
    Ok(names.iter().filter_map(parse).collect())
}

const CGROUP: &str = "cgroup_";

/// The link of a program on a cgroup.
pub(super) fn cgroup_link(bpffs: &Path, cgroup: u64, program: &str) -> PathBuf {
    links(bpffs).join(format!("{CGROUP}{cgroup}_{program}"))
}

/// All links on cgroups, with the cgroups' numbers.
pub(super) fn cgroup_links(bpffs: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let names = link_names(bpffs)?;
    Ok(names
        .iter()
        .filter_map(|name| {
            let (id, _) = name.strip_prefix(CGROUP)?.split_once('_')?;
            Some((id.parse().ok()?, links(bpffs).join(name)))
        })
        .collect())
}

/// Notes that the clsact qdisc of a device is ours.
pub(super) fn note_qdisc(bpffs: &Path, ifindex: u32) -> Result<()> {
    make_note(&qdisc(bpffs, ifindex))
}

/// Whether it is noted.
pub(super) fn is_qdisc_ours(bpffs: &Path, ifindex: u32) -> bool {
    qdisc(bpffs, ifindex).is_dir()
}

/// Takes the note away; one that is not there is success.
pub(super) fn forget_qdisc(bpffs: &Path, ifindex: u32) -> Result<()> {
    remove_note(&qdisc(bpffs, ifindex))
}

fn qdisc(bpffs: &Path, ifindex: u32) -> PathBuf {
    links(bpffs).join(format!("{ifindex}_qdisc"))
}

/// Devices that anything there is of.
pub(super) fn devices(bpffs: &Path) -> Result<HashSet<u32>> {
    let names = link_names(bpffs)?;
    let number = |name: &String| name.split_once('_')?.0.parse().ok();
    Ok(names.iter().filter_map(number).collect())
}

/// Removes what was being made for a device when we were killed.
pub(super) fn remove_unfinished(bpffs: &Path, ifindex: u32) -> Result<()> {
    let pin = |direction| link(bpffs, ifindex, direction, AttachKind::Clsact);
    let mut pins = Direction::BOTH.into_iter().map(pin);
    pins.try_for_each(|pin| remove(&fresh(&pin)))
}

/// Notes a digest of the pinned programs, in the place of all notes before.
pub(super) fn note_programs(bpffs: &Path, digest: u64) -> Result<()> {
    let path = note_of_programs(bpffs, digest);
    make_note(&path)?;
    forget_notes(bpffs, |note| note != path)
}

/// Whether that digest is noted.
pub(super) fn is_noted(bpffs: &Path, digest: u64) -> bool {
    note_of_programs(bpffs, digest).is_dir()
}

/// Takes the note away.
pub(super) fn forget_programs(bpffs: &Path) -> Result<()> {
    forget_notes(bpffs, |_| true)
}

fn forget_notes(bpffs: &Path, is_meant: impl Fn(&Path) -> bool) -> Result<()> {
    for entry in fs::read_dir(bpffs.join("programs")).into_iter().flatten() {
        let path = entry.map(|entry| entry.path()).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(OF) && is_meant(&path) {
            remove_note(&path)?;
        }
    }
    Ok(())
}

/// A directory, which is all that a bpffs has besides pins; one that is there is success.
fn make_note(path: &Path) -> Result<()> {
    fault::point("before", || format!("making {}", path.display()));
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error(format!("make {}", path.display()), error));
        }
        _ => {}
    }
    fault::point("after", || format!("making {}", path.display()));
    Ok(())
}

/// One that is not there is success.
fn remove_note(path: &Path) -> Result<()> {
    fault::point("before", || format!("removing {}", path.display()));
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error(format!("remove {}", path.display()), error));
        }
        _ => {}
    }
    fault::point("after", || format!("removing {}", path.display()));
    Ok(())
}

const OF: &str = "of_";

fn note_of_programs(bpffs: &Path, digest: u64) -> PathBuf {
    bpffs.join("programs").join(format!("{OF}{digest:016x}"))
}

/// All attachments that have a pin.
pub(super) fn hooks(bpffs: &Path) -> Result<Vec<Hook>> {
    let names = link_names(bpffs)?;
    Ok(names.iter().filter_map(|name| parse(name)).collect())
}

fn link_names(bpffs: &Path) -> Result<Vec<String>> {
    let directory = links(bpffs);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error(format!("list {}", directory.display()), source)),
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

fn parse(name: &str) -> Option<Hook> {
    let mut parts = name.split('_');
    let ifindex = parts.next()?.parse().ok()?;
    let direction = match parts.next()? {
        "ingress" => Direction::Ingress,
        "egress" => Direction::Egress,
        _ => return None,
    };
    let clsact = match parts.next()? {
        "tcx" => false,
        "clsact" => true,
        _ => return None,
    };
    parts.next().is_none().then_some(Hook {
        ifindex,
        direction,
        clsact,
    })
}

pub(super) fn make_directories(bpffs: &Path) -> Result<()> {
    for directory in [bpffs.join("programs"), links(bpffs)] {
        fs::create_dir_all(&directory)
            .map_err(|e| io_error(format!("make {}", directory.display()), e))?;
    }
    Ok(())
}

/// The name of a pin that is about to take this one's place.
fn fresh(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push("_new");
    path.with_file_name(name)
}

/// Pins anew under a name beside and renames it over the old pin.
pub(super) fn replace(
    path: &Path,
    pin: impl FnOnce(&Path) -> std::result::Result<(), String>,
) -> Result<()> {
    let fresh = fresh(path);
    remove(&fresh)?;
    pin(&fresh).map_err(|e| DatapathError::other(format!("pin {}", fresh.display()), e))?;
    fault::point("before", || format!("renaming pin {}", fresh.display()));
    fs::rename(&fresh, path).map_err(|e| io_error(format!("pin {}", path.display()), e))
}

/// Removes a pin; one that is not there is success.
pub(super) fn remove(path: &Path) -> Result<()> {
    fault::point("before", || format!("removing pin {}", path.display()));
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error(format!("remove {}", path.display()), source)),
    }
}

/// Removes everything below `bpffs` that we pin, the directories included;
/// `bpffs` itself stays when it is a mount point.
pub(super) fn remove_all(bpffs: &Path) -> Result<()> {
    for directory in [bpffs.join("programs"), links(bpffs), bpffs.to_path_buf()] {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(io_error(format!("list {}", directory.display()), source)),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let ours = directory != bpffs
                || name
                    .to_str()
                    .is_some_and(|name| netbpf_common::names::MAPS.contains(&name));
            let is_note = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match (ours, is_note) {
                (true, false) => remove(&entry.path())?,
                // Of the qdiscs, and of the object.
                (true, true) if directory != bpffs => drop(fs::remove_dir(entry.path())),
                _ => {}
            }
        }
        // Fails for a mount point and for one that holds what is not ours.
        drop(fs::remove_dir(&directory));
    }
    Ok(())
}

pub(super) fn io_error(step: String, source: io::Error) -> DatapathError {
    DatapathError::Io { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_read_back_from_its_pin() {
        let path = link(Path::new("/b"), 12, Direction::Egress, AttachKind::Clsact);
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            parse(name),
            Some(Hook {
                ifindex: 12,
                direction: Direction::Egress,
                clsact: true
            })
        );
        assert_eq!(parse("programs"), None);
    }
}
