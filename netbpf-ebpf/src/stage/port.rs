//! Published ports: new flows from outside, or from a container by an address
//! of the host, to the container behind the port.

use netbpf_common::{
    addr::ANY,
    drop::DropReason,
    flow::{SEEN_ANY, seen_tcp},
    maps::{
        Flow, FlowKey, Port, PortData, Veth,
        endpoints::NETWORK_INTERNAL,
        flows::{FLOW_ORIGINAL, FLOW_TO_CONTAINER, KIND_PUBLISH, arrival_container},
        ports::PORT_PREFIX,
    },
    packet::{tcp, tuple::TransportKind},
    verdict::Verdict,
};

use super::{
    Step, deliver,
    masquerade::host_has,
    translate::{self, NewTuple},
};
use crate::{
    ctx::{Skb, now},
    emit,
    family::{Family, Packet, Room},
    maps::{GENERATIONS, PORTS},
};

/// Source ports tried when the client's own is taken in the tuple towards the
/// container: it came by two published ports to one container port.
const TRIES: u16 = 16;

/// The published port for an address of the host, else for any of them.
#[inline(always)]
pub fn lookup<F: Family>(addr: F::Addr, port: u16, protocol: u8) -> Option<&'static Port> {
    let mut key = aya_ebpf::maps::lpm_trie::Key::new(
        PORT_PREFIX,
        PortData {
            protocol,
            family: F::VERSION,
            addr: F::mapped(addr),
            port_be: port.to_be_bytes(),
        },
    );
    if let Some(port) = PORTS.get(&key) {
        return Some(port);
    }
    key.data.addr = ANY;
    PORTS.get(&key)
}

/// Begins a flow to a published port. `None`: nothing is published there, or
/// the packet cannot begin a flow; it is the host's. `client`: the container
/// that asks, or nobody of ours.
#[inline(never)]
pub fn begin<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    client: Option<&Veth>,
) -> Step<Option<Verdict>> {
    let (ip, t) = (&p.ip, &p.t);
    let seen = match t.kind {
        TransportKind::Tcp if t.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN => {
            seen_tcp(t.flags)
        }
        TransportKind::Udp => SEEN_ANY,
        _ => return Ok(None),
    };
    let Some(port) = lookup::<F>(ip.dst, t.dport, ip.protocol) else {
        return Ok(None);
    };
    if GENERATIONS.get(port.slot).copied().unwrap_or(0) != port.generation {
        return Ok(None);
    }
    if let Some(veth) = client
        && veth.flags & NETWORK_INTERNAL != 0
    {
        return Err(DropReason::Internal);
    }
    // The host's own connection with this tuple stays its own. For UDP a socket
    // bound to the port would answer here as well: it cannot be, as the port is
    // held.
    if matches!(t.kind, TransportKind::Tcp)
        && client.is_none()
        && host_has::<F>(skb, room, (ip.src, t.sport), (ip.dst, t.dport), ip.protocol)
    {
        return Ok(None);
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
    room.forward = Flow {
        packets: skb.segments(),
        bytes: u64::from(skb.len()),
        src,
        dst: backend,
        sport: t.sport,
        dport: backend_port,
        ifindex: port.ifindex,
        endpoint: port.endpoint,
        slot: port.slot,
        generation: port.generation,
        last_seen: time,
        created: time,
        checked: 0,
        next_hop: F::UNSPECIFIED,
        mac: port.mac,
        kind: KIND_PUBLISH,
        flags: FLOW_ORIGINAL | FLOW_TO_CONTAINER,
        seen,
        foreign_next_hop: 0,
        mtu: 0,
        reserved: [0; 4],
        reserved_addr: F::UNSPECIFIED,
    };
    room.reverse = Flow {
        packets: 0,
        bytes: 0,
        src: ip.dst,
        dst: ip.src,
        sport: t.dport,
        dport: t.sport,
        ifindex: 0,
        mac: [0; 6],
        flags: 0,
        seen: 0,
        ..room.forward
    };
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
    emit::began::<F>(skb, p, &room.forward);

    let new = NewTuple {
        src,
        dst: backend,
        sport: room.forward.sport,
        dport: backend_port,
    };
    let verdict = Verdict::Deliver {
        ifindex: port.ifindex,
        endpoint: port.endpoint,
    };
    let mac = port.mac;
    translate::rewrite::<F>(skb, p, &new)?;
    deliver::address(skb, p.l3, mac, F::ETHERTYPE)?;
    Ok(Some(verdict))
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
