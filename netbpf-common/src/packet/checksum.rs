//! The internet checksum (RFC 1071) over data that is at hand whole. On the
//! data of an skb the programs use the kernel's helpers.

/// The one's complement sum of `data`, folded to 16 bits; odd lengths are
/// padded with a zero byte.
pub fn sum(data: &[u8], mut acc: u32) -> u32 {
    for pair in data.chunks(2) {
        acc += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    fold(acc)
}

/// Folds the carries of a sum into its low 16 bits.
#[inline(always)]
pub const fn fold(acc: u32) -> u32 {
    let acc = (acc & 0xffff) + (acc >> 16);
    (acc & 0xffff) + (acc >> 16)
}

/// The checksum field for a sum.
#[inline(always)]
pub const fn finish(acc: u32) -> u16 {
    !(fold(acc) as u16)
}

/// Checksum of an IPv4 header whose checksum field is 0.
pub fn ipv4_header(header: &[u8]) -> u16 {
    finish(sum(header, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0),
            0xddf2
        );
    }
}
