//! ARP is answered here: every address of the subnet but the container's own is
//! at the gateway MAC. What no endpoint has is then refused with ICMP, which
//! says more than silence.

use netbpf_common::{
    drop::DropReason,
    packet::{
        arp::{self, Arp, REPLY, REQUEST},
        eth,
    },
    verdict::Coded,
};

use super::{Step, local};
use crate::{ctx::Skb, maps::CONFIG};

#[inline(always)]
pub fn answer(skb: &Skb) -> Step {
    let veth = local::veth()?;
    let arp = arp::parse(skb, eth::LEN).ok_or(DropReason::Malformed)?;
    if arp.sender_mac != veth.mac {
        return Err(DropReason::SpoofedNeighbour);
    }
    // A probe (RFC 5227) has no sender address.
    if arp.sender != veth.ipv4 && arp.sender != [0; 4] {
        return Err(DropReason::SpoofedNeighbour);
    }
    // Announcements and probes for the own address need no answer; replies
    // were not asked for.
    if arp.operation != REQUEST || arp.target == veth.ipv4 || arp.target == arp.sender {
        return Err(DropReason::Multicast);
    }
    let gateway_mac = CONFIG.get(0).ok_or(DropReason::Helper)?.gateway_mac;
    let reply = Arp {
        operation: REPLY,
        sender_mac: gateway_mac,
        sender: arp.target,
        target_mac: veth.mac,
        target: arp.sender,
    };
    skb.store(0, &eth::header(veth.mac, gateway_mac, eth::TYPE_ARP))?;
    skb.store(eth::LEN, &reply.to_bytes())?;
    Ok(Coded::ANSWER)
}
