//! `subnets`: a longest-prefix table of the subnets of all networks, for the
//! check that nothing from an uplink claims to come from, or goes straight to,
//! a container.

use crate::{addr::Addr, assert_layout};

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
