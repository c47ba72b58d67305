//! One file per hook; each reads as the list of its stages.

mod from_container;
mod from_uplink;
mod to_container;

use netbpf_common::{
    drop::DropReason,
    verdict::{Coded, Kind},
};

use crate::{
    calls,
    ctx::Skb,
    emit,
    family::{Family, scratch},
};

/// Bytes at the head of a packet that are made readable: link and network
/// header with options, and a transport header.
const HEADERS: u32 = 128;

/// After a step that begins flows: tells of one that began.
#[inline(always)]
fn begin<F: Family>(skb: &Skb, verdict: Coded) -> Coded {
    if matches!(
        verdict.kind(),
        Kind::Deliver | Kind::Forward | Kind::ForwardBare
    ) {
        calls::tell_began(skb.raw(), u32::from(F::VERSION));
    }
    verdict
}

/// A drop that is to be answered turns the packet into the ICMP error that says
/// so, where there may be one.
#[inline(always)]
fn refused<F: Family>(skb: &Skb, verdict: Coded) -> Coded {
    match verdict.dropped().and_then(DropReason::from_number) {
        Some(reason) if F::icmp_error(reason).is_some() => F::call_refuse(skb, reason),
        _ => verdict,
    }
}

/// Sends a packet to a neighbour of the way out, which the stage left in the room.
#[inline(always)]
fn send<F: Family>(skb: &Skb, ifindex: u32) -> i32 {
    match scratch::<F>() {
        Ok((_, room)) if room.next_hop.nh_family != 0 => {
            skb.redirect_neigh(ifindex, Some(&mut room.next_hop))
        }
        Ok(_) => skb.redirect_neigh(ifindex, None),
        Err(_) => emit::SHOT,
    }
}
