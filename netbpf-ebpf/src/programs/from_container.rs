//! TC ingress of a host-side veth: everything that a container sends.
//!
//! anti-spoof → parse → ARP/ND → tunnel, sibling, or flow, fragment or ICMP error → endpoint → local → masquerade or route

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{
    drop::DropReason,
    maps::{
        Veth, VethSlot,
        endpoints::{NETWORK_ICC, NETWORK_INTERNAL, NETWORK_MASQUERADE, NETWORK_SHADOWED},
        flows::{ARRIVAL_HAIRPIN, arrival_container},
    },
    packet::{Read as _, eth, icmp},
    verdict::{Coded, Kind},
};

use super::{LOOPBACK, Parsed, begin, follow_by, is_to_follow, parse, refuse, send};
use crate::{
    calls,
    ctx::Skb,
    emit::{self, Sent},
    family::{Family, Packet, Room, V4, V6, scratch},
    stage::{
        Step, antispoof, asked, deliver, handed, local, masquerade, nd, overlay, port::Client,
        renew::give_up, route, sibling,
    },
};

#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    let skb = &Skb::new(&ctx);
    let Ok(slot) = local::find(skb) else {
        return emit::dropped(skb, eth::LEN, DropReason::UnknownEndpoint as u32, 0);
    };
    let veth = &slot.veth;
    let (own, sent) = (veth.endpoint, Sent::of(skb));
    let Some(header) = skb.bytes::<{ eth::LEN }>(0) else {
        return drop(skb, own, sent, DropReason::Malformed);
    };
    let src = [
        header[6], header[7], header[8], header[9], header[10], header[11],
    ];
    if antispoof::mac(src, veth).is_err() {
        return drop(skb, own, sent, DropReason::SpoofedMac);
    }
    if skb.has_vlan_tag() {
        return drop(skb, own, sent, DropReason::Vlan);
    }
    match u16::from_be_bytes([header[12], header[13]]) {
        eth::TYPE_IPV4 => ip::<V4>(skb, slot, sent),
        eth::TYPE_IPV6 => ip::<V6>(skb, slot, sent),
        eth::TYPE_ARP => {
            let verdict = Coded::from_bits(calls::answer_arp(skb.raw()));
            finish::<V4>(skb, own, sent, refuse::<V4>(skb, eth::LEN, verdict, own))
        }
        _ => drop(skb, own, sent, DropReason::EtherType),
    }
}

/// Of a frame that is no packet.
#[inline(always)]
fn drop(skb: &Skb, own: u32, sent: Sent, reason: DropReason) -> i32 {
    emit::dropped(skb, eth::LEN, reason as u32, own);
    emit::refused(sent, own)
}

/// The steps that end most packets' way come first, in a function of their own;
/// those that begin a flow follow, so that their stacks do not add up.
#[inline(always)]
fn ip<F: Family>(skb: &Skb, slot: &VethSlot, sent: Sent) -> i32 {
    let veth = &slot.veth;
    let own = veth.endpoint;
    let mut verdict = Coded::from_bits(first_steps::<F>(skb, slot));
    let found_by = verdict;
    if is_to_follow(verdict) {
        verdict = follow_by::<F>(skb, found_by, own);
        if verdict == Coded::NOT_FOLLOWED {
            verdict = Coded::from_bits(last_steps::<F>(skb, veth));
        }
    }
    if verdict == Coded::TO_TUNNEL {
        verdict = F::call_enter_tunnel(skb);
    }
    if verdict == Coded::TO_PORT {
        verdict = begin::<F>(skb, F::call_port(skb, Client::Container));
        if verdict == Coded::PASS {
            verdict = if veth.flags & NETWORK_SHADOWED == 0 {
                asked::note::<F>(skb, veth);
                handed::note::<F>(skb, veth);
                Coded::TO_HOST
            } else {
                Coded::drop(DropReason::Isolated)
            };
        }
    }
    if verdict == Coded::TO_MASQUERADE {
        verdict = begin::<F>(skb, F::call_masquerade(skb));
    } else if F::IS_V6 && verdict == Coded::TO_ND {
        verdict = Coded::from_bits(calls::answer_nd(skb.raw()));
    }
    if verdict == Coded::TO_HAIRPIN {
        verdict = hairpin::<F>(skb, found_by);
    }
    finish::<F>(skb, own, sent, refuse::<F>(skb, eth::LEN, verdict, own))
}

/// The second translation of what a container sends to an outside port of another one:
/// as if it had come back from outside (RFC 4787 REQ-9). Whom the other one has not sent
/// to is filtered.
#[inline(always)]
fn hairpin<F: Family>(skb: &Skb, found_by: Coded) -> Coded {
    if parse::<F>(skb, eth::LEN, ARRIVAL_HAIRPIN) != Parsed::Whole {
        return Coded::drop(DropReason::Malformed);
    }
    let verdict = follow_by::<F>(skb, found_by, 0);
    if verdict == Coded::NOT_FOLLOWED {
        return Coded::drop(DropReason::NoFlow);
    }
    verdict
}

