//! Connections of the host's own processes to published ports that were translated
//! in `connect` and `sendmsg`, before there was a packet.
//!
//! `host_conns`: of connected TCP sockets, one each; it goes with the socket.
//! `host_peers`: of unconnected UDP sockets, one for each port that they talk to, in
//! both directions; LRU.
//! `host_asked`: at which address of the host, other than its gateway's, a container has
//! asked a program of the host by UDP; LRU.

use crate::{
    addr::Addr,
    assert_layout,
    time::{TICKS_PER_SECOND, Ticks},
};

/// Value of `host_conns`, whose key is the socket's cookie (`SO_COOKIE`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostConn {
    /// What the program asked for.
    pub addr: Addr,
    /// Where it went: the container.
    pub backend: Addr,
    pub port: u16,
    pub backend_port: u16,
    /// Of the published port, as in [`crate::maps::Flow`].
    pub slot: u32,
    pub generation: u32,
    /// `CLOCK_MONOTONIC`.
    pub created: Ticks,
    pub endpoint: u32,
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Explicit padding, 0.
    pub reserved: [u8; 2],
}
assert_layout!(HostConn, 56);

/// The program asks for a published port; the value says which backend it has.
pub const PEER_ASKED: u32 = 0;
/// The backend answers; the value says what the program asked for.
pub const PEER_ANSWERS: u32 = 1;

/// Key of `host_peers`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// The socket's cookie (`SO_COOKIE`).
    pub cookie: u64,
    pub addr: Addr,
    pub port: u16,
    /// Explicit padding, 0.
    pub reserved: u16,
    /// `PEER_*`.
    pub direction: u32,
}
assert_layout!(PeerKey, 32);

/// Value of `host_peers`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub addr: Addr,
    pub port: u16,
    /// Explicit padding, 0.
    pub reserved: u16,
    /// Of the published port, as in [`crate::maps::Flow`].
    pub slot: u32,
    pub generation: u32,
}
assert_layout!(Peer, 28);

/// Key of `host_asked`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AskedKey {
    /// The container's address and port.
    pub addr: Addr,
    pub port: u16,
    /// The host's port.
    pub host_port: u16,
}
assert_layout!(AskedKey, 20);

/// Value of `host_asked`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The host's address.
    pub addr: Addr,
    /// When it was asked last.
    pub seen: Ticks,
}
assert_layout!(Asked, 20);

/// An answer may come for so long, as of a flow (RFC 4787 REQ-5).
pub const ASKED_TICKS: Ticks = 120 * TICKS_PER_SECOND;
