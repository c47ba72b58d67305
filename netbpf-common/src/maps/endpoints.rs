//! `endpoints`: where an address lives. `veths`: who is behind a device. `veth_slots`: the same
//! in an array, found without a hash. `siblings`: between whom flows go that are no plain ones.

use crate::{addr::Addr, assert_layout, mix::mixed};

/// Key of `endpoints`: an address within a scope.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// 0 for addresses that are unique on the host. Networks that may share a
    /// subnet with others (overlay) have a scope of their own.
    pub scope: u32,
    pub addr: Addr,
}
assert_layout!(EndpointKey, 20);

/// The network lets its members talk to each other.
pub const NETWORK_ICC: u32 = 1 << 0;
/// Nothing leaves or enters the network, host services aside.
pub const NETWORK_INTERNAL: u32 = 1 << 1;
/// What leaves is masqueraded to the way out's address; without it the network
/// is routed: reached and left under the containers' own addresses.
pub const NETWORK_MASQUERADE: u32 = 1 << 2;

/// Another network of this host has addresses of this one, and the host's routes to them:
/// what the host's own programs answered would go there.
pub const NETWORK_SHADOWED: u32 = 1 << 3;

/// Behind the flags, of `veths` alone: the number of the container's network namespace, so
/// that one on several networks is known for the same. A namespace's inode is
/// `PROC_DYNAMIC_FIRST` (`fs/proc/generic.c`, 0xf0000000) or above, so that what is cut off is
/// the same of all. 0: older versions have not said it.
pub const CONTAINER_SHIFT: u32 = 4;

/// Are two endpoints of one container, by their `flags` in `veths`?
#[inline(always)]
pub const fn is_one_container(one: u32, other: u32) -> bool {
    (one ^ other) >> CONTAINER_SHIFT == 0 && one >> CONTAINER_SHIFT != 0
}

/// Value of `endpoints`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Index in `endpoint_stats`.
    pub endpoint: u32,
    pub network: u32,
    /// `NETWORK_*`.
    pub flags: u32,
    /// Host-side veth.
    pub ifindex: u32,
    /// The container's MAC.
    pub mac: [u8; 6],
    /// Explicit padding, 0.
    pub reserved: [u8; 2],
}
assert_layout!(Endpoint, 24);

/// Value of `veths`, whose key is the ifindex of the host-side veth: what its
/// container may send as, and the network it is in.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Veth {
    pub endpoint: u32,
    pub network: u32,
    /// `NETWORK_*`, and the container from [`CONTAINER_SHIFT`] on.
    pub flags: u32,
    /// As in [`EndpointKey`].
    pub scope: u32,
    /// The container's addresses, 0 where it has none of the family.
    pub ipv4: [u8; 4],
    pub ipv6: [u8; 16],
    pub gateway4: [u8; 4],
    pub gateway6: [u8; 16],
    pub mac: [u8; 6],
    /// MTU of the network.
    pub mtu: u16,
    /// Of an overlay network: its number on the wire; else 0.
    pub vni: u32,
}
assert_layout!(Veth, 68);

/// Value of `veth_slots`: at the index [`veth_slot`] of its ifindex, what `veths` says of a
/// device and what more there is to know of its network. Of two devices with one index the
/// first has it, the other is found by `veths` alone.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VethSlot {
    /// As in `veths`.
    pub veth: Veth,
    /// Host-side veth; 0: the slot is free.
    pub ifindex: u32,
    /// The bits that all addresses of the container's network have in common, set; all of them
    /// where it has no address of the family.
    pub mask4: [u8; 4],
    /// The same of IPv6.
    pub mask6: [u8; 16],
    /// Explicit padding, 0.
    pub reserved: u32,
}
assert_layout!(VethSlot, 96);

/// Entries of `veth_slots`, a power of two.
pub const VETH_SLOTS: u32 = 4096;

/// The index of a device in `veth_slots`. The kernel numbers devices one after the other.
#[inline(always)]
pub const fn veth_slot(ifindex: u32) -> u32 {
    ifindex & (VETH_SLOTS - 1)
}

impl VethSlot {
    /// Of a device that is known by `veths` alone, or of none.
    #[inline(always)]
    pub const fn unplaced(veth: Veth) -> VethSlot {
        VethSlot {
            ifindex: 0,
            veth,
            mask4: [0xff; 4],
            mask6: [0xff; 16],
            reserved: 0,
        }
    }
}

/// Entries of `siblings`.
pub const SIBLINGS: u32 = 2;

/// The one with the marks that programs set.
pub const SIBLINGS_OF_PROGRAMS: u32 = 0;
/// The one with those that the daemon sets: all bits of it at once.
pub const SIBLINGS_OF_DAEMON: u32 = 1;

/// The bit of `siblings` for what one endpoint sends another one under its own address. Others
/// may have the same: then both take the long way.
#[inline(always)]
pub const fn sibling_bit(from: u32, to: u32) -> u16 {
    mixed(from << 16 | to & 0xffff, 16) as u16
}
