//! Masquerade. `mappings4/6`: which outside port an inside address and port
//! has, towards all remotes (endpoint-independent, RFC 4787 REQ-1).
//! `outside4/6`: who owns an outside port; an insert that fails when the key
//! exists makes the choice atomic.

use crate::{assert_layout, time::Ticks};

/// Key of `mappings*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappingKey<A> {
    /// The container's address.
    pub inside: A,
    /// The outside address of the way out.
    pub outside: A,
    /// Inside port, or ICMP echo identifier.
    pub port: u16,
    pub protocol: u8,
    /// Explicit padding, 0.
    pub reserved: u8,
    /// As in [`crate::maps::EndpointKey`].
    pub scope: u32,
}
assert_layout!(MappingKey<_>, 16, 40);

/// Value of `mappings*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<A> {
    /// When the last flow was made with it.
    pub last_used: Ticks,
    /// When it may be taken for another inside port, unless a flow goes on until
    /// then: flows put it off once a second.
    pub expires: Ticks,
    pub outside_port: u16,
    /// Remote port of the last flow.
    pub remote_port: u16,
    /// Flows that were made with it, as counted without care for other CPUs.
    pub flows: u32,
    /// Remote address of the last flow. While it is the only one, the mapping may be
    /// taken for another inside port when that flow is closed and no port is free.
    pub remote: A,
}
assert_layout!(Mapping<_>, 20, 32);

/// Key of `outside*`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutsideKey<A> {
    pub outside: A,
    pub port: u16,
    pub protocol: u8,
    /// Explicit padding, 0.
    pub reserved: u8,
}
assert_layout!(OutsideKey<_>, 8, 20);

/// Value of `outside*`: the owner.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside<A> {
    pub inside: A,
    pub scope: u32,
    pub port: u16,
    /// Explicit padding, 0.
    pub reserved: u16,
}
assert_layout!(Outside<_>, 12, 24);
