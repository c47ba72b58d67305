//! New flows from a container to the outside, under the address of the way out.

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use netbpf_common::{
    drop::DropReason,
    flow::{SEEN_ANY, State, seen_tcp, timeout_ticks},
    maps::{
        FlowKey, Mapping, MappingKey, Outside, OutsideKey, Veth,
        flows::{ARRIVAL_UPLINK, FLOW_ORIGINAL, FLOW_TO_CONTAINER, KIND_MASQUERADE},
    },
    packet::{IPPROTO_TCP, IPPROTO_UDP, tcp, tuple::TransportKind},
    time::{Ticks, since},
};

use super::{
    Step, deliver,
    flow::{check_mtu, remember},
    local, port, route,
    translate::{self, NewTuple},
};
use crate::{
    ctx::{Skb, now},
    family::{Family, Packet, Room},
    maps::CONFIG,
};

/// Outside ports that are tried at random before giving up.
const TRIES: u32 = 32;

#[inline(always)]
pub fn begin<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let veth = local::veth(skb)?;
    let (ip, t) = (&p.ip, &p.t);
    let seen = match t.kind {
        TransportKind::Tcp if t.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN => {
            seen_tcp(t.flags)
        }
        TransportKind::Udp | TransportKind::EchoRequest => SEEN_ANY,
        TransportKind::Tcp | TransportKind::EchoReply | TransportKind::Icmp => {
            return Err(DropReason::NoFlow);
        }
        TransportKind::Sctp | TransportKind::Other => return Err(DropReason::Protocol),
    };
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    route::way::<F>(skb, room, F::UNSPECIFIED, ip.dst)?;
    if room.way.src == F::UNSPECIFIED {
        return Err(DropReason::NoSourceAddress);
    }
    check_mtu(skb, p, room.way.mtu).inspect_err(|_| room.mtu = room.way.mtu)?;
    let time = now();
    let outside_port = outside_port::<F>(skb, veth, p, room, time)?;
    record::<F>(skb, veth, p, room, outside_port, seen, time)?;

    let echo = matches!(t.kind, TransportKind::EchoRequest);
    room.new = NewTuple {
        src: room.way.src,
        dst: ip.dst,
        sport: outside_port,
        dport: if echo { 0 } else { t.dport },
    };
    translate::rewrite::<F>(skb, p, &room.new)?;
    if ip.more_fragments {
        remember::<F>(skb)?;
    }
    Ok(deliver::forward::<F>(room))
}

/// The port that the container's address and port has outside: the one it has
/// already (RFC 4787 REQ-1), or a new one.
#[inline(always)]
fn outside_port<F: Family>(
    skb: &Skb,
    veth: &Veth,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    time: Ticks,
) -> Step<u16> {
    let (ip, t, outside) = (&p.ip, &p.t, room.way.src);
    room.mapping_key = MappingKey {
        inside: ip.src,
        outside,
        port: t.sport,
        protocol: ip.protocol,
        reserved: 0,
        scope: veth.scope,
    };
    room.outside = Outside {
        inside: ip.src,
        scope: veth.scope,
        port: t.sport,
        reserved: 0,
    };
    let expires = time.wrapping_add(timeout_ticks(ip.protocol, State::Opening));
    if let Some(mapping) = F::mappings().get_ptr_mut(&room.mapping_key) {
        // SAFETY: readable as long as the program runs. It may be removed
        // meanwhile; then the port is not ours any more, as is checked next.
        let mapping = unsafe { &mut *mapping };
        let port = mapping.outside_port;
        mapping.last_used = time;
        if since(expires, mapping.expires) != 0 {
            mapping.expires = expires;
        }
        room.outside_key = OutsideKey {
            outside,
            port,
            protocol: ip.protocol,
            reserved: 0,
        };
        // SAFETY: entries of `outside` are written once.
        let owner = unsafe { F::outside().get(&room.outside_key) };
        if owner.is_some_and(|owner| is_same(owner, &room.outside)) {
            return Ok(port);
        }
        let _ = F::mappings().remove(&room.mapping_key);
    }
    let config = CONFIG.get(0).ok_or(DropReason::Helper)?;
    let (first, last) = (
        u32::from(config.masquerade_first),
        u32::from(config.masquerade_last),
    );
    let count = last.wrapping_sub(first).wrapping_add(1) & 0xffff;
    if count == 0 {
        return Err(DropReason::PortsExhausted);
    }
    room.expires = expires;
    let own = u32::from(t.sport);
    for attempt in 0..TRIES {
        // The container's own port first (RFC 4787 section 4.2.1), then others.
        let candidate = if attempt == 0 && own >= first && own <= last {
            own as u16
        } else {
            // SAFETY: takes and touches nothing.
            (first + unsafe { bpf_get_prandom_u32() } % count) as u16
        };
        match F::call_try_outside(skb, candidate) {
            TAKEN => continue,
            FULL => return Err(DropReason::FlowTableFull),
            port => return Ok(port as u16),
        }
    }
    Err(DropReason::PortsExhausted)
}

