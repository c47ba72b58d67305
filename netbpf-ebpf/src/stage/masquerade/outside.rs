//! Which outside port a container's address and port has: its mapping, and the ports that
//! are taken for one.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_prandom_u32};
use netbpf_common::{
    drop::DropReason,
    flow::{State, state},
    maps::{
        Flow, FlowKey, Mapping, MappingKey, Outside, OutsideKey,
        flows::{FLOW_ORIGINAL, arrival_container},
    },
    packet::IPPROTO_TCP,
    time::{TICKS_PER_SECOND, Ticks, since},
};

use crate::stage::{
    Step,
    flow::{self, timeout_ticks},
    local,
    pool::{self, Wanted},
    port,
    sockets::host_has,
};
use crate::{
    calls,
    ctx::{Skb, now},
    family::{Family, Packet, Room},
};

use super::{Ask, TRIES, record::owner};

/// Outcomes of [`try_port`] besides the port: somebody else has it; there is
/// no room for a mapping.
pub(super) const TAKEN: u32 = 0;
pub(super) const FULL: u32 = 1 << 16;

/// Outcome of [`take`]; no port is this high either.
const OWN: u32 = FULL + 1;

/// Of the kernel, to an entry that is not to be replaced.
pub(super) const EEXIST: i32 = -17;

/// The port that the container's address and port has outside: the one it has
/// already (RFC 4787 REQ-1), or a new one; 0 where there is none to be had. With it what is
/// still to be asked.
#[inline(always)]
pub(super) fn outside_port<F: Family>(
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
pub(super) fn random_port() -> u16 {
    // SAFETY: takes and touches nothing.
    unsafe { bpf_get_prandom_u32() as u16 }
}

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
    let taken = match take::<F>(room) {
        TAKEN if release::<F>(room, time, idle) => take::<F>(room),
        taken => taken,
    };
    if taken == TAKEN {
        // It may have been taken by a program that did not come to say so.
        pool::take(room.pool, ip.protocol, candidate);
    }
    if taken != OWN {
        return taken;
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

/// Takes the port in the room, if it is free: `OWN`. `FULL`: no port is to be had, as the
/// table or the kernel has no room.
#[inline(always)]
fn take<F: Family>(room: &Room<F::Addr>) -> u32 {
    let flags = u64::from(BPF_NOEXIST);
    match F::outside().insert(&room.outside_key, &room.outside, flags) {
        Ok(()) => OWN,
        Err(EEXIST) => TAKEN,
        Err(_) => FULL,
    }
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
        if let Some(flow) = flow::find::<F>(&room.forward_key) {
            room.reverse_key = room.forward_key.reverse(flow);
            let other = flow::find::<F>(&room.reverse_key).map_or(0, |other| other.seen);
            if !state(protocol, flow.seen, other).is_over() {
                return false;
            }
            // As a whole: what is left of it would lead to whoever has the port next.
            flow::remove::<F>(&room.reverse_key);
            flow::remove::<F>(&room.forward_key);
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
