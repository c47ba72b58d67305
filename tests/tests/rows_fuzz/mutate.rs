//! Packets that never were, and the least of one that fails.

use std::net::IpAddr;

use netbpf_tests::packets::repair;

use crate::{
    frame::ETHERNET,
    range::{Lane, Range},
};

/// The kernel makes no larger packet than fits into a page.
const MOST: usize = 3_000;

/// A source of numbers that anybody can make again (Vigna, splitmix64).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub fn of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Bytes and numbers that something depends on.
const BYTES: [u8; 22] = [
    0, 1, 2, 4, 5, 6, 8, 17, 43, 44, 47, 50, 51, 58, 59, 60, 63, 64, 127, 128, 132, 255,
];
const NUMBERS: [u16; 22] = [
    0, 1, 7, 8, 20, 28, 40, 53, 80, 0x1fff, 0x2000, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xffff, 5000,
    5300, 6000, 8080, 8090, 4789,
];

impl Range<'_> {
    /// A packet that never was.
    pub fn mutate(&self, dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
        let mut packet = seed.to_vec();
        for _ in 0..=dice.below(4) {
            self.change(dice, &mut packet);
        }
        packet.truncate(MOST);
        // Most receivers would not look at the others at all.
        if !dice.one_in(3) {
            repair(&mut packet, ETHERNET);
        }
        packet
    }

    fn change(&self, dice: &mut Dice, packet: &mut Vec<u8>) {
        let length = packet.len();
        if length < ETHERNET + 20 {
            packet.resize(ETHERNET + 20, 0);
            return;
        }
        // Headers more often than payload.
        let near = length.min(ETHERNET + 80);
        let at = if dice.one_in(4) {
            dice.below(length)
        } else {
            dice.below(near)
        };
        let is_v4 = packet[ETHERNET] >> 4 == 4;
        match dice.below(17) {
            0 => packet[at] ^= 1 << dice.below(8),
            1 => packet[at] = *dice.of(&BYTES),
            2 => packet[at] = dice.next() as u8,
            3 | 4 => {
                let number = match dice.below(3) {
                    0 => *dice.of(&NUMBERS),
                    1 => (length as u16).wrapping_sub(dice.below(60) as u16),
                    _ => dice.next() as u16,
                };
                let at = at.min(length - 2) & !1;
                packet[at..at + 2].copy_from_slice(&number.to_be_bytes());
            }
            5 => {
                let cut = ETHERNET + dice.below(length - ETHERNET);
                packet.truncate(cut);
            }
            6 => {
                let more = dice.below(64);
                packet.extend((0..more).map(|_| dice.next() as u8));
            }
            // The head of one and the tail of another.
            7 => {
                let (_, other) = dice.of(&self.seeds);
                let at = *dice.of(&[ETHERNET, ETHERNET + 20, ETHERNET + 40, at]);
                packet.truncate(at);
                packet.extend(other.get(at..).unwrap_or(&[]));
            }
            8 => packet[ETHERNET] = *dice.of(&[0x44, 0x45, 0x46, 0x47, 0x4f, 0x60, 0x61, 0x00]),
            9 => {
                let said = ETHERNET + if is_v4 { 2 } else { 4 };
                let least = if is_v4 { 0 } else { 40 };
                let right = (length - ETHERNET).saturating_sub(least);
                let number = (right + dice.below(9)).saturating_sub(dice.below(60)) as u16;
                packet[said..said + 2].copy_from_slice(&number.to_be_bytes());
            }
            10 if is_v4 => {
                let field = *dice.of(&[0, 0x2000, 0x4000, 0x2001, 1, 0x1fff, 0x8000, 0x6000, 75]);
                packet[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&u16::to_be_bytes(field));
            }
            // One more extension header.
            10 | 11 if !is_v4 && length > ETHERNET + 40 => {
                let next = packet[ETHERNET + 6];
                let kind = *dice.of(&[0, 43, 44, 60, 60]);
                packet[ETHERNET + 6] = kind;
                let field = *dice.of(&[0, 1, 8, 9]);
                let header = [next, 0, if kind == 44 { 0 } else { 1 }, field, 0, 0, 0, 7];
                packet.splice(ETHERNET + 40..ETHERNET + 40, header);
                let said = u16::from_be_bytes([packet[ETHERNET + 4], packet[ETHERNET + 5]]);
                packet[ETHERNET + 4..ETHERNET + 6]
                    .copy_from_slice(&said.wrapping_add(8).to_be_bytes());
            }
            10 | 11 => packet[ETHERNET + if is_v4 { 9 } else { 6 }] = *dice.of(&BYTES),
            12 | 13 => self.change_address(dice, packet, is_v4),
            14 => {
                let at = *dice.of(&[0, 6]);
                packet[at..at + 6].copy_from_slice(&dice.of(&self.macs)[..]);
            }
            15 => {
                let kind = *dice.of(&[0x0800_u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x88b5, 60]);
                packet[12..14].copy_from_slice(&kind.to_be_bytes());
            }
            _ => packet[ETHERNET + if is_v4 { 8 } else { 7 }] = *dice.of(&[0, 1, 2, 3, 255]),
        }
    }

    /// An address that means something, as source or destination, or in what is quoted.
    fn change_address(&self, dice: &mut Dice, packet: &mut [u8], is_v4: bool) {
        let places: &[usize] = match is_v4 {
            true => &[12, 12, 16, 16, 40, 44],
            false => &[8, 8, 24, 24, 56, 72],
        };
        let at = ETHERNET + *dice.of(places);
        let mut address = *dice.of(&self.addresses);
        while address.is_ipv4() != is_v4 {
            address = *dice.of(&self.addresses);
        }
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        if let Some(place) = packet.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }
}

/// The failing packet with as few changes to its seed as fail still, and no tail.
pub fn minimise(range: &Range, lane: Lane, seed: &[u8], packet: &[u8]) -> Vec<u8> {
    let fails = |packet: &[u8]| {
        let outcome = range.throw(lane, packet);
        outcome.is_some_and(|outcome| range.judge(lane, packet, &outcome).is_err())
    };
    let mut least = packet.to_vec();
    for size in [256, 64, 16, 4, 1] {
        while least.len() > ETHERNET + size && fails(&least[..least.len() - size]) {
            least.truncate(least.len() - size);
        }
        for at in (0..least.len().min(seed.len())).step_by(size) {
            let mut tried = least.clone();
            let end = (at + size).min(seed.len()).min(tried.len());
            tried[at..end].copy_from_slice(&seed[at..end]);
            if tried != least && fails(&tried) {
                least = tried;
            }
        }
    }
    least
}
