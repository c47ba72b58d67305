//! Fragments of datagrams of known flows. Only the first one has the ports; the others
//! follow it by their identification (RFC 4787 REQ-14, as far as they come in order).

use netbpf_common::{
    drop::DropReason,
    maps::{
        FragmentKey, FragmentOf,
        flows::{FLOW_TO_CONTAINER, FLOW_TO_HOST, KIND_MASQUERADE},
        fragments::FRAGMENT_TICKS,
    },
    time::since,
    verdict::Coded,
};

use super::{Step, flow};
use crate::{
    atomic,
    ctx::{Skb, now},
    family::{Family, Packet, Room},
    maps::FRAGMENT_ID,
};

/// Remembers of a first fragment which flow it belongs to, and gives it another
/// identification where it is masqueraded: those of two containers might be the same.
///
/// The packet has its new addresses already, and its key is still that of its half.
#[inline(always)]
pub fn remember<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Step {
    let Some(found) = flow::find::<F>(&p.key) else {
        return Err(DropReason::Fragment);
    };
    let outward = found.flags & (FLOW_TO_CONTAINER | FLOW_TO_HOST) == 0;
    let id = if outward && found.kind == KIND_MASQUERADE {
        next_id::<F>()
    } else {
        p.ip.id
    };
    room.fragment_key = key::<F>(p);
    room.fragment = FragmentOf {
        flow: p.key,
        id,
        seen: now(),
    };
    if F::fragments()
        .insert(&room.fragment_key, &room.fragment, 0)
        .is_err()
    {
        return Err(DropReason::Fragment);
    }
    renumber::<F>(skb, p, id)?;
    Ok(Coded::PASS)
}

/// Follows a later fragment. `NOT_FOLLOWED`: it is of no datagram that we know.
/// `sender`: as in [`flow::follow`].
#[inline(always)]
pub fn follow<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    sender: u32,
) -> Step {
    room.fragment_key = key::<F>(p);
    let Some(entry) = F::fragments().get_ptr(&room.fragment_key) else {
        return Ok(Coded::NOT_FOLLOWED);
    };
    // SAFETY: readable as long as the program runs. The entry may become another's
    // meanwhile: what was read counts only if it is under its key still.
    room.fragment = unsafe { *entry };
    let time = now();
    if F::fragments().get_ptr(&room.fragment_key) != Some(entry)
        || since(time, room.fragment.seen) > FRAGMENT_TICKS
    {
        return Ok(Coded::NOT_FOLLOWED);
    }
    room.forward_key = room.fragment.flow;
    let Some((found, taken)) = flow::led::<F>(room, sender) else {
        return Ok(Coded::NOT_FOLLOWED);
    };
    // The flow may be the host's own by now, which took over a container's tunnel.
    if p.ip.hop_limit <= taken.hops() {
        return Err(DropReason::HopLimit);
    }
    flow::count(skb, found, time);
    let verdict = flow::direct::<F>(skb, p, found, &taken, room, time)?;
    F::rewrite(skb, p.l3 & 0xf, taken.hops(), room.new.src, room.new.dst)?;
    let id = room.fragment.id;
    renumber::<F>(skb, p, id)?;
    flow::address::<F>(skb, p.l3, &taken)?;
    Ok(verdict)
}

/// What all fragments of the packet's datagram have in common.
#[inline(always)]
pub fn key<F: Family>(p: &Packet<F::Addr>) -> FragmentKey<F::Addr> {
    FragmentKey {
        src: p.ip.src,
        dst: p.ip.dst,
        id: p.ip.id,
        // Of IPv6, only the first fragment may have the extension headers that lead to
        // the protocol (RFC 8200 section 4.5).
        protocol: if F::IS_V6 { 0 } else { p.ip.protocol },
        handed: 0,
        arrival: p.key.arrival,
    }
}

#[inline(always)]
fn renumber<F: Family>(skb: &Skb, p: &Packet<F::Addr>, id: u32) -> Step<()> {
    if id == p.ip.id {
        return Ok(());
    }
    F::renumber(skb, p.l3 & 0xf, p.ip.id_at & 0x3fff, p.ip.id, id)
}

/// One that no other datagram has had for as long as there are numbers.
#[inline(always)]
fn next_id<F: Family>() -> u32 {
    let Some(counter) = FRAGMENT_ID.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the pointer is to a map value of eight bytes.
    let next = unsafe { atomic::fetch_add(counter, 1) };
    if F::IS_V6 {
        next as u32
    } else {
        next as u32 & 0xffff
    }
}