/// Outcomes of [`try_port`] besides the port: somebody else has it; the table of
/// mappings is full.
const TAKEN: u32 = 0;
const FULL: u32 = 1 << 16;

/// Takes an outside port for the mapping in the room, if it is free: 0 if not, else
/// the port that the mapping has now.
#[inline(always)]
pub fn try_port<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    candidate: u16,
) -> u32 {
    let (ip, t, outside, time) = (&p.ip, &p.t, room.way.src, now());
    room.outside_key = OutsideKey {
        outside,
        port: candidate,
        protocol: ip.protocol,
        reserved: 0,
    };
    if !take::<F>(room) && !(release_abandoned::<F>(room, time) && take::<F>(room)) {
        return TAKEN;
    }
    let taken = port::lookup::<F>(room, outside, candidate, ip.protocol).is_some()
        || host_has::<F>(
            skb,
            room,
            (ip.dst, t.dport),
            (outside, candidate),
            ip.protocol,
            true,
        );
    if taken {
        let _ = F::outside().remove(&room.outside_key);
        return TAKEN;
    }
    let mapping = Mapping {
        last_used: time,
        expires: room.expires,
        outside_port: candidate,
        reserved: 0,
    };
    if F::mappings()
        .insert(&room.mapping_key, &mapping, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        return candidate.into();
    }
    // Another CPU was first with this very mapping, or the table is full.
    let _ = F::outside().remove(&room.outside_key);
    // SAFETY: entries of mappings are written once; see `outside_port`.
    match unsafe { F::mappings().get(&room.mapping_key) } {
        Some(mapping) => mapping.outside_port.into(),
        None => FULL,
    }
}

/// Takes the port in the room, if it is free.
#[inline(always)]
fn take<F: Family>(room: &Room<F::Addr>) -> bool {
    let flags = u64::from(BPF_NOEXIST);
    F::outside()
        .insert(&room.outside_key, &room.outside, flags)
        .is_ok()
}

/// Frees the port in the room when the mapping that it belongs to has expired:
/// the daemon, which does that, may be away. Of two CPUs that come here at once,
/// one gets the port.
#[inline(always)]
fn release_abandoned<F: Family>(room: &mut Room<F::Addr>, time: Ticks) -> bool {
    // SAFETY: entries of `outside` are written once.
    let Some(owner) = (unsafe { F::outside().get(&room.outside_key) }) else {
        return true;
    };
    room.other_mapping_key = MappingKey {
        inside: owner.inside,
        outside: room.outside_key.outside,
        port: owner.port,
        protocol: room.outside_key.protocol,
        reserved: 0,
        scope: owner.scope,
    };
    // SAFETY: its fields are numbers that a reader sees old or new.
    if let Some(mapping) = unsafe { F::mappings().get(&room.other_mapping_key) } {
        if since(time, mapping.expires) == 0 {
            return false;
        }
        let _ = F::mappings().remove(&room.other_mapping_key);
    } else {
        // Another CPU is about to write it, or was stopped before it could: the
        // daemon tells them apart.
        return false;
    }
    let _ = F::outside().remove(&room.outside_key);
    true
}

#[inline(always)]
fn is_same<A: PartialEq>(a: &Outside<A>, b: &Outside<A>) -> bool {
    a.inside == b.inside && a.port == b.port && a.scope == b.scope
}

/// Puts off the end of the mapping of a flow that goes on.
#[inline(always)]
pub fn keep<F: Family>(p: &Packet<F::Addr>, room: &mut Room<F::Addr>, time: Ticks) {
    room.mapping_key = MappingKey {
        inside: p.ip.src,
        outside: room.new.src,
        port: p.t.sport,
        protocol: p.ip.protocol,
        reserved: 0,
        scope: u32::from(p.key.arrival).wrapping_sub(1),
    };
    if let Some(mapping) = F::mappings().get_ptr_mut(&room.mapping_key) {
        // SAFETY: as in `outside_port`.
        unsafe {
            (*mapping).expires = time.wrapping_add(timeout_ticks(p.ip.protocol, State::Established))
        };
    }
}

