//! VXLAN (RFC 7348), and the congestion marks of a tunnel (RFC 6040).

use super::{IPPROTO_UDP, Read, eth, ipv4, ipv6};

/// Bytes of the VXLAN header.
pub const LEN: usize = 8;

/// Bytes of a UDP header.
const UDP_LEN: usize = 8;

/// Bytes in front of the packet inside, behind the outer Ethernet header: outer network
/// header, UDP, VXLAN, inner Ethernet header.
pub const OVERHEAD_V4: usize = ipv4::LEN + UDP_LEN + LEN + eth::LEN;
pub const OVERHEAD_V6: usize = ipv6::LEN + UDP_LEN + LEN + eth::LEN;

/// The identifier's flag (section 5); all other bits are to be ignored.
const HAS_VNI: u8 = 0x08;

/// The network identifier of the device that only listens; no network has it.
pub const RESERVED_VNI: u32 = 0x00ff_ffff;

/// The largest network identifier of a network.
pub const MAX_VNI: u32 = RESERVED_VNI - 1;

/// TTL and hop limit of what we send, as Linux has it.
const HOPS: u8 = 64;

/// The network identifier of the VXLAN header at `offset`.
#[inline(always)]
pub fn vni(packet: &(impl Read + ?Sized), offset: usize) -> Option<u32> {
    let b = packet.bytes::<LEN>(offset)?;
    if b[0] & HAS_VNI == 0 {
        return None;
    }
    Some(u32::from_be_bytes([0, b[4], b[5], b[6]]))
}

/// The UDP source port for a packet with that hash of its tuple: from the dynamic ports
/// (section 5), so that a network spreads tunnelled flows over its paths.
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    0xc000 | ((hash ^ (hash >> 16)) & 0x3fff) as u16
}

/// What differs from packet to packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Traffic class or type of service of the outer header.
    pub class: u8,
    /// Bytes from the inner network header on.
    pub payload: usize,
    pub sport: u16,
    pub dport: u16,
    pub vni: u32,
    /// Of the frame inside.
    pub dst_mac: eth::Mac,
    pub src_mac: eth::Mac,
    pub ethertype: u16,
}

/// UDP, VXLAN and the inner Ethernet header. The UDP checksum is 0, which tunnels may do
/// also over IPv6 (RFC 6935).
#[inline(always)]
const fn after_network(h: &Headers) -> [u8; UDP_LEN + LEN + eth::LEN] {
    let len = ((UDP_LEN + LEN + eth::LEN + h.payload) as u16).to_be_bytes();
    let (s, d, v) = (
        h.sport.to_be_bytes(),
        h.dport.to_be_bytes(),
        h.vni.to_be_bytes(),
    );
    let e = eth::header(h.dst_mac, h.src_mac, h.ethertype);
    [
        s[0], s[1], d[0], d[1], len[0], len[1], 0, 0, HAS_VNI, 0, 0, 0, v[1], v[2], v[3], 0, e[0],
        e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], e[9], e[10], e[11], e[12], e[13],
    ]
}

/// All of it over IPv4, not to be fragmented (section 4.3).
#[inline(always)]
pub fn over_ipv4(src: [u8; 4], dst: [u8; 4], h: &Headers) -> [u8; OVERHEAD_V4] {
    let len = ((OVERHEAD_V4 + h.payload) as u16).to_be_bytes();
    let mut b = [0; OVERHEAD_V4];
    b[0] = 0x45;
    b[1] = h.class;
    b[2] = len[0];
    b[3] = len[1];
    b[6] = 0x40;
    b[8] = HOPS;
    b[9] = IPPROTO_UDP;
    b[12..16].copy_from_slice(&src);
    b[16..20].copy_from_slice(&dst);
    let word = |i: usize| u32::from(u16::from_be_bytes([b[i], b[i + 1]]));
    let sum = word(0) + word(2) + word(6) + word(8) + word(12) + word(14) + word(16) + word(18);
    let check = super::checksum::finish(sum).to_be_bytes();
    b[10] = check[0];
    b[11] = check[1];
    b[ipv4::LEN..].copy_from_slice(&after_network(h));
    b
}

