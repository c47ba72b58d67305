//! Packets of known flows: found by their own tuple, counted, translated, and
//! sent the way that the flow says.

use netbpf_common::{
    drop::DropReason,
    flow::{SEEN_ANY, State, seen_tcp, state},
    maps::{
        Flow, FlowKey,
        flows::{
            ARRIVAL_UPLINK, FLOW_ESTABLISHED, FLOW_ORIGINAL, FLOW_TO_CONTAINER, KIND_PUBLISH,
            arrival_container,
        },
        uplinks::UPLINK_ETHERNET,
    },
    packet::{IPPROTO_TCP, tcp, tuple::TransportKind},
    time::{TICKS_PER_SECOND, since},
    verdict::Coded,
};

use super::{
    Step, deliver, route,
    translate::{self, NewTuple},
};
use crate::{
    ctx::{Skb, now},
    family::{Family, Packet, Room},
    maps::GENERATIONS,
};

pub enum Found {
    /// The packet was translated and goes this way.
    Sent(Coded),
    /// No flow, or one that is over.
    None,
}

/// Looks among established flows, then among opening and closed ones.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut Flow<F::Addr>> {
    let found = match F::flows().get_ptr_mut(key) {
        Some(flow) => flow,
        None => F::transient().get_ptr_mut(key)?,
    };
    // SAFETY: the entry may be removed and its slot used again while we look:
    // then a packet in flight at the end of a flow is counted or translated
    // as the new one's. The daemon removes only flows long idle or ended.
    Some(unsafe { &mut *found })
}

/// The key of the other half.
#[inline(always)]
pub fn reverse_key<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>, other_arrival: u16) -> FlowKey<A> {
    FlowKey {
        src: flow.dst,
        dst: flow.src,
        sport: flow.dport,
        dport: flow.sport,
        protocol: key.protocol,
        reserved: 0,
        arrival: other_arrival,
    }
}

/// The side that packets of the other half arrive from.
#[inline(always)]
fn other_arrival<A>(flow: &Flow<A>) -> u16 {
    // Containers of bridge networks are all in scope 0.
    if flow.flags & FLOW_TO_CONTAINER != 0 {
        arrival_container(0)
    } else {
        ARRIVAL_UPLINK
    }
}

/// Follows the packet's flow, when there is one.
#[inline(always)]
pub fn follow<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step<Found> {
    let (ip, t, key) = (&p.ip, &p.t, &p.key);
    let Some(mut flow) = find::<F>(key) else {
        return Ok(Found::None);
    };

    if flow.kind == KIND_PUBLISH
        && GENERATIONS.get(flow.slot).copied().unwrap_or(0) != flow.generation
    {
        forget::<F>(key, flow, room);
        return Ok(Found::None);
    }
    let is_tcp = matches!(t.kind, TransportKind::Tcp);
    let seen = if is_tcp { seen_tcp(t.flags) } else { SEEN_ANY };
    let settled = flow.flags & FLOW_ESTABLISHED != 0;
    let turn = is_tcp && t.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0;
    if !settled || turn {
        let opens = is_tcp && t.flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        match F::call_advance(seen, opens) {
            STAYED => {}
            // The entry that we hold is gone, the flow is in the other table.
            MOVED => flow = find::<F>(key).ok_or(DropReason::NoFlow)?,
            _ => return Ok(Found::None),
        }
    } else if flow.seen & seen != seen {
        flow.seen |= seen;
    }
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }

    let to_container = flow.flags & FLOW_TO_CONTAINER != 0;
    let verdict = if to_container {
        Coded::deliver(flow.ifindex, flow.endpoint)
    } else {
        outward::<F>(skb, flow, room)?
    };
    let time = now();
    if flow.last_seen != time {
        flow.last_seen = time;
    }
    // Not atomic: packets of one direction are mostly on one CPU; where they
    // are not, a count may be lost, never anything else.
    flow.packets += skb.segments();
    flow.bytes += u64::from(skb.len());

    room.new = NewTuple {
        src: flow.src,
        dst: flow.dst,
        sport: flow.sport,
        dport: flow.dport,
    };
    let mac = flow.mac;
    translate::rewrite::<F>(skb, p, &room.new)?;
    if to_container {
        deliver::address(skb, p.l3, mac, F::ETHERTYPE)?;
    }
    Ok(Found::Sent(verdict))
}

/// The way out of an outward half: the one asked for within the last second, or
/// asked again. Leaves the next hop in the room.
#[inline(always)]
fn outward<F: Family>(skb: &Skb, flow: &mut Flow<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let time = now();
    if flow.ifindex == 0 || since(time, flow.checked) >= TICKS_PER_SECOND {
        // Copied: the entry is not for functions to point at.
        let (src, dst) = (flow.src, flow.dst);
        route::way::<F>(skb, room, src, dst)?;
        let way = &room.way;
        flow.ifindex = way.ifindex;
        flow.next_hop = way.next_hop;
        flow.foreign_next_hop = way.foreign as u8;
        flow.mtu = if way.mtu > 0xffff {
            0xffff
        } else {
            way.mtu as u16
        };
        flow.checked = time;
    } else {
        room.way.ifindex = flow.ifindex;
        room.way.next_hop = flow.next_hop;
        room.way.foreign = u32::from(flow.foreign_next_hop);
        room.way.ethernet =
            route::uplink(flow.ifindex).map_or(0, |uplink| uplink.flags & UPLINK_ETHERNET);
    }
    if !skb.is_gso() && flow.mtu != 0 && skb.len() > u32::from(flow.mtu) + 14 {
        room.mtu = u32::from(flow.mtu);
        return Err(DropReason::TooBig);
    }
    Ok(deliver::forward::<F>(room))
}

