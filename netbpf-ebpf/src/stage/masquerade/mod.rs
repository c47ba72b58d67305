//! New flows from a container to the outside, under the address of the way out.

mod outside;
mod record;

pub use outside::{ended, keep, search, try_port};
pub use record::{Ask, clear, record};

use netbpf_common::{
    drop::DropReason,
    flow::{SEEN_ANY, seen_tcp},
    maps::{
        OutsideKey, Veth,
        endpoints::{NETWORK_INTERNAL, NETWORK_MASQUERADE},
        flows::SCOPE_HOST,
    },
    packet::{
        IPPROTO_AH, IPPROTO_DCCP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_UDPLITE,
        sctp, tcp, tuple::TransportKind,
    },
    verdict::Coded,
};

use super::{
    Step, deliver,
    flow::{check_mtu, remember},
    pool::{self, Wanted},
    route,
    sockets::host_has,
    translate::{self, NewTuple},
};
use crate::{
    calls,
    ctx::Skb,
    family::{Family, Packet, Room},
};
use outside::{FULL, outside_port, random_port};
use record::WRITTEN;

/// Ports that are tried of each kind: what the pool has to be free may be a port that the
/// host has, or that another CPU takes.
const TRIES: u32 = 32;

/// Whose flow begins, as the program leaves it in `room.begins`: a container's to the
/// outside; one's to another container's outside port; one of the host's own, whose tuple a
/// container has already.
pub const OUTWARD: u32 = 0;
pub const HAIRPIN: u32 = 1;
pub const OF_HOST: u32 = 2;

#[inline(always)]
pub fn begin<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let (ip, t) = (&p.ip, &p.t);
    room.seen = match t.kind {
        TransportKind::Tcp if t.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN => {
            seen_tcp(t.flags)
        }
        TransportKind::Sctp if t.flags == sctp::INIT || room.begins == OF_HOST => SEEN_ANY,
        TransportKind::Udp | TransportKind::EchoRequest => SEEN_ANY,
        TransportKind::Other if may_change_address(ip.protocol) => SEEN_ANY,
        TransportKind::Other => return Err(DropReason::Protocol),
        TransportKind::Tcp
        | TransportKind::Sctp
        | TransportKind::EchoReply
        | TransportKind::Icmp => {
            return Err(DropReason::NoFlow);
        }
    };
    let of_host = room.begins == OF_HOST;
    // To another container's outside port it is two translations, see `flow::follow`.
    let least = 1 + u8::from(room.begins == HAIRPIN);
    if ip.hop_limit <= least && !of_host {
        return Err(DropReason::HopLimit);
    }
    if room.begins != OUTWARD {
        // It leaves and comes back by that address.
        room.way.src = if of_host { ip.src } else { ip.dst };
        room.way.ifindex = 0;
    } else {
        route::way::<F>(skb, room, F::UNSPECIFIED, ip.dst)?;
        if room.way.src == F::UNSPECIFIED {
            return Err(DropReason::NoSourceAddress);
        }
        check_mtu(skb, p, room.way.mtu).inspect_err(|_| room.mtu = room.way.mtu)?;
    }
    let port = match t.kind {
        TransportKind::Tcp | TransportKind::Udp | TransportKind::EchoRequest => {
            choose::<F>(skb, p, room)?
        }
        // The checksum of SCTP covers its ports, and the others have none: one container
        // at a time has an association or a tunnel with a peer, or the host has.
        _ => match F::call_record(skb, t.sport, Ask::Nothing) {
            WRITTEN if of_host => return Ok(Coded::PASS),
            WRITTEN => t.sport,
            FULL => return Err(DropReason::FlowTableFull),
            _ if ip.protocol == IPPROTO_SCTP => return Err(DropReason::PortsExhausted),
            _ => return Err(DropReason::Protocol),
        },
    };
    let echo = matches!(t.kind, TransportKind::EchoRequest);
    room.new = NewTuple {
        src: room.way.src,
        dst: ip.dst,
        sport: port,
        dport: if echo { 0 } else { t.dport },
    };
    translate::rewrite::<F>(skb, p, &room.new, u8::from(!of_host))?;
    if of_host {
        pool::displace(ip.protocol, t.sport);
        return Ok(Coded::PASS);
    }
    if ip.more_fragments {
        remember::<F>(skb)?;
    }
    if room.begins == HAIRPIN {
        return Ok(Coded::TO_HAIRPIN);
    }
    Ok(deliver::forward::<F>(room))
}

/// Is the port of the host's address that a container sends to an outside port of
/// another one, or its own? Of the host's own sockets it is not.
#[inline(always)]
pub fn leads_back<F: Family>(
    skb: &Skb,
    veth: &Veth,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
) -> bool {
    let (ip, t) = (&p.ip, &p.t);
    if veth.flags & NETWORK_MASQUERADE == 0 || veth.flags & NETWORK_INTERNAL != 0 {
        return false;
    }
    room.outside_key = OutsideKey {
        outside: ip.dst,
        port: t.dport,
        protocol: ip.protocol,
        reserved: 0,
    };
    // SAFETY: entries of `outside` are written once.
    let owner = unsafe { F::outside().get(&room.outside_key) };
    if owner.is_none_or(|owner| owner.scope == SCOPE_HOST) {
        return false;
    }
    let (remote, own) = ((ip.src, t.sport), (ip.dst, t.dport));
    if host_has::<F>(skb, room, remote, own, ip.protocol, true) {
        return false;
    }
    room.begins = HAIRPIN;
    true
}

/// Chooses the outside port and records the flow: the port of the mapping; else one that
/// is free; else that of a mapping whose flows are all over; else, for this flow alone, one
/// that neither another flow nor the host has towards this remote.
#[inline(always)]
fn choose<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step<u16> {
    let protocol = p.ip.protocol;
    let (mut port, ask) = outside_port::<F>(skb, p, room)?;
    if port != 0 {
        match F::call_record(skb, port, ask) {
            WRITTEN => return Ok(port),
            FULL => return Err(DropReason::FlowTableFull),
            // A flow that shares the port, or a program of the host, has this very remote.
            _ => {}
        }
    }
    for _ in 0..TRIES {
        port =
            calls::next_port(Wanted::Any as u32, 0, protocol.into(), random_port().into()) as u16;
        if port == 0 {
            break;
        }
        match F::call_record(skb, port, Ask::All) {
            WRITTEN => {
                // It may be nobody's by itself: what the host sends is to be looked at.
                pool::displace(protocol, port);
                return Ok(port);
            }
            FULL => return Err(DropReason::FlowTableFull),
            _ => {}
        }
    }
    Err(DropReason::PortsExhausted)
}

/// Of protocols without ports, those whose checksums and signatures leave the addresses
/// out: not those of RFC 4340 section 9.1, RFC 3828 section 3.1, RFC 4302 section 3.3.3.
#[inline(always)]
fn may_change_address(protocol: u8) -> bool {
    !matches!(
        protocol,
        IPPROTO_DCCP | IPPROTO_UDPLITE | IPPROTO_AH | IPPROTO_ICMP | IPPROTO_ICMPV6
    )
}
