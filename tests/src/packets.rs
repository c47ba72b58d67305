//! Frames with right checksums, for rows and for packet sockets. One builder
//! for both families: the addresses say which.

mod fragments;
mod sums;
mod whole;

pub use fragments::fragments;
pub use sums::{Rest, repair, rests};
pub use whole::{Body, Whole};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, Ipv4Header,
    Ipv6Header, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpOptionElement, icmpv4, icmpv6,
};

pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];

/// From whom to whom a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub from_mac: Mac,
    pub to_mac: Mac,
    pub from: IpAddr,
    pub to: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
}

/// Numbers of a TCP segment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment<'a> {
    /// Of `S`, `A`, `F`, `R`.
    pub flags: &'a str,
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
    /// The option of that name.
    pub scale: Option<u8>,
}

impl Way {
    pub fn new(from_mac: Mac, to_mac: Mac, from: IpAddr, to: IpAddr) -> Way {
        Way {
            from_mac,
            to_mac,
            from,
            to,
            hops: 64,
        }
    }

    pub fn hops(self, hops: u8) -> Way {
        Way { hops, ..self }
    }

    fn headers(&self) -> PacketBuilderStep<IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.from_mac, self.to_mac);
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ethernet.ipv4(from.octets(), to.octets(), self.hops)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ethernet.ipv6(from.octets(), to.octets(), self.hops)
            }
            mixed => panic!("addresses of two families: {mixed:?}"),
        }
    }

    pub fn udp(&self, from_port: u16, to_port: u16, payload: &[u8]) -> Vec<u8> {
        let builder = self.headers().udp(from_port, to_port);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("a packet");
        frame
    }

    /// A TCP segment; `flags` of `S`, `A`, `F`, `R`.
    pub fn tcp(&self, from_port: u16, to_port: u16, flags: &str, payload: &[u8]) -> Vec<u8> {
        let mut builder = self.headers().tcp(from_port, to_port, 1000, 64_240);
        for flag in flags.chars() {
            builder = match flag {
                'S' => builder.syn(),
                'A' => builder.ack(2000),
                'F' => builder.fin(),
                'R' => builder.rst(),
                other => panic!("no TCP flag {other}"),
            };
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("a packet");
        frame
    }

    /// A TCP segment of those numbers.
    pub fn segment(&self, ports: (u16, u16), segment: &Segment) -> Vec<u8> {
        let mut builder = self
            .headers()
            .tcp(ports.0, ports.1, segment.seq, segment.window);
        builder = match segment.flags.contains('S') {
            true => builder.syn(),
            false => builder,
        };
        builder = match segment.flags.contains('F') {
            true => builder.fin(),
            false => builder,
        };
        builder = match segment.flags.contains('R') {
            true => builder.rst(),
            false => builder,
        };
        builder = match segment.flags.contains('A') {
            true => builder.ack(segment.ack),
            false => builder,
        };
        if let Some(scale) = segment.scale {
            let options = [
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(scale),
            ];
            builder = builder.options(&options).expect("they fit");
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).expect("a packet");
        frame
    }

    /// An SCTP packet with one chunk of that type; its checksum, which covers no
    /// address, is whatever it is.
    pub fn sctp(&self, from_port: u16, to_port: u16, chunk: u8) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend(from_port.to_be_bytes());
        payload.extend(to_port.to_be_bytes());
        // Verification tag, checksum, chunk.
        payload.extend([0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, chunk, 0, 0, 4]);
        self.protocol(132, &payload)
    }

    /// The segment that resets a connection; as an answer to one that had no
    /// acknowledgement it has one itself.
    pub fn reset(&self, from_port: u16, to_port: u16, seq: u32, ack: Option<u32>) -> Vec<u8> {
        let mut builder = self.headers().tcp(from_port, to_port, seq, 0).rst();
        if let Some(ack) = ack {
            builder = builder.ack(ack);
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).expect("a packet");
        frame
    }

    pub fn echo_request(&self, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        self.echo(true, id, seq, payload)
    }

    pub fn echo_reply(&self, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        self.echo(false, id, seq, payload)
    }

    fn echo(&self, request: bool, id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        let header = etherparse::IcmpEchoHeader { id, seq };
        let mut frame = Vec::new();
        let headers = self.headers();
        let written = match (self.from.is_ipv4(), request) {
            (true, true) => headers
                .icmpv4(Icmpv4Type::EchoRequest(header))
                .write(&mut frame, payload),
            (true, false) => headers
                .icmpv4(Icmpv4Type::EchoReply(header))
                .write(&mut frame, payload),
            (false, true) => headers
                .icmpv6(Icmpv6Type::EchoRequest(header))
                .write(&mut frame, payload),
            (false, false) => headers
                .icmpv6(Icmpv6Type::EchoReply(header))
                .write(&mut frame, payload),
        };
        written.expect("a packet");
        frame
    }

    /// An IP packet of any protocol.
    pub fn protocol(&self, number: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let ether_type = if self.from.is_ipv4() {
            EtherType::IPV4
        } else {
            EtherType::IPV6
        };
        let ethernet = Ethernet2Header {
            source: self.from_mac,
            destination: self.to_mac,
            ether_type,
        };
        ethernet.write(&mut frame).expect("a header");
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = payload.len().try_into().expect("below 64 KiB");
                let number = IpNumber(number);
                Ipv4Header::new(length, self.hops, number, from.octets(), to.octets())
                    .expect("a header")
                    .write(&mut frame)
                    .expect("a header");
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6Header {
                payload_length: payload.len().try_into().expect("below 64 KiB"),
                next_header: IpNumber(number),
                hop_limit: self.hops,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            }
            .write(&mut frame)
            .expect("a header"),
            mixed => panic!("addresses of two families: {mixed:?}"),
        }
        frame.extend(payload);
        frame
    }

    /// An ICMP message of the family by its numbers; `head` are the four bytes after
    /// the checksum.
    pub fn icmp(&self, kind: u8, code: u8, head: [u8; 4], body: &[u8]) -> Vec<u8> {
        let headers = self.headers();
        let mut frame = Vec::new();
        let written = match self.from {
            IpAddr::V4(_) => headers.icmpv4_raw(kind, code, head).write(&mut frame, body),
            IpAddr::V6(_) => headers.icmpv6_raw(kind, code, head).write(&mut frame, body),
        };
        written.expect("a packet");
        frame
    }
}

