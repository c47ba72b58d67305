//! SCTP (RFC 9260): what begins an association.

/// Offset of the first chunk's type, behind the common header.
pub const CHUNK: usize = 12;

/// Chunk type INIT.
pub const INIT: u8 = 1;
