//! What containers of one network send to each other goes straight, without a look at the
//! flows, of which there is mostly none.
//!
//! There is one where a container has asked another one for a published port by an address of
//! the host: what the other one answers is to be followed. Such pairs have a mark in `siblings`
//! from before their first flow is there; it stays, and costs a look-up and no more.

use netbpf_common::{
    maps::{
        Flow, VethSlot,
        endpoints::{SIBLINGS_OF_DAEMON, SIBLINGS_OF_PROGRAMS, sibling_bit},
        flows::FLOW_TO_CONTAINER,
    },
    verdict::Coded,
};

use super::{Step, deliver, local, pool};
use crate::{
    ctx::Skb,
    family::{Family, Packet, Room},
    maps::SIBLINGS,
};

/// Packets of this half may go from one container to another from now on. To be called before
/// the flow is there.
#[inline(always)]
pub fn expect<A>(answers: &Flow<A>) {
    if answers.flags & FLOW_TO_CONTAINER == 0 {
        return;
    }
    let bit = sibling_bit(answers.sender, answers.endpoint);
    // Mostly it is marked: no other CPU's cache is disturbed.
    if !SIBLINGS
        .get(SIBLINGS_OF_PROGRAMS)
        .is_some_and(|marked| pool::has(marked, bit))
    {
        pool::set(SIBLINGS.get_ptr_mut(SIBLINGS_OF_PROGRAMS), bit);
    }
}

/// May packets from one to the other be a flow's?
#[inline(always)]
fn is_expected(from: u32, to: u32) -> bool {
    let bit = sibling_bit(from, to);
    match (
        SIBLINGS.get(SIBLINGS_OF_PROGRAMS),
        SIBLINGS.get(SIBLINGS_OF_DAEMON),
    ) {
        (Some(own), Some(daemons)) => pool::has(own, bit) || pool::has(daemons, bit),
        _ => true,
    }
}

/// The way to another container of the sender's network; `None`: the long way tells.
#[inline(always)]
pub fn straight<F: Family>(
    skb: &Skb,
    from: &VethSlot,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
) -> Step<Option<Coded>> {
    if !F::is_near(from, p.ip.dst) || !local::are_marked() {
        return Ok(None);
    }
    let veth = &from.veth;
    let Some(to) = local::endpoint::<F>(room, p.ip.dst, veth.scope) else {
        return Ok(None);
    };
    if local::policy(veth, to).is_err() || is_expected(veth.endpoint, to.endpoint) {
        return Ok(None);
    }
    deliver::to::<F>(skb, to).map(Some)
}
