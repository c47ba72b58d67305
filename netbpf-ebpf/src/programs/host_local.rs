//! TC egress of `lo`: what the host's own programs send to the host itself, where a
//! published port is asked for by a socket that was not translated when it connected:
//! bound to a loopback address, outside of the cgroup, or the kernel's own.
//!
//! parse → published → flow, fragment or ICMP error → port → the host

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{
    maps::flows::ARRIVAL_HOST,
    packet::{eth, icmp},
    verdict::{Coded, Kind},
};

use super::{Parsed, begin, follow_by, is_to_follow, parse, refuse};
use crate::{
    ctx::Skb,
    emit,
    family::{Family, V4, V6, scratch},
    stage::{
        local,
        port::{self, Client},
    },
};

#[classifier]
pub fn host_local(ctx: TcContext) -> i32 {
    let skb = &Skb::new(&ctx);
    // An answer of a container on its way back, see `from_container`.
    if skb.ingress_ifindex() != 0 {
        return emit::NEXT;
    }
    match skb.protocol() {
        eth::TYPE_IPV4 => ip::<V4>(skb),
        eth::TYPE_IPV6 => ip::<V6>(skb),
        _ => emit::NEXT,
    }
}

#[inline(always)]
fn ip<F: Family>(skb: &Skb) -> i32 {
    let mut verdict = Coded::from_bits(first_steps::<F>(skb));
    if is_to_follow(verdict) {
        let found_by = verdict;
        verdict = follow_by::<F>(skb, found_by, 0);
        if verdict == Coded::NOT_FOLLOWED && found_by == Coded::TO_FLOW && is_own::<F>() != 0 {
            verdict = begin::<F>(skb, F::call_port(skb, Client::Host));
        }
    }
    if verdict == Coded::PASS || verdict == Coded::NOT_FOLLOWED {
        return emit::NEXT;
    }
    finish(skb, refuse::<F>(skb, eth::LEN, verdict, 0))
}

#[inline(never)]
fn first_steps<F: Family>(skb: &Skb) -> u64 {
    let Ok((p, room)) = scratch::<F>() else {
        return Coded::PASS.to_bits();
    };
    if parse::<F>(skb, eth::LEN, ARRIVAL_HOST) == Parsed::Nothing {
        return Coded::PASS.to_bits();
    }
    if p.ip.later_fragment {
        return Coded::TO_FRAGMENT.to_bits();
    }
    if icmp::is_about_flow(p.ip.protocol, p.t.flags) {
        return Coded::TO_QUOTED.to_bits();
    }
    if F::is_link_local(p.ip.dst) || !port::is_published(p.ip.protocol, F::VERSION, p.t.dport) {
        return Coded::PASS.to_bits();
    }
    room.answer_from = p.ip.dst;
    Coded::TO_FLOW.to_bits()
}

/// Is the packet for an address of the host?
#[inline(never)]
fn is_own<F: Family>() -> u32 {
    match scratch::<F>() {
        Ok((p, room)) => local::is_own::<F>(room, p.ip.dst).into(),
        Err(_) => 0,
    }
}

#[inline(always)]
fn finish(skb: &Skb, verdict: Coded) -> i32 {
    match verdict.kind() {
        // By the egress of the veth, where it is counted.
        Kind::Deliver => skb.redirect(verdict.ifindex()),
        // As local as the packet was.
        Kind::Answer => skb.redirect_neigh(skb.ifindex(), None),
        // Counted by `refuse`.
        Kind::Drop => emit::SHOT,
        _ => emit::NEXT,
    }
}
