//! Published ports: new flows from outside, or from a container by an address
//! of the host, to the container behind the port.

use aya_ebpf::maps::lpm_trie::Key;
use netbpf_common::{
    addr::{self, ANY, Addr},
    drop::DropReason,
    flow::{SEEN_ANY, seen_tcp},
    maps::{
        AllowData, Backend, BackendKey, Client as Known, FlowKey, Port, PortData,
        config::CLIENT_WINDOW_SHIFT,
        endpoints::{NETWORK_INTERNAL, is_one_container},
        flows::{
            ARRIVAL_HOST, Expects, FLOW_ORIGINAL, FLOW_TO_CONTAINER, FLOW_TO_HOST, KIND_LOCAL,
            KIND_PUBLISH, arrival_container,
        },
        ports::{
            ALLOW_PREFIX, PORT_AFFINITY, PORT_ALLOW, PORT_PREFIX, SHARE_PLACES, place_of_client,
            place_of_turn,
        },
        published::{PORTS_PER_ENTRY, held_bit, published_bit},
        uplinks::UPLINK_EARLY_DROP,
    },
    packet::{
        IPPROTO_SCTP, sctp, tcp,
        tuple::{Transport, TransportKind},
    },
    verdict::Coded,
};

use super::{
    Step, deliver,
    flow::{self, check_mtu, remember},
    local, masquerade, pool,
    renew::{give_up, renew},
    route, sibling,
    sockets::host_has,
    translate::{self, NewTuple},
};
use crate::{
    calls,
    ctx::{Skb, now},
    family::{Family, Packet, Room},
    maps::{
        ALLOWS, BACKENDS, CLIENTS, CONFIG, GENERATIONS, PORTS, PUBLISHED, SHARES, TURNS, VETHS,
    },
};

/// Source ports tried when the client's own is taken in the tuple towards the
/// container: it came by two published ports to one container port.
const TRIES: u16 = 16;

/// Who asks for a published port.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Client {
    /// Somebody outside.
    Uplink,
    /// A container, by an address of the host.
    Container,
    /// The host itself, by one of its addresses or by loopback.
    Host,
}

impl Client {
    #[inline(always)]
    pub const fn from_number(number: u32) -> Client {
        match number {
            0 => Client::Uplink,
            1 => Client::Container,
            _ => Client::Host,
        }
    }

    #[inline(always)]
    const fn arrival_of_answers(self, key: u16) -> u16 {
        match self {
            Client::Host => ARRIVAL_HOST,
            _ => key,
        }
    }
}

/// Is anything published at this port, on whatever address?
#[inline(always)]
pub fn is_published(protocol: u8, family: u8, port: u16) -> bool {
    bits(port) & published_bit(protocol, family) != 0
}

/// The same, and programs of the host may not bind it.
#[inline(always)]
pub fn is_held(protocol: u8, family: u8, port: u16) -> bool {
    bits(port) & held_bit(protocol, family) != 0
}

#[inline(always)]
fn bits(port: u16) -> u16 {
    match PUBLISHED.get(u32::from(port) / PORTS_PER_ENTRY) {
        Some(entry) => entry.ports[(u32::from(port) % PORTS_PER_ENTRY) as usize],
        None => 0,
    }
}

/// The published port for an address of the host, else for any of them; the key is
/// room to work in.
#[inline(always)]
pub fn look_up(
    key: &mut Key<PortData>,
    family: u8,
    addr: Addr,
    port: u16,
    protocol: u8,
) -> Option<&'static Port> {
    if !is_published(protocol, family, port) {
        return None;
    }
    *key = Key::new(
        PORT_PREFIX,
        PortData {
            protocol,
            family,
            addr,
            port_be: port.to_be_bytes(),
        },
    );
    if let Some(port) = PORTS.get(&*key) {
        return Some(port);
    }
    key.data.addr = ANY;
    PORTS.get(&*key)
}

#[inline(always)]
pub fn lookup<F: Family>(
    room: &mut Room<F::Addr>,
    addr: F::Addr,
    port: u16,
    protocol: u8,
) -> Option<&'static Port> {
    let addr = F::mapped(addr);
    look_up(&mut room.port_key, F::VERSION, addr, port, protocol)
}

/// The range was published by an endpoint that is there still.
#[inline(always)]
pub fn is_current(slot: u32, generation: u32) -> bool {
    GENERATIONS.get(slot).copied().unwrap_or(0) == generation
}

