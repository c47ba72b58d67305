//! Ethernet (IEEE 802.3).

/// Bytes of an untagged header.
pub const LEN: usize = 14;
pub const DST: usize = 0;
pub const SRC: usize = 6;
pub const TYPE: usize = 12;

pub const TYPE_IPV4: u16 = 0x0800;
pub const TYPE_ARP: u16 = 0x0806;
pub const TYPE_IPV6: u16 = 0x86dd;

/// A MAC address.
pub type Mac = [u8; 6];

/// An untagged header.
#[inline(always)]
pub const fn header(dst: Mac, src: Mac, ethertype: u16) -> [u8; LEN] {
    let t = ethertype.to_be_bytes();
    [
        dst[0], dst[1], dst[2], dst[3], dst[4], dst[5], src[0], src[1], src[2], src[3], src[4],
        src[5], t[0], t[1],
    ]
}
