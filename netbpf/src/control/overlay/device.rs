//! An idle VXLAN device. The programs need none; but a socket at the VXLAN port is what
//! has the kernel put the packets of a stream together again as a network card hands
//! them in (GRO for UDP tunnels), before the programs see them.

use std::net::IpAddr;

use netbpf_common::packet::vxlan::RESERVED_VNI;

use super::has_alias;
use crate::{
    control::{Inner, state::State},
    datapath::Device,
    error::Result,
    sys::netlink::{Link, Netlink, Vxlan},
};

/// The name is of this namespace alone, and other software's devices have others.
const NAME: &str = "nb-vxlan";
const ALIAS: &str = "netbpf vxlan";

pub fn is_ours(link: &Link) -> bool {
    has_alias(link, ALIAS)
}

/// Makes the device, unless it is there.
pub fn make(inner: &Inner, state: &mut State, vtep: IpAddr, port: u16) -> Result<()> {
    if state.overlay.device == Some(true) {
        return Ok(());
    }
    // Of an earlier daemon: another address or port would be another socket.
    remove(inner, state)?;
    if !state.host.add_vxlan(&vxlan(vtep, port))? {
        tracing::info!(port, "another VXLAN device has the port: it serves as well");
        state.overlay.device = Some(true);
        return Ok(());
    }
    let made = set_up(inner, state);
    if made.is_err() {
        state.overlay.device = None;
        remove(inner, state)?;
    }
    made?;
    state.overlay.device = Some(true);
    Ok(())
}

fn set_up(inner: &Inner, state: &mut State) -> Result<()> {
    let Some(link) = state.host.link(NAME)? else {
        return Ok(());
    };
    state.host.mark_host_end(link.ifindex, ALIAS, inner.ipv6)?;
    // What comes by it is of nobody, and is dropped and counted.
    inner.datapath.attach_veth(&Device {
        name: link.name,
        ifindex: link.ifindex,
    })?;
    Ok(state.host.set_up(link.ifindex)?)
}

/// Takes it away when nothing needs it any more, also that of an earlier daemon, which may
/// not have come to mark it.
pub fn remove(inner: &Inner, state: &mut State) -> Result<()> {
    if state.overlay.device == Some(false) {
        return Ok(());
    }
    let ours = |link: &Link| is_ours(link) || link.alias.is_none() && !link.up;
    if let Some(link) = state.host.link(NAME)?.filter(ours) {
        state.host.delete_link(link.ifindex)?;
        inner.datapath.detach(&Device {
            name: link.name,
            ifindex: link.ifindex,
        })?;
    }
    state.overlay.device = Some(false);
    Ok(())
}

/// Whether other software takes in VXLAN at that port of this host.
pub fn is_shared(host: &mut Netlink, port: u16) -> Result<bool> {
    let others = host.vxlans()?.into_iter();
    let mut others = others.filter(|found| found.port == port);
    Ok(others.any(|found| found.moved || found.name != NAME))
}

fn vxlan(local: IpAddr, port: u16) -> Vxlan<'static> {
    Vxlan {
        name: NAME,
        vni: RESERVED_VNI,
        port,
        local,
    }
}
