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
    verdict::Verdict,
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
    let verdict = match way::<F>(skb, p, room) {
        Ok(verdict) => verdict,
        Err(reason) if F::icmp_error(reason).is_some() => {
            room.answer_from = p.ip.dst;
            refuse::answer::<F>(skb, p, room, reason)
        }
        Err(reason) => Verdict::Drop(reason),
    };
    finish(skb, verdict)
}

/// Loopback addresses never come from a wire. The unspecified source of DHCP
/// and of duplicate address detection does, and is the host's business.
#[inline(always)]
fn martian<F: Family>(skb: &Skb, ip: &Ip<F::Addr>) -> i32 {
    if ip.src == F::UNSPECIFIED && !F::is_martian(ip.dst) {
        return emit::NEXT;
    }
    emit::dropped(skb, DropReason::Martian, 0);
    emit::SHOT
}

#[inline(always)]
fn way<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let ip = &p.ip;
    if let Found::Sent(verdict) = flow::follow::<F>(skb, p, room)? {
        return Ok(verdict);
    }
    if local::subnet::<F>(ip.src).is_some() {
        return Err(DropReason::SpoofedSubnet);
    }
    if let Some(own) = local::host::<F>(ip.dst) {
        if own.flags & LOCAL_GATEWAY != 0 {
            return Err(DropReason::GatewayAddress);
        }
        return Ok(port::begin::<F>(skb, p, room, None)?.unwrap_or(Verdict::Pass));
    }
    let Some(subnet) = local::subnet::<F>(ip.dst) else {
        return Ok(Verdict::Pass);
    };
    if !local::is_routed(subnet.flags) {
        return Err(DropReason::ContainerAddress);
    }
    let Some(to) = local::endpoint::<F>(ip.dst, 0) else {
        return Err(DropReason::HostUnreachable);
    };
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    let verdict = Verdict::Deliver {
        ifindex: to.ifindex,
        endpoint: to.endpoint,
    };
    let mac = to.mac;
    F::lower_hop_limit(skb, p.l3 & 0xf)?;
    deliver::address(skb, p.l3, mac, F::ETHERTYPE)?;
    Ok(verdict)
}

#[inline(always)]
fn finish(skb: &Skb, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Deliver { ifindex, endpoint } => {
            emit::received(skb, endpoint);
            skb.redirect_peer(ifindex)
        }
        Verdict::Refuse(reason) => {
            emit::dropped(skb, reason, 0);
            skb.redirect(skb.ifindex())
        }
        Verdict::Drop(reason) => {
            emit::dropped(skb, reason, 0);
            emit::SHOT
        }
        Verdict::Pass
        | Verdict::ToHost
        | Verdict::Answer
        | Verdict::Forward { .. }
        | Verdict::ForwardBare { .. } => emit::NEXT,
    }
}
