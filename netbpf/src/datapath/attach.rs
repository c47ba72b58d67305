//! What holds a program in place: a pinned TCX link, or a clsact filter with a
//! fixed priority and handle. Either is replaced atomically.

use std::{ffi::CStr, io, path::Path};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use crate::sys::{SysError, fault, netlink::Netlink};

use super::{
    Result,
    kernel::{Feature, Kernel},
    load::chain,
    object::Object,
    pins::{self, Direction, Hook},
    refusal,
    types::{AttachKind, DatapathError, Device},
};

/// Priority and handle of our filters: first, and recognisable in `tc filter`.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x6e62);

/// What this kernel has.
pub(super) fn kind(kernel: Kernel) -> AttachKind {
    if kernel.has(Feature::Tcx) {
        AttachKind::Tcx
    } else {
        AttachKind::Clsact
    }
}

pub(super) const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Hangs a loaded program on a device, or puts it in the place of ours there.
pub(super) fn attach(
    ebpf: &mut Object,
    bpffs: &Path,
    program: &'static str,
    device: &Device,
    direction: Direction,
    kind: AttachKind,
) -> Result<()> {
    let step = || format!("attach {program} to {} {}", device.name, direction.label());
    let classifier: &mut SchedClassifier = ebpf
        .program_mut(program)
        .ok_or_else(|| DatapathError::other(step(), "no such program"))?
        .try_into()
        .map_err(|e: ProgramError| DatapathError::other(step(), chain(&e)))?;
    let pin = pins::link(bpffs, device.ifindex, direction, kind);
    match kind {
        AttachKind::Tcx => tcx(classifier, &pin, device, direction, &step)?,
        AttachKind::Clsact => clsact(classifier, bpffs, device, direction, &step)?,
    }
    take_off_other_kind(bpffs, device, direction, kind)
}

/// An earlier daemon may have hung the program the other way: both would run.
fn take_off_other_kind(
    bpffs: &Path,
    device: &Device,
    direction: Direction,
    kind: AttachKind,
) -> Result<()> {
    let (other, clsact) = match kind {
        AttachKind::Tcx => (AttachKind::Clsact, true),
        AttachKind::Clsact => (AttachKind::Tcx, false),
    };
    if !pins::link(bpffs, device.ifindex, direction, other).exists() {
        return Ok(());
    }
    let ifindex = device.ifindex;
    detach(
        bpffs,
        Hook {
            ifindex,
            direction,
            clsact,
        },
    )?;
    let still = |direction| pins::link(bpffs, ifindex, direction, AttachKind::Clsact).exists();
    if clsact && !Direction::BOTH.into_iter().any(still) {
        release_qdisc(bpffs, ifindex)?;
    }
    Ok(())
}

fn tcx(
    program: &mut SchedClassifier,
    pin: &Path,
    device: &Device,
    direction: Direction,
    step: &dyn Fn() -> String,
) -> Result<()> {
    let failed = |e: &dyn std::error::Error| DatapathError::other(step(), chain(e));
    if let Ok(pinned) = PinnedLink::from_pin(pin) {
        let link: SchedClassifierLink = FdLink::from(pinned)
            .try_into()
            .map_err(|e: LinkError| failed(&e))?;
        if let Ok(id) = program.attach_to_link(link) {
            let link = program.take_link(id).map_err(|e| failed(&e))?;
            // The pin holds the link; only our descriptor is closed.
            let _: FdLink = link.try_into().map_err(|e: LinkError| failed(&e))?;
            return Ok(());
        }
        // A link whose device is gone, its number used again.
        pins::remove(pin)?;
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&device.name, attach_type(direction), options)
        .map_err(|e| gone_or(device, e, step))?;
    let link = program.take_link(id).map_err(|e| failed(&e))?;
    let link: FdLink = link.try_into().map_err(|e: LinkError| failed(&e))?;
    fault::point("before", || format!("pinning {}", pin.display()));
    link.pin(pin).map_err(|e| failed(&e))?;
    fault::point("after", || format!("pinning {}", pin.display()));
    Ok(())
}

