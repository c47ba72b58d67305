//! XDP on an uplink: drops what `from_uplink` would drop, without state and without
//! the cost of making a packet of it. What is not dropped here is judged there again,
//! so that both give the same answer.
//!
//! parse → martian → flow → allow list → rate

use aya_ebpf::{bindings::xdp_action, macros::xdp, maps::lpm_trie::Key, programs::XdpContext};
use netbpf_common::{
    addr::ANY,
    drop::DropReason,
    maps::{AllowData, LocalKey, PortData, flows::ARRIVAL_UPLINK},
    packet::{Read as _, eth, tuple},
};

use crate::{
    calls, emit,
    family::{Family, V4, V6},
    frame::Frame,
    maps::LOCALS,
    stage::{flow, port},
};

#[xdp]
pub fn early_drop(ctx: XdpContext) -> u32 {
    let frame = &Frame::new(&ctx);
    let Some((ethertype, l3)) = network_header(frame) else {
        return xdp_action::XDP_PASS;
    };
    let judged = match ethertype {
        eth::TYPE_IPV4 => ip::<V4>(frame, l3),
        eth::TYPE_IPV6 => ip::<V6>(frame, l3),
        _ => Ok(()),
    };
    match judged {
        Ok(()) => xdp_action::XDP_PASS,
        Err(reason) => {
            if calls::count_drop(reason as u32, 0) != 0 {
                emit::tell_early_dropped(frame, ethertype, l3, reason);
            }
            xdp_action::XDP_DROP
        }
    }
}

/// Where the network header begins, and of which protocol it is. A tag of priority alone
/// (VLAN 0, IEEE 802.1Q section 6.9.1) is not looked at, as where the card takes it off.
#[inline(always)]
fn network_header(frame: &Frame) -> Option<(u16, usize)> {
    let ethertype = frame.u16(eth::TYPE)?;
    if ethertype != TYPE_VLAN || frame.u16(eth::LEN)? & 0xfff != 0 {
        return Some((ethertype, eth::LEN));
    }
    Some((frame.u16(eth::LEN + 2)?, eth::LEN + TAG))
}

/// `ETH_P_8021Q`.
const TYPE_VLAN: u16 = 0x8100;

/// `VLAN_HLEN`.
const TAG: usize = 4;

#[inline(always)]
fn ip<F: Family>(frame: &Frame, l3: usize) -> Result<(), DropReason> {
    let Some(ip) = F::parse(frame, l3) else {
        return Ok(());
    };
    if F::is_multicast(ip.dst) {
        return Ok(());
    }
    if F::is_martian(ip.dst) || F::is_martian(ip.src) && ip.src != F::UNSPECIFIED {
        return Err(DropReason::Martian);
    }
    // Headers that are not at hand, and what is never translated.
    if ip.opaque
        || ip.later_fragment
        || ip.src == F::UNSPECIFIED
        || F::is_link_local(ip.src)
        || F::is_link_local(ip.dst)
    {
        return Ok(());
    }
    let Some(t) = tuple::transport(frame, ip.protocol, ip.l4 & 0x3fff) else {
        return Ok(());
    };
    if !port::may_begin(&t) || !port::is_published(ip.protocol, F::VERSION, t.dport) {
        return Ok(());
    }
    let addr = F::mapped(ip.dst);
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    if unsafe { LOCALS.get(&LocalKey { addr }) }.is_none() {
        return Ok(());
    }
    // What goes on goes on, whatever the list says by now.
    let key = ip.key(&t, ARRIVAL_UPLINK);
    if let Some(flow) = flow::find::<F>(&key)
        && !flow::is_past::<F>(&key, flow)
    {
        return Ok(());
    }
    let data = PortData {
        protocol: 0,
        family: 0,
        addr: ANY,
        port_be: [0; 2],
    };
    let found = port::look_up(
        &mut Key::new(0, data),
        F::VERSION,
        addr,
        t.dport,
        ip.protocol,
    );
    let Some(published) = found else {
        return Ok(());
    };
    let client = F::mapped(ip.src);
    let data = AllowData {
        allow: 0,
        addr: ANY,
    };
    if !port::allows(&mut Key::new(0, data), published, client) {
        return Err(DropReason::NotAllowed);
    }
    if !port::within_rate(&client) {
        return Err(DropReason::ClientRate);
    }
    Ok(())
}
