//! Where our programs should hang, and what runs there: for those who look whether all
//! is right.

use std::{
    mem::MaybeUninit,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramInfo, SchedClassifier};
use netbpf_common::names;

use super::{
    Datapath, Inner, LOOPBACK, Result,
    attach::attach_type,
    host,
    load::chain,
    on_uplink,
    pins::{self, Direction},
    types::{AttachKind, DatapathError, Device, EarlyDrop, UplinkEntry},
};
use crate::sys::{
    SysError,
    cgroup::Cgroup,
    netlink::{Netlink, Side},
};

/// A place where a program of ours should hang, and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hung {
    /// `up0 ingress`, `cgroup 12`.
    pub place: String,
    pub program: &'static str,
    /// Where the attachment is pinned.
    pub pin: PathBuf,
    pub is_pinned: bool,
    /// In the order in which they run.
    pub running: Vec<Running>,
}

impl Hung {
    /// Ours is there, and will be found by the next daemon.
    pub fn is_right(&self) -> bool {
        self.is_pinned && self.running.iter().any(|running| running.ours)
    }
}

/// A program at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// `tcx`, `clsact`, `xdp` or `link`.
    pub kind: &'static str,
    pub name: String,
    /// It is the one that should be there.
    pub ours: bool,
}

impl Datapath {
    /// The places of a host-side veth.
    pub fn hung_on_veth(&self, netlink: &mut Netlink, device: &Device) -> Result<Vec<Hung>> {
        [
            (names::FROM_CONTAINER, Direction::Ingress),
            (names::TO_CONTAINER, Direction::Egress),
        ]
        .into_iter()
        .map(|(program, direction)| {
            self.hung(netlink, device, program, direction, AttachKind::Clsact)
        })
        .collect()
    }

    /// Whether a host-side veth has its programs; asks nothing of the kernel for one
    /// that never had any.
    pub fn is_hung_on_veth(&self, netlink: &mut Netlink, device: &Device) -> Result<bool> {
        let pin =
            |direction, kind| pins::link(&self.bpffs, device.ifindex, direction, kind).exists();
        // With one of the other kind beside it both would run.
        let is_pinned =
            |direction| pin(direction, AttachKind::Clsact) && !pin(direction, AttachKind::Tcx);
        if !Direction::BOTH.into_iter().all(is_pinned) {
            return Ok(false);
        }
        let hung = self.hung_on_veth(netlink, device)?;
        Ok(hung.iter().all(Hung::is_right))
    }

    /// The places of an uplink.
    pub fn hung_on_uplink(
        &self,
        netlink: &mut Netlink,
        uplink: &UplinkEntry,
        early: &EarlyDrop,
    ) -> Result<Vec<Hung>> {
        let device = &uplink.device;
        let mut all = on_uplink(uplink.ethernet)
            .into_iter()
            .map(|(program, direction)| self.hung(netlink, device, program, direction, self.kind))
            .collect::<Result<Vec<_>>>()?;
        if *early == EarlyDrop::Xdp {
            all.push(self.hung_early(netlink, device)?);
        }
        Ok(all)
    }

    /// The place of `lo`.
    pub fn hung_on_loopback(&self, netlink: &mut Netlink) -> Result<Hung> {
        let lo = Device {
            name: "lo".into(),
            ifindex: LOOPBACK,
        };
        self.hung(
            netlink,
            &lo,
            names::HOST_LOCAL,
            Direction::Egress,
            self.kind,
        )
    }

    /// The places of the cgroup.
    pub fn hung_on_cgroup(&self, cgroup: &Cgroup) -> Result<Vec<Hung>> {
        let of = |&program: &'static &'static str| {
            let pin = pins::cgroup_link(&self.bpffs, cgroup.id, program);
            let loaded = loaded(&self.inner(), program)?;
            let link = link(&pin);
            let is_there = link.is_some_and(|link| {
                link.program == loaded && (link.kind, link.target) == (Link::CGROUP, cgroup.id)
            });
            let running = is_there.then(|| Running {
                kind: "link",
                name: program.into(),
                ours: true,
            });
            Ok(Hung {
                place: format!("cgroup {}", cgroup.id),
                program,
                is_pinned: pin.exists(),
                pin,
                running: running.into_iter().collect(),
            })
        };
        names::HOST_PROGRAMS.iter().map(of).collect()
    }

    fn hung(
        &self,
        netlink: &mut Netlink,
        device: &Device,
        program: &'static str,
        direction: Direction,
        kind: AttachKind,
    ) -> Result<Hung> {
        let loaded = loaded(&self.inner(), program)?;
        let running = running(netlink, device, direction)?;
        let ours = pins::kind_label(kind);
        let pin = pins::link(&self.bpffs, device.ifindex, direction, kind);
        Ok(Hung {
            place: format!("{} {}", device.name, direction.label()),
            program,
            is_pinned: pin.exists(),
            pin,
            running: running
                .into_iter()
                .map(|(kind, name, id)| Running {
                    kind,
                    name,
                    ours: kind == ours && id == Some(loaded),
                })
                .collect(),
        })
    }

