//! `flows4`, `flows6`: all flows. Those that are not established may be evicted, see
//! `evictable4`.
//!
//! A flow is a pair of entries, one for each direction, each found by the tuple
//! of the packet as it arrives. Either half tells the other: the tuple that a
//! packet leaves with, turned round, is the key of the reverse half, so half a
//! flow can be mended. A flow is removed as a pair, but for one whose published port was
//! taken back: the container's half answers until it is collected.

use crate::{
    assert_layout,
    packet::{tcp, tuple::Transport},
    time::Ticks,
};

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
    /// The side that the packet arrives from: [`ARRIVAL_UPLINK`], [`ARRIVAL_HOST`] or
    /// [`arrival_container`]. A packet forged on one side never matches a flow
    /// of the other.
    pub arrival: u16,
}
assert_layout!(FlowKey<_>, 16, 40);

/// Arrived from an uplink.
pub const ARRIVAL_UPLINK: u16 = 0;

/// Sent by the host itself: seen on the way out by `lo` or by an uplink.
pub const ARRIVAL_HOST: u16 = 0xffff;

/// Sent by a container to an outside port of another one's: seen between the two
/// translations.
pub const ARRIVAL_HAIRPIN: u16 = 0xfffe;

/// Scope of the host's own addresses, where they are inside of a masqueraded flow: its
/// packets arrive as [`ARRIVAL_HOST`].
pub const SCOPE_HOST: u32 = ARRIVAL_HOST as u32 - 1;

/// Arrived from a container whose addresses are in this scope (as in
/// [`crate::maps::EndpointKey`]; below 65,533).
#[inline(always)]
pub const fn arrival_container(scope: u32) -> u16 {
    scope as u16 + 1
}

/// This half leads into a container, by `ifindex` with `mac` as destination.
pub const FLOW_TO_CONTAINER: u8 = 1 << 0;
/// This half is the direction of the packet that made the flow.
pub const FLOW_ORIGINAL: u8 = 1 << 1;
/// The flow is established and not over: it is not evicted.
pub const FLOW_ESTABLISHED: u8 = 1 << 2;
/// Outward: the device of the way out carries Ethernet frames.
pub const FLOW_ETHERNET: u8 = 1 << 3;
/// Outward, IPv4: the next hop is an IPv6 neighbour (RFC 5549), which the kernel
/// is then left to find.
pub const FLOW_FOREIGN_NEXT_HOP: u8 = 1 << 4;

/// This half leads to the host itself, by `lo`.
pub const FLOW_TO_HOST: u8 = 1 << 5;

/// This half leads to an outside port of another container's, without leaving the host.
pub const FLOW_HAIRPIN: u8 = 1 << 6;

/// Both halves are of a connection of the host's own: a packet keeps its way, and all but the
/// host's port, which a container has towards the same remote.
pub const FLOW_OF_HOST: u8 = 1 << 7;

/// Of the half that says whether its flow is established, and counted as such.
#[inline(always)]
pub const fn is_counted(flags: u8) -> bool {
    flags & (FLOW_ESTABLISHED | FLOW_ORIGINAL) == FLOW_ESTABLISHED | FLOW_ORIGINAL
}

/// What made the flow.
pub const KIND_PUBLISH: u8 = 1;
pub const KIND_MASQUERADE: u8 = 2;
/// A published port asked for by the host itself, packet by packet.
pub const KIND_LOCAL: u8 = 3;

/// The flow was made by a published port: it ends when that is taken back.
#[inline(always)]
pub const fn is_of_port(kind: u8) -> bool {
    kind == KIND_PUBLISH || kind == KIND_LOCAL
}

/// What the sender of a half's packets has said of the numbers that it takes (TCP).
///
/// What arrives from an uplink anybody may have forged. Of that side nothing is noted but
/// what cannot be changed afterwards: what it is to acknowledge first, and its scale.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expects {
    /// The acknowledgment number: of a container or the host its last one; before that,
    /// and of the outside for good, the one that answers the other end's SYN.
    pub ack: u32,
    /// Of a container or the host: how many numbers it takes from there on, to be shifted.
    pub window: u16,
    /// By how many bits, as its SYN said; [`tcp::NO_SCALE`] where that said nothing.
    pub scale: u8,
    /// Explicit padding, 0.
    pub reserved: u8,
}
assert_layout!(Expects, 8);

