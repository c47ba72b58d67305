//! Packets of known flows: found by their own tuple, counted, translated, and
//! sent the way that the flow says.

use core::sync::atomic::{Ordering, compiler_fence};

use netbpf_common::{
    drop::DropReason,
    flow::{End, SEEN_ACK, SEEN_ANY, SEEN_SYN, State, Timeouts, counts, seen_tcp, state},
    maps::{
        Flow, FlowKey,
        flows::{
            ARRIVAL_HOST, ARRIVAL_UPLINK, Expects, FLOW_ESTABLISHED, FLOW_ETHERNET,
            FLOW_FOREIGN_NEXT_HOP, FLOW_HAIRPIN, FLOW_OF_HOST, FLOW_ORIGINAL, FLOW_TO_CONTAINER,
            FLOW_TO_HOST, KIND_MASQUERADE, is_of_port,
        },
    },
    packet::{IPPROTO_TCP, Read as _, tcp, tuple::TransportKind},
    time::{TICKS_PER_SECOND, Ticks, since},
    verdict::Coded,
};

use super::{
    Step, deliver, evict, masquerade, port, route,
    translate::{self, NewTuple},
};
use crate::{
    calls,
    ctx::{Skb, now},
    family::{Family, Packet, Room},
    maps::CONFIG,
};

/// The half of a flow that packets with this tuple belong to.
#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F::Addr>) -> Option<&'static mut Flow<F::Addr>> {
    let found = F::flows().get_ptr_mut(key)?;
    // SAFETY: readable as long as the program runs. The entry may be removed and its memory
    // used for another flow meanwhile: one that is not established at any time, see
    // `follow`; the others only after they were long idle or ended.
    Some(unsafe { &mut *found })
}

/// Removes a half.
#[inline(always)]
pub fn remove<F: Family>(key: &FlowKey<F::Addr>) {
    if let Some(flow) = find::<F>(key) {
        evict::retire::<F>(flow);
        let _ = F::flows().remove(key);
    }
}

/// Of the kernel, where a table is full.
const E2BIG: i32 = -7;

/// Gives a new flow its place, where it evicts another one if need be, and writes both halves
/// as they stand in the room; the kernel's error number where nothing was written. `flags`: of
/// the reverse half, which comes first, since it must not be another's.
#[inline(always)]
pub fn insert<F: Family>(room: &mut Room<F::Addr>, flags: u64) -> Result<(), i32> {
    if !queue::<F>(room) {
        return Err(E2BIG);
    }
    let written = write::<F>(room, flags);
    // It is not full as long as the established ones are counted right.
    if written == Err(E2BIG) && evict::make_room::<F>() {
        return write::<F>(room, flags);
    }
    written
}

/// Gives the flow that stands in the room its place; `false`: the maps are not as they should
/// be.
#[inline(always)]
pub fn queue<F: Family>(room: &mut Room<F::Addr>) -> bool {
    room.evictable.key = room.forward_key;
    room.evictable.created = room.forward.created;
    room.evictable.last_seen = room.forward.last_seen;
    evict::queue::<F>()
}

#[inline(always)]
fn write<F: Family>(room: &Room<F::Addr>, flags: u64) -> Result<(), i32> {
    let flows = F::flows();
    flows.insert(&room.reverse_key, &room.reverse, flags)?;
    let written = flows.insert(&room.forward_key, &room.forward, 0);
    if written.is_err() {
        let _ = flows.remove(&room.reverse_key);
    }
    written
}

