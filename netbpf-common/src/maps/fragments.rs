//! `fragments4`, `fragments6`: which flow the fragments of a datagram belong to, as its
//! first one said, which alone has the ports (LRU). `fragment_id`: identifications given
//! to the fragments of masqueraded datagrams.

use crate::{
    assert_layout,
    maps::FlowKey,
    time::{TICKS_PER_SECOND, Ticks},
};

/// Key: what all fragments of a datagram have in common (RFC 791, RFC 8200 section 4.5),
/// and the side that they arrive from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    pub src: A,
    pub dst: A,
    /// Identification as it arrives: of IPv4 16 bits.
    pub id: u32,
    pub protocol: u8,
    /// 1 of answers to what stands in `handed`, which belong to no flow; else 0.
    pub handed: u8,
    /// As in [`FlowKey`].
    pub arrival: u16,
}
assert_layout!(FragmentKey<_>, 16, 40);

/// Value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentOf<A> {
    /// The flow, by the key of its half in that direction.
    pub flow: FlowKey<A>,
    /// Identification that the fragments leave with.
    pub id: u32,
    /// When the first one came.
    pub seen: Ticks,
}
assert_layout!(FragmentOf<_>, 24, 48);

/// Entries of `fragments*`: datagrams whose fragments are on the way at a time.
pub const FRAGMENTED: u32 = 8192;

/// So long after its first fragment the others are followed: 30 seconds, as
/// `net.ipv4.ipfrag_time`.
pub const FRAGMENT_TICKS: Ticks = 30 * (TICKS_PER_SECOND + 1);
