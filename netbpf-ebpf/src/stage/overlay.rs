//! The overlay: what goes to a container on another node is put into VXLAN here, and
//! what comes from one is taken out. No device does either; what leaves is routed as the
//! host's own packet to that node would be.

use netbpf_common::{
    addr::{self, Addr},
    drop::DropReason,
    maps::{
        Node, TunnelKey, Vni,
        config::{VXLAN_PORTS, VXLAN_SHARED, VXLAN_UNKNOWN},
        endpoints::NETWORK_ICC,
        flows::{FLOW_ETHERNET, FLOW_FOREIGN_NEXT_HOP},
        overlay::{PATH_MTU_SECONDS, SINGLES},
    },
    packet::{
        IPPROTO_ICMP, IPPROTO_UDP, Read as _, eth, icmp, tcp,
        tuple::TransportKind,
        vxlan::{self, ECN_MASK, Headers, Marked},
    },
    time::{TICKS_PER_SECOND, since},
    verdict::Coded,
};

use super::{Step, deliver, flow::check_mtu, local, route};
use crate::{
    calls,
    ctx::{Skb, now},
    family::{Family, Packet, Room, V4, V6},
    maps::{CONFIG, NODES, TUNNELS, VNIS, VTEPS},
};

/// The least MTU of IPv6 (RFC 8200 section 5), and of a path that a router is believed:
/// anybody may say that it is one.
const LEAST_IPV6: u32 = 1280;

/// Nobody has this address: there is no node, or no overlay here.
const NONE: Addr = [0; 16];

/// On which node an address of the network lives; 0: here, or nowhere.
#[inline(always)]
fn node_of<F: Family, A>(room: &mut Room<A>, network: u32, addr: F::Addr) -> u32 {
    let addr = F::mapped(addr);
    room.tunnel_key = TunnelKey::area(network, addr);
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    let Some(area) = (unsafe { TUNNELS.get(&room.tunnel_key) }) else {
        return 0;
    };
    let node = area.node;
    if node & SINGLES != 0 {
        room.tunnel_key = TunnelKey::address(network, addr);
        // SAFETY: as above.
        if let Some(single) = unsafe { TUNNELS.get(&room.tunnel_key) } {
            return single.node;
        }
    }
    node & !SINGLES
}

/// Does the address live on another node? Its number stays in the room.
#[inline(always)]
pub fn is_elsewhere<F: Family>(room: &mut Room<F::Addr>, network: u32, dst: F::Addr) -> bool {
    room.node = node_of::<F, _>(room, network, dst);
    room.node != 0
}

/// VXLAN for a node or this host, from a container: under the masquerade's address it
/// would be taken for a node's.
#[inline(always)]
pub fn is_forged<F: Family>(room: &mut Room<F::Addr>, p: &Packet<F::Addr>) -> bool {
    if !matches!(p.t.kind, TransportKind::Udp) {
        return false;
    }
    let Some(config) = CONFIG.get(0) else {
        return false;
    };
    if config.vtep == NONE {
        return false;
    }
    let own_port = p.t.dport == config.vxlan_port;
    // Almost all end here.
    if !own_port && config.vxlan_flags & VXLAN_PORTS == 0 {
        return false;
    }
    if own_port && config.vxlan_flags & VXLAN_UNKNOWN != 0 {
        return true;
    }
    room.local_key.addr = F::mapped(p.ip.dst);
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    match unsafe { VTEPS.get(&room.local_key.addr) } {
        None => false,
        Some(0) => own_port,
        Some(&number) => p.t.dport == port_of(number),
    }
}

/// Where a node takes in VXLAN.
#[inline(always)]
fn port_of(number: u32) -> u16 {
    NODES.get(number).map_or(0, |node| node.port)
}

/// VXLAN for this node.
#[inline(always)]
pub fn is_tunnelled<F: Family>(p: &Packet<F::Addr>) -> bool {
    if !matches!(p.t.kind, TransportKind::Udp) {
        return false;
    }
    let Some(config) = CONFIG.get(0) else {
        return false;
    };
    p.t.dport == config.vxlan_port && F::mapped(p.ip.dst) == config.vtep
}

