//! New flows from a container to the outside, under the address of the way out.

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use netbpf_common::{
    drop::DropReason,
    flow::{SEEN_ANY, State, seen_tcp, state},
    maps::{
        Flow, FlowKey, Mapping, MappingKey, Outside, OutsideKey, Veth,
        endpoints::{NETWORK_INTERNAL, NETWORK_MASQUERADE},
        flows::{
            ARRIVAL_HAIRPIN, ARRIVAL_UPLINK, Expects, FLOW_HAIRPIN, FLOW_OF_HOST, FLOW_ORIGINAL,
            FLOW_TO_CONTAINER, KIND_MASQUERADE, SCOPE_HOST, arrival_container,
        },
    },
    packet::{
        IPPROTO_AH, IPPROTO_DCCP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP,
        IPPROTO_UDP, IPPROTO_UDPLITE, sctp, tcp, tuple::TransportKind,
    },
    time::{TICKS_PER_SECOND, Ticks, since},
    verdict::Coded,
};

use super::{
    Step, deliver,
    flow::{check_mtu, remember, timeout_ticks},
    local,
    pool::{self, Wanted},
    port, route,
    translate::{self, NewTuple},
};
use crate::{
    calls,
    ctx::{Skb, now},
    family::{Family, Packet, Room},
};

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
        // at a time has an association or a tunnel with a peer.
        _ => match F::call_record(skb, t.sport, Ask::Nothing) {
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
    if unsafe { F::outside().get(&room.outside_key) }.is_none() {
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

/// The port that the container's address and port has outside: the one it has
/// already (RFC 4787 REQ-1), or a new one; 0 where there is none to be had. With it what is
/// still to be asked.
#[inline(always)]
fn outside_port<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
) -> Step<(u16, Ask)> {
    let scope = owner(skb, room)?.scope;
    let (ip, t, outside, time) = (&p.ip, &p.t, room.way.src, now());
    room.mapping_key = MappingKey {
        inside: ip.src,
        outside,
        port: t.sport,
        protocol: ip.protocol,
        reserved: 0,
        scope,
    };
    room.outside = Outside {
        inside: ip.src,
        scope,
        port: t.sport,
        reserved: 0,
    };
    room.expires = time.wrapping_add(timeout_ticks(ip.protocol, State::Opening));
    if let Some(mapping) = F::mappings().get_ptr_mut(&room.mapping_key) {
        // SAFETY: readable as long as the program runs. It may be removed
        // meanwhile; then the port is not ours any more, as is checked next.
        let mapping = unsafe { &mut *mapping };
        let port = mapping.outside_port;
        mapping.last_used = time;
        if since(room.expires, mapping.expires) != 0 {
            mapping.expires = room.expires;
        }
        mapping.flows = mapping.flows.saturating_add(1);
        room.outside_key = OutsideKey {
            outside,
            port,
            protocol: ip.protocol,
            reserved: 0,
        };
        // SAFETY: entries of `outside` are written once.
        let owner = unsafe { F::outside().get(&room.outside_key) };
        if owner.is_some_and(|owner| is_same(owner, &room.outside)) {
            // A program of the host may have taken the port since.
            return Ok((port, Ask::Connections));
        }
        let _ = F::mappings().remove(&room.mapping_key);
    }
    room.pool = match local::host::<F>(room, outside) {
        Some(own) => own.pool,
        None => 0,
    };
    // The container's own port first (RFC 4787 section 4.2.1).
    if !pool::is_reserved(ip.protocol, t.sport) {
        match F::call_try_outside(skb, t.sport, false) {
            TAKEN => {}
            FULL => return Err(DropReason::FlowTableFull),
            port => return Ok((port as u16, Ask::Nothing)),
        }
    }
    for wanted in [Wanted::Free, Wanted::Idle, Wanted::Any] {
        match F::call_search(skb, wanted) {
            TAKEN => {}
            FULL => return Err(DropReason::FlowTableFull),
            port => return Ok((port as u16, Ask::Nothing)),
        }
    }
    Ok((0, Ask::Nothing))
}

/// Looks for a port of that kind and takes it, as [`try_port`] does: one after the other
/// from a random one on, of those that may be idle without anybody's having said so each
/// at random.
#[inline(always)]
pub fn search<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &Room<F::Addr>,
    wanted: Wanted,
) -> u32 {
    let (number, protocol) = (room.pool, u32::from(p.ip.protocol));
    let mut start = random_port();
    for _ in 0..TRIES {
        let candidate = calls::next_port(wanted as u32, number, protocol, start.into()) as u16;
        if candidate == 0 {
            break;
        }
        let taken = F::call_try_outside(skb, candidate, !matches!(wanted, Wanted::Free));
        if taken != TAKEN {
            return taken;
        }
        start = if matches!(wanted, Wanted::Any) {
            random_port()
        } else {
            candidate.wrapping_add(1)
        };
    }
    TAKEN
}

