//! What a program knows of an IP packet after parsing it once.

use super::{
    IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, Read, icmp, sctp, tcp,
};
use crate::maps::FlowKey;

/// The network header, with `l4` the offset of what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    pub src: A,
    pub dst: A,
    pub protocol: u8,
    pub hop_limit: u8,
    /// Bytes of the packet from the network header on, as it says itself.
    pub total_len: u16,
    pub l4: usize,
    pub more_fragments: bool,
    /// A fragment other than the first: no ports are in it.
    pub later_fragment: bool,
    pub dont_fragment: bool,
    /// Identification, of IPv4 16 bits; 0 for an IPv6 packet that is no fragment.
    pub id: u32,
    /// Where it stands.
    pub id_at: usize,
    /// The chain of extension headers could not be followed to its end: what
    /// `protocol` and `l4` say is not the transport header.
    pub opaque: bool,
}

/// A packet whose transport header is not at hand.
pub const NO_TRANSPORT: Transport = Transport {
    sport: 0,
    dport: 0,
    kind: TransportKind::Other,
    flags: 0,
    seq: 0,
    ack: 0,
    window: 0,
};

/// What a flow needs of the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    pub sport: u16,
    pub dport: u16,
    pub kind: TransportKind,
    /// TCP flags, ICMP type, type of the first SCTP chunk, else 0.
    pub flags: u8,
    /// TCP's sequence and acknowledgment number, and window as it stands there; else 0.
    pub seq: u32,
    pub ack: u32,
    pub window: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TransportKind {
    Tcp,
    Udp,
    Sctp,
    EchoRequest,
    EchoReply,
    /// Another ICMP message.
    Icmp,
    Other,
}

/// Parses the transport header at `l4`; `None` when it is cut short.
#[inline(always)]
pub fn transport(packet: &(impl Read + ?Sized), protocol: u8, l4: usize) -> Option<Transport> {
    match protocol {
        IPPROTO_TCP => {
            let b = packet.bytes::<16>(l4)?;
            let number = |at: usize| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            Some(Transport {
                seq: number(tcp::SEQ),
                ack: number(tcp::ACK_NUMBER),
                window: u16::from_be_bytes([b[tcp::WINDOW], b[tcp::WINDOW + 1]]),
                ..ports(&b, TransportKind::Tcp, b[tcp::FLAGS])
            })
        }
        IPPROTO_UDP => Some(ports(&packet.bytes::<8>(l4)?, TransportKind::Udp, 0)),
        IPPROTO_SCTP => {
            let b = packet.bytes::<13>(l4)?;
            Some(ports(&b, TransportKind::Sctp, b[sctp::CHUNK]))
        }
        IPPROTO_ICMP | IPPROTO_ICMPV6 => {
            let b = packet.bytes::<8>(l4)?;
            let id = u16::from_be_bytes([b[icmp::ID], b[icmp::ID + 1]]);
            let (sport, dport, kind) = match (protocol, b[0]) {
                (IPPROTO_ICMP, icmp::ECHO_REQUEST) | (IPPROTO_ICMPV6, icmp::V6_ECHO_REQUEST) => {
                    (id, 0, TransportKind::EchoRequest)
                }
                (IPPROTO_ICMP, icmp::ECHO_REPLY) | (IPPROTO_ICMPV6, icmp::V6_ECHO_REPLY) => {
                    (0, id, TransportKind::EchoReply)
                }
                _ => (0, 0, TransportKind::Icmp),
            };
            Some(Transport {
                sport,
                dport,
                kind,
                flags: b[0],
                ..NO_TRANSPORT
            })
        }
        _ => Some(NO_TRANSPORT),
    }
}

/// The transport header as an ICMP error quotes it: eight bytes are enough (RFC 792).
#[inline(always)]
pub fn quoted(packet: &(impl Read + ?Sized), protocol: u8, l4: usize) -> Option<Transport> {
    let kind = match protocol {
        IPPROTO_TCP => TransportKind::Tcp,
        IPPROTO_SCTP => TransportKind::Sctp,
        _ => return transport(packet, protocol, l4),
    };
    Some(ports(&packet.bytes::<8>(l4)?, kind, 0))
}

impl Transport {
    /// The packet has ports, or the identifier of an echo, by which a flow is found, or
    /// is of a protocol whose flows are found by their addresses.
    #[inline(always)]
    pub fn identifies_flow(&self) -> bool {
        !matches!(self.kind, TransportKind::Icmp)
    }
}

#[inline(always)]
fn ports<const N: usize>(b: &[u8; N], kind: TransportKind, flags: u8) -> Transport {
    Transport {
        sport: u16::from_be_bytes([b[0], b[1]]),
        dport: u16::from_be_bytes([b[2], b[3]]),
        kind,
        flags,
        ..NO_TRANSPORT
    }
}

impl<A: Copy> Ip<A> {
    /// The key under which the flow of a packet that was sent is found by whoever it
    /// was sent to: the tuple turned round.
    #[inline(always)]
    pub fn key_of_answer(&self, transport: &Transport, arrival: u16) -> FlowKey<A> {
        FlowKey {
            src: self.dst,
            dst: self.src,
            sport: transport.dport,
            dport: transport.sport,
            protocol: self.protocol,
            reserved: 0,
            arrival,
        }
    }

    /// The key under which the packet's flow is found.
    #[inline(always)]
    pub fn key(&self, transport: &Transport, arrival: u16) -> FlowKey<A> {
        FlowKey {
            src: self.src,
            dst: self.dst,
            sport: transport.sport,
            dport: transport.dport,
            protocol: self.protocol,
            reserved: 0,
            arrival,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_reply_is_the_reverse_of_its_request() {
        let request = transport(&[8, 0, 0, 0, 0x12, 0x34, 0, 1][..], IPPROTO_ICMP, 0).unwrap();
        let reply = transport(&[0, 0, 0, 0, 0x12, 0x34, 0, 1][..], IPPROTO_ICMP, 0).unwrap();
        assert_eq!((request.sport, request.dport), (reply.dport, reply.sport));
    }

    #[test]
    fn eight_bytes_of_a_quoted_segment_are_enough() {
        let quote = &[0x1f, 0x90, 0, 80, 0, 0, 0, 1][..];
        assert!(transport(quote, IPPROTO_TCP, 0).is_none());
        let t = quoted(quote, IPPROTO_TCP, 0).unwrap();
        assert_eq!((t.sport, t.dport), (8080, 80));
        assert!(quoted(&quote[..7], IPPROTO_TCP, 0).is_none());
    }

    #[test]
    fn a_header_cut_short_is_none() {
        assert!(transport(&[0; 13][..], IPPROTO_TCP, 0).is_none());
        assert!(transport(&[0; 7][..], IPPROTO_UDP, 0).is_none());
    }
}
