//! `config`: an array of one entry, what all programs need to know.

use crate::{addr::Addr, assert_layout, flow::Timeouts};

/// `SO_MARK` of sockets that may bind published ports: the daemon's own.
pub const UNHELD_MARK: u32 = 0x6e62_7066;

/// log2 of the ticks in which a client's new flows are counted: 64, 1.07 s.
pub const CLIENT_WINDOW_SHIFT: u32 = 6;

/// Others take in VXLAN at our port, too, and get the networks that are not ours.
pub const VXLAN_SHARED: u16 = 1 << 0;
/// Who is a node is not known yet.
pub const VXLAN_UNKNOWN: u16 = 1 << 1;
/// Some node takes in VXLAN at another port than this one.
pub const VXLAN_PORTS: u16 = 1 << 2;

/// The only entry of `config`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// [`crate::abi::ABI`] of the daemon that made the maps.
    pub abi: u32,
    /// Not 0 while somebody reads `events`; events are made only then.
    pub events: u32,
    /// The MAC that every container sees as its gateway's.
    pub gateway_mac: [u8; 6],
    /// Not 0 of a daemon that copies its store to `records`; older versions write 0.
    pub copies: u8,
    /// Not 0 while each flow by an uplink has its mark in `arrivals`, each between containers in
    /// `siblings`, and each subnet in `areas`; a start with programs of another version, older or
    /// newer, writes 0.
    pub marked: u8,
    /// Entries of `evictable4` and `evictable6`.
    pub evictable: u32,
    /// New flows that one client may begin by published ports in
    /// [`CLIENT_WINDOW_SHIFT`]'s time; 0: any number.
    pub client_rate: u32,
    /// The network namespace whose processes are the host's own (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
    /// When silent flows are over.
    pub timeouts: Timeouts,
    /// Where this node takes in VXLAN (its VTEP); 0 where it has no overlay network.
    pub vtep: Addr,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// `VXLAN_*`.
    pub vxlan_flags: u16,
    /// Flows of each family that may be established: `flows4` and `flows6` have room for
    /// those, and for as many more as are evictable.
    pub established: u32,
}
assert_layout!(Config, 88);
