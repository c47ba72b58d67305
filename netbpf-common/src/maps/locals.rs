//! `locals`: the addresses of the host itself.

use crate::{addr::Addr, assert_layout};

/// Key of `locals`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalKey {
    pub addr: Addr,
}
assert_layout!(LocalKey, 16);

/// The address is the gateway of one of our networks.
pub const LOCAL_GATEWAY: u32 = 1 << 0;

/// Value of `locals`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// `LOCAL_*`.
    pub flags: u32,
    /// The network whose gateway it is, else 0.
    pub network: u32,
    /// Its number among those that have [`crate::maps::pools`], from 1 on; else 0.
    pub pool: u32,
}
assert_layout!(Local, 12);