fn clsact(
    program: &mut SchedClassifier,
    bpffs: &Path,
    device: &Device,
    direction: Direction,
    step: &dyn Fn() -> String,
) -> Result<()> {
    let failed = |e: &dyn std::error::Error| DatapathError::other(step(), chain(e));
    let is_new = note_qdisc(bpffs, device)?;
    fault::point("before", || format!("adding clsact to {}", device.name));
    let added = tc::qdisc_add_clsact(&device.name);
    fault::point("after", || format!("adding clsact to {}", device.name));
    if is_new && added.is_err() {
        pins::forget_qdisc(bpffs, device.ifindex)?;
    }
    match added {
        Ok(()) => {}
        // EEXIST, in whichever clothes: the filter below tells what is wrong.
        Err(error @ (TcError::AlreadyAttached | TcError::NetlinkError(_))) => {
            if let Some(refused) = refusal::of_clsact(&error) {
                return Err(refused);
            }
        }
        Err(error) => return Err(gone_or(device, error.into(), step)),
    }
    // The pin first: teardown knows the filter by it, whenever we are killed.
    let pin = pins::link(bpffs, device.ifindex, direction, AttachKind::Clsact);
    pins::replace(&pin, |path| program.pin(path).map_err(|e| chain(&e)))?;
    let direction = attach_type(direction);
    let options = NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    };
    let id = match program.attach_with_options(
        &device.name,
        direction,
        TcAttachOptions::Netlink(options),
    ) {
        Ok(id) => id,
        Err(_) => {
            let held =
                SchedClassifierLink::attached(&device.name, direction, PRIORITY, HANDLE, None)
                    .map_err(|_| DatapathError::DeviceGone {
                        device: device.name.clone(),
                    })?;
            program.attach_to_link(held).map_err(|e| failed(&e))?
        }
    };
    // A filter stays without us; dropping aya's link would remove it.
    std::mem::forget(program.take_link(id).map_err(|e| failed(&e))?);
    Ok(())
}

fn gone_or(device: &Device, error: ProgramError, step: &dyn Fn() -> String) -> DatapathError {
    if name_of(device.ifindex).is_none() {
        return DatapathError::DeviceGone {
            device: device.name.clone(),
        };
    }
    DatapathError::other(step(), chain(&error))
}

/// Takes a program of ours off a device. A device that is gone took it along.
pub(super) fn detach(bpffs: &Path, hook: Hook) -> Result<()> {
    let kind = if hook.clsact {
        AttachKind::Clsact
    } else {
        AttachKind::Tcx
    };
    if hook.clsact
        && let Some(name) = name_of(hook.ifindex)
        && let Ok(link) = SchedClassifierLink::attached(
            &name,
            attach_type(hook.direction),
            PRIORITY,
            HANDLE,
            None,
        )
        && let Err(error) = aya::programs::links::Link::detach(link)
        && !is_missing(&error)
    {
        let step = format!("detach from {name} {}", hook.direction.label());
        return Err(DatapathError::other(step, chain(&error)));
    }
    pins::remove(&pins::link(bpffs, hook.ifindex, hook.direction, kind))
}

/// Notes that the clsact qdisc is ours where there is none yet, before it is made: what we
/// made is known as ours whenever we are killed, and another's never. `true`: it is new.
fn note_qdisc(bpffs: &Path, device: &Device) -> Result<bool> {
    let failed = |e: SysError| DatapathError::other(format!("look at {}", device.name), chain(&e));
    if pins::is_qdisc_ours(bpffs, device.ifindex) {
        return Ok(false);
    }
    let mut netlink = Netlink::open().map_err(failed)?;
    let is_new = !netlink.has_clsact(device.ifindex).map_err(failed)?;
    if is_new {
        pins::note_qdisc(bpffs, device.ifindex)?;
    }
    Ok(is_new)
}

/// Removes the clsact qdisc of a device if we made it and nobody uses it.
pub(super) fn release_qdisc(bpffs: &Path, ifindex: u32) -> Result<()> {
    if !pins::is_qdisc_ours(bpffs, ifindex) {
        return Ok(());
    }
    if name_of(ifindex).is_some() {
        Netlink::open()
            .and_then(|mut netlink| netlink.remove_unused_clsact(ifindex))
            .map_err(|e| DatapathError::other(format!("tidy device {ifindex}"), chain(&e)))?;
    }
    pins::forget_qdisc(bpffs, ifindex)
}

/// The filter was removed by hand, or the device went meanwhile.
fn is_missing(error: &ProgramError) -> bool {
    let text = chain(error);
    ["No such file", "No such device", "Invalid argument"]
        .iter()
        .any(|m| text.contains(m))
}

/// The name of a device of this namespace.
pub(super) fn name_of(ifindex: u32) -> Option<String> {
    let mut buffer = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the call demands.
    let name = unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr().cast()) };
    if name.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(&buffer)
        .ok()?
        .to_str()
        .ok()
        .map(str::to_owned)
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of the programs.
pub(super) fn monotonic() -> Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for the call.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
        return Err(pins::io_error(
            "read the clock".into(),
            io::Error::last_os_error(),
        ));
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