/// "Who has `wanted`? Tell `from`."
pub fn arp_request(from_mac: Mac, from: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    arp(1, BROADCAST, (from_mac, from), ([0; 6], wanted))
}

/// "`from` is at `from_mac`", told to `to`.
pub fn arp_reply(from_mac: Mac, from: Ipv4Addr, to_mac: Mac, to: Ipv4Addr) -> Vec<u8> {
    arp(2, to_mac, (from_mac, from), (to_mac, to))
}

fn arp(operation: u8, to: Mac, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(to);
    frame.extend(sender.0);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    for (mac, address) in [sender, target] {
        frame.extend(mac);
        frame.extend(address.octets());
    }
    frame
}

/// The multicast address that a solicitation for an address goes to (RFC 4291
/// section 2.7.1), and its MAC.
pub fn solicited_node(wanted: Ipv6Addr) -> (Mac, Ipv6Addr) {
    let [.., a, b, c] = wanted.octets();
    let low = u16::from_be_bytes([b, c]);
    let address = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low);
    ([0x33, 0x33, 0xff, a, b, c], address)
}

/// "Who has `wanted`?", with the asker's MAC as option.
pub fn neighbour_solicitation(from_mac: Mac, from: Ipv6Addr, wanted: Ipv6Addr) -> Vec<u8> {
    let (to_mac, to) = solicited_node(wanted);
    let mut body = wanted.octets().to_vec();
    body.extend([1, 1]);
    body.extend(from_mac);
    Way::new(from_mac, to_mac, from.into(), to.into())
        .hops(255)
        .icmp(135, 0, [0; 4], &body)
}