#[inline(always)]
fn random_port() -> u16 {
    // SAFETY: takes and touches nothing.
    unsafe { bpf_get_prandom_u32() as u16 }
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

/// Outcomes of [`try_port`] besides the port: somebody else has it; the table of
/// mappings is full.
const TAKEN: u32 = 0;
const FULL: u32 = 1 << 16;
/// Outcome of [`record`].
const WRITTEN: u32 = 1;

/// Takes an outside port for the mapping in the room, if it is free or, where `idle`,
/// all flows of its mapping are over: 0 if not, else the port that the mapping has now.
#[inline(always)]
pub fn try_port<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    candidate: u16,
    idle: bool,
) -> u32 {
    let (ip, t, outside, time) = (&p.ip, &p.t, room.way.src, now());
    room.outside_key = OutsideKey {
        outside,
        port: candidate,
        protocol: ip.protocol,
        reserved: 0,
    };
    if !take::<F>(room) && !(release::<F>(room, time, idle) && take::<F>(room)) {
        // It may have been taken by a program that did not come to say so.
        pool::take(room.pool, ip.protocol, candidate);
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
        remote_port: t.dport,
        flows: 1,
        remote: ip.dst,
    };
    if F::mappings()
        .insert(&room.mapping_key, &mapping, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        pool::take(room.pool, ip.protocol, candidate);
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

/// Frees the port in the room when the mapping that it belongs to has expired: the
/// daemon, which does that, may be away. `idle`: also when all its flows are over. Of two
/// CPUs that come here at once, one gets the port.
#[inline(always)]
fn release<F: Family>(room: &mut Room<F::Addr>, time: Ticks, idle: bool) -> bool {
    // SAFETY: entries of `outside` are written once.
    let Some(owner) = (unsafe { F::outside().get(&room.outside_key) }) else {
        return true;
    };
    let protocol = room.outside_key.protocol;
    room.other_mapping_key = MappingKey {
        inside: owner.inside,
        outside: room.outside_key.outside,
        port: owner.port,
        protocol,
        reserved: 0,
        scope: owner.scope,
    };
    // SAFETY: its fields are numbers that a reader sees old or new.
    let Some(mapping) = (unsafe { F::mappings().get(&room.other_mapping_key) }) else {
        // Another CPU is about to write it, or was stopped before it could: the
        // daemon tells them apart.
        return false;
    };
    if since(time, mapping.expires) == 0 {
        if !idle || protocol != IPPROTO_TCP || mapping.flows != 1 {
            return false;
        }
        room.forward_key = FlowKey {
            src: owner.inside,
            dst: mapping.remote,
            sport: owner.port,
            dport: mapping.remote_port,
            protocol,
            reserved: 0,
            arrival: arrival_container(owner.scope),
        };
        if let Some(flow) = super::flow::find::<F>(&room.forward_key) {
            room.reverse_key = room.forward_key.reverse(flow);
            let other = super::flow::find::<F>(&room.reverse_key).map_or(0, |other| other.seen);
            if !state(protocol, flow.seen, other).is_over() {
                return false;
            }
            let _ = F::flows().remove(&room.reverse_key);
            let _ = F::transient().remove(&room.reverse_key);
        } else if since(time, mapping.last_used) <= TICKS_PER_SECOND {
            // One that was just made has no flow yet.
            return false;
        }
    }
    let _ = F::mappings().remove(&room.other_mapping_key);
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

/// A flow is over: its mapping may be taken over when no port is free.
#[inline(always)]
pub fn ended<F: Family>(p: &Packet<F::Addr>, flow: &Flow<F::Addr>, room: &mut Room<F::Addr>) {
    let (outside, port) = if flow.flags & FLOW_ORIGINAL != 0 {
        (flow.src, flow.sport)
    } else {
        (p.ip.dst, p.t.dport)
    };
    if let Some(own) = local::host::<F>(room, outside) {
        pool::note_idle(own.pool, p.ip.protocol, port);
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

/// Which sockets of the host may have the tuple, and are to be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Ask {
    /// None: it was asked when the port was taken.
    Nothing,
    /// Such as have a connection with it; of UDP also such as have the port, as any of them
    /// may be about to be answered.
    Connections,
    /// Also such as listen on the port.
    All,
}

impl Ask {
    #[inline(always)]
    pub const fn from_number(number: u32) -> Ask {
        match number {
            0 => Ask::Nothing,
            1 => Ask::Connections,
            _ => Ask::All,
        }
    }
}

/// Whose flow it is that begins.
struct Owner {
    endpoint: u32,
    scope: u32,
    ifindex: u32,
    mac: [u8; 6],
}

#[inline(always)]
fn owner<A>(skb: &Skb, room: &Room<A>) -> Step<Owner> {
    if room.begins == OF_HOST {
        return Ok(Owner {
            endpoint: 0,
            scope: SCOPE_HOST,
            ifindex: 0,
            mac: [0; 6],
        });
    }
    let veth = local::veth(skb)?;
    Ok(Owner {
        endpoint: veth.endpoint,
        scope: veth.scope,
        ifindex: skb.ifindex(),
        mac: veth.mac,
    })
}

/// Writes both halves; the reverse one first, since it must not be another's.
#[inline(always)]
pub fn record<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    outside_port: u16,
    ask: Ask,
) -> u32 {
    let Ok(owner) = owner(skb, room) else {
        return FULL;
    };
    let (ip, t, time, seen) = (&p.ip, &p.t, now(), room.seen);
    if ask != Ask::Nothing {
        let (remote, own) = ((ip.dst, t.dport), (room.way.src, outside_port));
        if host_has::<F>(skb, room, remote, own, ip.protocol, ask == Ask::All) {
            return TAKEN;
        }
    }
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
        arrival: match room.begins {
            HAIRPIN => ARRIVAL_HAIRPIN,
            _ => ARRIVAL_UPLINK,
        },
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
    forward.endpoint = owner.endpoint;
    forward.slot = 0;
    forward.other_arrival = room.reverse_key.arrival;
    forward.sender = owner.endpoint;
    forward.generation = 0;
    forward.last_seen = time;
    forward.created = time;
    forward.checked = time;
    forward.next_hop = way.next_hop;
    forward.mac = [0; 6];
    forward.kind = KIND_MASQUERADE;
    forward.flags = FLOW_ORIGINAL
        | match room.begins {
            OUTWARD => way.flow_flags(),
            HAIRPIN => FLOW_HAIRPIN,
            _ => FLOW_OF_HOST,
        };
    forward.seen = seen;
    forward.mtu = way.flow_mtu();
    forward.expects = Expects::after_own_syn(match t.kind {
        TransportKind::Tcp => calls::window_scale(skb.raw(), ip.l4 as u32) as u8,
        _ => tcp::NO_SCALE,
    });
    forward.reserved = [0];
    forward.reserved_addr = F::UNSPECIFIED;
    room.reverse = room.forward;
    room.reverse.packets = 0;
    room.reverse.bytes = 0;
    room.reverse.src = ip.dst;
    room.reverse.dst = ip.src;
    room.reverse.sport = if echo { 0 } else { t.dport };
    room.reverse.dport = t.sport;
    room.reverse.ifindex = owner.ifindex;
    room.reverse.next_hop = F::UNSPECIFIED;
    room.reverse.mac = owner.mac;
    room.reverse.flags = match room.begins {
        OF_HOST => FLOW_OF_HOST,
        _ => FLOW_TO_CONTAINER,
    };
    room.reverse.other_arrival = p.key.arrival;
    room.reverse.sender = 0;
    room.reverse.seen = 0;
    room.reverse.expects = Expects::after_syn(t.seq);
    room.reverse.mtu = 0;
    if F::call_clear() == 0 {
        return TAKEN;
    }
    let transient = F::transient();
    let flags = u64::from(BPF_NOEXIST);
    if transient
        .insert(&room.reverse_key, &room.reverse, flags)
        .is_err()
    {
        // Another CPU was first, or there is no room, which an LRU table always has.
        return TAKEN;
    }
    if transient
        .insert(&room.forward_key, &room.forward, 0)
        .is_err()
    {
        return FULL;
    }
    WRITTEN
}

/// Whether the reverse key in the room is nobody's, or a flow's of before: that of the
/// same container and port, or one that is over or expired. Such a one goes.
#[inline(always)]
pub fn clear<F: Family>(p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> bool {
    let Some(held) = super::flow::find::<F>(&room.reverse_key) else {
        return true;
    };
    let transient = F::transient();
    if held.dst != p.ip.src || held.dport != p.t.sport {
        room.other_key = room.reverse_key.reverse(held);
        let (time, protocol) = (now(), p.ip.protocol);
        let (mut seen, mut silent) = (0, since(time, held.last_seen));
        if let Some(other) = super::flow::find::<F>(&room.other_key) {
            seen = other.seen;
            silent = silent.min(since(time, other.last_seen));
        }
        // Also where the daemon, which collects what is over, is away.
        if !state(protocol, seen, held.seen).is_over()
            && silent <= timeout_ticks(protocol, State::Established)
        {
            return false;
        }
        let _ = F::flows().remove(&room.other_key);
        let _ = transient.remove(&room.other_key);
    }
    let _ = F::flows().remove(&room.reverse_key);
    let _ = transient.remove(&room.reverse_key);
    true
}
