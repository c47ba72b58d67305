//! Connections of the host's own processes to published ports that were translated
//! in `connect` and `sendmsg`, before there was a packet.
//!
//! `host_conns`: of connected TCP sockets, one each; it goes with the socket.
//! `host_peers`: of unconnected UDP sockets, one for each port that they talk to, in
//! both directions; LRU.
//! `host_asked`: at which address of the host, other than its gateway's, a container has
//! asked a program of the host by UDP; LRU.
//! `handed`: what containers have asked the host for that is not ours to answer, so that an
//! answer that others translate (Docker's DNAT) is told from what they forward unasked; LRU.
//! `answered`: the same of what was answered so. Most questions never are, as the host answers
//! itself; they are many, and push out only their like.

use crate::{
    addr::{self, Addr},
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

/// Key of both. Each question has two entries: of its answer as it arrives, and of its
/// answer as others make it, which comes from the address and port that were asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandedKey {
    /// The container's address and port.
    pub addr: Addr,
    /// The host's address that was asked; unspecified: of whom the answer is from is not
    /// known yet.
    pub host: Addr,
    pub port: u16,
    /// 0 with an unspecified address.
    pub host_port: u16,
    pub protocol: u8,
    /// Explicit padding, 0.
    pub reserved: [u8; 3],
}
assert_layout!(HandedKey, 40);

impl HandedKey {
    /// Of the answer to the same question before it is translated.
    #[inline(always)]
    pub fn from_anybody(self) -> HandedKey {
        HandedKey {
            host: addr::ANY,
            host_port: 0,
            ..self
        }
    }
}

/// Value of both.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// When it was asked last; in `answered`, when it was answered.
    pub seen: Ticks,
    /// Who has asked: the next one with the address has not.
    pub endpoint: u32,
}
assert_layout!(Handed, 8);

/// Entries of each table: two for each question.
pub const HANDED: u32 = 16384;

/// An answer may come for so long, as of a flow (RFC 4787 REQ-5). Not less, although a tick is
/// no whole part of a second, and that a question was asked is noted once a second.
pub const ASKED_TICKS: Ticks = 121 * (TICKS_PER_SECOND + 1);

/// The same of what is no datagram (RFC 5382 REQ-5).
pub const CONNECTION_TICKS: Ticks = 7441 * (TICKS_PER_SECOND + 1);
