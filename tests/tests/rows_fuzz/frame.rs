//! What is read of a frame: its ends, whose they are, and whether it is an answer.

use std::net::IpAddr;

use netbpf_tests::lab::{
    Family,
    names::{BACK, FRONT, HOST},
};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;

/// Bytes that an ICMP error of ours quotes.
const QUOTE: usize = 128;

/// The network header of a frame, as far as it is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ends {
    pub from: IpAddr,
    pub to: IpAddr,
    pub hops: u8,
    pub family: Family,
}

pub fn ends(frame: &[u8]) -> Option<Ends> {
    let packet = frame.get(ETHERNET..)?;
    let address = |at: usize| -> Option<IpAddr> {
        Some(match packet.first()? >> 4 {
            4 => <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into(),
            _ => <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into(),
        })
    };
    let (family, from, to, hops) = match (frame.get(12..14)?, packet.first()? >> 4) {
        ([0x08, 0x00], 4) if packet[0] & 0x0f >= 5 => (Family::V4, 12, 16, 8),
        ([0x86, 0xdd], 6) => (Family::V6, 8, 24, 7),
        _ => return None,
    };
    Some(Ends {
        from: address(from)?,
        to: address(to)?,
        hops: *packet.get(hops)?,
        family,
    })
}

pub fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets(), [10, 10, 1 | 2, _]),
        IpAddr::V6(address) => {
            matches!(address.segments(), [0xfd10, 1 | 2, 0, 0, ..])
        }
    }
}

/// Of the host, its gateways in the networks included.
pub fn is_local(address: IpAddr) -> bool {
    [HOST, FRONT.gateways, BACK.gateways]
        .iter()
        .flatten()
        .any(|text| text.parse() == Ok(address))
}

/// Protocol and ports of TCP, UDP or SCTP right behind the network header.
pub fn ports(frame: &[u8]) -> Option<(u8, [u16; 2])> {
    let packet = frame.get(ETHERNET..)?;
    let (protocol, length) = match ends(frame)?.family {
        Family::V4 => (*packet.get(9)?, usize::from(packet[0] & 0xf) * 4),
        Family::V6 => (*packet.get(6)?, 40),
    };
    let is_later = packet[0] >> 4 == 4 && (packet[6] & 0x1f, packet[7]) != (0, 0);
    let at = |offset: usize| -> Option<u16> {
        let bytes = packet.get(length + offset..length + offset + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let ports = [at(0)?, at(2)?];
    (matches!(protocol, 6 | 17 | 132) && !is_later).then_some((protocol, ports))
}

/// Nobody on a wire has such an address.
pub fn is_nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            matches!(v4.octets(), [0 | 127, ..]) || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What a packet was turned into instead of being let pass.
#[derive(Clone, Copy, PartialEq)]
pub enum Answer {
    /// By ARP or ND: no drop.
    Neighbour,
    /// The error, or reset, that says why it was dropped.
    Refusal,
}

pub fn answer(packet: &[u8], out: &[u8]) -> Option<Answer> {
    if packet.get(12..14) == Some(&[0x08, 0x06]) {
        return Some(Answer::Neighbour);
    }
    let (asked, told) = (ends(packet)?, ends(out)?);
    let l4 = ETHERNET + told.family.of([20, 40]);
    let (protocol, kind) = (out[ETHERNET + told.family.of([9, 6])], *out.get(l4)?);
    match (told.family, protocol, kind) {
        (Family::V6, 58, 136) if told.hops == 255 && out[..6] == packet[6..12] => {
            Some(Answer::Neighbour)
        }
        (Family::V4, 1, 3 | 11) | (Family::V6, 58, 1..=3) => {
            let quoted = (packet.len() - ETHERNET).min(QUOTE);
            let quote = packet[ETHERNET..].get(..quoted)?;
            (out.get(l4 + 8..) == Some(quote)).then_some(Answer::Refusal)
        }
        (_, 6, _) if out.get(l4 + 13)? & 4 != 0 && out.len() == l4 + 20 => {
            let turned = out[l4..l4 + 2] == packet[l4 + 2..l4 + 4];
            (turned && told.to == asked.from && told.from == asked.to).then_some(Answer::Refusal)
        }
        _ => None,
    }
}

pub fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

pub fn is_nd(packet: &[u8]) -> bool {
    // Behind whatever extension headers.
    packet[ETHERNET..]
        .windows(4)
        .any(|w| matches!(w[0], 133..=137))
        && packet[12] == 0x86
}

pub fn both(packet: &[u8], out: &[u8]) -> Result<[Ends; 2], String> {
    let sent = ends(packet).ok_or("what is no packet goes on")?;
    Ok([sent, ends(out).ok_or("no packet any more")?])
}
