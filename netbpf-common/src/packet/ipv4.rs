//! IPv4 (RFC 791).

use super::{Read, tuple::Ip};

/// Bytes of a header without options.
pub const LEN: usize = 20;
pub const TOTAL_LEN: usize = 2;
pub const ID: usize = 4;
pub const FRAGMENT: usize = 6;
pub const TTL: usize = 8;
pub const PROTOCOL: usize = 9;
pub const CHECKSUM: usize = 10;
pub const SRC: usize = 12;
pub const DST: usize = 16;

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Parses the header at `offset`.
#[inline(always)]
pub fn parse(packet: &(impl Read + ?Sized), offset: usize) -> Option<Ip<[u8; 4]>> {
    let b = packet.bytes::<LEN>(offset)?;
    if b[0] >> 4 != 4 {
        return None;
    }
    let header_len = (b[0] & 0x0f) as usize * 4;
    if header_len < LEN {
        return None;
    }
    let fragment = u16::from_be_bytes([b[6], b[7]]);
    Some(Ip {
        src: [b[12], b[13], b[14], b[15]],
        dst: [b[16], b[17], b[18], b[19]],
        protocol: b[9],
        hop_limit: b[8],
        total_len: u16::from_be_bytes([b[2], b[3]]),
        l4: offset + header_len,
        more_fragments: fragment & MORE_FRAGMENTS != 0,
        later_fragment: fragment & OFFSET_MASK != 0,
        dont_fragment: fragment & 0x4000 != 0,
        id: u32::from(u16::from_be_bytes([b[4], b[5]])),
        id_at: offset + ID,
        opaque: false,
    })
}

/// First byte of the loopback addresses (RFC 1122 section 3.2.1.3 (g)).
pub const LOOPBACK_NET: u8 = 127;

/// Multicast or limited broadcast.
#[inline(always)]
pub const fn is_multicast(a: [u8; 4]) -> bool {
    a[0] >> 4 == 14 || (a[0] == 255 && a[1] == 255 && a[2] == 255 && a[3] == 255)
}

/// Loopback, or "this network" 0/8 (RFC 1122 section 3.2.1.3).
#[inline(always)]
pub const fn is_martian(a: [u8; 4]) -> bool {
    a[0] == LOOPBACK_NET || a[0] == 0
}

/// 169.254/16 (RFC 3927).
#[inline(always)]
pub const fn is_link_local(a: [u8; 4]) -> bool {
    a[0] == 169 && a[1] == 254
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> [u8; 24] {
        let mut b = [0; 24];
        b[0] = 0x46;
        b[3] = 24;
        b[8] = 64;
        b[9] = 17;
        b[12..16].copy_from_slice(&[10, 0, 0, 1]);
        b[16..20].copy_from_slice(&[10, 0, 0, 2]);
        b
    }

    #[test]
    fn options_move_the_payload() {
        let ip = parse(&header()[..], 0).unwrap();
        assert_eq!((ip.l4, ip.protocol, ip.hop_limit), (24, 17, 64));
        assert_eq!(ip.dst, [10, 0, 0, 2]);
    }

    #[test]
    fn a_header_that_cannot_be_is_none() {
        let mut b = header();
        b[0] = 0x44;
        assert!(parse(&b[..], 0).is_none());
        b[0] = 0x65;
        assert!(parse(&b[..], 0).is_none());
        assert!(parse(&b[..19], 0).is_none());
    }

    #[test]
    fn only_an_offset_makes_a_later_fragment() {
        let mut b = header();
        b[6] = 0x20;
        let first = parse(&b[..], 0).unwrap();
        assert!(first.more_fragments && !first.later_fragment);
        b[7] = 1;
        assert!(parse(&b[..], 0).unwrap().later_fragment);
    }
}