#[inline(never)]
fn first_steps<F: Family>(skb: &Skb, slot: &VethSlot) -> u64 {
    let verdict = match scratch::<F>() {
        Ok((p, room)) => {
            let veth = &slot.veth;
            room.answer_from = F::gateway(veth);
            // A chain of headers that we do not see the end of might hide anything.
            match parse::<F>(skb, eth::LEN, arrival_container(veth.scope)) {
                Parsed::Whole => way::<F>(skb, slot, p, room).unwrap_or_else(Coded::drop),
                Parsed::Nothing | Parsed::Headless => Coded::drop(DropReason::Malformed),
            }
        }
        Err(reason) => Coded::drop(reason),
    };
    verdict.to_bits()
}

#[inline(always)]
fn way<F: Family>(
    skb: &Skb,
    slot: &VethSlot,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
) -> Step {
    let (veth, ip, t) = (&slot.veth, &p.ip, &p.t);
    if F::IS_V6 && nd::is_nd(ip.protocol, t) {
        return Ok(Coded::TO_ND);
    }
    if F::is_multicast(ip.dst) {
        return Err(DropReason::Multicast);
    }
    antispoof::addr::<F>(ip, veth)?;
    if F::is_martian(ip.dst) {
        return Err(DropReason::Martian);
    }
    if F::is_link_local(ip.dst) {
        return Err(DropReason::LinkLocal);
    }
    // What goes to another node of the network is of no flow.
    if veth.scope != 0 && overlay::is_elsewhere::<F>(room, veth.network, ip.dst) {
        if veth.flags & NETWORK_ICC == 0 {
            return Err(DropReason::IccDisabled);
        }
        room.vni = veth.vni;
        return Ok(Coded::TO_TUNNEL);
    }
    if overlay::is_forged::<F>(room, p) {
        return Err(DropReason::VxlanFromContainer);
    }
    if ip.later_fragment {
        return Ok(Coded::TO_FRAGMENT);
    }
    if icmp::is_about_flow(ip.protocol, t.flags) {
        return Ok(Coded::TO_QUOTED);
    }
    Ok(sibling::straight::<F>(skb, slot, p, room)?.unwrap_or(Coded::TO_FLOW))
}

/// The way of a packet that belongs to no flow.
#[inline(never)]
fn last_steps<F: Family>(skb: &Skb, veth: &Veth) -> u64 {
    let verdict = match scratch::<F>() {
        Ok((p, room)) => {
            let verdict = rest::<F>(skb, veth, p, room).unwrap_or_else(Coded::drop);
            if verdict != Coded::TO_PORT && verdict != Coded::TO_MASQUERADE {
                give_up::<F>(p, room);
            }
            verdict
        }
        Err(reason) => Coded::drop(reason),
    };
    verdict.to_bits()
}

#[inline(always)]
fn rest<F: Family>(skb: &Skb, veth: &Veth, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let ip = &p.ip;
    if let Some(to) = local::endpoint::<F>(room, ip.dst, veth.scope) {
        local::policy(veth, to)?;
        return deliver::to::<F>(skb, to);
    }
    if local::host::<F>(room, ip.dst).is_some() {
        return Ok(Coded::TO_PORT);
    }
    if let Some(subnet) = local::subnet::<F>(room, ip.dst) {
        return Err(if subnet.network == veth.network {
            DropReason::HostUnreachable
        } else {
            DropReason::Isolated
        });
    }
    if veth.flags & NETWORK_INTERNAL != 0 {
        return Err(DropReason::Internal);
    }
    room.begins = masquerade::OUTWARD;
    if veth.flags & NETWORK_MASQUERADE != 0 {
        if ip.later_fragment {
            return Err(DropReason::Fragment);
        }
        return Ok(Coded::TO_MASQUERADE);
    }
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    route::way::<F>(skb, room, ip.src, ip.dst)?;
    F::lower_hop_limit(skb, eth::LEN)?;
    Ok(deliver::forward::<F>(room))
}

#[inline(always)]
fn finish<F: Family>(skb: &Skb, own: u32, sent: Sent, verdict: Coded) -> i32 {
    match verdict.kind() {
        // The reason is counted by `refuse`.
        Kind::Drop => return emit::refused(sent, own),
        Kind::Answer => {
            emit::answered(skb, sent, own);
            skb.for_host();
            return skb.redirect_peer(skb.ifindex());
        }
        _ => emit::sent(sent, own),
    }
    match verdict.kind() {
        Kind::Deliver => {
            emit::received(skb, verdict.endpoint());
            skb.redirect_peer(verdict.ifindex())
        }
        Kind::Forward => send::<F>(skb, verdict.ifindex()),
        Kind::ForwardBare => skb.redirect(verdict.ifindex()),
        // The kernel's own route makes the packet local: `lo` would take it for a martian
        // otherwise.
        Kind::ToLoopback => skb.redirect_neigh(LOOPBACK, None),
        _ => {
            skb.for_host();
            emit::NEXT
        }
    }
}