/// Who of those that share a port is next, or is the client's; `None` when the port
/// is being taken back.
#[inline(always)]
pub fn backend(
    key: &mut BackendKey,
    port: &'static Port,
    client: &Addr,
) -> Option<&'static Backend> {
    let only = is_current(port.backend.slot, port.backend.generation).then_some(&port.backend);
    if port.share == 0 {
        return only;
    }
    let place = if port.flags & PORT_AFFINITY != 0 {
        place_of_client(client)
    } else {
        place_of_turn(next_turn())
    };
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    let Some(share) = (unsafe { SHARES.get(&port.share) }) else {
        return only;
    };
    let number = share.places[place as usize & (SHARE_PLACES - 1)];
    *key = BackendKey {
        share: port.share,
        number: u32::from(number),
    };
    // SAFETY: as above.
    match unsafe { BACKENDS.get(&*key) } {
        Some(chosen) if is_current(chosen.slot, chosen.generation) => Some(chosen),
        // It left a moment ago, and the places are about to be given to others.
        _ => only,
    }
}

/// Counts flows that any of several backends may have.
#[inline(always)]
fn next_turn() -> u32 {
    let Some(turn) = TURNS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the slot belongs to this CPU; where a program is interrupted by
    // another between the two, two flows have one turn.
    unsafe {
        *turn = (*turn).wrapping_add(1);
        *turn
    }
}

/// Is the port for this client?
#[inline(always)]
pub fn allows(key: &mut Key<AllowData>, port: &Port, client: Addr) -> bool {
    if port.flags & PORT_ALLOW == 0 {
        return true;
    }
    let allow = port.allow;
    *key = Key::new(
        ALLOW_PREFIX,
        AllowData {
            allow,
            addr: client,
        },
    );
    ALLOWS.get(&*key).is_some()
}

/// Counts a client's new flow; `false` when it has begun too many lately. Where two
/// CPUs count at once, one may be missed.
#[inline(always)]
pub fn within_rate(client: &Addr) -> bool {
    let most = CONFIG.get(0).map_or(0, |config| config.client_rate);
    if most == 0 {
        return true;
    }
    let mut client = *client;
    if addr::unmapped(client).is_none() {
        // Whoever has one address of IPv6 has the rest of its /64, too.
        client[8..].fill(0);
    }
    let window = now() >> CLIENT_WINDOW_SHIFT;
    let Some(known) = CLIENTS.get_ptr_mut(&client) else {
        let _ = CLIENTS.insert(&client, &Known { window, flows: 1 }, 0);
        return true;
    };
    // SAFETY: readable as long as the program runs; should it have become another
    // client's meanwhile, that one is counted once too often.
    let known = unsafe { &mut *known };
    if known.window != window {
        known.flows = 0;
        known.window = window;
    }
    known.flows += 1;
    known.flows <= most
}

/// Can the packet begin a flow to a published port?
#[inline(always)]
pub fn may_begin(t: &Transport) -> bool {
    match t.kind {
        TransportKind::Tcp => t.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN,
        TransportKind::Udp => true,
        TransportKind::Sctp => t.flags == sctp::INIT,
        _ => false,
    }
}

