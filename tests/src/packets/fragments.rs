//! Cutting a packet into fragments (RFC 791 section 3.2, RFC 8200 section 4.5).

use netbpf_common::packet::checksum::ipv4_header;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of network headers without options.
const IPV4: usize = 20;
const IPV6: usize = 40;
const FRAGMENT: u8 = 44;

/// The fragments of a packet with this identification, each with so many bytes of it,
/// a multiple of 8.
pub fn fragments(frame: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
    assert_eq!(size % 8, 0);
    let is_v4 = frame[ETHERNET] >> 4 == 4;
    let header = ETHERNET + if is_v4 { IPV4 } else { IPV6 };
    let (head, data) = frame.split_at(header);
    let pieces: Vec<&[u8]> = data.chunks(size).collect();
    let last = pieces.len() - 1;
    let cut = pieces.iter().enumerate().map(|(number, piece)| {
        let (offset, more) = ((number * size / 8) as u16, u16::from(number < last));
        let mut fragment = head.to_vec();
        if is_v4 {
            let length = (IPV4 + piece.len()) as u16;
            fragment[16..18].copy_from_slice(&length.to_be_bytes());
            fragment[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            fragment[20..22].copy_from_slice(&(more << 13 | offset).to_be_bytes());
            fragment[24..26].fill(0);
            let check = ipv4_header(&fragment[ETHERNET..]);
            fragment[24..26].copy_from_slice(&check.to_be_bytes());
        } else {
            let length = (8 + piece.len()) as u16;
            fragment[18..20].copy_from_slice(&length.to_be_bytes());
            let next = std::mem::replace(&mut fragment[20], FRAGMENT);
            fragment.extend([next, 0]);
            fragment.extend((offset << 3 | more).to_be_bytes());
            fragment.extend(id.to_be_bytes());
        }
        fragment.extend_from_slice(piece);
        fragment
    });
    cut.collect()
}
