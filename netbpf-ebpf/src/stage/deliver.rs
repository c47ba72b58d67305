//! Puts the link header of the next stretch on a packet.

use netbpf_common::{drop::DropReason, maps::Endpoint, packet::eth, verdict::Coded};

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

/// From one container to another one, as it is.
#[inline(always)]
pub fn to<F: Family>(skb: &Skb, to: &Endpoint) -> Step {
    let verdict = Coded::deliver(to.ifindex, to.endpoint);
    address(skb, eth::LEN, to.mac, F::ETHERTYPE)?;
    Ok(verdict)
}

/// Out by the way in the room.
#[inline(always)]
pub fn forward<F: Family>(room: &mut Room<F::Addr>) -> Coded {
    let ifindex = room.way.ifindex;
    if room.way.ethernet == 0 {
        return Coded::forward(ifindex, false);
    }
    if room.way.foreign == 0 {
        F::next_hop_set(&mut room.next_hop, room.way.next_hop);
    } else {
        room.next_hop.nh_family = 0;
    }
    Coded::forward(ifindex, true)
}