/// Follows the packet's flow; `NOT_FOLLOWED` when there is none, or one that is over.
/// `sender`: the endpoint that sent it, 0 for an uplink.
#[inline(always)]
pub fn follow<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    sender: u32,
) -> Step {
    let (ip, t, key) = (&p.ip, &p.t, &p.key);
    room.past = 0;
    if !t.identifies_flow() {
        return Ok(Coded::NOT_FOLLOWED);
    }
    // Before it is found, see `Taken::is_sure`.
    let time = now();
    let Some(flow) = find::<F>(key) else {
        return Ok(Coded::NOT_FOLLOWED);
    };
    let is_tcp = matches!(t.kind, TransportKind::Tcp);
    let opens = is_tcp && t.flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    if flow.sender != sender || (opens || !is_tcp) && is_expired(flow, key.protocol, time) {
        forget::<F>(key, flow, room);
        return Ok(Coded::NOT_FOLLOWED);
    }
    if is_ended(flow) && !(is_tcp && t.flags & tcp::RST != 0) {
        return ended::<F>(key, flow);
    }
    let seen = if is_tcp { seen_tcp(t.flags) } else { SEEN_ANY };
    let mut settles = false;
    let turn = is_tcp && t.flags & (tcp::SYN | tcp::FIN | tcp::RST) != 0;
    // What comes from outside anybody may have forged, and a reset may carry anything.
    if is_tcp && key.arrival != ARRIVAL_UPLINK && t.flags & (tcp::ACK | tcp::RST) == tcp::ACK {
        flow.expects.note(t, flow.seen & SEEN_ACK == 0);
    }
    if flow.flags & FLOW_ESTABLISHED == 0 || turn {
        let scale = match seen & SEEN_SYN {
            0 => tcp::NO_SCALE,
            _ => calls::window_scale(skb.raw(), ip.l4 as u32) as u8,
        };
        match F::call_advance(seen, opens, scale) {
            STAYED => {}
            SETTLED => settles = true,
            CLOSED => {
                calls::tell_closed(skb.raw(), u32::from(F::VERSION));
            }
            _ => return Ok(Coded::NOT_FOLLOWED),
        }
        // Not there: all of it together has more stack than there is.
        if room.queues != 0 {
            evict::queue::<F>();
        }
    } else if flow.seen & seen != seen {
        flow.seen |= seen;
    }
    // The second translation has to find enough of it: it could not answer.
    if ip.hop_limit <= hops(flow.flags) + u8::from(flow.flags & FLOW_HAIRPIN != 0) {
        return Err(DropReason::HopLimit);
    }

    let taken = take::<F>(flow, room, time);
    if !is_held::<F>(key, flow, &taken) {
        return Err(DropReason::NoFlow);
    }
    count(skb, flow, time);
    let verdict = direct::<F>(skb, p, flow, &taken, room, time)?;
    let settled = taken.flags & FLOW_ESTABLISHED != 0;
    // Once a second, and when the flow settles: it may then be silent for long.
    if settled
        && taken.flags & FLOW_ORIGINAL != 0
        && taken.kind == KIND_MASQUERADE
        && (settles || room.way.asked != 0)
    {
        masquerade::keep::<F>(p, room, time);
    }
    // Of the host's own, no more than a port changes, and nothing that later fragments have.
    let of_host = taken.flags & FLOW_OF_HOST != 0;
    if !of_host || room.new.sport != t.sport || room.new.dport != t.dport {
        translate::rewrite::<F>(skb, p, &room.new, taken.hops())?;
    }
    if ip.more_fragments && !of_host {
        remember::<F>(skb)?;
    }
    address::<F>(skb, p.l3, &taken)?;
    Ok(verdict)
}

/// After a first fragment was translated: the others shall go the same way.
#[inline(always)]
pub fn remember<F: Family>(skb: &Skb) -> Step<()> {
    match F::call_remember(skb).dropped() {
        None => Ok(()),
        Some(number) => Err(DropReason::from_number(number).unwrap_or(DropReason::Helper)),
    }
}

/// Counts a packet of a half. Not atomic: packets of one direction are mostly on one
/// CPU; where they are not, a count may be lost, never anything else.
#[inline(always)]
pub fn count<A>(skb: &Skb, flow: &mut Flow<A>, time: Ticks) {
    flow.packets += skb.segments();
    flow.bytes += u64::from(skb.len());
    if flow.last_seen != time {
        flow.last_seen = time;
    }
}

