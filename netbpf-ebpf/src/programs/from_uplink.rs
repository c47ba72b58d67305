//! TC ingress of an uplink: replies to masqueraded flows, published ports, and
//! the host's own traffic, which passes.
//!
//! parse → out of the tunnel, the host's own, or flow, fragment or ICMP error → local → port, or endpoint of a routed network → the host

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{
    drop::DropReason,
    maps::{flows::ARRIVAL_UPLINK, locals::LOCAL_GATEWAY},
    packet::{eth, icmp},
    verdict::{Coded, Kind},
};

use super::{Parsed, begin, follow_by, is_to_follow, parse, refuse};
use crate::{
    ctx::{PACKET_OTHERHOST, Skb},
    emit,
    family::{Family, Packet, Room, V4, V6, scratch},
    stage::{
        Step, deliver, handed, local, nd, overlay,
        port::{self, Client},
        renew::give_up,
        route,
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
    if skb.pkt_type() == PACKET_OTHERHOST || skb.is_of_vlan() {
        return emit::NEXT;
    }
    match skb.protocol() {
        eth::TYPE_IPV4 => ip::<V4>(skb, l3),
        eth::TYPE_IPV6 => ip::<V6>(skb, l3),
        _ => emit::NEXT,
    }
}

/// As in `from_container`: beginning a flow comes after the first steps' stack is
/// given back.
#[inline(always)]
fn ip<F: Family>(skb: &Skb, l3: usize) -> i32 {
    let mut verdict = Coded::from_bits(first_steps::<F>(skb, l3));
    if is_to_follow(verdict) {
        let found_by = verdict;
        verdict = follow_by::<F>(skb, found_by, 0);
        if verdict == Coded::NOT_FOLLOWED && found_by == Coded::TO_QUOTED {
            F::call_learn_mtu(skb);
        }
        if verdict == Coded::NOT_FOLLOWED {
            verdict = Coded::from_bits(last_steps::<F>(skb));
        }
    }
    if verdict == Coded::TO_TUNNEL {
        verdict = F::call_leave_tunnel(skb);
    }
    if verdict == Coded::TO_PORT {
        verdict = begin::<F>(skb, F::call_port(skb, Client::Uplink));
    }
    if verdict.dropped().is_some() {
        answer_as_host::<F>(skb);
    }
    finish(skb, refuse::<F>(skb, l3, verdict, 0))
}

/// For a routed network's container, too, what is refused is answered by the host.
#[inline(never)]
fn answer_as_host<F: Family>(skb: &Skb) -> u32 {
    if let Ok((p, room)) = scratch::<F>() {
        room.answer_from = match route::uplink(skb.ifindex()) {
            Some(uplink) => F::uplink_addr(uplink),
            None => p.ip.dst,
        };
    }
    0
}

#[inline(never)]
fn first_steps<F: Family>(skb: &Skb, l3: usize) -> u64 {
    let verdict = match scratch::<F>() {
        Ok((p, _)) => match parse::<F>(skb, l3, ARRIVAL_UPLINK) {
            // What cannot be parsed is the kernel's to judge.
            Parsed::Nothing => Coded::PASS,
            Parsed::Whole | Parsed::Headless => way::<F>(p).unwrap_or_else(Coded::drop),
        },
        Err(_) => Coded::PASS,
    };
    verdict.to_bits()
}

#[inline(always)]
fn way<F: Family>(p: &Packet<F::Addr>) -> Step {
    let ip = &p.ip;
    if F::is_multicast(ip.dst) || F::IS_V6 && nd::is_nd(ip.protocol, &p.t) {
        return Ok(Coded::PASS);
    }
    // Loopback addresses never come from a wire. The unspecified source of DHCP
    // and of duplicate address detection does, and is the host's business.
    if F::is_martian(ip.dst) || F::is_martian(ip.src) && ip.src != F::UNSPECIFIED {
        return Err(DropReason::Martian);
    }
    // Link-local traffic is never translated.
    if ip.src == F::UNSPECIFIED || F::is_link_local(ip.src) || F::is_link_local(ip.dst) {
        return Ok(Coded::PASS);
    }
    if ip.later_fragment {
        return Ok(Coded::TO_FRAGMENT);
    }
    if icmp::is_about_flow(ip.protocol, p.t.flags) {
        return Ok(Coded::TO_QUOTED);
    }
    if overlay::is_tunnelled::<F>(p) {
        return Ok(Coded::TO_TUNNEL);
    }
    // What the host's own traffic costs is the price that everybody pays.
    if local::is_hosts::<F>(p) {
        return Ok(Coded::PASS);
    }
    Ok(Coded::TO_FLOW)
}

/// The way of a packet that belongs to no flow.
#[inline(never)]
fn last_steps<F: Family>(skb: &Skb) -> u64 {
    let verdict = match scratch::<F>() {
        Ok((p, room)) => {
            let verdict = rest::<F>(skb, p, room).unwrap_or_else(Coded::drop);
            if verdict != Coded::TO_PORT {
                give_up::<F>(p, room);
            }
            verdict
        }
        Err(_) => Coded::PASS,
    };
    verdict.to_bits()
}

#[inline(always)]
fn rest<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let ip = &p.ip;
    if local::subnet::<F>(room, ip.src).is_some() {
        return Err(DropReason::SpoofedSubnet);
    }
    if let Some(own) = local::host::<F>(room, ip.dst) {
        if own.flags & LOCAL_GATEWAY != 0 {
            return Err(DropReason::GatewayAddress);
        }
        if !port::may_begin(&p.t) {
            return Ok(Coded::PASS);
        }
        // What the stack would call martian does not get to a container either.
        if F::is_multicast(ip.src) || local::host::<F>(room, ip.src).is_some() {
            return Ok(Coded::PASS);
        }
        return Ok(Coded::TO_PORT);
    }
    let Some(subnet) = local::subnet::<F>(room, ip.dst) else {
        return Ok(Coded::PASS);
    };
    if !local::is_routed(subnet.flags) {
        // Others translate it back to what the container has asked: `to_container` judges.
        let unasked = local::host::<F>(room, ip.src).is_some();
        if !unasked && handed::is_answer::<F>(skb, handed::UNTRANSLATED) != 0 {
            return Ok(Coded::PASS);
        }
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
        Kind::Answer => skb.redirect(skb.ifindex()),
        // Counted by `refuse`.
        Kind::Drop => emit::SHOT,
        _ => emit::NEXT,
    }
}
