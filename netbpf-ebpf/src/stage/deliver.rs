//! Puts the link header of the next stretch on a packet.

use netbpf_common::{drop::DropReason, packet::eth, verdict::Verdict};

use super::Step;
use crate::{
    ctx::Skb,
    family::{Family, Room},
    maps::CONFIG,
};

/// Ethernet header for a container: from the gateway to its MAC.
#[inline(always)]
pub fn address(skb: &Skb, l3: usize, mac: [u8; 6], ethertype: u16) -> Step<()> {
    let gateway_mac = CONFIG.get(0).ok_or(DropReason::Helper)?.gateway_mac;
    if l3 == 0 {
        skb.push_ethernet()?;
        return skb.store(0, &eth::header(mac, gateway_mac, ethertype));
    }
    skb.write(0, eth::header(mac, gateway_mac, ethertype))
}

/// Out by a device; `None`: the neighbour is the kernel's to find.
#[inline(always)]
pub fn forward<F: Family>(
    room: &mut Room<F::Addr>,
    ifindex: u32,
    ethernet: bool,
    next_hop: Option<F::Addr>,
) -> Verdict {
    if !ethernet {
        return Verdict::ForwardBare { ifindex };
    }
    match next_hop {
        Some(addr) => F::next_hop_set(&mut room.next_hop, addr),
        None => room.next_hop.nh_family = 0,
    }
    Verdict::Forward { ifindex }
}
