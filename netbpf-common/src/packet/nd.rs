//! Neighbour discovery (RFC 4861).

pub const ROUTER_SOLICITATION: u8 = 133;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;

/// Offset of the target address within the ICMPv6 message.
pub const TARGET: usize = 8;
/// Offset of the first option.
pub const OPTIONS: usize = 24;

pub const OPTION_SOURCE: u8 = 1;
pub const OPTION_TARGET: u8 = 2;

/// Bytes of an advertisement with its target link-layer option.
pub const ADVERTISEMENT_LEN: usize = 32;

/// Flags of an advertisement: it is a router, solicited, override.
pub const ROUTER: u8 = 0x80;
pub const SOLICITED: u8 = 0x40;
pub const OVERRIDE: u8 = 0x20;

/// A neighbour advertisement with target link-layer option; checksum 0.
#[inline(always)]
pub const fn advertisement(flags: u8, t: [u8; 16], m: [u8; 6]) -> [u8; ADVERTISEMENT_LEN] {
    [
        NEIGHBOUR_ADVERTISEMENT,
        0,
        0,
        0,
        flags,
        0,
        0,
        0,
        t[0],
        t[1],
        t[2],
        t[3],
        t[4],
        t[5],
        t[6],
        t[7],
        t[8],
        t[9],
        t[10],
        t[11],
        t[12],
        t[13],
        t[14],
        t[15],
        OPTION_TARGET,
        1,
        m[0],
        m[1],
        m[2],
        m[3],
        m[4],
        m[5],
    ]
}