/// All of it over IPv6.
#[inline(always)]
pub fn over_ipv6(src: [u8; 16], dst: [u8; 16], h: &Headers) -> [u8; OVERHEAD_V6] {
    let len = ((OVERHEAD_V6 - ipv6::LEN + h.payload) as u16).to_be_bytes();
    let mut b = [0; OVERHEAD_V6];
    b[0] = 0x60 | (h.class >> 4);
    b[1] = h.class << 4;
    b[4] = len[0];
    b[5] = len[1];
    b[6] = IPPROTO_UDP;
    b[7] = HOPS;
    b[8..24].copy_from_slice(&src);
    b[24..40].copy_from_slice(&dst);
    b[ipv6::LEN..].copy_from_slice(&after_network(h));
    b
}

/// The two bits of a traffic class that are about congestion (RFC 3168).
pub const ECN_MASK: u8 = 3;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CONGESTED: u8 = 3;

/// What becomes of a packet that leaves a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// It keeps its own mark.
    As,
    /// It gets this one.
    Now(u8),
    /// It is dropped: the tunnel says congested, and its sender would not understand.
    Dropped,
}

/// Puts the marks together where a packet leaves a tunnel (RFC 6040, figure 4).
#[inline(always)]
pub const fn leave_tunnel(inner: u8, outer: u8) -> Marked {
    match (inner & ECN_MASK, outer & ECN_MASK) {
        (NOT_ECT, CONGESTED) => Marked::Dropped,
        (ECT_0 | ECT_1, CONGESTED) => Marked::Now(CONGESTED),
        (ECT_0, ECT_1) => Marked::Now(ECT_1),
        _ => Marked::As,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: Headers = Headers {
        class: 2,
        payload: 84,
        sport: 0xc123,
        dport: 4789,
        vni: 0x01_02_03,
        dst_mac: [2, 0, 0, 0, 0, 2],
        src_mac: [2, 0, 0, 0, 0, 1],
        ethertype: eth::TYPE_IPV4,
    };

    #[test]
    fn what_is_written_is_read_back() {
        let b = over_ipv4([192, 0, 2, 1], [192, 0, 2, 2], &HEADERS);
        let ip = ipv4::parse(&b[..], 0).unwrap();
        assert_eq!((ip.src, ip.dst), ([192, 0, 2, 1], [192, 0, 2, 2]));
        assert_eq!((ip.protocol, ip.total_len), (IPPROTO_UDP, 50 + 84));
        assert!(ip.dont_fragment);
        assert_eq!(super::super::checksum::sum(&b[..ipv4::LEN], 0), 0xffff);
        assert_eq!(vni(&b[..], 28), Some(0x01_02_03));
        assert_eq!(b[48..], eth::TYPE_IPV4.to_be_bytes());

        let b = over_ipv6([1; 16], [2; 16], &HEADERS);
        let ip = ipv6::parse(&b[..], 0).unwrap();
        assert_eq!((ip.src, ip.dst, ip.l4), ([1; 16], [2; 16], 40));
        assert_eq!((ip.protocol, ip.total_len), (IPPROTO_UDP, 70 + 84));
        assert_eq!((b[0] << 4 | b[1] >> 4) & ECN_MASK, 2);
        assert_eq!(vni(&b[..], 48), Some(0x01_02_03));
    }

    #[test]
    fn without_its_flag_there_is_no_identifier() {
        assert_eq!(vni(&[0, 0, 0, 0, 0, 0, 1, 0][..], 0), None);
        assert_eq!(vni(&[8, 0, 0, 0, 0, 0, 1][..], 0), None);
    }

    #[test]
    fn source_ports_are_dynamic_ones() {
        for hash in [0, 1, 0xffff_ffff, 0x1234_5678] {
            assert!(source_port(hash) >= 49_152);
        }
    }

    #[test]
    fn marks_are_put_together_as_rfc_6040_says() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer in the same order.
        let order = [NOT_ECT, ECT_0, ECT_1, CONGESTED];
        let wanted = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CONGESTED)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CONGESTED)],
            [Some(CONGESTED); 4],
        ];
        for (i, inner) in order.into_iter().enumerate() {
            for (o, outer) in order.into_iter().enumerate() {
                let left = match leave_tunnel(inner, outer) {
                    Marked::As => Some(inner),
                    Marked::Now(mark) => Some(mark),
                    Marked::Dropped => None,
                };
                assert_eq!(left, wanted[i][o], "inner {inner}, outer {outer}");
            }
        }
    }
}
