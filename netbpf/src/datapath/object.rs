//! This binary's object in the kernel. Programs that an earlier daemon has loaded from the
//! same object are taken over as they are pinned: their check takes the kernel most of a
//! start, and what hangs on devices stays untouched.
//!
//! That the pinned programs are of an object is said by a directory beside them,
//! `<bpffs>/programs/of_DIGEST`: made when all of them are in place, removed before the
//! first is replaced. The digest is of the object and of the kernel's numbers of these
//! programs, which are never used again: a note stays true of the programs that it was
//! written for, and says nothing of those that another version has put in their place.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::{Deref, DerefMut},
    path::Path,
};

use aya::{
    Ebpf,
    maps::MapInfo,
    programs::{
        CgroupSock, CgroupSockAddr, CgroupSockAttachType, Program, ProgramError, ProgramInfo,
        SchedClassifier, Xdp, cgroup_sock_addr::CgroupSockAddrAttachType,
    },
};
use aya_obj::programs::XdpAttachType;
use netbpf_common::names;

use super::{Result, pins};

/// Maps, and programs by name.
pub(super) struct Object {
    ebpf: Ebpf,
    /// Those that an earlier daemon has loaded.
    kept: HashMap<&'static str, Program>,
    digest: u64,
}

impl Object {
    pub fn new(ebpf: Ebpf, kept: Option<Kept>, digest: u64) -> Object {
        let kept = kept.map_or_else(HashMap::new, |kept| kept.0);
        Object { ebpf, kept, digest }
    }

    /// Of the object, without its programs.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// A program, loaded or not.
    pub fn program(&self, name: &str) -> Option<&Program> {
        let kept = self.kept.get(name);
        kept.or_else(|| self.ebpf.program(name))
    }

    pub fn program_mut(&mut self, name: &str) -> Option<&mut Program> {
        match self.kept.get_mut(name) {
            Some(kept) => Some(kept),
            None => self.ebpf.program_mut(name),
        }
    }
}

/// The maps, mostly.
impl Deref for Object {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        &self.ebpf
    }
}

impl DerefMut for Object {
    fn deref_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Tells an object with its constants from others.
pub(super) fn digest(object: &[u8], constants: impl Hash) -> u64 {
    // Another compiler's hash of the same object is another one's: then all is loaded.
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    constants.hash(&mut hasher);
    hasher.finish()
}

/// Programs of an earlier daemon that are as ours would be.
pub(super) struct Kept(HashMap<&'static str, Program>);

impl Kept {
    /// `None` where one is missing or not what it should be: then none is kept.
    pub fn find(bpffs: &Path, object: u64) -> Option<Kept> {
        if !pins::is_noted(bpffs, with_programs(bpffs, object)) {
            return None;
        }
        let maps = pinned_maps(bpffs)?;
        let mut kept = HashMap::new();
        for &name in names::PROGRAMS.iter().chain(names::HOST_PROGRAMS) {
            let pin = pins::program(bpffs, name);
            if pin.exists() {
                let program = open(name, &pin).ok()?;
                if !uses_only(&program, name, &maps) {
                    return None;
                }
                kept.insert(name, program);
            } else if names::PROGRAMS.contains(&name) && !names::AT_NEED.contains(&name) {
                return None;
            }
        }
        Some(Kept(kept))
    }
}

/// Notes that all programs that are pinned now are of that object.
pub(super) fn note(bpffs: &Path, object: u64) -> Result<()> {
    pins::note_programs(bpffs, with_programs(bpffs, object))
}

/// An object's digest together with the programs that are pinned.
fn with_programs(bpffs: &Path, object: u64) -> u64 {
    let known = names::PROGRAMS.iter().chain(names::HOST_PROGRAMS);
    let number = |&name: &&'static str| {
        let info = ProgramInfo::from_pin(pins::program(bpffs, name)).ok()?;
        Some((name, info.id()))
    };
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    known
        .filter_map(number)
        .collect::<Vec<_>>()
        .hash(&mut hasher);
    hasher.finish()
}

/// The kernel's numbers of the pinned maps; `None` where one is missing.
fn pinned_maps(bpffs: &Path) -> Option<HashSet<u32>> {
    let id = |name: &&str| Some(MapInfo::from_pin(pins::map(bpffs, name)).ok()?.id());
    names::MAPS.iter().map(id).collect()
}

/// Whether it is the program of that name, over these maps: one whose pin was removed is
/// made anew, and the program would look at the old one.
fn uses_only(program: &Program, name: &str, maps: &HashSet<u32>) -> bool {
    let Ok(info) = program.info() else {
        return false;
    };
    let Ok(Some(ids)) = info.map_ids() else {
        return false;
    };
    let is_constants = |id: u32| {
        let info = MapInfo::from_id(id).ok();
        // They are the program's own, with no pin.
        info.is_some_and(|info| {
            info.name_as_str()
                .is_some_and(|name| name.starts_with(".rodata"))
        })
    };
    info.name_as_str() == Some(name)
        && ids
            .into_iter()
            .all(|id| maps.contains(&id) || is_constants(id))
}

fn open(name: &str, pin: &Path) -> Result<Program, ProgramError> {
    let sock_addr = |kind| CgroupSockAddr::from_pin(pin, kind).map(Program::CgroupSockAddr);
    match name {
        names::EARLY_DROP => Xdp::from_pin(pin, XdpAttachType::Interface).map(Program::Xdp),
        "host_release" => {
            CgroupSock::from_pin(pin, CgroupSockAttachType::SockRelease).map(Program::CgroupSock)
        }
        "host_recvmsg4" => sock_addr(CgroupSockAddrAttachType::UDPRecvMsg4),
        "host_recvmsg6" => sock_addr(CgroupSockAddrAttachType::UDPRecvMsg6),
        "host_peername4" => sock_addr(CgroupSockAddrAttachType::GetPeerName4),
        "host_peername6" => sock_addr(CgroupSockAddrAttachType::GetPeerName6),
        "host_connect4" => sock_addr(CgroupSockAddrAttachType::Connect4),
        "host_connect6" => sock_addr(CgroupSockAddrAttachType::Connect6),
        "host_sendmsg4" => sock_addr(CgroupSockAddrAttachType::UDPSendMsg4),
        "host_sendmsg6" => sock_addr(CgroupSockAddrAttachType::UDPSendMsg6),
        "host_bind4" => sock_addr(CgroupSockAddrAttachType::Bind4),
        "host_bind6" => sock_addr(CgroupSockAddrAttachType::Bind6),
        _ => SchedClassifier::from_pin(pin).map(Program::SchedClassifier),
    }
}
