//! `published`: which ports have anything published, in front of `ports`. One array
//! look-up tells that a packet is not ours, whatever the address.

use crate::{
    assert_layout,
    packet::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP},
};

/// Ports in one entry.
pub const PORTS_PER_ENTRY: u32 = 4;

/// Entries of `published`.
pub const PUBLISHED_ENTRIES: u32 = 65_536 / PORTS_PER_ENTRY;

/// Value of `published`, an array by port / 4: for each of four ports the
/// [`published_bit`]s and [`held_bit`]s of what is published there on any address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    pub ports: [u16; PORTS_PER_ENTRY as usize],
}
assert_layout!(Published, 8);

/// The bit of a protocol and family (4 or 6): tcp, udp, sctp from the lowest on,
/// IPv4 before IPv6. 0 for what cannot be published.
#[inline(always)]
pub const fn published_bit(protocol: u8, family: u8) -> u16 {
    let shift = match protocol {
        IPPROTO_TCP => 0,
        IPPROTO_UDP => 2,
        IPPROTO_SCTP => 4,
        _ => return 0,
    };
    1 << (shift + if family == 6 { 1 } else { 0 })
}

/// The same where programs of the host may not bind the port: the upper eight bits.
#[inline(always)]
pub const fn held_bit(protocol: u8, family: u8) -> u16 {
    published_bit(protocol, family) << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_distinct() {
        let mut all = 0u16;
        for protocol in [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP] {
            for family in [4, 6] {
                for bit in [published_bit(protocol, family), held_bit(protocol, family)] {
                    assert!(bit != 0 && all & bit == 0);
                    all |= bit;
                }
            }
        }
        assert_eq!(published_bit(1, 4), 0);
    }
}