/// Puts the packet into VXLAN for the node in the room, and leaves the way there.
#[inline(always)]
pub fn enter<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let config = CONFIG.get(0).ok_or(DropReason::Helper)?;
    // The room may be the other family's meanwhile.
    let (number, vni) = (room.node, room.vni);
    let node = NODES.get_ptr_mut(number).ok_or(DropReason::Helper)?;
    // SAFETY: entries of an array are never freed. Daemon and programs write numbers
    // that a reader sees old or new; a way of both leads astray for one packet.
    let node = unsafe { &mut *node };
    let (time, over_ipv6) = (now(), addr::unmapped(node.vtep).is_none());
    let overhead = if over_ipv6 {
        vxlan::OVERHEAD_V6
    } else {
        vxlan::OVERHEAD_V4
    } as u32;
    if node.ifindex == 0 || since(time, node.checked) >= TICKS_PER_SECOND {
        let asked = if over_ipv6 {
            V6::call_ask_way(skb, number)
        } else {
            V4::call_ask_way(skb, number)
        };
        room.answer_from = F::gateway(local::veth()?);
        if let Some(number) = asked.dropped() {
            room.mtu = node.mtu.saturating_sub(overhead);
            return Err(DropReason::from_number(number).unwrap_or(DropReason::Helper));
        }
    }
    let mut most = path_mtu(node, time).saturating_sub(overhead);
    // IPv6 does not get along with less, whatever routers say (RFC 8200 section 5).
    if F::IS_V6 && most < LEAST_IPV6 && node.mtu >= LEAST_IPV6 + overhead {
        most = LEAST_IPV6;
    }
    check_mtu(skb, p, most).inspect_err(|_| room.mtu = most)?;
    if matches!(p.t.kind, TransportKind::Tcp) && p.t.flags & tcp::SYN != 0 {
        let segments = most.saturating_sub((F::HEADER + tcp::LEN) as u32);
        let clamped = calls::clamp_segments(skb.raw(), p.ip.l4 as u32, segments);
        if Coded::from_bits(clamped).dropped().is_some() {
            return Err(DropReason::Helper);
        }
    }
    // Lengths of 16 bits hold all of it.
    let payload = skb.len() - eth::LEN as u32;
    if payload + overhead > 0xffff {
        room.mtu = most;
        return Err(DropReason::TooBig);
    }
    let class = F::class(skb, eth::LEN).ok_or(DropReason::Malformed)?;
    let headers = Headers {
        class: class & ECN_MASK,
        payload: payload as usize,
        sport: vxlan::source_port(skb.hash()),
        dport: node.port,
        vni,
        dst_mac: node.mac,
        src_mac: config.gateway_mac,
        ethertype: F::ETHERTYPE,
    };
    skb.enter_tunnel(overhead as i32, over_ipv6)?;
    if over_ipv6 {
        skb.put(
            eth::LEN,
            &vxlan::over_ipv6(config.vtep, node.vtep, &headers),
        )?;
    } else {
        let (src, dst) = (V4::from_mapped(config.vtep), V4::from_mapped(node.vtep));
        skb.put(eth::LEN, &vxlan::over_ipv4(src, dst, &headers))?;
    }
    if over_ipv6 != F::IS_V6 {
        // The kernel writes it anew on the way out, but until then it is to be right.
        let ethertype = if over_ipv6 {
            eth::TYPE_IPV6
        } else {
            eth::TYPE_IPV4
        };
        skb.put(eth::TYPE, &ethertype.to_be_bytes())?;
    }
    room.next_hop.nh_family = 0;
    if node.way & u32::from(FLOW_FOREIGN_NEXT_HOP) == 0 {
        if over_ipv6 {
            V6::next_hop_set(&mut room.next_hop, node.next_hop);
        } else {
            V4::next_hop_set(&mut room.next_hop, V4::from_mapped(node.next_hop));
        }
    }
    let ethernet = node.way & u32::from(FLOW_ETHERNET) != 0;
    Ok(Coded::forward(node.ifindex, ethernet))
}