/// "`claimed` is at `from_mac`", sent by `from`; solicited and override.
pub fn neighbour_advertisement(
    from_mac: Mac,
    from: Ipv6Addr,
    to_mac: Mac,
    to: Ipv6Addr,
    claimed: Ipv6Addr,
) -> Vec<u8> {
    let mut body = claimed.octets().to_vec();
    body.extend([2, 1]);
    body.extend(from_mac);
    Way::new(from_mac, to_mac, from.into(), to.into())
        .hops(255)
        .icmp(136, 0, [0x60, 0, 0, 0], &body)
}

/// A frame as the payload of VXLAN (RFC 7348).
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut payload = vec![0x08, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(frame);
    payload
}

/// Gives a packet a type of service or traffic class.
pub fn with_class(mut frame: Vec<u8>, class: u8) -> Vec<u8> {
    if frame[14] >> 4 == 4 {
        frame[15] = class;
        frame[24..26].fill(0);
        let header: Vec<u32> = frame[14..34]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .collect();
        let mut sum: u32 = header.iter().sum();
        sum = (sum & 0xffff) + (sum >> 16);
        let check = !(((sum & 0xffff) + (sum >> 16)) as u16);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        frame[14] = 0x60 | class >> 4;
        frame[15] = class << 4 | frame[15] & 0x0f;
    }
    frame
}

/// The same frame with an 802.1Q tag.
pub fn vlan_tagged(frame: &[u8], id: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0x00]);
    tagged.extend(id.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// Whether a frame holds a UDP datagram with this payload.
pub fn has_payload(frame: &[u8], payload: &[u8]) -> bool {
    frame.windows(payload.len()).any(|part| part == payload)
}

/// Fails when a checksum of the frame is wrong: IPv4 header, TCP, UDP, ICMP.
#[track_caller]
pub fn assert_checksums(frame: &[u8]) {
    use etherparse::{NetSlice, TransportSlice};
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        panic!("not a packet:\n{}", describe(frame));
    };
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        assert_eq!(
            header.header_checksum,
            header.calc_header_checksum(),
            "IPv4 header checksum:\n{}",
            describe(frame)
        );
    }
    let (found, right) = match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => (
            tcp.checksum(),
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
        ),
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => (
            tcp.checksum(),
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
        ),
        // None, as VXLAN has it.
        (_, Some(TransportSlice::Udp(udp))) if udp.checksum() == 0 => return,
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => (
            udp.checksum(),
            udp.to_header()
                .calc_checksum_ipv4(&ip.header().to_header(), udp.payload()),
        ),
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => (
            udp.checksum(),
            udp.to_header()
                .calc_checksum_ipv6(&ip.header().to_header(), udp.payload()),
        ),
        (_, Some(TransportSlice::Icmpv4(icmp))) => (
            icmp.checksum(),
            Ok(icmp.icmp_type().calc_checksum(icmp.payload())),
        ),
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header();
            let right = icmp.icmp_type().calc_checksum(
                header.source(),
                header.destination(),
                icmp.payload(),
            );
            (icmp.checksum(), right)
        }
        _ => return,
    };
    let right = right.expect("a length that fits");
    assert_eq!(found, right, "transport checksum:\n{}", describe(frame));
}

/// A frame for people: what it is, then its bytes.
pub fn describe(frame: &[u8]) -> String {
    let mut text = summary(frame).unwrap_or_else(|| "not a frame".into()) + "\n";
    for (number, line) in frame.chunks(16).enumerate() {
        let bytes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("  {:04x}  {}\n", number * 16, bytes.join(" "));
    }
    text
}

