//! ICMP (RFC 792) and ICMPv6 (RFC 4443).

pub const CHECKSUM: usize = 2;
/// Identifier of echo messages.
pub const ID: usize = 4;

/// Bytes in front of the packet that an error quotes.
pub const LEN: usize = 8;

pub const ECHO_REPLY: u8 = 0;
pub const UNREACHABLE: u8 = 3;
/// Not an error, though it quotes a packet (RFC 1122 section 3.2.2.2).
pub const REDIRECT: u8 = 5;
pub const ECHO_REQUEST: u8 = 8;
pub const TIME_EXCEEDED: u8 = 11;

pub const NET_UNREACHABLE: u8 = 0;
pub const HOST_UNREACHABLE: u8 = 1;
pub const PORT_UNREACHABLE: u8 = 3;
pub const FRAG_NEEDED: u8 = 4;
pub const ADMIN_PROHIBITED: u8 = 13;

pub const V6_UNREACHABLE: u8 = 1;
pub const V6_TOO_BIG: u8 = 2;
pub const V6_TIME_EXCEEDED: u8 = 3;
pub const V6_ECHO_REQUEST: u8 = 128;
pub const V6_ECHO_REPLY: u8 = 129;

pub const V6_NO_ROUTE: u8 = 0;
pub const V6_ADMIN_PROHIBITED: u8 = 1;
pub const V6_ADDRESS_UNREACHABLE: u8 = 3;
pub const V6_PORT_UNREACHABLE: u8 = 4;

/// An ICMP message about another packet: it must not be answered by one.
#[inline(always)]
pub const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        super::IPPROTO_ICMP => !matches!(kind, ECHO_REPLY | ECHO_REQUEST | 9 | 10 | 13..=18),
        super::IPPROTO_ICMPV6 => kind < 128,
        _ => false,
    }
}

/// An error about a packet that it quotes, unknown ones of ICMPv6 included (RFC 4443
/// section 2.4 (a)): it belongs to the flow of that packet.
#[inline(always)]
pub const fn is_about_flow(protocol: u8, kind: u8) -> bool {
    is_error(protocol, kind) && !(protocol == super::IPPROTO_ICMP && kind == REDIRECT)
}
