//! How far a packet's checksums are from right: the sum of all that each covers, itself
//! included. 0 is right. Whoever changes a packet by the difference leaves every one of
//! them as it was, right or wrong; who makes one anew makes it 0.

use netbpf_common::packet::{
    IPPROTO_FRAGMENT, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, checksum::sum, icmp,
};

/// One checksum of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// `ip`, `tcp`, `udp`, `icmp`, or the same of a packet that is quoted.
    pub what: &'static str,
    pub rest: u16,
    /// Where the checksum stands.
    pub at: usize,
    /// All that it covers is in the packet: then it has to be 0.
    pub whole: bool,
}

/// Every checksum of a packet whose network header is at `l3`; one that says that there
/// is none (UDP) is left out.
pub fn rests(frame: &[u8], l3: usize) -> Vec<Rest> {
    let mut found = Vec::new();
    if let Some(packet) = frame.get(l3..) {
        of_packet(packet, l3, false, &mut found);
    }
    found
}

/// Makes every checksum right that is not.
pub fn repair(frame: &mut [u8], l3: usize) {
    // What is quoted first: that of the error is over it.
    for number in (0..rests(frame, l3).len()).rev() {
        let Rest { rest, at, .. } = rests(frame, l3)[number];
        let check = u16::from_be_bytes([frame[at], frame[at + 1]]);
        let right = sum(&(!rest).to_be_bytes(), check.into()) as u16;
        frame[at..at + 2].copy_from_slice(&right.to_be_bytes());
    }
}

/// A network header, as far as it matters here.
struct Network {
    protocol: u8,
    l4: usize,
    /// One past the last byte, as the header says, and as there are.
    end: usize,
    whole: bool,
    later: bool,
    /// Sum of both addresses.
    addresses: u32,
    is_v4: bool,
}

fn of_packet(packet: &[u8], start: usize, quoted: bool, found: &mut Vec<Rest>) {
    let Some(ip) = network(packet) else {
        return;
    };
    if ip.is_v4 {
        let header = 4 * usize::from(packet[0] & 0x0f);
        // Options that are cut off are not to be added up.
        if let Some(bytes) = packet.get(..header) {
            push(
                found,
                quoted,
                ["ip", "quoted ip"],
                sum(bytes, 0),
                start + 10,
                !quoted,
            );
        }
    }
    let Some(segment) = packet.get(ip.l4..ip.end).filter(|_| !ip.later) else {
        return;
    };
    let pseudo = |length: usize| ip.addresses + u32::from(ip.protocol) + length as u32;
    let (whole, l4) = (ip.whole && !quoted, start + ip.l4);
    match ip.protocol {
        IPPROTO_TCP if segment.len() >= 18 => {
            let rest = sum(segment, pseudo(segment.len()));
            push(found, quoted, ["tcp", "quoted tcp"], rest, l4 + 16, whole);
        }
        IPPROTO_UDP if segment.len() >= 8 && segment[6..8] != [0, 0] => {
            let length = usize::from(u16::from_be_bytes([segment[4], segment[5]]));
            let covered = segment.get(..length).filter(|covered| covered.len() >= 8);
            let rest = sum(covered.unwrap_or(segment), pseudo(length));
            let whole = whole && covered.is_some();
            push(found, quoted, ["udp", "quoted udp"], rest, l4 + 6, whole);
        }
        // Of the other family's nobody says what it covers.
        IPPROTO_ICMP | IPPROTO_ICMPV6
            if segment.len() >= 4 && ip.is_v4 == (ip.protocol == IPPROTO_ICMP) =>
        {
            let seed = match ip.is_v4 {
                true => 0,
                false => pseudo(segment.len()),
            };
            let rest = sum(segment, seed);
            push(found, quoted, ["icmp", "quoted icmp"], rest, l4 + 2, whole);
            if !quoted && icmp::is_about_flow(ip.protocol, segment[0]) {
                let quote = segment.get(icmp::LEN..).unwrap_or(&[]);
                of_packet(quote, l4 + icmp::LEN, true, found);
            }
        }
        _ => (),
    }
}

fn push(
    found: &mut Vec<Rest>,
    quoted: bool,
    what: [&'static str; 2],
    sum: u32,
    at: usize,
    whole: bool,
) {
    found.push(Rest {
        what: what[usize::from(quoted)],
        at,
        // Of one's complement, both zeros are one.
        rest: if sum == 0xffff { 0 } else { sum as u16 },
        whole,
    });
}

fn network(packet: &[u8]) -> Option<Network> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.get(..20)?;
            let fragment = u16::from_be_bytes([header[6], header[7]]);
            let said = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let l4 = 4 * usize::from(header[0] & 0x0f);
            (l4 >= 20).then_some(Network {
                protocol: header[9],
                l4,
                end: said.min(packet.len()),
                whole: said <= packet.len() && fragment & 0x3fff == 0,
                later: fragment & 0x1fff != 0,
                addresses: sum(&header[12..20], 0),
                is_v4: true,
            })
        }
        6 => {
            let header = packet.get(..40)?;
            let said = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
            let mut ip = Network {
                protocol: header[6],
                l4: 40,
                end: said.min(packet.len()),
                whole: said <= packet.len(),
                later: false,
                addresses: sum(&header[8..40], 0),
                is_v4: false,
            };
            while !ip.later && matches!(ip.protocol, 0 | 43 | IPPROTO_FRAGMENT | 60) {
                let extension = packet.get(ip.l4..ip.end)?.get(..8)?;
                if ip.protocol == IPPROTO_FRAGMENT {
                    let field = u16::from_be_bytes([extension[2], extension[3]]);
                    ip.whole &= field & !6 == 0;
                    ip.later = field >> 3 != 0;
                    ip.l4 += 8;
                } else {
                    // Of a packet by way of others the last one stands elsewhere.
                    ip.whole &= ip.protocol != 43;
                    ip.l4 += 8 + 8 * usize::from(extension[1]);
                }
                ip.protocol = extension[0];
            }
            Some(ip)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::Way;

    const ETHERNET: usize = 14;

    #[test]
    fn one_bit_makes_a_right_one_wrong() {
        for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let way = Way::new(
                [2; 6],
                [4; 6],
                from.parse().expect("an address"),
                to.parse().expect("an address"),
            );
            let sent = way.udp(1000, 2000, b"odd");
            let error = way.icmp(3, 3, [0; 4], &sent[ETHERNET..]);
            for frame in [
                way.tcp(1, 2, "S", b"x"),
                way.echo_reply(1, 2, b"abc"),
                error,
            ] {
                let found = rests(&frame, ETHERNET);
                assert!(!found.is_empty());
                assert!(found.iter().all(|rest| rest.rest == 0), "{found:?}");
                let mut broken = frame.clone();
                *broken.last_mut().expect("a byte") ^= 1;
                assert!(rests(&broken, ETHERNET).iter().any(|rest| rest.rest != 0));
                repair(&mut broken, ETHERNET);
                assert!(rests(&broken, ETHERNET).iter().all(|rest| rest.rest == 0));
            }
        }
    }
}