/// What the way to a node lets through, as far as is known.
#[inline(always)]
fn path_mtu(node: &Node, time: u32) -> u32 {
    let holds = since(time, node.path_mtu_at) < PATH_MTU_SECONDS * TICKS_PER_SECOND;
    if node.path_mtu != 0 && node.path_mtu < node.mtu && holds {
        node.path_mtu
    } else {
        node.mtu
    }
}

/// Asks for the way to a node and keeps it there.
#[inline(always)]
pub fn ask_way<O: Family>(skb: &Skb, room: &mut Room<O::Addr>, number: u32) -> Step {
    let own = CONFIG.get(0).ok_or(DropReason::Helper)?.vtep;
    let node = NODES.get_ptr_mut(number).ok_or(DropReason::Helper)?;
    // SAFETY: as in `enter`.
    let node = unsafe { &mut *node };
    if node.vtep == NONE || addr::unmapped(own).is_none() != O::IS_V6 {
        return Err(DropReason::NetUnreachable);
    }
    room.route_src = O::from_mapped(own);
    room.route_dst = O::from_mapped(node.vtep);
    // Where the packet alone does not fit, that is said of the device.
    route::ask::<O>(skb, room).inspect_err(|reason| {
        if matches!(reason, DropReason::TooBig) {
            node.mtu = room.mtu;
        }
    })?;
    node.next_hop = O::mapped(room.way.next_hop);
    node.mtu = room.way.mtu;
    node.way = u32::from(room.way.flow_flags());
    node.checked = now();
    node.ifindex = room.way.ifindex;
    Ok(Coded::PASS)
}

/// Makes a SYN say no larger segments than `most`: what is sent back has to fit, too.
#[inline(always)]
pub fn clamp(skb: &Skb, l4: usize, most: u16) -> Step {
    let Some(at) = tcp::segment_size_at(skb, l4) else {
        return Ok(Coded::PASS);
    };
    let Some(said) = skb.u16(at) else {
        return Ok(Coded::PASS);
    };
    if said <= most {
        return Ok(Coded::PASS);
    }
    // At an odd place its bytes are in two of the numbers that are added up.
    let (from, to) = if (at - l4) & 1 == 0 {
        (said, most)
    } else {
        (said.swap_bytes(), most.swap_bytes())
    };
    skb.field_checksum(l4 + tcp::CHECKSUM, from, to, false)?;
    skb.store(at, &most.to_be_bytes())?;
    Ok(Coded::PASS)
}

/// Takes the packet out of VXLAN and hands it to its container.
#[inline(always)]
pub fn leave<O: Family>(skb: &Skb, p: &Packet<O::Addr>, room: &mut Room<O::Addr>) -> Step {
    let at = (p.ip.l4 & 0x3fff) + 8;
    let inside = at + vxlan::LEN + eth::LEN;
    // As much as the smaller network header; of the other the rest may follow.
    skb.pull((inside + V4::HEADER) as u32);
    let Some(number) = vxlan::vni(skb, at) else {
        return Err(DropReason::Malformed);
    };
    room.node = number;
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    let Some(vni) = (unsafe { VNIS.get(&room.node) }) else {
        let shared = CONFIG
            .get(0)
            .is_some_and(|config| config.vxlan_flags & VXLAN_SHARED != 0);
        return if shared {
            Ok(Coded::PASS)
        } else {
            Err(DropReason::UnknownVni)
        };
    };
    let left = if p.ip.more_fragments {
        // The rest of the datagram is not here: nodes send none in pieces (RFC 7348
        // section 4.3).
        Err(DropReason::Fragment)
    } else {
        match skb.u16(inside - 2) {
            Some(eth::TYPE_IPV4) => hand_over::<O, V4>(skb, p, room, vni, inside),
            Some(eth::TYPE_IPV6) => {
                skb.pull((inside + V6::HEADER) as u32);
                hand_over::<O, V6>(skb, p, room, vni, inside)
            }
            Some(eth::TYPE_ARP) => Err(DropReason::Multicast),
            _ => Err(DropReason::EtherType),
        }
    };
    // Whatever else is wrong with what is no node's.
    left.map_err(|reason| match is_of_node::<O>(p, room) {
        true => reason,
        false => DropReason::UnknownNode,
    })
}

