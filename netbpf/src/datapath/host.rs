//! Cgroup programs: what holds them in place is a pinned link each, whose name says
//! the cgroup and the program.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::programs::{
    CgroupAttachMode, Program, ProgramFd,
    links::{FdLink, LinkError},
};
use netbpf_common::names;

use super::{Result, load::chain, object::Object, pins, types::DatapathError};
use crate::sys::{cgroup::Cgroup, fault};

/// Hangs the host's programs on a cgroup, or puts them in the place of those of an
/// earlier daemon there; takes those off that hang on other cgroups.
pub(super) fn attach(ebpf: &mut Object, bpffs: &Path, cgroup: &Cgroup) -> Result<()> {
    for &name in names::HOST_PROGRAMS {
        let pin = pins::cgroup_link(bpffs, cgroup.id, name);
        let step = || format!("attach {name} to the cgroup");
        let failed = |e: &dyn std::error::Error| DatapathError::other(step(), chain(e));
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| DatapathError::other(step(), "no such program"))?;
        fault::point("before", step);
        if pin.exists() {
            let fd = program.fd().map_err(|e| failed(&e))?;
            match update(&pin, fd) {
                Ok(()) => continue,
                // The cgroup was removed, its number used again.
                Err(_) => pins::remove(&pin)?,
            }
        }
        link(program, cgroup, name)?
            .pin(&pin)
            .map_err(|e| failed(&e))?;
    }
    for (id, pin) in pins::cgroup_links(bpffs)? {
        if id != cgroup.id {
            pins::remove(&pin)?;
        }
    }
    Ok(())
}

/// Takes the host's programs off.
pub(super) fn detach(bpffs: &Path) -> Result<()> {
    for (_, pin) in pins::cgroup_links(bpffs)? {
        pins::remove(&pin)?;
    }
    Ok(())
}

fn link(program: &mut Program, cgroup: &Cgroup, name: &str) -> Result<FdLink> {
    let failed = |e: &dyn std::error::Error| {
        DatapathError::other(format!("attach {name} to the cgroup"), chain(e))
    };
    // A link always stands beside those of others; the kernel refuses to be told.
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(&cgroup.file, mode).map_err(|e| failed(&e))?;
            let link = program.take_link(id).map_err(|e| failed(&e))?;
            link.try_into().map_err(|e: LinkError| failed(&e))
        }
        Program::CgroupSock(program) => {
            let id = program.attach(&cgroup.file, mode).map_err(|e| failed(&e))?;
            let link = program.take_link(id).map_err(|e| failed(&e))?;
            link.try_into().map_err(|e: LinkError| failed(&e))
        }
        _ => Err(DatapathError::other(
            format!("attach {name}"),
            "not a program of cgroups",
        )),
    }
}

/// Puts a program in the place of the one that a pinned link holds.
fn update(pin: &Path, program: &ProgramFd) -> io::Result<()> {
    let link = object(pin)?;
    let attr = LinkUpdate {
        link: link.as_raw_fd(),
        program: program.as_fd().as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &attr).map(drop)
}

/// The descriptor of what is pinned there. aya keeps its own to itself.
pub(super) fn object(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attr = ObjectGet {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &attr)?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// `union bpf_attr` of `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// `union bpf_attr` of `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link: RawFd,
    program: RawFd,
    flags: u32,
    old_program: u32,
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<RawFd> {
    // SAFETY: `attr` is the command's part of `union bpf_attr`, of the length given;
    // neither command writes to it.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    match done {
        -1 => Err(io::Error::last_os_error()),
        fd => Ok(fd as RawFd),
    }
}