/// Begins a flow to a published port. `TO_MASQUERADE`: it is another container's outside
/// port. `PASS`: nothing is published there, or the
/// packet cannot begin a flow; it is the host's.
#[inline(always)]
pub fn begin<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    client: Client,
) -> Step {
    let container = match client {
        Client::Container => Some(local::veth()?),
        Client::Uplink | Client::Host => None,
    };
    let (ip, t) = (&p.ip, &p.t);
    if !may_begin(t) {
        return Ok(Coded::PASS);
    }
    let seen = match t.kind {
        TransportKind::Tcp => seen_tcp(t.flags),
        _ => SEEN_ANY,
    };
    let Some(port) = lookup::<F>(room, ip.dst, t.dport, ip.protocol) else {
        return Ok(match container {
            Some(veth) if masquerade::leads_back::<F>(skb, veth, p, room) => Coded::TO_MASQUERADE,
            _ => Coded::PASS,
        });
    };
    if let Some(veth) = container
        && veth.flags & NETWORK_INTERNAL != 0
    {
        return Err(DropReason::Internal);
    }
    room.client = F::mapped(ip.src);
    if client != Client::Host && !allows(&mut room.allow_key, port, room.client) {
        return Err(DropReason::NotAllowed);
    }
    if client == Client::Uplink && !drops_early(skb) && !within_rate(&room.client) {
        return Err(DropReason::ClientRate);
    }
    let Some(to) = backend(&mut room.backend_key, port, &room.client) else {
        return Ok(Coded::PASS);
    };
    // The host's own connection with this tuple stays its own. A listener does
    // not: publishing is refused where one is, and an engine that holds the port
    // for us (podman) listens without meaning it.
    if matches!(t.kind, TransportKind::Tcp)
        && client == Client::Uplink
        && host_has::<F>(
            skb,
            room,
            (ip.src, t.sport),
            (ip.dst, t.dport),
            ip.protocol,
            false,
        )
    {
        return Ok(Coded::PASS);
    }
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    let addr = F::from_mapped(to.container_addr);
    let backend_port = to
        .container_port
        .wrapping_add(t.dport.wrapping_sub(to.host_port));
    // By the veth's egress a packet has to fit, GSO aside.
    let mut mtu = 0;
    let mut src = ip.src;
    if client == Client::Host {
        // SAFETY: entries are replaced whole by the daemon; a reader sees either.
        let veth = unsafe { VETHS.get(&to.ifindex) }.ok_or(DropReason::UnknownEndpoint)?;
        mtu = veth.mtu;
        check_mtu(skb, p, mtu.into()).inspect_err(|_| room.mtu = mtu.into())?;
        // An address that means the container itself there, or another one of its network, whose
        // packets would not come back here: of two overlay networks with the same subnet, the
        // host has the gateway of one.
        if F::is_martian(src)
            || to.scope != 0 && local::endpoint::<F>(room, src, to.scope.into()).is_some()
        {
            src = F::gateway(veth);
        }
    } else if let Some(veth) = container
        && veth.endpoint == to.endpoint
    {
        // A container that reaches itself would see its own address as a stranger's
        // and answer past us.
        src = F::gateway(veth);
    } else if let Some(veth) = container {
        // SAFETY: entries are replaced whole by the daemon; a reader sees either.
        let backend = unsafe { VETHS.get(&to.ifindex) }.ok_or(DropReason::UnknownEndpoint)?;
        // Two overlay networks: another of the backend's own may have the client's address.
        let apart = veth.scope != 0 && to.scope != 0 && veth.scope != u32::from(to.scope);
        // The same container on another network: the address is its own there as well.
        if apart || is_one_container(veth.flags, backend.flags) {
            src = F::gateway(backend);
        }
    }
    let time = now();
    room.forward_key = p.key;
    // Field by field: a whole flow built on the stack would not fit there.
    let forward = &mut room.forward;
    forward.packets = skb.segments();
    forward.bytes = u64::from(skb.len());
    forward.src = src;
    forward.dst = addr;
    forward.sport = t.sport;
    forward.dport = backend_port;
    forward.ifindex = to.ifindex;
    forward.endpoint = to.endpoint;
    forward.slot = to.slot as u16;
    forward.other_arrival = arrival_container(to.scope.into());
    forward.sender = container.map_or(0, |veth| veth.endpoint);
    forward.generation = to.generation;
    forward.last_seen = time;
    forward.created = time;
    forward.checked = 0;
    forward.next_hop = F::UNSPECIFIED;
    forward.mac = to.mac;
    forward.kind = if client == Client::Host {
        KIND_LOCAL
    } else {
        KIND_PUBLISH
    };
    forward.flags = FLOW_ORIGINAL | FLOW_TO_CONTAINER;
    forward.seen = seen;
    forward.mtu = mtu;
    forward.expects = Expects::after_own_syn(match t.kind {
        TransportKind::Tcp => calls::window_scale(skb.raw(), ip.l4 as u32) as u8,
        _ => tcp::NO_SCALE,
    });
    forward.removed = 0;
    forward.reserved_addr = F::UNSPECIFIED;
    room.reverse = room.forward;
    room.reverse.packets = 0;
    room.reverse.bytes = 0;
    room.reverse.src = ip.dst;
    room.reverse.dst = ip.src;
    room.reverse.sport = t.dport;
    room.reverse.dport = t.sport;
    room.reverse.ifindex = 0;
    room.reverse.mac = [0; 6];
    room.reverse.flags = if client == Client::Host {
        FLOW_TO_HOST
    } else {
        0
    };
    room.reverse.other_arrival = client.arrival_of_answers(p.key.arrival);
    room.reverse.sender = to.endpoint;
    room.reverse.seen = 0;
    room.reverse.expects = Expects::after_syn(t.seq);
    room.reverse.mtu = 0;
    if let Some(veth) = container {
        room.reverse.ifindex = skb.ifindex();
        room.reverse.endpoint = veth.endpoint;
        room.reverse.mac = veth.mac;
        room.reverse.flags = FLOW_TO_CONTAINER;
    }
    room.reverse_key = FlowKey {
        src: addr,
        dst: src,
        sport: backend_port,
        dport: t.sport,
        protocol: ip.protocol,
        reserved: 0,
        arrival: arrival_container(to.scope.into()),
    };
    // Of the host's addresses a tuple may be a connection of its own.
    let own = client == Client::Host || src != ip.src;
    record::<F>(skb, room, t.sport, own)?;

    room.new = NewTuple {
        src,
        dst: addr,
        sport: room.forward.sport,
        dport: backend_port,
    };
    let verdict = Coded::deliver(to.ifindex, to.endpoint);
    let mac = to.mac;
    translate::rewrite::<F>(skb, p, &room.new, 1)?;
    if ip.more_fragments {
        remember::<F>(skb)?;
    }
    deliver::address(skb, p.l3, mac, F::ETHERTYPE)?;
    Ok(verdict)
}

