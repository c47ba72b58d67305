//! One file per hook; each reads as the list of its stages.

mod from_container;
mod from_uplink;
mod to_container;

use crate::{
    ctx::Skb,
    emit,
    family::{Family, scratch},
};

/// Bytes at the head of a packet that are made readable: link and network
/// header with options, and a transport header.
const HEADERS: u32 = 128;

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
