//! `early_drop` on uplinks: a pinned XDP link, where the driver runs XDP itself. The
//! kernel's generic XDP comes after the packet was made and would gain nothing.

use std::path::Path;

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    xdp::XdpLink,
};
use netbpf_common::names;

use super::{
    Result,
    load::chain,
    object::Object,
    pins,
    types::{DatapathError, Device, EarlyDrop},
};

/// Hangs the program on a device, or puts it in the place of ours there.
pub(super) fn attach(ebpf: &mut Object, bpffs: &Path, device: &Device) -> Result<EarlyDrop> {
    let step = || format!("attach {} to {}", names::EARLY_DROP, device.name);
    let failed = |e: &dyn std::error::Error| DatapathError::other(step(), chain(e));
    let program: &mut Xdp = ebpf
        .program_mut(names::EARLY_DROP)
        .ok_or_else(|| DatapathError::other(step(), "no such program"))?
        .try_into()
        .map_err(|e: ProgramError| failed(&e))?;
    let pin = pins::xdp_link(bpffs, device.ifindex);
    if let Ok(pinned) = PinnedLink::from_pin(&pin) {
        let link: XdpLink = FdLink::from(pinned)
            .try_into()
            .map_err(|e: LinkError| failed(&e))?;
        if let Ok(id) = program.attach_to_link(link) {
            let link = program.take_link(id).map_err(|e| failed(&e))?;
            // The pin holds the link; only our descriptor is closed.
            let _: FdLink = link.try_into().map_err(|e: LinkError| failed(&e))?;
            return Ok(EarlyDrop::Xdp);
        }
        // A link whose device is gone, its number used again.
        pins::remove(&pin)?;
    }
    let id = match program.attach(&device.name, XdpMode::Driver) {
        Ok(id) => id,
        // The driver does not, or somebody else's program is there.
        Err(error) => return Ok(EarlyDrop::Tc(Some(chain(&error)))),
    };
    let link = program.take_link(id).map_err(|e| failed(&e))?;
    let link: FdLink = link.try_into().map_err(|e: LinkError| failed(&e))?;
    link.pin(&pin).map_err(|e| failed(&e))?;
    Ok(EarlyDrop::Xdp)
}