    fn hung_early(&self, netlink: &mut Netlink, device: &Device) -> Result<Hung> {
        let loaded = loaded(&self.inner(), names::EARLY_DROP)?;
        let pin = pins::xdp_link(&self.bpffs, device.ifindex);
        let programs = netlink.xdp_programs().map_err(failed(device))?;
        let here = programs.iter().find(|(on, _)| *on == device.ifindex);
        Ok(Hung {
            place: format!("{} xdp", device.name),
            program: names::EARLY_DROP,
            is_pinned: pin.exists(),
            pin,
            running: here
                .map(|&(_, id)| Running {
                    kind: "xdp",
                    name: program_name(id),
                    ours: id == loaded,
                })
                .into_iter()
                .collect(),
        })
    }

    /// Pins of maps and programs that are gone.
    pub fn missing_pins(&self) -> Vec<PathBuf> {
        let maps = names::MAPS.iter().map(|name| pins::map(&self.bpffs, name));
        let inner = self.inner();
        let programs = names::PROGRAMS.iter().chain(names::HOST_PROGRAMS);
        let programs = programs
            .filter(|name| loaded(&inner, name).is_ok())
            .map(|name| pins::program(&self.bpffs, name));
        maps.chain(programs).filter(|pin| !pin.exists()).collect()
    }
}

/// Programs on one side of a device in the order in which they run: kind, name, number.
pub(super) fn running(
    netlink: &mut Netlink,
    device: &Device,
    direction: Direction,
) -> Result<Vec<(&'static str, String, Option<u32>)>> {
    // A kernel without TCX has none there.
    let tcx = SchedClassifier::query_tcx(&device.name, attach_type(direction));
    let tcx = tcx.map(|(_, programs)| programs).unwrap_or_default();
    let tcx = tcx
        .iter()
        .map(|info| ("tcx", name_in(info), Some(info.id())));
    let side = match direction {
        Direction::Ingress => Side::Ingress,
        Direction::Egress => Side::Egress,
    };
    let filters = netlink.filters(device.ifindex, side);
    let filters = filters.map_err(failed(device))?.into_iter().map(|filter| {
        let name = filter.name.or_else(|| filter.program.map(program_name));
        ("clsact", name.unwrap_or(filter.kind), filter.program)
    });
    Ok(tcx.chain(filters).collect())
}

/// Programs on the way in of devices that are not ours, by device, and the XDP programs
/// of all: for who looks without a daemon.
pub fn foreign(netlink: &mut Netlink, device: &Device) -> Result<Vec<Running>> {
    let found = running(netlink, device, Direction::Ingress)?;
    Ok(found
        .into_iter()
        .map(|(kind, name, _)| Running {
            kind,
            ours: names::PROGRAMS.contains(&name.as_str()),
            name,
        })
        .collect())
}

/// The name of a program by its number; the number where it has none.
pub fn program_name(id: u32) -> String {
    let mut all = aya::programs::loaded_programs().flatten();
    let found = all.find(|info| info.id() == id);
    found.map_or_else(|| format!("program {id}"), |info| name_in(&info))
}

fn name_in(info: &ProgramInfo) -> String {
    match info.name_as_str() {
        Some(name) if !name.is_empty() => name.into(),
        _ => format!("program {}", info.id()),
    }
}

fn loaded(inner: &Inner, name: &str) -> Result<u32> {
    let missing = || DatapathError::other("look at programs", format!("no program {name}"));
    let program = inner.ebpf.program(name).ok_or_else(missing)?;
    let info = program.info();
    Ok(info
        .map_err(|e| DatapathError::other(format!("read {name}"), chain(&e)))?
        .id())
}

fn failed(device: &Device) -> impl Fn(SysError) -> DatapathError {
    let step = format!("look at the programs of {}", device.name);
    move |error| DatapathError::other(step.clone(), chain(&error))
}

/// The head of `struct bpf_link_info` and, of a link on a cgroup, its target.
#[repr(C)]
#[derive(Clone, Copy)]
struct Link {
    kind: u32,
    id: u32,
    program: u32,
    reserved: u32,
    /// 0 once it was taken off.
    target: u64,
    rest: [u64; 16],
}

impl Link {
    /// `BPF_LINK_TYPE_CGROUP`.
    const CGROUP: u32 = 3;
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// `union bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// What the kernel says of a pinned link, which aya keeps to itself.
fn link(pin: &Path) -> Option<Link> {
    let fd = host::object(pin).ok()?;
    let mut info: MaybeUninit<Link> = MaybeUninit::zeroed();
    let attr = InfoByFd {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<Link>() as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: `attr` is the command's part of `union bpf_attr`; the kernel writes at most
    // `length` bytes to `info`.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const attr,
            size_of::<InfoByFd>(),
        )
    };
    // SAFETY: it is integers alone, zeroed before the call.
    (done == 0).then(|| unsafe { info.assume_init() })
}
