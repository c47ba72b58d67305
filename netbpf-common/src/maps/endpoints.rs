//! `endpoints`: where an address lives. `veths`: who is behind a device.

use crate::{addr::Addr, assert_layout};

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
