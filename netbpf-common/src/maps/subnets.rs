//! `subnets`: a longest-prefix table of the subnets of all networks, for the
//! check that nothing from an uplink claims to come from, or goes straight to,
//! a container. `areas`: bit maps of how their addresses begin, so that of nearly all others it
//! is known at once that they are in none.

use crate::{
    addr::{Addr, Addr4, Addr6},
    assert_layout,
    mix::mixed,
};

/// What a prefix of `subnets` is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetData {
    pub addr: Addr,
}
assert_layout!(SubnetData, 16);

/// Key of `subnets` as the kernel wants it (`struct bpf_lpm_trie_key_u8`):
/// prefix length in bits, 96 more than written for IPv4.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetKey {
    pub prefix_len: u32,
    pub data: SubnetData,
}
assert_layout!(SubnetKey, 20);

/// Value of `subnets`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub network: u32,
    /// `NETWORK_*` of [`crate::maps::endpoints`].
    pub flags: u32,
}
assert_layout!(Subnet, 8);

/// Entries of `areas`, by [`area_index`]; their values are those of `pools`.
pub const AREAS: u32 = 2;

/// The entry of `areas` for a family.
#[inline(always)]
pub const fn area_index(is_v6: bool) -> u32 {
    is_v6 as u32
}

/// Bits of an IPv4 address that tell its bit in `areas`.
pub const AREA_BITS4: u8 = 16;
/// Bits of an IPv6 address that do.
pub const AREA_BITS6: u8 = 32;

/// The bit of an IPv4 address.
#[inline(always)]
pub const fn area4(addr: Addr4) -> u16 {
    u16::from_be_bytes([addr[0], addr[1]])
}

/// The bit of an IPv6 address: others may have the same, which costs them a look-up.
#[inline(always)]
pub const fn area6(addr: Addr6) -> u16 {
    let begins = u32::from_be_bytes([addr[0], addr[1], addr[2], addr[3]]);
    mixed(begins, 16) as u16
}
