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

/// How long a path MTU holds, as Linux has it (`net.ipv4.route.mtu_expires`): ten
/// minutes.
pub const PATH_MTU_SECONDS: u32 = 600;

/// What a prefix of `tunnels` is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelData {
    pub network: u32,
    pub addr: Addr,
}
assert_layout!(TunnelData, 20);

/// Key of `tunnels` (`struct bpf_lpm_trie_key_u8`): the network is always compared
/// whole, so the prefix length is 32 more than the block's (128 for IPv4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    pub prefix_len: u32,
    pub data: TunnelData,
}
assert_layout!(TunnelKey, 24);

/// Bits of a whole [`TunnelData`].
pub const TUNNEL_PREFIX: u32 = 160;

/// Value of `tunnels`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Index in `nodes`.
    pub node: u32,
}
assert_layout!(Tunnel, 4);
