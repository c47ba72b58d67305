//! `ports`: published ports. A longest-prefix table in which protocol and
//! address are always compared whole and a prefix covers an aligned block of
//! ports, so that a range of 10,000 costs some ten entries. Looked up by the
//! exact address first, then by [`crate::addr::ANY`].

use crate::{addr::Addr, assert_layout};

/// What a prefix of `ports` is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortData {
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6: the wildcard address is the same in both families.
    pub family: u8,
    /// An address of the host, or [`crate::addr::ANY`].
    pub addr: Addr,
    /// Network byte order, since a prefix counts from the high bit.
    pub port_be: [u8; 2],
}
assert_layout!(PortData, 20);

/// Key of `ports` (`struct bpf_lpm_trie_key_u8`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// Bits compared: [`PORT_PREFIX`] for one port, one less for each doubling
    /// of the block.
    pub prefix_len: u32,
    pub data: PortData,
}
assert_layout!(PortKey, 24);

/// Prefix length of a single port.
pub const PORT_PREFIX: u32 = 160;

/// Value of `ports`: a block of host ports and the backend behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Index in `generations`, the same for all blocks of a published range.
    pub slot: u32,
    /// What `generations[slot]` was when this was written. A flow is followed
    /// only while they agree (moby#8795).
    pub generation: u32,
    /// Endpoint that the port leads to: index in `endpoint_stats`.
    pub endpoint: u32,
    pub network: u32,
    /// Host-side veth of the endpoint.
    pub ifindex: u32,
    /// Reserved for share, drain, allow list and affinity: 0.
    pub flags: u32,
    /// Backends that share the port. 1: the one in this entry.
    pub backends: u16,
    /// `NETWORK_*` bits, low 16.
    pub network_flags: u16,
    /// First host port of the published range and the container port that it
    /// maps to; the others follow in step.
    pub host_port: u16,
    pub container_port: u16,
    pub container_addr: Addr,
    /// The container's MAC.
    pub mac: [u8; 6],
    /// Explicit padding, 0.
    pub reserved: [u8; 2],
}
assert_layout!(Port, 56);
