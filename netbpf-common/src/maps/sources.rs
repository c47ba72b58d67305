//! `sources`: which of its addresses the host sends from, where that is not the
//! uplink's first one. A longest-prefix table of the host's routes by device, for
//! kernels whose FIB lookup does not tell (before 6.7); empty on others.

use crate::{addr::Addr, assert_layout};

/// What a prefix of `sources` is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceData {
    /// Device of the way out.
    pub ifindex: u32,
    /// Destination.
    pub addr: Addr,
}
assert_layout!(SourceData, 20);

/// Key of `sources` (`struct bpf_lpm_trie_key_u8`): the device is always compared
/// whole, so the prefix length is 32 more than the route's (128 for IPv4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey {
    pub prefix_len: u32,
    pub data: SourceData,
}
assert_layout!(SourceKey, 24);

/// Bits of a whole [`SourceData`].
pub const SOURCE_PREFIX: u32 = 160;

/// Value of `sources`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub addr: Addr,
}
assert_layout!(Source, 16);