/// Has another node sent it? Whether it is the one that the inner source lives on, the way
/// back there says without this look.
#[inline(always)]
fn is_of_node<O: Family>(p: &Packet<O::Addr>, room: &mut Room<O::Addr>) -> bool {
    room.local_key.addr = O::mapped(p.ip.src);
    // SAFETY: entries are replaced whole by the daemon; a reader sees either. This host's
    // own address is among them, and nobody's.
    unsafe { VTEPS.get(&room.local_key.addr) }.is_some_and(|&node| node != 0)
}

#[inline(always)]
fn hand_over<O: Family, I: Family>(
    skb: &Skb,
    p: &Packet<O::Addr>,
    room: &mut Room<O::Addr>,
    vni: &Vni,
    inside: usize,
) -> Step {
    let l3 = p.l3 & 0xf;
    let (src, dst) = I::addresses(skb, inside).ok_or(DropReason::Malformed)?;
    let inner = I::class(skb, inside).ok_or(DropReason::Malformed)?;
    let outer = O::class(skb, l3).ok_or(DropReason::Malformed)?;
    if I::is_multicast(dst) {
        return Err(DropReason::Multicast);
    }
    let home = node_of::<I, _>(room, vni.network, src);
    let is_home = |node: &Node| node.vtep == O::mapped(p.ip.src);
    if home == 0 || !NODES.get(home).is_some_and(is_home) {
        return Err(DropReason::OverlaySource);
    }
    let to =
        local::endpoint_at(room, I::mapped(dst), vni.scope).ok_or(DropReason::OverlayAddress)?;
    if vni.flags & NETWORK_ICC == 0 {
        return Err(DropReason::IccDisabled);
    }
    let marked = vxlan::leave_tunnel(inner, outer);
    if marked == Marked::Dropped {
        return Err(DropReason::Congested);
    }
    skb.leave_tunnel((inside - l3) as i32, O::IS_V6, I::IS_V6)?;
    if let Marked::Now(mark) = marked {
        I::mark(skb, l3, mark)?;
    }
    let verdict = Coded::deliver(to.ifindex, to.endpoint);
    deliver::address(skb, l3, to.mac, I::ETHERTYPE)?;
    Ok(verdict)
}

/// Notes what a router on the way to a node says of its MTU (RFC 1191, RFC 8201). `false`:
/// the error is about something else.
#[inline(always)]
pub fn learn_mtu<O: Family>(skb: &Skb, p: &Packet<O::Addr>, room: &mut Room<O::Addr>) -> bool {
    let Some(config) = CONFIG.get(0) else {
        return false;
    };
    if config.vtep == NONE || O::call_parse_quote(skb) == 0 {
        return false;
    }
    let l4 = p.ip.l4 & 0x3fff;
    let Some(message) = skb.bytes::<8>(l4) else {
        return false;
    };
    let told = if p.ip.protocol == IPPROTO_ICMP {
        if message[0] != icmp::UNREACHABLE || message[1] != icmp::FRAG_NEEDED {
            return false;
        }
        u32::from(u16::from_be_bytes([message[6], message[7]]))
    } else {
        if message[0] != icmp::V6_TOO_BIG {
            return false;
        }
        u32::from_be_bytes([message[4], message[5], message[6], message[7]])
    };
    let is_ours = O::mapped(room.quoted.src) == config.vtep;
    if room.quoted.protocol != IPPROTO_UDP || !is_ours || told == 0 {
        return false;
    }
    room.local_key.addr = O::mapped(room.quoted.dst);
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    let Some(&number) = (unsafe { VTEPS.get(&room.local_key.addr) }) else {
        return false;
    };
    let Some(node) = NODES.get_ptr_mut(number) else {
        return false;
    };
    // SAFETY: as in `enter`.
    let node = unsafe { &mut *node };
    if number == 0 || room.quoted_t.dport != node.port {
        return false;
    }
    let told = if told < LEAST_IPV6 { LEAST_IPV6 } else { told };
    let time = now();
    if told < path_mtu(node, time) {
        node.path_mtu = told;
    }
    if told <= path_mtu(node, time) {
        node.path_mtu_at = time;
    }
    true
}
