//! `endpoint_stats` (per CPU, by endpoint index), `drops` (per CPU, by the
//! number of the reason) and `endpoint_drops`.

use crate::assert_layout;

/// Value of `endpoint_stats`. All that the container's own device has sent is `tx` and
/// `refused`, all that it has got `rx` and `answer`: apart, as only the first of each was
/// forwarded. Bytes count the Ethernet header, a GSO packet counts as its segments. Index
/// 0 is no endpoint's: it is the sum of those that are no more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    /// Sent by the container or to it, and dropped; a GSO packet is one.
    pub dropped_packets: u64,
    /// Sent by the container, and dropped or answered by us.
    pub refused_packets: u64,
    pub refused_bytes: u64,
    /// Our answers to what it has sent: ARP, neighbour discovery, ICMP errors, resets.
    pub answer_packets: u64,
    pub answer_bytes: u64,
}
assert_layout!(EndpointStats, 72);

/// Key of `endpoint_drops`, whose value is a count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DropKey {
    /// Index in `endpoint_stats`.
    pub endpoint: u32,
    /// Number of the [`crate::drop::DropReason`].
    pub reason: u32,
}
assert_layout!(DropKey, 8);
