//! Packets by their parts, with every checksum worked out anew from what is in them: what
//! a translated packet has to be, byte by byte.

use std::net::IpAddr;

use netbpf_common::packet::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP,
    checksum::{finish, ipv4_header, sum},
    eth,
};

use super::Way;

/// Options of IPv6 for the destination.
const DESTINATION: u8 = 60;

/// An IP packet behind an Ethernet header.
#[derive(Clone, Debug)]
pub struct Whole {
    pub way: Way,
    /// Type of service or traffic class.
    pub class: u8,
    /// Identification of IPv4, flow label of IPv6.
    pub id: u16,
    /// IPv4 alone can be without.
    pub dont_fragment: bool,
    /// Words of 4 bytes of IPv4 options, of 8 of IPv6 destination options.
    pub options: u8,
    pub body: Body,
}

/// What is behind the network header.
#[derive(Clone, Debug)]
pub enum Body {
    Tcp {
        ports: (u16, u16),
        flags: u8,
        seq: u32,
        ack: u32,
        window: u16,
        /// Words of 4 bytes.
        options: u8,
        payload: Vec<u8>,
    },
    Udp {
        ports: (u16, u16),
        /// IPv4 alone can be without.
        summed: bool,
        payload: Vec<u8>,
    },
    Echo {
        request: bool,
        id: u16,
        seq: u16,
        payload: Vec<u8>,
    },
    /// An ICMP message by its numbers, what follows the checksum, and what it quotes.
    Error {
        kind: u8,
        code: u8,
        head: [u8; 4],
        quote: Vec<u8>,
    },
    /// Whose checksum covers no address, if there is one.
    Other { protocol: u8, payload: Vec<u8> },
}

