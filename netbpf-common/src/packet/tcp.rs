//! TCP (RFC 9293) and UDP (RFC 768): what a translation touches.

pub const FIN: u8 = 1 << 0;
pub const SYN: u8 = 1 << 1;
pub const RST: u8 = 1 << 2;
pub const ACK: u8 = 1 << 4;

/// Bytes of a header without options.
pub const LEN: usize = 20;

/// Offsets within the header.
pub const SPORT: usize = 0;
pub const DPORT: usize = 2;
/// Header length in words of four bytes, in the upper half of the byte.
pub const OFFSET: usize = 12;
pub const FLAGS: usize = 13;
pub const CHECKSUM: usize = 16;
pub const UDP_CHECKSUM: usize = 6;
