//! Views of packets: header formats, parsing once into a small struct, and the
//! checksum. Pure: the programs bring the packet through [`Read`], tests a slice.

pub mod arp;
pub mod checksum;
pub mod eth;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
#[cfg(test)]
mod properties;
pub mod sctp;
pub mod tcp;
pub mod tuple;
pub mod vxlan;

pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_DCCP: u8 = 33;
pub const IPPROTO_FRAGMENT: u8 = 44;
pub const IPPROTO_AH: u8 = 51;
pub const IPPROTO_ICMPV6: u8 = 58;
pub const IPPROTO_SCTP: u8 = 132;
pub const IPPROTO_UDPLITE: u8 = 136;

/// Read access to the bytes of a packet.
pub trait Read {
    /// The `N` bytes at `offset` from the start of the packet, or `None` when
    /// it is shorter. Offsets are below 64 KiB.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// A byte.
    #[inline(always)]
    fn u8(&self, offset: usize) -> Option<u8> {
        self.bytes::<1>(offset).map(|b| b[0])
    }

    /// Two bytes in network byte order.
    #[inline(always)]
    fn u16(&self, offset: usize) -> Option<u16> {
        self.bytes::<2>(offset).map(u16::from_be_bytes)
    }
}

impl Read for [u8] {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}