/// The way that a packet of the flow goes; outward, it stands in the room.
#[inline(always)]
pub fn direct<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    taken: &Taken,
    room: &mut Room<F::Addr>,
    time: Ticks,
) -> Step {
    if taken.flags & FLOW_TO_CONTAINER != 0 {
        let mtu = taken.mtu.into();
        check_mtu(skb, p, mtu).inspect_err(|_| room.mtu = mtu)?;
        return Ok(taken.delivered);
    }
    if taken.flags & FLOW_TO_HOST != 0 {
        return Ok(Coded::TO_LOOPBACK);
    }
    if taken.flags & (FLOW_HAIRPIN | FLOW_OF_HOST) != 0 {
        // There is nothing to ask, but the mapping to be kept as often.
        let ask = since(time, flow.checked) >= TICKS_PER_SECOND;
        if ask && taken.flags & FLOW_ESTABLISHED != 0 {
            flow.checked = time;
        }
        room.way.asked = u32::from(ask);
        return Ok(match taken.flags & FLOW_HAIRPIN {
            0 => Coded::PASS,
            _ => Coded::TO_HAIRPIN,
        });
    }
    outward::<F>(skb, p, flow, room, time)?;
    Ok(deliver::forward::<F>(room))
}

/// Puts the Ethernet header for a container on what goes into one.
#[inline(always)]
pub fn address<F: Family>(skb: &Skb, l3: usize, taken: &Taken) -> Step<()> {
    if taken.flags & FLOW_TO_CONTAINER != 0 {
        deliver::address(skb, l3, taken.mac, F::ETHERTYPE)?;
    }
    Ok(())
}

/// What decides where a packet goes, besides its new tuple.
pub struct Taken {
    mac: [u8; 6],
    flags: u8,
    kind: u8,
    mtu: u16,
    /// It is what was found: established, and begun before the program looked for it, by more
    /// than a flow may take from its time to its entry. Memory that has become another flow's
    /// since is of one that began since.
    is_sure: bool,
    delivered: Coded,
}

impl Taken {
    /// By how many the hop limit of its packets becomes lower.
    #[inline(always)]
    pub fn hops(&self) -> u8 {
        hops(self.flags)
    }
}

/// The host is no router to itself.
#[inline(always)]
fn hops(flags: u8) -> u8 {
    u8::from(flags & FLOW_OF_HOST == 0)
}

/// Copies all that decides where the packet goes, before it is trusted: an entry that may be
/// evicted may have become another flow's since it was found.
#[inline(always)]
fn take<F: Family>(flow: &Flow<F::Addr>, room: &mut Room<F::Addr>, time: Ticks) -> Taken {
    room.new = NewTuple {
        src: flow.src,
        dst: flow.dst,
        sport: flow.sport,
        dport: flow.dport,
    };
    let mut taken = Taken {
        mac: flow.mac,
        flags: flow.flags,
        kind: flow.kind,
        mtu: flow.mtu,
        is_sure: false,
        delivered: Coded::deliver(flow.ifindex, flow.endpoint),
    };
    // Read after all else.
    compiler_fence(Ordering::SeqCst);
    // SAFETY: as `flow`, which others may write.
    let created = unsafe { core::ptr::read_volatile(&raw const flow.created) };
    taken.is_sure = taken.flags & FLOW_ESTABLISHED != 0 && since(time, created) > 1;
    taken
}

/// Is what was copied of the entry the flow's still?
#[inline(always)]
fn is_held<F: Family>(key: &FlowKey<F::Addr>, flow: &mut Flow<F::Addr>, taken: &Taken) -> bool {
    taken.is_sure || is_at::<F>(key, flow)
}

