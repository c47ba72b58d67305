//! What holds for any bytes whatever.

use proptest::prelude::*;

use super::{arp, checksum, eth, ipv4, ipv6, tuple};

proptest! {
    /// Parsing ends, and nothing that it says lies before the network header.
    #[test]
    fn any_bytes_are_parsed(bytes in prop::collection::vec(any::<u8>(), 0..200), offset in 0_usize..40) {
        let packet = &bytes[..];
        let _ = arp::parse(packet, offset);
        if let Some(ip) = ipv4::parse(packet, offset) {
            prop_assert!(ip.l4 >= offset + ipv4::LEN && ip.l4 <= offset + 60);
            let _ = tuple::transport(packet, ip.protocol, ip.l4);
        }
        if let Some(ip) = ipv6::parse(packet, offset) {
            prop_assert!(ip.l4 >= offset + ipv6::LEN);
            prop_assert!(ip.l4 <= offset + ipv6::LEN + ipv6::MAX_EXTENSIONS * 2048);
            let _ = tuple::transport(packet, ip.protocol, ip.l4);
        }
    }

    /// A header with the checksum in it sums to all ones (RFC 1071).
    #[test]
    fn a_checksum_proves_its_header(mut header: [u8; 20]) {
        header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].fill(0);
        let check = checksum::ipv4_header(&header);
        header[ipv4::CHECKSUM..ipv4::CHECKSUM + 2].copy_from_slice(&check.to_be_bytes());
        prop_assert_eq!(checksum::sum(&header, 0), 0xffff);
    }

    /// A reply to an echo request, or to a datagram, has the key turned round.
    #[test]
    fn answers_have_the_key_turned_round(id: u16, port: u16) {
        let (i, p) = (id.to_be_bytes(), port.to_be_bytes());
        let echo = |kind: u8| [kind, 0, 0, 0, i[0], i[1], 0, 1];
        let udp = |a: [u8; 2], b: [u8; 2]| [a[0], a[1], b[0], b[1], 0, 8, 0, 0];
        for (protocol, there, back) in [(1, echo(8), echo(0)), (17, udp(i, p), udp(p, i))] {
            let there = tuple::transport(&there[..], protocol, 0).unwrap();
            let back = tuple::transport(&back[..], protocol, 0).unwrap();
            prop_assert_eq!((there.sport, there.dport), (back.dport, back.sport));
        }
    }

    #[test]
    fn an_arp_packet_survives(operation: u16, macs: [[u8; 6]; 2], ips: [[u8; 4]; 2]) {
        let packet = arp::Arp {
            operation,
            sender_mac: macs[0],
            sender: ips[0],
            target_mac: macs[1],
            target: ips[1],
        };
        let frame = [&eth::header(macs[1], macs[0], eth::TYPE_ARP)[..], &packet.to_bytes()].concat();
        prop_assert_eq!(arp::parse(&frame[..], eth::LEN), Some(packet));
    }
}
