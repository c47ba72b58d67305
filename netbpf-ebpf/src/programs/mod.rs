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
pub const HEADERS: u32 = 128;

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

/// Counts a drop, and turns the packet into the ICMP error that says why, where
/// there is one to be sent: then `ANSWER`.
#[inline(always)]
fn refuse<F: Family>(skb: &Skb, l3: usize, verdict: Coded, endpoint: u32) -> Coded {
    let Some(number) = verdict.dropped() else {
        return verdict;
    };
    emit::dropped(skb, l3, u32::from(number), endpoint);
    match DropReason::from_number(number) {
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