/// `TCP_LISTEN` of `net/tcp_states.h`.
const TCP_LISTEN: u32 = 10;

/// Has a socket of the host this tuple, or (`listeners`) the port for itself?
#[inline(always)]
pub fn host_has<F: Family>(
    skb: &Skb,
    room: &mut Room<F::Addr>,
    remote: (F::Addr, u16),
    local: (F::Addr, u16),
    protocol: u8,
    listeners: bool,
) -> bool {
    let netns = BPF_F_CURRENT_NETNS as u64;
    F::socket_set(&mut room.socket, remote, local);
    let tuple = &raw mut room.socket;
    // SAFETY: the tuple is as long as said; a socket found is released.
    unsafe {
        let socket = match protocol {
            IPPROTO_TCP => bpf_skc_lookup_tcp(skb.as_ptr(), tuple, F::SOCKET_TUPLE, netns, 0),
            IPPROTO_UDP => bpf_sk_lookup_udp(skb.as_ptr(), tuple, F::SOCKET_TUPLE, netns, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        let listens = protocol == IPPROTO_TCP && (*socket).state == TCP_LISTEN;
        bpf_sk_release(socket.cast());
        listeners || !listens
    }
}

/// Writes both halves; the reverse one first, since it must not be another's.
#[inline(always)]
fn record<F: Family>(
    skb: &Skb,
    veth: &Veth,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    outside_port: u16,
    seen: u8,
    time: Ticks,
) -> Step<()> {
    let (ip, t) = (&p.ip, &p.t);
    let way = &room.way;
    let echo = matches!(t.kind, TransportKind::EchoRequest);
    room.forward_key = p.key;
    room.reverse_key = FlowKey {
        src: ip.dst,
        dst: way.src,
        sport: if echo { 0 } else { t.dport },
        dport: outside_port,
        protocol: ip.protocol,
        reserved: 0,
        arrival: ARRIVAL_UPLINK,
    };
    // Field by field: a whole flow built on the stack would not fit there.
    let forward = &mut room.forward;
    forward.packets = skb.segments();
    forward.bytes = u64::from(skb.len());
    forward.src = way.src;
    forward.dst = ip.dst;
    forward.sport = outside_port;
    forward.dport = if echo { 0 } else { t.dport };
    forward.ifindex = way.ifindex;
    forward.endpoint = veth.endpoint;
    forward.slot = 0;
    forward.other_arrival = ARRIVAL_UPLINK;
    forward.sender = veth.endpoint;
    forward.generation = 0;
    forward.last_seen = time;
    forward.created = time;
    forward.checked = time;
    forward.next_hop = way.next_hop;
    forward.mac = [0; 6];
    forward.kind = KIND_MASQUERADE;
    forward.flags = FLOW_ORIGINAL | way.flow_flags();
    forward.seen = seen;
    forward.mtu = way.flow_mtu();
    forward.reserved = [0];
    forward.reserved_addr = F::UNSPECIFIED;
    room.reverse = room.forward;
    room.reverse.packets = 0;
    room.reverse.bytes = 0;
    room.reverse.src = ip.dst;
    room.reverse.dst = ip.src;
    room.reverse.sport = if echo { 0 } else { t.dport };
    room.reverse.dport = t.sport;
    room.reverse.ifindex = skb.ifindex();
    room.reverse.next_hop = F::UNSPECIFIED;
    room.reverse.mac = veth.mac;
    room.reverse.flags = FLOW_TO_CONTAINER;
    room.reverse.other_arrival = p.key.arrival;
    room.reverse.sender = 0;
    room.reverse.seen = 0;
    room.reverse.mtu = 0;
    if let Some(held) = super::flow::find::<F>(&room.reverse_key)
        && (held.dst != ip.src || held.dport != t.sport)
    {
        return Err(DropReason::PortsExhausted);
    }
    let transient = F::transient();
    if transient
        .insert(&room.reverse_key, &room.reverse, 0)
        .is_err()
        || transient
            .insert(&room.forward_key, &room.forward, 0)
            .is_err()
    {
        return Err(DropReason::FlowTableFull);
    }
    Ok(())
}