/// MACs, addresses with hop limit, ports or ICMP type and code.
fn summary(frame: &[u8]) -> Option<String> {
    use etherparse::{NetSlice, TransportSlice};
    let mac = |range: std::ops::Range<usize>| -> Option<String> {
        let bytes = frame.get(range)?.iter().map(|byte| format!("{byte:02x}"));
        Some(bytes.collect::<Vec<_>>().join(":"))
    };
    let mut text = format!("{} > {}", mac(6..12)?, mac(0..6)?);
    let packet = match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => packet,
        Err(error) => return Some(format!("{text} malformed: {error}")),
    };
    let hops = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => ip.header().ttl(),
        Some(NetSlice::Ipv6(ip)) => ip.header().hop_limit(),
        _ => return Some(text + &format!(" type {:02x?}", frame.get(12..14)?)),
    };
    let (from, to) = addresses(frame)?;
    text += &format!(", {from} > {to} hops {hops}");
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = [
                (tcp.syn(), "S"),
                (tcp.ack(), "A"),
                (tcp.fin(), "F"),
                (tcp.rst(), "R"),
            ];
            let flags: String = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
            let (from, to) = (tcp.source_port(), tcp.destination_port());
            text += &format!(", tcp {from} > {to} {flags}");
        }
        Some(TransportSlice::Udp(udp)) => {
            text += &format!(", udp {} > {}", udp.source_port(), udp.destination_port());
        }
        _ => {}
    }
    if let Some((kind, code)) = icmp_type_code(frame) {
        text += &format!(", icmp {kind}/{code}");
    }
    Some(text)
}

/// ICMP "time exceeded", "unreachable" … as (type, code), of either family.
pub fn icmp_type_code(frame: &[u8]) -> Option<(u8, u8)> {
    use etherparse::TransportSlice;
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Icmpv4(icmp) => Some((icmp.type_u8(), icmp.code_u8())),
        TransportSlice::Icmpv6(icmp) => Some((icmp.type_u8(), icmp.code_u8())),
        _ => None,
    }
}

/// Source and destination address of an IP packet.
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    // Lax: of a first fragment the transport header says more than there is.
    use etherparse::{LaxNetSlice, LaxSlicedPacket};
    match LaxSlicedPacket::from_ethernet(frame).ok()?.net? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ))
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
            ))
        }
        LaxNetSlice::Arp(_) => None,
    }
}

/// Types of [`icmp_type_code`].
pub const TIME_EXCEEDED: [u8; 2] = [icmpv4::TYPE_TIME_EXCEEDED, icmpv6::TYPE_TIME_EXCEEDED];
pub const UNREACHABLE: [u8; 2] = [icmpv4::TYPE_DEST_UNREACH, icmpv6::TYPE_DST_UNREACH];

/// A first fragment that ends within the TCP header.
pub fn tiny_fragment(way: &Way) -> Vec<u8> {
    let mut packet = way.tcp(1000, 80, "S", b"");
    packet.truncate(14 + 20 + 8);
    packet[16..18].copy_from_slice(&28_u16.to_be_bytes());
    packet[20] |= 0x20;
    packet
}

/// A TCP segment behind more destination options than are followed (RFC 8200
/// section 4.6).
pub fn behind_options(way: &Way) -> Vec<u8> {
    let mut packet = way.tcp(1000, 80, "S", b"");
    let option = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let chain = [option(60), option(60), option(60), option(60), option(6)].concat();
    packet[20] = 60;
    let length = u16::from_be_bytes([packet[18], packet[19]]) + chain.len() as u16;
    packet[18..20].copy_from_slice(&length.to_be_bytes());
    packet.splice(54..54, chain);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    fn ways() -> [Way; 2] {
        let ip = |text: &str| text.parse().expect("an address");
        [
            Way::new(ONE, OTHER, ip("192.0.2.1"), ip("192.0.2.2")),
            Way::new(ONE, OTHER, ip("2001:db8::1"), ip("2001:db8::2")),
        ]
    }

    #[test]
    fn what_is_built_has_right_checksums() {
        for way in ways() {
            assert_checksums(&way.udp(1000, 2000, b"hello"));
            assert_checksums(&way.tcp(1000, 80, "S", b""));
            assert_checksums(&way.echo_request(7, 1, b"abc"));
            assert_checksums(&way.echo_reply(7, 1, b"abc"));
        }
    }

    #[test]
    fn a_solicitation_goes_to_the_multicast_address_of_what_it_asks_for() {
        let (mac, address) = solicited_node("fd10:1::2:3".parse().expect("an address"));
        assert_eq!(mac, [0x33, 0x33, 0xff, 2, 0, 3]);
        assert_eq!(address.to_string(), "ff02::1:ff02:3");
        let wanted = "fd10:1::1".parse().expect("an address");
        let from = "fd10:1::2".parse().expect("an address");
        assert_checksums(&neighbour_solicitation(ONE, from, wanted));
    }
}
