//! ARP for IPv4 over Ethernet (RFC 826).

use super::{Read, eth};

/// Bytes of the packet after the Ethernet header.
pub const LEN: usize = 28;
pub const REQUEST: u16 = 1;
pub const REPLY: u16 = 2;

/// The fields of an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    pub operation: u16,
    pub sender_mac: eth::Mac,
    pub sender: [u8; 4],
    pub target_mac: eth::Mac,
    pub target: [u8; 4],
}

/// Parses what stands at `offset`; `None` for other hardware or protocols.
#[inline(always)]
pub fn parse(packet: &(impl Read + ?Sized), offset: usize) -> Option<Arp> {
    let b = packet.bytes::<LEN>(offset)?;
    if [b[0], b[1], b[2], b[3], b[4], b[5]] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    Some(Arp {
        operation: u16::from_be_bytes([b[6], b[7]]),
        sender_mac: [b[8], b[9], b[10], b[11], b[12], b[13]],
        sender: [b[14], b[15], b[16], b[17]],
        target_mac: [b[18], b[19], b[20], b[21], b[22], b[23]],
        target: [b[24], b[25], b[26], b[27]],
    })
}

impl Arp {
    /// The packet on the wire.
    #[inline(always)]
    pub const fn to_bytes(&self) -> [u8; LEN] {
        let (o, m, s, n, t) = (
            self.operation.to_be_bytes(),
            self.sender_mac,
            self.sender,
            self.target_mac,
            self.target,
        );
        [
            0, 1, 8, 0, 6, 4, o[0], o[1], m[0], m[1], m[2], m[3], m[4], m[5], s[0], s[1], s[2],
            s[3], n[0], n[1], n[2], n[3], n[4], n[5], t[0], t[1], t[2], t[3],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let arp = Arp {
            operation: REQUEST,
            sender_mac: [2, 0, 0, 0, 0, 1],
            sender: [172, 20, 0, 2],
            target_mac: [0; 6],
            target: [172, 20, 0, 1],
        };
        assert_eq!(parse(&arp.to_bytes()[..], 0), Some(arp));
        assert_eq!(parse(&arp.to_bytes()[..27], 0), None);
    }
}
