//! The record of the `events` ring buffer.

use crate::{addr::Addr, assert_layout};

/// A packet was dropped; `reason` says why.
pub const EVENT_DROP: u8 = 1;
/// A flow began; both tuples are given.
pub const EVENT_NEW: u8 = 2;
/// A flow ended; both tuples are given, `reason` says how.
pub const EVENT_CLOSE: u8 = 3;

/// Both sides of a TCP connection have closed it.
pub const CLOSE_FIN: u8 = 1;
/// One side of a TCP connection has reset it.
pub const CLOSE_RESET: u8 = 2;
/// No packet came for as long as its time-out; said by the daemon.
pub const CLOSE_TIMEOUT: u8 = 3;
/// Its published port was taken back; said by the daemon.
pub const CLOSE_UNPUBLISHED: u8 = 4;
/// Its endpoint is no more; said by the daemon.
pub const CLOSE_DETACHED: u8 = 5;
/// It was forgotten on request; said by the daemon.
pub const CLOSE_FLUSHED: u8 = 6;

/// One record, of fixed size. Written only while `config.events` is not 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// `EVENT_*`.
    pub event: u8,
    /// Number of the [`crate::drop::DropReason`] of drops, `CLOSE_*` of ends, else 0.
    pub reason: u8,
    /// 4, 6, or 0 for what is neither.
    pub family: u8,
    pub protocol: u8,
    /// `KIND_*` of the flow, else 0.
    pub kind: u8,
    pub reserved: [u8; 3],
    /// Device that the packet came by.
    pub ifindex: u32,
    /// Endpoint, 0 when none is known.
    pub endpoint: u32,
    /// Length of the packet in bytes.
    pub len: u32,
    /// The packet's tuple as it came.
    pub sport: u16,
    pub dport: u16,
    pub src: Addr,
    pub dst: Addr,
    /// The tuple that it leaves with; 0 for drops.
    pub new_src: Addr,
    pub new_dst: Addr,
    pub new_sport: u16,
    pub new_dport: u16,
    pub reserved2: u32,
}
assert_layout!(Event, 104);
