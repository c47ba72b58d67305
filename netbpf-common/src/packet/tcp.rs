//! TCP (RFC 9293) and UDP (RFC 768): what a translation touches.

pub const FIN: u8 = 1 << 0;
pub const SYN: u8 = 1 << 1;
pub const RST: u8 = 1 << 2;
pub const ACK: u8 = 1 << 4;

/// Offsets within the header.
pub const SPORT: usize = 0;
pub const DPORT: usize = 2;
pub const FLAGS: usize = 13;
pub const CHECKSUM: usize = 16;
pub const UDP_CHECKSUM: usize = 6;
