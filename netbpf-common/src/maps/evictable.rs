//! `evictable4`, `evictable6`: flows that may be evicted, since they are opening or over, in
//! the order in which they became so: a ring whose hand goes on by one place with each. Who
//! comes to a place evicts the flow of it, unless that was established since, or is passed
//! over once for having been used ([`CHANCES`]). A place may also be of a flow that is gone.
//! `occupancy`: where the hands are, and how many flows are established.

use super::FlowKey;
use crate::{assert_layout, time::Ticks};

/// A flow in its place. All zeros: nobody was there yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evictable<A> {
    /// Of the half that began the flow.
    pub key: FlowKey<A>,
    /// As the flow says: another flow with the same key is not this one.
    pub created: Ticks,
    /// As the flow said when it was looked at last.
    pub last_seen: Ticks,
}
assert_layout!(Evictable<_>, 24, 48);

/// Of so many flows that were used the last one goes all the same.
pub const CHANCES: u32 = 4;

/// Index in `occupancy` of the hand: places that were taken since the maps were made.
#[inline(always)]
pub const fn hand_index(is_v6: bool) -> u32 {
    is_v6 as u32
}

/// Index in `occupancy` of the number of established flows. Programs count each once; those
/// that the daemon removes are missed until it counts all of them anew, when it looks for
/// those that are over.
#[inline(always)]
pub const fn established_index(is_v6: bool) -> u32 {
    2 + is_v6 as u32
}

/// Entries of `occupancy`.
pub const OCCUPANCY: u32 = 4;

/// Entries of `evictable4` and `evictable6` where so many flows may be established: a power
/// of two, for the hand to go round. With 65,536, which a connection comes to twice, when it
/// begins and when it ends, a client has a second to answer while 32,000 connections a second
/// come and go.
pub const fn evictable_entries(flows: u32) -> u32 {
    let most = if flows / 4 > 65_536 {
        flows / 4
    } else if flows > 65_536 {
        65_536
    } else {
        flows
    };
    1 << most.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_goes_round() {
        for (flows, entries) in [
            (1, 1),
            (64, 64),
            (1000, 512),
            (65_536, 65_536),
            (100_000, 65_536),
            (131_072, 65_536),
            (1_000_000, 131_072),
        ] {
            assert_eq!(evictable_entries(flows), entries, "{flows}");
        }
    }
}