impl Whole {
    pub fn bytes(&self) -> Vec<u8> {
        let (protocol, mut body) = self.body.bytes(self.way.from.is_ipv4());
        if let Some(at) = self.body.checksum_at() {
            let seed = if protocol == IPPROTO_ICMP {
                0
            } else {
                self.pseudo(protocol, body.len())
            };
            let mut check = finish(sum(&body, seed));
            if check == 0 && protocol == IPPROTO_UDP {
                check = 0xffff;
            }
            body[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        let mut frame = self.headers(protocol, body.len());
        frame.extend(body);
        frame
    }

    fn headers(&self, protocol: u8, body: usize) -> Vec<u8> {
        let way = &self.way;
        let mut frame = [way.to_mac, way.from_mac].concat();
        let options = usize::from(self.options);
        match (way.from, way.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend(eth::TYPE_IPV4.to_be_bytes());
                let length = (20 + 4 * options + body) as u16;
                let mut header = vec![0x45 + self.options, self.class];
                header.extend(length.to_be_bytes());
                header.extend(self.id.to_be_bytes());
                header.extend([u8::from(self.dont_fragment) << 6, 0]);
                header.extend([way.hops, protocol, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                // "No operation".
                header.resize(20 + 4 * options, 1);
                let check = ipv4_header(&header);
                header[10..12].copy_from_slice(&check.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend(eth::TYPE_IPV6.to_be_bytes());
                let next = if options == 0 { protocol } else { DESTINATION };
                frame.extend([0x60 | self.class >> 4, self.class << 4]);
                frame.extend(self.id.to_be_bytes());
                frame.extend(((8 * options + body) as u16).to_be_bytes());
                frame.extend([next, way.hops]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                if options != 0 {
                    let padding = 8 * options - 4;
                    frame.extend([protocol, self.options - 1, 1, padding as u8]);
                    frame.resize(frame.len() + padding, 0);
                }
            }
            mixed => panic!("addresses of two families: {mixed:?}"),
        }
        frame
    }

    fn pseudo(&self, protocol: u8, length: usize) -> u32 {
        let seed = u32::from(protocol) + length as u32;
        [self.way.from, self.way.to]
            .iter()
            .fold(seed, |seed, address| match address {
                IpAddr::V4(address) => sum(&address.octets(), seed),
                IpAddr::V6(address) => sum(&address.octets(), seed),
            })
    }

    /// The same packet on another way.
    pub fn on(&self, way: Way) -> Whole {
        Whole {
            way,
            ..self.clone()
        }
    }

    /// The same packet with other ports, of an echo with the identifier that stands first
    /// in a request and second in a reply.
    pub fn with_ports(&self, new: (u16, u16)) -> Whole {
        let mut whole = self.clone();
        match &mut whole.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => *ports = new,
            Body::Echo { request, id, .. } => *id = if *request { new.0 } else { new.1 },
            Body::Error { .. } | Body::Other { .. } => (),
        }
        whole
    }

    pub fn ports(&self) -> (u16, u16) {
        match &self.body {
            Body::Tcp { ports, .. } | Body::Udp { ports, .. } => *ports,
            Body::Echo {
                request: true, id, ..
            } => (*id, 0),
            Body::Echo { id, .. } => (0, *id),
            Body::Error { .. } | Body::Other { .. } => (0, 0),
        }
    }

    /// Bytes of the network header.
    pub fn header_len(&self) -> usize {
        match self.way.from {
            IpAddr::V4(_) => 20 + 4 * usize::from(self.options),
            IpAddr::V6(_) => 40 + 8 * usize::from(self.options),
        }
    }
}

impl Body {
    /// The protocol, and the bytes with 0 for the checksum.
    fn bytes(&self, is_v4: bool) -> (u8, Vec<u8>) {
        let (icmp, kinds) = match is_v4 {
            true => (IPPROTO_ICMP, [8, 0]),
            false => (IPPROTO_ICMPV6, [128, 129]),
        };
        let mut bytes = Vec::new();
        match self {
            Body::Tcp {
                ports,
                flags,
                seq,
                ack,
                window,
                options,
                payload,
            } => {
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([(5 + options) << 4, *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0; 4]);
                bytes.resize(20 + 4 * usize::from(*options), 1);
                bytes.extend(payload);
                (IPPROTO_TCP, bytes)
            }
            Body::Udp { ports, payload, .. } => {
                bytes.extend(ports.0.to_be_bytes());
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend((8 + payload.len() as u16).to_be_bytes());
                bytes.extend([0; 2]);
                bytes.extend(payload);
                (IPPROTO_UDP, bytes)
            }
            Body::Echo {
                request,
                id,
                seq,
                payload,
            } => {
                bytes.extend([kinds[usize::from(!request)], 0, 0, 0]);
                bytes.extend(id.to_be_bytes());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(payload);
                (icmp, bytes)
            }
            Body::Error {
                kind,
                code,
                head,
                quote,
            } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(head);
                bytes.extend(quote);
                (icmp, bytes)
            }
            Body::Other { protocol, payload } => (*protocol, payload.clone()),
        }
    }

    fn checksum_at(&self) -> Option<usize> {
        match self {
            Body::Tcp { .. } => Some(16),
            Body::Udp { summed, .. } => summed.then_some(6),
            Body::Echo { .. } | Body::Error { .. } => Some(2),
            Body::Other { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::assert_checksums;

    #[test]
    fn what_is_put_together_is_what_the_builder_makes() {
        for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let way = Way::new(
                [2; 6],
                [4; 6],
                from.parse().expect("an address"),
                to.parse().expect("an address"),
            );
            let whole = |body| Whole {
                way,
                class: 0,
                id: 0,
                dont_fragment: true,
                options: 0,
                body,
            };
            let udp = whole(Body::Udp {
                ports: (1000, 2000),
                summed: true,
                payload: b"odd".into(),
            });
            assert_eq!(udp.bytes(), way.udp(1000, 2000, b"odd"));
            let echo = whole(Body::Echo {
                request: true,
                id: 7,
                seq: 1,
                payload: b"abc".into(),
            });
            assert_eq!(echo.bytes(), way.echo_request(7, 1, b"abc"));
            let mut tcp = whole(Body::Tcp {
                ports: (1000, 80),
                flags: 2,
                seq: 1000,
                ack: 0,
                window: 64_240,
                options: 0,
                payload: Vec::new(),
            });
            assert_eq!(tcp.bytes(), way.tcp(1000, 80, "S", b""));
            tcp.options = 3;
            assert_checksums(&tcp.bytes());
        }
    }
}