/// Outcomes of [`advance`]: the flow is where it was; it is in the other table,
/// and entries held before are gone; it is over, a SYN begins a new one.
const STAYED: Coded = Coded::PASS;
const MOVED: Coded = Coded::TO_HOST;
const OVER: Coded = Coded::ANSWER;

/// Notes what was seen and moves the flow between the tables as its state
/// changes.
///
/// Both CPUs of a flow's two directions may get here at once. Each copies what
/// it sees, so that at worst a flag seen by one is missing in the copy of the
/// other: the flow then changes tables with its next packet.
#[inline(always)]
pub fn advance<F: Family>(
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    seen: u8,
    opens: bool,
) -> Step {
    let key = &p.key;
    let Some(flow) = find::<F>(key) else {
        return Ok(OVER);
    };
    room.reverse_key = reverse_key(key, flow, other_arrival(flow));
    room.forward_key = *key;
    let other = find::<F>(&room.reverse_key);
    let other_seen = other.as_ref().map_or(0, |o| o.seen);
    let before = both(flow, key.protocol, flow.seen, other_seen);
    if opens && before.is_over() {
        forget::<F>(key, flow, room);
        return Ok(OVER);
    }
    flow.seen |= seen;
    let state = both(flow, key.protocol, flow.seen, other_seen);
    let Some(other) = other else {
        // Its other half was evicted while it was opening. What can begin a flow
        // begins it anew, under the same mapping; the rest is too late.
        let begins = key.protocol != IPPROTO_TCP || opens;
        if begins && flow.flags & FLOW_ORIGINAL != 0 {
            forget::<F>(key, flow, room);
            return Ok(OVER);
        }
        return Ok(STAYED);
    };
    let settled = flow.flags & FLOW_ESTABLISHED != 0;
    if !settled && matches!(state, State::Established | State::HalfClosed) {
        return Ok(settle::<F>(room));
    }
    if settled && state.is_over() {
        flow.flags &= !FLOW_ESTABLISHED;
        other.flags &= !FLOW_ESTABLISHED;
        let (flows, transient) = (F::flows(), F::transient());
        if transient.insert(&room.forward_key, &*flow, 0).is_ok()
            && transient.insert(&room.reverse_key, &*other, 0).is_ok()
        {
            let _ = flows.remove(&room.forward_key);
            let _ = flows.remove(&room.reverse_key);
            return Ok(MOVED);
        }
    }
    Ok(STAYED)
}

/// Copies both halves, whose keys are in the room, to the table from which
/// nothing is evicted.
///
/// An entry of an LRU table may be evicted and its memory used for another flow
/// while it is copied. So each copy counts only if its entry is still under its
/// key afterwards.
#[inline(always)]
fn settle<F: Family>(room: &mut Room<F::Addr>) -> Coded {
    let (flows, transient) = (F::flows(), F::transient());
    for (key, copy) in [
        (&room.forward_key, &mut room.forward),
        (&room.reverse_key, &mut room.reverse),
    ] {
        let Some(entry) = transient.get_ptr(key) else {
            return STAYED;
        };
        // SAFETY: the entry is readable as long as the program runs; what was
        // read is used only if it is the flow's, as checked next.
        *copy = unsafe { *entry };
        if transient.get_ptr(key) != Some(entry) {
            return STAYED;
        }
        copy.flags |= FLOW_ESTABLISHED;
    }
    if flows.insert(&room.forward_key, &room.forward, 0).is_err() {
        // Full: the flow goes on, but may be evicted.
        return STAYED;
    }
    if flows.insert(&room.reverse_key, &room.reverse, 0).is_err() {
        let _ = flows.remove(&room.forward_key);
        return STAYED;
    }
    let _ = transient.remove(&room.forward_key);
    let _ = transient.remove(&room.reverse_key);
    MOVED
}

#[inline(always)]
fn both<A>(flow: &Flow<A>, protocol: u8, own: u8, other: u8) -> State {
    if flow.flags & FLOW_ORIGINAL != 0 {
        state(protocol, own, other)
    } else {
        state(protocol, other, own)
    }
}

/// Removes both halves wherever they are.
#[inline(always)]
pub fn forget<F: Family>(key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>, room: &mut Room<F::Addr>) {
    room.reverse_key = reverse_key(key, flow, other_arrival(flow));
    room.forward_key = *key;
    let _ = F::flows().remove(&room.forward_key);
    let _ = F::flows().remove(&room.reverse_key);
    let _ = F::transient().remove(&room.forward_key);
    let _ = F::transient().remove(&room.reverse_key);
}
