//! TCP (RFC 9293) and UDP (RFC 768): what a translation touches, and what says whether
//! a segment is of its connection.

use super::Read;

pub const FIN: u8 = 1 << 0;
pub const SYN: u8 = 1 << 1;
pub const RST: u8 = 1 << 2;
pub const ACK: u8 = 1 << 4;

/// Bytes of a header without options.
pub const LEN: usize = 20;

/// Offsets within the header.
pub const SPORT: usize = 0;
pub const DPORT: usize = 2;
pub const SEQ: usize = 4;
pub const ACK_NUMBER: usize = 8;
/// Header length in words of four bytes, in the upper half of the byte.
pub const OFFSET: usize = 12;
pub const FLAGS: usize = 13;
pub const WINDOW: usize = 14;
pub const CHECKSUM: usize = 16;
pub const UDP_CHECKSUM: usize = 6;

/// Kinds of options (RFC 9293, section 3.2; RFC 7323, section 2).
const END: u8 = 0;
const NOTHING: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
const WINDOW_SCALE: u8 = 3;

/// Options that are looked at, padding included; SYNs of Linux, BSD, macOS and Windows
/// have the scale among the first six.
const OPTIONS: usize = 8;

/// The largest scale that there is (RFC 7323, section 2.3).
pub const MOST_SCALE: u8 = 14;

/// No scale: the SYN says nothing of windows being shifted.
pub const NO_SCALE: u8 = 0xff;

/// By how many bits the sender of this SYN will have its windows shifted; [`NO_SCALE`]
/// where it says nothing, `None` where its options are cut short or too many.
#[inline(always)]
pub fn window_scale(packet: &(impl Read + ?Sized), l4: usize) -> Option<u8> {
    let (at, value) = option(packet, l4, WINDOW_SCALE)?;
    Some(match (at, value) {
        (0, _) => NO_SCALE,
        (_, value) if value > MOST_SCALE => MOST_SCALE,
        (_, value) => value,
    })
}

/// Where the largest segment that the sender of this SYN takes in stands, a number of 16
/// bits; `None` where it says nothing, or its options are cut short or too many.
#[inline(always)]
pub fn segment_size_at(packet: &(impl Read + ?Sized), l4: usize) -> Option<usize> {
    match option(packet, l4, SEGMENT_SIZE)? {
        (0, _) => None,
        (at, _) => Some(at + 2),
    }
}

/// The place of the first option of a kind, 0 where there is none, and the byte behind its
/// length.
#[inline(always)]
fn option(packet: &(impl Read + ?Sized), l4: usize, wanted: u8) -> Option<(usize, u8)> {
    let end = l4 + usize::from(packet.u8(l4 + OFFSET)? >> 4) * 4;
    let mut at = l4 + LEN;
    for _ in 0..OPTIONS {
        // No room for one.
        if at + 3 > end {
            return Some((0, 0));
        }
        let [kind, length, value] = packet.bytes(at)?;
        let step = match kind {
            _ if kind == wanted => return Some((at, value)),
            END => return Some((0, 0)),
            NOTHING => 1,
            _ if length < 2 => return Some((0, 0)),
            _ => length,
        };
        at += usize::from(step);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(options: &[u8]) -> Option<u8> {
        let mut header = [0; 60];
        header[OFFSET] = (((LEN + options.len().next_multiple_of(4)) / 4) << 4) as u8;
        header[LEN..LEN + options.len()].copy_from_slice(options);
        window_scale(&header[..LEN + options.len().next_multiple_of(4)], 0)
    }

    #[test]
    fn the_scale_is_found_among_options_of_all_kinds() {
        // As Linux has it: MSS, SACK permitted, timestamps, a NOP, the scale.
        let linux = [
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        assert_eq!(scale(&linux), Some(7));
        assert_eq!(scale(&[3, 3, 14]), Some(14));
        assert_eq!(scale(&[3, 3, 200]), Some(MOST_SCALE));
        assert_eq!(scale(&[3, 3, 0]), Some(0));
        assert_eq!(scale(&[]), Some(NO_SCALE));
        assert_eq!(scale(&[2, 4, 5, 180]), Some(NO_SCALE));
        let mut header = [0; 44];
        header[OFFSET] = 0xa0;
        header[LEN..LEN + 20].copy_from_slice(&linux);
        assert_eq!(segment_size_at(&header[..40], 0), Some(LEN + 2));
        header[LEN] = 1;
        assert_eq!(segment_size_at(&header[..40], 0), None);
        // What comes after the end is no option, nor is what has no length.
        assert_eq!(scale(&[0, 3, 3, 7]), Some(NO_SCALE));
        assert_eq!(scale(&[9, 0, 3, 3, 7]), Some(NO_SCALE));
        assert_eq!(scale(&[1; 7]), Some(NO_SCALE));
        assert_eq!(scale(&[1; 40]), None);
        // Longer than the packet.
        let mut cut = [0; 22];
        cut[OFFSET] = 0x60;
        cut[LEN] = 2;
        cut[LEN + 1] = 4;
        assert_eq!(window_scale(&cut[..22], 0), None);
        assert_eq!(window_scale(&cut[..OFFSET], 0), None);
    }
}
