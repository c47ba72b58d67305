//! A set of ports, as large as there are ports. Pure.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Any of the ports 0 to 65535. Its cost does not grow with their number: all are
/// looked at with each change of one.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

const BITS: usize = u64::BITS as usize;
const WORDS: usize = (1 << 16) / BITS;

impl Default for PortSet {
    fn default() -> Self {
        PortSet(Box::new([0; WORDS]))
    }
}

impl PortSet {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub fn contains(&self, port: u16) -> bool {
        let port = usize::from(port);
        self.0[port / BITS] & 1 << (port % BITS) != 0
    }

    pub fn insert(&mut self, ports: RangeInclusive<u16>) {
        for port in ports.map(usize::from) {
            self.0[port / BITS] |= 1 << (port % BITS);
        }
    }

    pub fn remove(&mut self, port: u16) {
        let port = usize::from(port);
        self.0[port / BITS] &= !(1 << (port % BITS));
    }

    /// Those that are also in `ports`.
    pub fn within(&self, ports: RangeInclusive<u16>) -> PortSet {
        let mut range = PortSet::default();
        range.insert(ports);
        self.combined(&range, |a, b| a & b)
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    pub fn union(&self, other: &PortSet) -> PortSet {
        self.combined(other, |a, b| a | b)
    }

    pub fn difference(&self, other: &PortSet) -> PortSet {
        self.combined(other, |a, b| a & !b)
    }

    fn combined(&self, other: &PortSet, with: fn(u64, u64) -> u64) -> PortSet {
        PortSet(Box::new(std::array::from_fn(|i| {
            with(self.0[i], other.0[i])
        })))
    }

    /// First and last of those that follow one another.
    fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for (index, word) in self.0.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                let bit = rest.trailing_zeros();
                let length = (rest >> bit).trailing_ones();
                let first = (index * BITS) as u32 + bit;
                let (first, last) = (first as u16, (first + length - 1) as u16);
                match ranges.last_mut() {
                    Some((_, before)) if before.checked_add(1) == Some(first) => *before = last,
                    _ => ranges.push((first, last)),
                }
                // All of the word when it is full.
                rest &= u64::MAX.checked_shl(bit + length).unwrap_or(0);
            }
        }
        ranges
    }

    /// `1-3,7` as the kernel writes it; what makes no sense is passed over.
    pub fn parse(list: &str) -> PortSet {
        let mut ports = PortSet::default();
        for part in list.trim().split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse()) {
                ports.insert(first..=last);
            }
        }
        ports
    }
}

/// As [`PortSet::parse`] reads it.
impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.ranges().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            List(String),
            /// Of versions before.
            Ports(Vec<u16>),
        }
        match Stored::deserialize(deserializer)? {
            Stored::List(list) => {
                let set = PortSet::parse(&list);
                // What is damaged must not be taken for less than it was.
                match set.to_string() == list {
                    true => Ok(set),
                    false => Err(D::Error::custom("no list of ports")),
                }
            }
            Stored::Ports(ports) => {
                let mut set = PortSet::default();
                ports.into_iter().for_each(|port| set.insert(port..=port));
                Ok(set)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(list: &str) -> PortSet {
        PortSet::parse(list)
    }

    #[test]
    fn what_is_stored_is_read_in_either_form_and_damage_is_said() {
        let read = |text: &str| serde_json::from_str::<PortSet>(text);
        assert_eq!(serde_json::to_string(&set("1-3,9")).unwrap(), "\"1-3,9\"");
        assert_eq!(read("\"1-3,9\"").unwrap(), set("1-3,9"));
        assert_eq!(read("[1,2,3,9]").unwrap(), set("1-3,9"));
        assert_eq!(read("[]").unwrap(), set(""));
        for damaged in ["\"1-3,x\"", "\"9,1\"", "7"] {
            assert!(read(damaged).is_err(), "{damaged}");
        }
    }

    #[test]
    fn lists_are_as_the_kernel_writes_them() {
        for list in ["", "0", "65535", "0-65535", "63-64", "1-3,7,64-127,129"] {
            assert_eq!(set(list).to_string(), list);
        }
        assert_eq!(set("7-5,x, 9 ,70000").to_string(), "9");
        assert_eq!(set("0-65535").len(), 65_536);
    }

    proptest! {
        #[test]
        fn a_list_is_read_as_it_is_written(
            ports in proptest::collection::btree_set(any::<u16>(), 0..60),
            range in (any::<u16>(), 0_u16..300),
        ) {
            let mut both = PortSet::default();
            ports.iter().for_each(|&port| both.insert(port..=port));
            let range = range.0..=range.0.saturating_add(range.1);
            both.insert(range.clone());
            let all: BTreeSet<u16> = ports.into_iter().chain(range).collect();
            prop_assert_eq!(both.len(), all.len());
            prop_assert!(all.iter().all(|&port| both.contains(port)));
            prop_assert_eq!(PortSet::parse(&both.to_string()), both.clone());
            let few = both.within(1000..=40_000);
            prop_assert_eq!(few.len(), all.range(1000..=40_000).count());
            for port in all {
                both.remove(port);
                prop_assert!(!both.contains(port));
            }
            prop_assert!(both.is_empty());
        }
    }
}
