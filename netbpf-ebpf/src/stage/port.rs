//! Published ports: new flows from outside, or from a container by an address
//! of the host, to the container behind the port.

use aya_ebpf::maps::lpm_trie::Key;
use netbpf_common::{
    addr::ANY,
    drop::DropReason,
    flow::{SEEN_ANY, seen_tcp},
    maps::{
        FlowKey, Port, PortData,
        endpoints::NETWORK_INTERNAL,
        flows::{FLOW_ORIGINAL, FLOW_TO_CONTAINER, KIND_PUBLISH, arrival_container},
        ports::PORT_PREFIX,
    },
    packet::{
        tcp,
        tuple::{Transport, TransportKind},
    },
    verdict::Coded,
};

use super::{
    Step, deliver, local,
    masquerade::host_has,
    translate::{self, NewTuple},
};
use crate::{
    ctx::{Skb, now},
    family::{Family, Packet, Room},
    maps::{GENERATIONS, PORTS},
};

/// Source ports tried when the client's own is taken in the tuple towards the
/// container: it came by two published ports to one container port.
const TRIES: u16 = 16;

/// The published port for an address of the host, else for any of them.
#[inline(always)]
pub fn lookup<F: Family>(
    room: &mut Room<F::Addr>,
    addr: F::Addr,
    port: u16,
    protocol: u8,
) -> Option<&'static Port> {
    room.port_key = Key::new(
        PORT_PREFIX,
        PortData {
            protocol,
            family: F::VERSION,
            addr: F::mapped(addr),
            port_be: port.to_be_bytes(),
        },
    );
    if let Some(port) = PORTS.get(&room.port_key) {
        return Some(port);
    }
    room.port_key.data.addr = ANY;
    PORTS.get(&room.port_key)
}

/// Can the packet begin a flow to a published port?
#[inline(always)]
pub fn may_begin(t: &Transport) -> bool {
    match t.kind {
        TransportKind::Tcp => t.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN,
        TransportKind::Udp => true,
        _ => false,
    }
}

/// Begins a flow to a published port. `PASS`: nothing is published there, or the
/// packet cannot begin a flow; it is the host's.
#[inline(always)]
pub fn begin<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    from_container: bool,
) -> Step {
    let client = if from_container {
        Some(local::veth(skb)?)
    } else {
        None
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
        return Ok(Coded::PASS);
    };
    if GENERATIONS.get(port.slot).copied().unwrap_or(0) != port.generation {
        return Ok(Coded::PASS);
    }
    if let Some(veth) = client
        && veth.flags & NETWORK_INTERNAL != 0
    {
        return Err(DropReason::Internal);
    }
    // The host's own connection with this tuple stays its own. A listener does
    // not: publishing is refused where one is, and an engine that holds the port
    // for us (podman) listens without meaning it.
    if matches!(t.kind, TransportKind::Tcp)
        && client.is_none()
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
    // Only the first fragment has the ports: the others would be lost.
    if ip.more_fragments {
        return Err(DropReason::Fragment);
    }
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    let backend = F::from_mapped(port.container_addr);
    let backend_port = port
        .container_port
        .wrapping_add(t.dport.wrapping_sub(port.host_port));
    // A container that reaches itself would see its own address as a stranger's
    // and answer past us.
    let src = match client {
        Some(veth) if veth.endpoint == port.endpoint => F::gateway(veth),
        _ => ip.src,
    };
    let time = now();
    room.forward_key = p.key;
    // Field by field: a whole flow built on the stack would not fit there.
    let forward = &mut room.forward;
    forward.packets = skb.segments();
    forward.bytes = u64::from(skb.len());
    forward.src = src;
    forward.dst = backend;
    forward.sport = t.sport;
    forward.dport = backend_port;
    forward.ifindex = port.ifindex;
    forward.endpoint = port.endpoint;
    forward.slot = port.slot as u16;
    forward.other_arrival = arrival_container(0);
    forward.sender = client.map_or(0, |veth| veth.endpoint);
    forward.generation = port.generation;
    forward.last_seen = time;
    forward.created = time;
    forward.checked = 0;
    forward.next_hop = F::UNSPECIFIED;
    forward.mac = port.mac;
    forward.kind = KIND_PUBLISH;
    forward.flags = FLOW_ORIGINAL | FLOW_TO_CONTAINER;
    forward.seen = seen;
    forward.mtu = 0;
    forward.reserved = [0];
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
    room.reverse.flags = 0;
    room.reverse.other_arrival = p.key.arrival;
    room.reverse.sender = port.endpoint;
    room.reverse.seen = 0;
    if let Some(veth) = client {
        room.reverse.ifindex = skb.ifindex();
        room.reverse.endpoint = veth.endpoint;
        room.reverse.mac = veth.mac;
        room.reverse.flags = FLOW_TO_CONTAINER;
    }
    room.reverse_key = FlowKey {
        src: backend,
        dst: src,
        sport: backend_port,
        dport: t.sport,
        protocol: ip.protocol,
        reserved: 0,
        arrival: arrival_container(0),
    };
    record::<F>(room, t.sport)?;

    room.new = NewTuple {
        src,
        dst: backend,
        sport: room.forward.sport,
        dport: backend_port,
    };
    let verdict = Coded::deliver(port.ifindex, port.endpoint);
    let mac = port.mac;
    translate::rewrite::<F>(skb, p, &room.new)?;
    deliver::address(skb, p.l3, mac, F::ETHERTYPE)?;
    Ok(verdict)
}

/// Writes both halves; where the tuple towards the container is another flow's,
/// the client gets another source port there.
#[inline(always)]
fn record<F: Family>(room: &mut Room<F::Addr>, sport: u16) -> Step<()> {
    let transient = F::transient();
    for attempt in 0..TRIES {
        let candidate = sport.wrapping_add(attempt.wrapping_mul(4099)) | u16::from(attempt != 0);
        room.reverse_key.dport = candidate;
        room.forward.sport = candidate;
        let taken = match super::flow::find::<F>(&room.reverse_key) {
            // A half left behind by an earlier flow of the same tuple.
            Some(held) => {
                held.src != room.reverse.src
                    || held.sport != room.reverse.sport
                    || held.dst != room.reverse.dst
                    || held.dport != room.reverse.dport
            }
            None => false,
        };
        if taken {
            continue;
        }
        let _ = F::flows().remove(&room.reverse_key);
        if transient
            .insert(&room.reverse_key, &room.reverse, 0)
            .is_err()
        {
            return Err(DropReason::FlowTableFull);
        }
        return transient
            .insert(&room.forward_key, &room.forward, 0)
            .map_err(|_| DropReason::FlowTableFull);
    }
    Err(DropReason::PortsExhausted)
}
