//! The overlay. `vnis`: the networks that are here, by their number on the wire.
//! `nodes`: the other hosts, and the way there. `vteps`: which of them an address is.
//! `tunnels`: on which node a container's address lives.

use crate::{addr::Addr, assert_layout, time::Ticks};

/// Value of `vnis`, whose key is the VXLAN network identifier (24 bits).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vni {
    pub network: u32,
    /// Of its containers' addresses, as in [`crate::maps::EndpointKey`].
    pub scope: u32,
    /// `NETWORK_*` of [`crate::maps::endpoints`].
    pub flags: u32,
}
assert_layout!(Vni, 12);

/// Entries of `nodes`. Number 0 is nobody: what leads there lives on this host, or
/// nowhere.
pub const NODES: u32 = 4096;

/// Value of `nodes`, an array. The daemon writes the first three; the programs keep the
/// way there in the rest, and what routers on it have said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it takes in VXLAN; 0: there is no such node.
    pub vtep: Addr,
    /// Destination of the Ethernet frames inside.
    pub mac: [u8; 6],
    /// UDP port of its VXLAN.
    pub port: u16,
    /// The neighbour on the way.
    pub next_hop: Addr,
    /// Device of the way; 0: not asked for yet.
    pub ifindex: u32,
    /// What that lets through.
    pub mtu: u32,
    /// When the FIB was last asked.
    pub checked: Ticks,
    /// The smallest MTU that a router on the way has told, 0: none; and when.
    pub path_mtu: u32,
    pub path_mtu_at: Ticks,
    /// `FLOW_ETHERNET` and `FLOW_FOREIGN_NEXT_HOP` of [`crate::maps::flows`].
    pub way: u32,
}
assert_layout!(Node, 64);

/// Entries of `tunnels`: a block of 64 addresses is one, smaller ones of small subnets one
/// for each address. They cost when they are there, and 16 bytes each when they are not.
pub const TUNNELS: u32 = 262_144;

/// How long a path MTU holds, as Linux has it (`net.ipv4.route.mtu_expires`): ten
/// minutes.
pub const PATH_MTU_SECONDS: u32 = 600;

/// Key of `tunnels`: an area of 64 addresses, or one address, of a network.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    pub network: u32,
    /// [`AREA_PREFIX`] or [`ADDRESS_PREFIX`].
    pub prefix_len: u32,
    /// IPv4 as `::ffff:a.b.c.d`; behind the prefix 0.
    pub addr: Addr,
}
assert_layout!(TunnelKey, 24);

/// The length of all areas, that of nodes' blocks (/26 of IPv4): one look finds the node of
/// an address, where a longest-prefix table would compare its way through a tree.
pub const AREA_PREFIX: u32 = 122;
/// Bits of an address behind that.
pub const AREA_BITS: u32 = ADDRESS_PREFIX - AREA_PREFIX;
/// Of a single address.
pub const ADDRESS_PREFIX: u32 = 128;

/// Value of `tunnels`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Index in `nodes`; of an area, [`SINGLES`] as well.
    pub node: u32,
}
assert_layout!(Tunnel, 4);

/// Addresses of the area that live elsewhere have entries of their own.
pub const SINGLES: u32 = 1 << 31;

impl TunnelKey {
    /// Of the area that an address is in.
    #[inline(always)]
    pub fn area(network: u32, addr: Addr) -> TunnelKey {
        let mut addr = addr;
        addr[15] &= !0 << AREA_BITS;
        TunnelKey {
            network,
            prefix_len: AREA_PREFIX,
            addr,
        }
    }

    /// Of the address alone.
    #[inline(always)]
    pub fn address(network: u32, addr: Addr) -> TunnelKey {
        TunnelKey {
            network,
            prefix_len: ADDRESS_PREFIX,
            addr,
        }
    }
}