impl Expects {
    /// Whoever a SYN of that number was sent to.
    #[inline(always)]
    pub const fn after_syn(seq: u32) -> Expects {
        Expects {
            ack: seq.wrapping_add(1),
            ..Expects::after_own_syn(tcp::NO_SCALE)
        }
    }

    /// Whoever has sent a SYN with that scale, and acknowledged nothing so far.
    #[inline(always)]
    pub const fn after_own_syn(scale: u8) -> Expects {
        Expects {
            ack: 0,
            window: 0,
            scale,
            reserved: 0,
        }
    }

    /// Notes what a segment of a container or the host, which is no reset, acknowledges. One
    /// that was overtaken says nothing new; `first`: there was none before.
    #[inline(always)]
    pub const fn note(&mut self, t: &Transport, first: bool) {
        if first || t.ack.wrapping_sub(self.ack) as i32 >= 0 {
            self.ack = t.ack;
            self.window = t.window;
        }
    }

    /// Notes the scale of the SYN that answers, after [`Expects::note`]: the window is as
    /// it stands there (RFC 7323, section 2.2).
    #[inline(always)]
    pub const fn note_scale(&mut self, scale: u8) {
        self.scale = scale;
        if scale <= tcp::MOST_SCALE {
            self.window = (self.window >> scale) + 1;
        }
    }

    /// The last number that is taken of `from` is so far from the next one. Windows are
    /// shifted only where both sides have said by how much (RFC 7323, section 2.3); what
    /// is lost by that, a sender may exceed (`tcp_acceptable_seq`).
    #[inline(always)]
    pub const fn reach(&self, from: &Expects) -> u32 {
        if self.scale > tcp::MOST_SCALE || from.scale > tcp::MOST_SCALE {
            return self.window as u32 + 1;
        }
        (self.window as u32 + 1) << self.scale
    }
}

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
    /// The container's endpoint: that of the destination where the half leads
    /// into a container, else that of the source; 0 of a flow of the host's own.
    pub endpoint: u32,
    /// The endpoint whose packets these are; 0 for those from an uplink or the host. Another
    /// endpoint with the same address does not take up the flow.
    pub sender: u32,
    /// Of the published port: the generation that made the flow, and its slot.
    pub generation: u32,
    pub slot: u16,
    /// The side that packets of the other half arrive from, as in [`FlowKey`].
    pub other_arrival: u16,
    pub last_seen: Ticks,
    pub created: Ticks,
    /// Outward: when `ifindex` and `next_hop` were last asked of the FIB.
    pub checked: Ticks,
    /// TCP: what the sender of these packets has said of the numbers that it takes.
    pub expects: Expects,
    /// Outward: the neighbour to send to.
    pub next_hop: A,
    /// To a container: its MAC.
    pub mac: [u8; 6],
    /// Outward: the MTU of the way out. From the host to a container: that of the
    /// container's network. Else 0.
    pub mtu: u16,
    /// `KIND_*`.
    pub kind: u8,
    /// `FLOW_*`.
    pub flags: u8,
    /// TCP flags seen in this direction ([`crate::flow::SEEN_SYN`] …).
    pub seen: u8,
    /// Not 0 once a program is about to remove the half.
    pub removed: u8,
    /// Explicit padding, 0: with it the size is a multiple of 8 in both families.
    pub reserved_addr: A,
    /// As a later version might have it, for tests of upgrades.
    #[cfg(feature = "next-layout")]
    pub next: u64,
}
#[cfg(not(feature = "next-layout"))]
assert_layout!(Flow<_>, 88, 136);
#[cfg(feature = "next-layout")]
assert_layout!(Flow<_>, 96, 144);

impl<A: Copy> FlowKey<A> {
    /// The key of the other half of `flow`, which is found by this one: the tuple
    /// that its packets leave with, turned round.
    #[inline(always)]
    pub fn reverse(&self, flow: &Flow<A>) -> FlowKey<A> {
        FlowKey {
            src: flow.dst,
            dst: flow.src,
            sport: flow.dport,
            dport: flow.sport,
            protocol: self.protocol,
            reserved: 0,
            arrival: flow.other_arrival,
        }
    }
}
