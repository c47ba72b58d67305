//! Neighbour solicitations are answered here, like ARP.

use netbpf_common::{
    drop::DropReason,
    packet::{IPPROTO_ICMPV6, Read as _, checksum, eth, ipv6, nd, tuple::Transport},
    verdict::Coded,
};

use super::{Step, local};
use crate::{
    ctx::{Skb, sum},
    family::Packet,
    maps::CONFIG,
};

/// The packet is neighbour discovery: types 133 to 137.
#[inline(always)]
pub fn is_nd(protocol: u8, transport: &Transport) -> bool {
    protocol == IPPROTO_ICMPV6
        && transport.flags >= nd::ROUTER_SOLICITATION
        && transport.flags <= nd::REDIRECT
}

#[inline(always)]
pub fn answer(skb: &Skb, p: &Packet<[u8; 16]>) -> Step {
    let veth = local::veth()?;
    let (ip, t) = (&p.ip, &p.t);
    let (src, l4) = (ip.src, ip.l4 & 0x3fff);
    // RFC 4861 section 7.1.1: what crossed a router is not ND.
    if ip.hop_limit != 255 || ip.l4 != eth::LEN + ipv6::LEN {
        return Err(DropReason::Malformed);
    }
    let own = src == veth.ipv6 && veth.ipv6 != [0; 16];
    let probe = src == [0; 16];
    if !own && !probe && !ipv6::is_link_local(src) {
        return Err(DropReason::SpoofedNeighbour);
    }
    if t.flags == nd::ROUTER_SOLICITATION {
        return Err(DropReason::Multicast);
    }
    let target = skb
        .bytes::<16>(l4 + nd::TARGET)
        .ok_or(DropReason::Malformed)?;
    if t.flags == nd::NEIGHBOUR_ADVERTISEMENT {
        let claims_other = target != veth.ipv6 && !ipv6::is_link_local(target);
        return Err(if claims_other {
            DropReason::SpoofedNeighbour
        } else {
            DropReason::Multicast
        });
    }
    if t.flags != nd::NEIGHBOUR_SOLICITATION {
        return Err(DropReason::SpoofedNeighbour);
    }
    if !probe {
        let option = skb.bytes::<8>(l4 + nd::OPTIONS);
        if let Some([kind, 1, m @ ..]) = option
            && kind == nd::OPTION_SOURCE
            && m != veth.mac
        {
            return Err(DropReason::SpoofedNeighbour);
        }
    }
    // A probe for an address in doubt (RFC 4862 section 5.4): only its owner
    // would answer, and the container's own addresses have no other.
    if probe || target == veth.ipv6 || ipv6::is_link_local(target) {
        return Err(DropReason::Multicast);
    }

    let gateway_mac = CONFIG.get(0).ok_or(DropReason::Helper)?.gateway_mac;
    let router = if target == veth.gateway6 {
        nd::ROUTER
    } else {
        0
    };
    let mut message = nd::advertisement(router | nd::SOLICITED | nd::OVERRIDE, target, gateway_mac);
    let pseudo = [
        0,
        0,
        0,
        nd::ADVERTISEMENT_LEN as u8,
        0,
        0,
        0,
        IPPROTO_ICMPV6,
    ];
    let seed = sum(&message, sum(&pseudo, sum(&target, sum(&src, 0))));
    // `sum` works on memory order, so the checksum is stored as it comes.
    let check = (!(checksum::fold(seed) as u16)).to_ne_bytes();
    message[2] = check[0];
    message[3] = check[1];

    let length = (eth::LEN + ipv6::LEN + nd::ADVERTISEMENT_LEN) as u32;
    if skb.len() != length {
        skb.change_tail(length)?;
    }
    skb.store(0, &eth::header(veth.mac, gateway_mac, eth::TYPE_IPV6))?;
    skb.store(
        eth::LEN,
        &[
            0x60,
            0,
            0,
            0,
            0,
            nd::ADVERTISEMENT_LEN as u8,
            IPPROTO_ICMPV6,
            255,
        ],
    )?;
    skb.store(eth::LEN + ipv6::SRC, &target)?;
    skb.store(eth::LEN + ipv6::DST, &src)?;
    skb.store(eth::LEN + ipv6::LEN, &message)?;
    Ok(Coded::ANSWER)
}
