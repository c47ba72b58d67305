//! TC ingress of an uplink: replies to masqueraded flows, published ports, and
//! the host's own traffic, which passes.
//!
//! parse → flow → local → port, or endpoint of a routed network → the host

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{
    drop::DropReason,
    maps::{flows::ARRIVAL_UPLINK, locals::LOCAL_GATEWAY},
    packet::{
        eth,
        tuple::{self, Ip},
    },
    verdict::{Coded, Kind},
};

use super::HEADERS;
use crate::{
    ctx::{PACKET_OTHERHOST, Skb},
    emit,
    family::{Family, Packet, Room, V4, V6, scratch},
    stage::{
        Step, deliver,
        flow::{self, Found},
        local, nd, port, refuse,
    },
};

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    program(&Skb::new(&ctx), eth::LEN)
}

#[classifier]
pub fn from_uplink_l3(ctx: TcContext) -> i32 {
    program(&Skb::new(&ctx), 0)
}

#[inline(always)]
fn program(skb: &Skb, l3: usize) -> i32 {
    // Frames to others are seen by sniffers only; tagged ones belong to the
    // VLAN device above, which is an uplink of its own.
    if skb.pkt_type() == PACKET_OTHERHOST || skb.has_vlan_tag() {
        return emit::NEXT;
    }
    match skb.protocol() {
        eth::TYPE_IPV4 => ip::<V4>(skb, l3),
        eth::TYPE_IPV6 => ip::<V6>(skb, l3),
        _ => emit::NEXT,
    }
}

#[inline(never)]
fn ip<F: Family>(skb: &Skb, l3: usize) -> i32 {
    skb.pull(HEADERS);
    let Ok((p, room)) = scratch::<F>() else {
        return emit::NEXT;
    };
    p.l3 = l3;
    // What cannot be parsed is the kernel's to judge.
    let Some(ip) = F::parse(skb, l3) else {
        return emit::NEXT;
    };
    p.ip = ip;
    if F::is_multicast(p.ip.dst) {
        return emit::NEXT;
    }
    if F::is_martian(p.ip.src) || F::is_martian(p.ip.dst) {
        return martian::<F>(skb, &p.ip);
    }
    // Without ports, a later fragment cannot be told from the host's own.
    if p.ip.later_fragment {
        return emit::NEXT;
    }
    let Some(t) = tuple::transport(skb, p.ip.protocol, p.ip.l4 & 0x3fff) else {
        return emit::NEXT;
    };
    p.t = t;
    if F::IS_V6 && nd::is_nd(p.ip.protocol, &p.t) {
        return emit::NEXT;
    }
    p.key = p.ip.key(&p.t, ARRIVAL_UPLINK);
    let mut verdict = match way::<F>(skb, p, room) {
        Ok(verdict) => verdict,
        Err(reason) => Coded::drop(reason),
    };
    if let Some(number) = verdict.dropped()
        && let Some(reason) = DropReason::from_number(number)
        && F::icmp_error(reason).is_some()
    {
        room.answer_from = p.ip.dst;
        verdict = F::call_refuse(skb, reason);
    }
    finish(skb, verdict)
}

/// Loopback addresses never come from a wire. The unspecified source of DHCP
/// and of duplicate address detection does, and is the host's business.
#[inline(always)]
fn martian<F: Family>(skb: &Skb, ip: &Ip<F::Addr>) -> i32 {
    if ip.src == F::UNSPECIFIED && !F::is_martian(ip.dst) {
        return emit::NEXT;
    }
    emit::dropped(skb, DropReason::Martian as u32, 0)
}

#[inline(always)]
fn way<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let ip = &p.ip;
    if let Found::Sent(verdict) = flow::follow::<F>(skb, p, room)? {
        return Ok(verdict);
    }
    if local::subnet::<F>(room, ip.src).is_some() {
        return Err(DropReason::SpoofedSubnet);
    }
    if let Some(own) = local::host::<F>(room, ip.dst) {
        if own.flags & LOCAL_GATEWAY != 0 {
            return Err(DropReason::GatewayAddress);
        }
        return Ok(F::call_port(skb, false));
    }
    let Some(subnet) = local::subnet::<F>(room, ip.dst) else {
        return Ok(Coded::PASS);
    };
    if !local::is_routed(subnet.flags) {
        return Err(DropReason::ContainerAddress);
    }
    let Some(to) = local::endpoint::<F>(room, ip.dst, 0) else {
        return Err(DropReason::HostUnreachable);
    };
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    let verdict = Coded::deliver(to.ifindex, to.endpoint);
    let mac = to.mac;
    F::lower_hop_limit(skb, p.l3 & 0xf)?;
    deliver::address(skb, p.l3, mac, F::ETHERTYPE)?;
    Ok(verdict)
}

#[inline(always)]
fn finish(skb: &Skb, verdict: Coded) -> i32 {
    match verdict.kind() {
        Kind::Deliver => {
            emit::received(skb, verdict.endpoint());
            skb.redirect_peer(verdict.ifindex())
        }
        Kind::Refuse => {
            emit::dropped(skb, verdict.reason(), 0);
            skb.redirect(skb.ifindex())
        }
        Kind::Drop => emit::dropped(skb, verdict.reason(), 0),
        _ => emit::NEXT,
    }
}
