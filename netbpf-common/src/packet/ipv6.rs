//! IPv6 (RFC 8200).

use super::{IPPROTO_FRAGMENT, Read, tuple::Ip};

pub const LEN: usize = 40;
pub const PAYLOAD_LEN: usize = 4;
pub const NEXT_HEADER: usize = 6;
pub const HOP_LIMIT: usize = 7;
pub const SRC: usize = 8;
pub const DST: usize = 24;

/// Extension headers that are followed; a longer chain is given up on.
pub const MAX_EXTENSIONS: usize = 4;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

/// Parses the header at `offset` and the extension headers after it.
#[inline(always)]
pub fn parse(packet: &(impl Read + ?Sized), offset: usize) -> Option<Ip<[u8; 16]>> {
    let b = packet.bytes::<LEN>(offset)?;
    if b[0] >> 4 != 6 {
        return None;
    }
    let mut src = [0; 16];
    let mut dst = [0; 16];
    src.copy_from_slice(&b[SRC..SRC + 16]);
    dst.copy_from_slice(&b[DST..DST + 16]);
    let mut ip = Ip {
        src,
        dst,
        protocol: b[NEXT_HEADER],
        hop_limit: b[HOP_LIMIT],
        total_len: u16::from_be_bytes([b[4], b[5]]).saturating_add(LEN as u16),
        l4: offset + LEN,
        more_fragments: false,
        later_fragment: false,
        dont_fragment: true,
        id: 0,
        id_at: offset,
        opaque: true,
    };
    for _ in 0..MAX_EXTENSIONS {
        match ip.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let Some([next, len]) = packet.bytes::<2>(ip.l4) else {
                    return Some(ip);
                };
                ip.protocol = next;
                ip.l4 += 8 + len as usize * 8;
            }
            IPPROTO_FRAGMENT => {
                let Some(h) = packet.bytes::<8>(ip.l4) else {
                    return Some(ip);
                };
                let field = u16::from_be_bytes([h[2], h[3]]);
                ip.protocol = h[0];
                ip.id = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
                ip.id_at = ip.l4 + 4;
                ip.l4 += 8;
                ip.more_fragments = field & 1 != 0;
                ip.later_fragment = field >> 3 != 0;
                if ip.later_fragment {
                    ip.opaque = false;
                    return Some(ip);
                }
            }
            _ => break,
        }
    }
    ip.opaque = matches!(
        ip.protocol,
        HOP_BY_HOP | ROUTING | DESTINATION | IPPROTO_FRAGMENT
    );
    Some(ip)
}

#[inline(always)]
pub const fn is_multicast(a: [u8; 16]) -> bool {
    a[0] == 0xff
}

/// `::` or `::1`, which never stand on a wire (RFC 4291 section 2.5.2, 2.5.3),
/// and v4-mapped addresses, which would alias our keys.
#[inline(always)]
pub fn is_martian(a: [u8; 16]) -> bool {
    let high = u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let low = u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    high == 0 && (low <= 1 || low >> 32 == 0xffff)
}

/// fe80::/10.
#[inline(always)]
pub const fn is_link_local(a: [u8; 16]) -> bool {
    a[0] == 0xfe && a[1] & 0xc0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut b = vec![0; LEN];
        b[0] = 0x60;
        b[NEXT_HEADER] = next;
        b[HOP_LIMIT] = 3;
        b.extend_from_slice(rest);
        b
    }

    #[test]
    fn extension_headers_are_followed() {
        let b = packet(
            0,
            &[
                60, 0, 0, 0, 0, 0, 0, 0, 17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        );
        let ip = parse(&b[..], 0).unwrap();
        assert_eq!((ip.protocol, ip.l4), (17, 40 + 8 + 16));
    }

    #[test]
    fn a_later_fragment_ends_the_chain() {
        let b = packet(44, &[17, 0, 0, 9, 0, 0, 0, 1]);
        let ip = parse(&b[..], 0).unwrap();
        assert!(ip.later_fragment && ip.more_fragments);
        assert_eq!(ip.protocol, 17);
    }

    #[test]
    fn a_chain_too_long_or_cut_short_is_opaque() {
        let header = [60, 0, 0, 0, 0, 0, 0, 0];
        let long = packet(60, &header.repeat(5));
        assert!(parse(&long[..], 0).unwrap().opaque);
        let short = packet(60, &[]);
        assert!(parse(&short[..], 0).unwrap().opaque);
        let four = packet(
            60,
            &[header, header, header, [17, 0, 0, 0, 0, 0, 0, 0]].concat(),
        );
        assert!(!parse(&four[..], 0).unwrap().opaque);
    }

    #[test]
    fn mapped_and_loopback_addresses_are_martians() {
        assert!(is_martian([0; 16]));
        assert!(is_martian(crate::addr::mapped([1, 2, 3, 4])));
        let mut one = [0; 16];
        one[15] = 1;
        assert!(is_martian(one));
        one[0] = 0xfd;
        assert!(!is_martian(one));
    }
}
