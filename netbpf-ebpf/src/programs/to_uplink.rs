//! TC egress of an uplink: what the host's own programs send with a tuple that a container's
//! masqueraded flow has already. Their answers would be the container's, so that they leave
//! by another port, and their answers come back by it. All else passes.
//!
//! ours → outside port, or displaced → parse → flow or ICMP error → masquerade

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{
    maps::{
        flows::{ARRIVAL_HOST, ARRIVAL_UPLINK, FLOW_OF_HOST},
        locals::LOCAL_GATEWAY,
    },
    packet::{eth, icmp, tcp, tuple::TransportKind},
    verdict::Coded,
};

use super::{Parsed, follow_by, parse};
use crate::{
    calls,
    ctx::Skb,
    emit,
    family::{Family, Packet, V4, V6, scratch},
    stage::{displaced, flow, local, masquerade},
};

#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    program(&Skb::new(&ctx), eth::LEN)
}

#[classifier]
pub fn to_uplink_l3(ctx: TcContext) -> i32 {
    program(&Skb::new(&ctx), 0)
}

#[inline(always)]
fn program(skb: &Skb, l3: usize) -> i32 {
    // Tagged frames come from the VLAN device above, which is an uplink of its own.
    if is_ours(skb) || skb.is_of_vlan() {
        return emit::NEXT;
    }
    match skb.protocol() {
        eth::TYPE_IPV4 => ip::<V4>(skb, l3),
        eth::TYPE_IPV6 => ip::<V6>(skb, l3),
        _ => emit::NEXT,
    }
}

/// Comes from a container, by `from_container`, or is an answer that `from_uplink` made.
#[inline(always)]
fn is_ours(skb: &Skb) -> bool {
    let from = skb.ingress_ifindex();
    from != 0 && (from == skb.ifindex() || local::of_veth(from, |_| ()).is_some())
}

#[inline(always)]
fn ip<F: Family>(skb: &Skb, l3: usize) -> i32 {
    // A few bits end the way of nearly all that the host sends.
    if F::call_is_free(skb, l3) != 0 {
        return emit::NEXT;
    }
    let found_by = Coded::from_bits(first_steps::<F>(skb, l3));
    if found_by == Coded::PASS {
        return emit::NEXT;
    }
    let verdict = follow_by::<F>(skb, found_by, 0);
    if verdict == Coded::NOT_FOLLOWED
        && found_by == Coded::TO_FLOW
        && is_taken::<F>() != 0
        // Where there is no other port it leaves as it is, and the container may get the
        // answer: no program of the host fails for us.
        && F::call_masquerade(skb) == Coded::PASS
    {
        calls::tell_began(skb.raw(), u32::from(F::VERSION));
    }
    match verdict.dropped() {
        Some(reason) => emit::dropped(skb, l3, reason.into(), 0),
        None => emit::NEXT,
    }
}

/// `PASS` for all but what may have to be changed.
#[inline(never)]
fn first_steps<F: Family>(skb: &Skb, l3: usize) -> u64 {
    let verdict = match scratch::<F>() {
        Ok((p, _)) if parse::<F>(skb, l3, ARRIVAL_HOST) == Parsed::Whole => way::<F>(skb, p),
        _ => Coded::PASS,
    };
    verdict.to_bits()
}

#[inline(always)]
fn way<F: Family>(skb: &Skb, p: &Packet<F::Addr>) -> Coded {
    let (ip, t) = (&p.ip, &p.t);
    // Later fragments have nothing that changes.
    if ip.later_fragment || F::is_link_local(ip.src) || F::is_multicast(ip.dst) {
        return Coded::PASS;
    }
    if icmp::is_about_flow(ip.protocol, t.flags) {
        return Coded::TO_QUOTED;
    }
    match t.kind {
        TransportKind::Tcp | TransportKind::Udp | TransportKind::EchoRequest => {
            match displaced::is_free::<F>(ip.src, t.sport, ip.protocol) {
                true => Coded::PASS,
                false => Coded::TO_FLOW,
            }
        }
        // Without ports: one at a time has a tunnel with a peer, and the host comes first.
        // What it forwards may be anybody's under its address.
        TransportKind::Sctp | TransportKind::Other if skb.ingress_ifindex() == 0 => Coded::TO_FLOW,
        TransportKind::Sctp | TransportKind::Other => Coded::PASS,
        TransportKind::EchoReply | TransportKind::Icmp => Coded::PASS,
    }
}

/// Would the answer be another's, and can the packet begin a flow? What has no port that
/// could be another one holds its tuple from the first packet on, and takes it over from a
/// container, whose flow ends.
#[inline(never)]
fn is_taken<F: Family>() -> u32 {
    let Ok((p, room)) = scratch::<F>() else {
        return 0;
    };
    room.begins = masquerade::OF_HOST;
    let key = p.ip.key_of_answer(&p.t, ARRIVAL_UPLINK);
    let held = flow::find::<F>(&key);
    match p.t.kind {
        TransportKind::Sctp | TransportKind::Other => {
            // Nothing that the way in would refuse gets in by it.
            let own = local::host::<F>(room, p.ip.src);
            if own.is_none_or(|own| own.flags & LOCAL_GATEWAY != 0)
                || local::subnet::<F>(room, p.ip.dst).is_some()
            {
                return 0;
            }
            if let Some(held) = held
                && held.flags & FLOW_OF_HOST == 0
            {
                flow::forget::<F>(&key, held, room);
            }
            1
        }
        TransportKind::Tcp => {
            let begins = p.t.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
            u32::from(begins && held.is_some())
        }
        _ => held.is_some().into(),
    }
}
