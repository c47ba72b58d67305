//! A connection that begins anew between the ports of one that is over: its flow's two halves
//! stay where they are, instead of being removed and written again.

use netbpf_common::{
    maps::{
        Flow, FlowKey,
        flows::{FLOW_ESTABLISHED, FLOW_ETHERNET, FLOW_FOREIGN_NEXT_HOP, FLOW_TO_CONTAINER},
    },
    time::Ticks,
};

use super::{evict, flow};
use crate::family::{Family, Packet, Room};

/// Makes the flow that stands in the room of the two halves that have its keys, where they are
/// of one that is over and goes the same way; `false`: it is to be written.
#[inline(always)]
pub fn renew<F: Family>(room: &mut Room<F::Addr>) -> bool {
    let Some(forward) = flow::find::<F>(&room.forward_key) else {
        return false;
    };
    let Some(reverse) = flow::find::<F>(&room.reverse_key) else {
        return false;
    };
    // Nobody evicts it as long as it is claimed.
    if !evict::claim(forward) {
        return false;
    }
    // What is read of both counts if they are where they were; another CPU may have evicted
    // them, or begun the flow anew.
    if !goes_as(forward, &room.forward)
        || !goes_as(reverse, &room.reverse)
        || !is_past::<F>(&room.forward_key, forward, room.past_created)
        || !is_past::<F>(&room.reverse_key, reverse, room.past_created)
    {
        evict::leave_alone(forward);
        return false;
    }
    evict::see_only(forward, room.forward.seen);
    evict::see_only(reverse, 0);
    restart(forward, &room.forward);
    restart(reverse, &room.reverse);
    if room.forward.checked != 0 {
        forward.ifindex = room.forward.ifindex;
        forward.next_hop = room.forward.next_hop;
        forward.mtu = room.forward.mtu;
        forward.checked = room.forward.checked;
        evict::set_flags(forward, OF_WAY, room.forward.flags & OF_WAY);
    }
    evict::leave_alone(forward);
    // Its place is that of the one before, who is known by when it began.
    flow::queue::<F>(room)
}

/// Is the half that was found under the key still there, and of the flow that began then?
#[inline(always)]
fn is_past<F: Family>(key: &FlowKey<F::Addr>, half: &mut Flow<F::Addr>, created: Ticks) -> bool {
    half.created == created && flow::is_at::<F>(key, half)
}

/// Of the way out, which is asked for anew when it is a second old.
const OF_WAY: u8 = FLOW_ETHERNET | FLOW_FOREIGN_NEXT_HOP;

/// Do a flow's packets go where those of the new one will?
///
/// What both have in common tells where a packet goes and as what, so that one that another CPU
/// sends meanwhile goes there, too. The way out may differ.
#[inline(always)]
fn goes_as<A: Copy + PartialEq>(held: &Flow<A>, new: &Flow<A>) -> bool {
    let leads_in = held.flags & FLOW_TO_CONTAINER != 0;
    (held.flags ^ new.flags) & !(FLOW_ESTABLISHED | OF_WAY) == 0
        && held.kind == new.kind
        && held.slot == new.slot
        && held.endpoint == new.endpoint
        && held.sender == new.sender
        && held.other_arrival == new.other_arrival
        && held.sport == new.sport
        && held.dport == new.dport
        && held.src == new.src
        && held.dst == new.dst
        && (!leads_in || held.ifindex == new.ifindex && held.mtu == new.mtu && held.mac == new.mac)
}

#[inline(always)]
fn restart<A>(held: &mut Flow<A>, new: &Flow<A>) {
    held.packets = new.packets;
    held.bytes = new.bytes;
    held.generation = new.generation;
    held.last_seen = new.last_seen;
    held.created = new.created;
    held.expects = new.expects;
}

/// Removes the flow of before that [`flow::advance`] has left to be renewed, and was not.
#[inline(always)]
pub fn give_up<F: Family>(p: &Packet<F::Addr>, room: &mut Room<F::Addr>) {
    if room.past == 0 {
        return;
    }
    room.past = 0;
    if let Some(past) = flow::find::<F>(&p.key)
        && past.created == room.past_created
    {
        flow::forget::<F>(&p.key, past, room);
    }
}