/// Is a half that was found under the key still there? Then what was read of it meanwhile is its
/// own.
#[inline(always)]
pub fn is_at<F: Family>(key: &FlowKey<F::Addr>, half: &mut Flow<F::Addr>) -> bool {
    F::flows().get_ptr_mut(key) == Some(core::ptr::from_mut(half))
}

/// The flow under the key in the room, for a packet that does not tell it itself, and
/// what was copied of it; `None` also for one that is over or another sender's.
#[inline(always)]
pub fn led<F: Family>(
    room: &mut Room<F::Addr>,
    sender: u32,
) -> Option<(&'static mut Flow<F::Addr>, Taken)> {
    let (key, time) = (room.forward_key, now());
    let flow = find::<F>(&key)?;
    let taken = take::<F>(flow, room, time);
    if flow.sender != sender || is_ended(flow) || !is_held::<F>(&key, flow, &taken) {
        return None;
    }
    Some((flow, taken))
}

/// Its port was taken back, or published anew, since.
#[inline(always)]
fn is_ended<A>(flow: &Flow<A>) -> bool {
    is_of_port(flow.kind) && !port::is_current(flow.slot.into(), flow.generation)
}

/// What becomes of packets of an ended flow, resets aside, which end the connection
/// for whoever gets them. The client's are as if there had been no flow: the port may
/// be another's by now, or nobody's, which the host's stack says. The container's get
/// an answer as long as its half is there, that is, until it is collected.
#[inline(always)]
fn ended<F: Family>(key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Step {
    if flow.flags & FLOW_ORIGINAL == 0 {
        return Err(DropReason::Unpublished);
    }
    remove::<F>(key);
    Ok(Coded::NOT_FOLLOWED)
}

/// Does a packet from outside that can begin a flow begin this one anew? As [`follow`] and
/// [`advance`] will judge.
#[inline(always)]
pub fn is_past<F: Family>(key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> bool {
    if flow.sender != 0 || is_ended(flow) || is_expired(flow, key.protocol, now()) {
        return true;
    }
    if flow.flags & FLOW_ESTABLISHED != 0 {
        return false;
    }
    let Some(other) = find::<F>(&key.reverse(flow)) else {
        return flow.flags & FLOW_ORIGINAL != 0;
    };
    key.protocol == IPPROTO_TCP && both(flow, key.protocol, flow.seen, other.seen).is_over()
}

/// Silent for so long that a packet which can begin a flow does.
#[inline(always)]
fn is_expired<A>(flow: &Flow<A>, protocol: u8, time: Ticks) -> bool {
    let silent = since(time, flow.last_seen);
    // None is shorter: a flow that goes on does not ask.
    flow.flags & FLOW_ORIGINAL != 0
        && silent > TICKS_PER_SECOND
        && silent > timeout_ticks(protocol, State::Established)
}

/// How long a flow lives after its last packet, as configured.
#[inline(always)]
pub fn timeout_ticks(protocol: u8, state: State) -> u32 {
    let Some(config) = CONFIG.get(0) else {
        return Timeouts::DEFAULT.ticks(protocol, state);
    };
    config.timeouts.ticks(protocol, state)
}

/// Leaves the way out of an outward half in the room: the one asked for within the
/// last second, or asked again.
#[inline(always)]
fn outward<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    flow: &mut Flow<F::Addr>,
    room: &mut Room<F::Addr>,
    time: Ticks,
) -> Step<()> {
    let ask = flow.ifindex == 0 || since(time, flow.checked) >= TICKS_PER_SECOND;
    let mtu;
    if ask {
        let (src, dst) = (room.new.src, room.new.dst);
        route::way::<F>(skb, room, src, dst)?;
        let way = &room.way;
        mtu = way.mtu;
        // One that may be evicted may be another flow's by now.
        if flow.flags & FLOW_ESTABLISHED != 0 {
            let of_way = FLOW_ETHERNET | FLOW_FOREIGN_NEXT_HOP;
            evict::set_flags(flow, of_way, way.flow_flags());
            flow.ifindex = way.ifindex;
            flow.next_hop = way.next_hop;
            flow.mtu = way.flow_mtu();
            flow.checked = time;
        }
    } else {
        room.way.ifindex = flow.ifindex;
        room.way.next_hop = flow.next_hop;
        room.way.foreign = u32::from(flow.flags & FLOW_FOREIGN_NEXT_HOP);
        room.way.ethernet = u32::from(flow.flags & FLOW_ETHERNET);
        mtu = u32::from(flow.mtu);
    }
    room.way.asked = u32::from(ask);
    check_mtu(skb, p, mtu).inspect_err(|_| room.mtu = mtu)
}

/// Does the packet fit, or, of one that stands for several, do they? 0: whatever its
/// size.
#[inline(always)]
pub fn check_mtu<A>(skb: &Skb, p: &Packet<A>, mtu: u32) -> Step<()> {
    if mtu == 0 {
        return Ok(());
    }
    let size = match skb.gso_size() {
        0 => skb.len() - p.l3 as u32,
        payload => payload + headers(skb, p),
    };
    if size > mtu {
        return Err(DropReason::TooBig);
    }
    Ok(())
}

/// Bytes of the network and transport header, which each packet of those that a GSO
/// packet stands for has.
#[inline(always)]
fn headers<A>(skb: &Skb, p: &Packet<A>) -> u32 {
    let l4 = p.ip.l4 & 0x3fff;
    let transport = match p.t.kind {
        TransportKind::Tcp => match skb.u8(l4 + tcp::OFFSET) {
            Some(words) => u32::from(words >> 4) * 4,
            None => tcp::LEN as u32,
        },
        _ => 8,
    };
    (l4 as u32).wrapping_sub(p.l3 as u32) + transport
}

/// Outcomes of [`advance`]: the flow goes on; it is established from this packet on; this
/// packet has ended it; it is over, a SYN begins a new one.
const STAYED: Coded = Coded::PASS;
const SETTLED: Coded = Coded::TO_HOST;
const CLOSED: Coded = Coded::TO_LOOPBACK;
const OVER: Coded = Coded::ANSWER;

/// Notes what was seen, and whether the flow may be evicted as its state changes.
///
/// Both CPUs of a flow's two directions may get here at once: at worst one does not see what
/// the other notes, and the flow settles with its next packet.
#[inline(always)]
pub fn advance<F: Family>(
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    seen: u8,
    opens: bool,
    scale: u8,
) -> Step {
    let key = &p.key;
    room.queues = 0;
    let Some(flow) = find::<F>(key) else {
        return Ok(OVER);
    };
    room.reverse_key = key.reverse(flow);
    room.forward_key = *key;
    let mut other = find::<F>(&room.reverse_key);
    let other_seen = other.as_ref().map_or(0, |o| o.seen);
    let before = both(flow, key.protocol, flow.seen, other_seen);
    let (mut seen, mut anew) = (seen, false);
    // Of the outside, too, the first one alone, which is not forged afterwards.
    if seen & SEEN_SYN != 0 && flow.seen & SEEN_SYN == 0 {
        flow.expects.note_scale(scale);
    }
    // One half alone says nothing.
    if key.protocol == IPPROTO_TCP
        && let Some(other) = &mut other
    {
        let from = end(flow, key.arrival);
        let to = end(other, flow.other_arrival);
        seen = counts(seen, &p.t, &from, &to);
        if seen & SEEN_SYN != 0 && !from.outside && to.outside {
            let first = Expects::after_syn(p.t.seq).ack;
            // A container that knows of no connection any more.
            anew = opens && from.original && first != other.expects.ack;
            other.expects.ack = first;
        }
    }
    if opens && (anew || before.is_over()) {
        // Mostly it goes the same way, see `renew`.
        if key.arrival != ARRIVAL_HOST && flow.flags & FLOW_ORIGINAL != 0 {
            room.past = 1;
            room.past_created = flow.created;
        } else {
            forget::<F>(key, flow, room);
        }
        return Ok(OVER);
    }
    let settled = evict::note(flow, seen) & FLOW_ESTABLISHED != 0;
    // Again: of two last segments at once, one sees what the other noted.
    let other_seen = other.as_deref().map_or(0, seen_now);
    let state = both(flow, key.protocol, seen_now(flow), other_seen);
    if flow.kind == KIND_MASQUERADE && state.is_over() && !before.is_over() {
        masquerade::ended::<F>(p, flow, room);
    }
    let Some(other) = other else {
        // Its other half was lost, as two CPUs began it at once. What can begin a flow
        // begins it anew, under the same mapping; the rest is too late.
        let begins = key.protocol != IPPROTO_TCP || opens;
        if begins && flow.flags & FLOW_ORIGINAL != 0 {
            forget::<F>(key, flow, room);
            return Ok(OVER);
        }
        return Ok(STAYED);
    };
    let ends = state.is_over() && !before.is_over();
    let mut over = settled && state.is_over();
    // Of two CPUs that begin a flow at once, the halves of both may be left.
    let is_pair = other.created == flow.created;
    // Only by a packet of the side that began it: one forged request and its
    // answer would otherwise make a flow that nothing evicts.
    if !settled
        && flow.flags & FLOW_ORIGINAL != 0
        && matches!(state, State::Established | State::HalfClosed)
    {
        // Where too many are, the flow goes on, but may be evicted.
        if !is_pair || !evict::settle::<F>(flow, other) {
            return Ok(STAYED);
        }
        // Another CPU may have seen its end before it was established.
        over = both(flow, key.protocol, seen_now(flow), seen_now(other)).is_over();
        if !over {
            return Ok(SETTLED);
        }
    }
    if over && is_pair {
        let is_original = flow.flags & FLOW_ORIGINAL != 0;
        let (half, reply) = match is_original {
            true => (flow, other),
            false => (other, flow),
        };
        if evict::unsettle::<F>(half, reply) {
            room.evictable.key = if is_original { *key } else { room.reverse_key };
            room.evictable.created = half.created;
            // Of this packet, too, as `follow` notes next.
            room.evictable.last_seen = if is_original { now() } else { half.last_seen };
            room.queues = 1;
        }
    }
    Ok(if ends { CLOSED } else { STAYED })
}

/// What a half has seen, as it is at this moment.
#[inline(always)]
fn seen_now<A>(half: &Flow<A>) -> u8 {
    // SAFETY: as `half`, which other CPUs may write.
    unsafe { core::ptr::read_volatile(&raw const half.seen) }
}

/// Who sends the packets of a half that arrive from that side.
#[inline(always)]
fn end<A>(flow: &Flow<A>, arrival: u16) -> End {
    End {
        outside: arrival == ARRIVAL_UPLINK,
        original: flow.flags & FLOW_ORIGINAL != 0,
        seen: flow.seen,
        expects: flow.expects,
    }
}

#[inline(always)]
fn both<A>(flow: &Flow<A>, protocol: u8, own: u8, other: u8) -> State {
    if flow.flags & FLOW_ORIGINAL != 0 {
        state(protocol, own, other)
    } else {
        state(protocol, other, own)
    }
}

/// Removes both halves, where what was read of the one that was found is still under its key.
#[inline(always)]
pub fn forget<F: Family>(
    key: &FlowKey<F::Addr>,
    flow: &mut Flow<F::Addr>,
    room: &mut Room<F::Addr>,
) {
    room.other_key = key.reverse(flow);
    let created = flow.created;
    if !is_at::<F>(key, flow) {
        return;
    }
    remove::<F>(key);
    if find::<F>(&room.other_key).is_some_and(|other| other.created == created) {
        remove::<F>(&room.other_key);
    }
}
