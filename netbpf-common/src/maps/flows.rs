//! `flows4`, `flows6`: established flows. `transient4`, `transient6`: flows
//! that are opening or closed, which may be evicted (LRU). Keys and values are
//! the same in both.
//!
//! A flow is a pair of entries, one for each direction, each found by the tuple
//! of the packet as it arrives. Either half tells the other: the tuple that a
//! packet leaves with, turned round, is the key of the reverse half, so half a
//! flow can be mended. Established halves are only removed as a pair.

use crate::{assert_layout, time::Ticks};

/// Key: a packet's tuple as it arrives. `A` is the address of the family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    pub src: A,
    pub dst: A,
    /// Source port; the identifier of an ICMP echo request; else 0.
    pub sport: u16,
    /// Destination port; the identifier of an ICMP echo reply; else 0.
    pub dport: u16,
    pub protocol: u8,
    /// Explicit padding, 0.
    pub reserved: u8,
    /// As in [`crate::maps::EndpointKey`], low 16 bits.
    pub scope: u16,
}
assert_layout!(FlowKey<[u8; 4]>, 16);
assert_layout!(FlowKey<[u8; 16]>, 40);

/// This half leads into a container, by `ifindex` with `mac` as destination.
pub const FLOW_TO_CONTAINER: u8 = 1 << 0;
/// This half is the direction of the packet that made the flow.
pub const FLOW_ORIGINAL: u8 = 1 << 1;
/// The hop limit is left alone: within one network.
pub const FLOW_SAME_NETWORK: u8 = 1 << 2;
/// The flow stands in `flows*`, not in `transient*`.
pub const FLOW_ESTABLISHED: u8 = 1 << 3;

/// What made the flow.
pub const KIND_PUBLISH: u8 = 1;
pub const KIND_MASQUERADE: u8 = 2;

/// Value: what becomes of the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    pub packets: u64,
    pub bytes: u64,
    /// The tuple that the packet leaves with.
    pub src: A,
    pub dst: A,
    pub sport: u16,
    pub dport: u16,
    /// To a container: its host-side veth. Outward: the device of the way out.
    pub ifindex: u32,
    /// The container's endpoint, on either half.
    pub endpoint: u32,
    /// Slot of the published port, and the generation that made the flow.
    pub slot: u32,
    pub generation: u32,
    pub last_seen: Ticks,
    pub created: Ticks,
    /// Outward: when `ifindex` and `next_hop` were last asked of the FIB.
    pub checked: Ticks,
    /// Outward: the neighbour to send to.
    pub next_hop: A,
    /// To a container: its MAC.
    pub mac: [u8; 6],
    /// `KIND_*`.
    pub kind: u8,
    /// `FLOW_*`.
    pub flags: u8,
    /// TCP flags seen in this direction ([`crate::flow::SEEN_SYN`] …).
    pub seen: u8,
    /// Outward, IPv4: the next hop is an IPv6 neighbour (RFC 5549): 0 or 1. The
    /// neighbour is then left to the kernel.
    pub foreign_next_hop: u8,
    /// Explicit padding, 0: with it the size is a multiple of 8 in both families.
    pub reserved: [u8; 6],
    pub reserved_addr: A,
}
assert_layout!(Flow<[u8; 4]>, 80);
assert_layout!(Flow<[u8; 16]>, 128);