/// Has a program of the host a connection to the container with the tuple of the
/// reverse key?
#[inline(always)]
fn is_the_hosts<F: Family>(skb: &Skb, room: &mut Room<F::Addr>) -> bool {
    let key = room.reverse_key;
    let (remote, local) = ((key.src, key.sport), (key.dst, key.dport));
    host_has::<F>(skb, room, remote, local, key.protocol, false)
}

/// Has the packet been judged, and counted, by XDP already?
#[inline(always)]
fn drops_early(skb: &Skb) -> bool {
    route::uplink(skb.ifindex()).is_some_and(|uplink| uplink.flags & UPLINK_EARLY_DROP != 0)
}

/// Writes both halves; where the tuple towards the container is another flow's, the
/// client gets another source port there. `own`: it may be a connection of the host's.
#[inline(always)]
fn record<F: Family>(skb: &Skb, room: &Room<F::Addr>, sport: u16, own: bool) -> Step<()> {
    // The checksum of SCTP covers the ports: they stay.
    let tries = if room.reverse_key.protocol == IPPROTO_SCTP {
        1
    } else {
        TRIES
    };
    for attempt in 0..TRIES {
        if attempt == tries {
            break;
        }
        let candidate = sport.wrapping_add(attempt.wrapping_mul(4099)) | u16::from(attempt != 0);
        match F::call_try_source(skb, candidate, own) {
            TAKEN => continue,
            WRITTEN => return Ok(()),
            _ => return Err(DropReason::FlowTableFull),
        }
    }
    Err(DropReason::PortsExhausted)
}

/// Outcomes of [`try_source`].
const TAKEN: u32 = 0;
const WRITTEN: u32 = 1;
const FULL: u32 = 2;

/// Writes both halves with this source port towards the container, if the tuple is
/// free.
#[inline(always)]
pub fn try_source<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    candidate: u16,
    own: bool,
) -> u32 {
    room.reverse_key.dport = candidate;
    room.forward.sport = candidate;
    let held = flow::find::<F>(&room.reverse_key);
    let was_held = held.is_some();
    let taken = match held {
        // A half left behind by an earlier flow of the same tuple.
        Some(held) => {
            held.src != room.reverse.src
                || held.sport != room.reverse.sport
                || held.dst != room.reverse.dst
                || held.dport != room.reverse.dport
                || held.other_arrival != room.reverse.other_arrival
        }
        None => false,
    };
    if taken || own && is_the_hosts::<F>(skb, room) {
        return TAKEN;
    }
    pool::expect(&room.forward_key);
    sibling::expect(&room.reverse);
    if was_held && room.past != 0 && renew::<F>(room) {
        room.past = 0;
        return WRITTEN;
    }
    give_up::<F>(p, room);
    // Of a flow of before.
    flow::remove::<F>(&room.reverse_key);
    flow::remove::<F>(&room.forward_key);
    match flow::insert::<F>(room, 0) {
        Ok(()) => WRITTEN,
        Err(_) => FULL,
    }
}
