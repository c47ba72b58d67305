//! The map `published`: the ports at which anything is published, on whatever
//! address. Of each port it is counted how many ranges publish and hold it, so that
//! a change costs no more than the ports that it is about.

use std::collections::{HashMap, HashSet};

use netbpf_common::{
    maps::{
        Pool,
        pools::{POOL_KINDS, pool_kind},
        published::{PORTS_PER_ENTRY, PUBLISHED_ENTRIES, Published, held_bit, published_bit},
    },
    names,
    packet::{IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP},
};

use super::{
    Result,
    load::chain,
    tables::{Tables, Written},
    types::{DatapathError, Ports, ServiceAt},
};

const PER_ENTRY: usize = PORTS_PER_ENTRY as usize;

/// Whether programs of the host may bind the ports of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Held,
    Free,
}

pub(super) struct Marks {
    /// The map's content, by port.
    bits: Vec<u16>,
    /// What an earlier daemon left in it, which stays until all of this one's is said:
    /// traffic goes on meanwhile.
    found: Vec<u16>,
    /// Ranges by slot and family.
    ranges: HashMap<(u32, u8), (ServiceAt, Hold)>,
    /// How many ranges set each bit, by port.
    counts: HashMap<u16, [u16; 16]>,
    /// What masquerade never gives out whatever is published, by [`KINDS`].
    never: [Box<Pool>; POOL_KINDS as usize],
    /// And what it does not give out as it is: the map's content.
    reserved: [Box<Pool>; POOL_KINDS as usize],
}

/// Protocols with an entry in `reserved`; of the third, identifiers are published by
/// nobody.
const KINDS: [u8; POOL_KINDS as usize] = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP];
const _: () = assert!(pool_kind(KINDS[0]) == 0 && pool_kind(KINDS[1]) == 1);

impl Marks {
    /// What an earlier daemon left is marked until [`Self::forget_found`].
    pub fn read(tables: &mut Tables, masquerade: &[Ports]) -> Result<Marks> {
        let bits = held(tables)?;
        let never = KINDS.map(|protocol| {
            let mut pool = Box::new(Pool::EMPTY);
            let may = |port| masquerade.iter().any(|ports| ports.contains(&port));
            // 0 is no port, and no identifier that ping has.
            let ports = (0..=u16::MAX).filter(|&port| match protocol {
                IPPROTO_ICMP => port == 0,
                _ => port == 0 || !may(port),
            });
            ports.for_each(|port| pool.put(port, true));
            pool
        });
        let mut marks = Marks {
            found: bits.clone(),
            bits,
            ranges: HashMap::new(),
            counts: HashMap::new(),
            reserved: never.clone(),
            never,
        };
        for port in 0..=u16::MAX {
            marks.reserve(port);
        }
        for kind in 0..POOL_KINDS {
            marks.write_reserved(tables, kind)?;
        }
        Ok(marks)
    }

    /// Notes whether masquerade may give out a port, as what is published at it says; the
    /// kinds for which that is another answer than before.
    fn reserve(&mut self, port: u16) -> Vec<u32> {
        let mut changed = Vec::new();
        for (kind, protocol) in KINDS.into_iter().enumerate() {
            let published = published_bit(protocol, 4) | published_bit(protocol, 6);
            let reserved =
                self.never[kind].has(port) || self.bits[usize::from(port)] & published != 0;
            if self.reserved[kind].has(port) != reserved {
                self.reserved[kind].put(port, reserved);
                changed.push(kind as u32);
            }
        }
        changed
    }

    fn write_reserved(&self, tables: &mut Tables, kind: u32) -> Result<()> {
        tables
            .reserved
            .set(kind, *self.reserved[kind as usize], 0)
            .written(names::RESERVED, POOL_KINDS)
    }

    /// Marks a range, or changes how it is marked; whether the map had to be changed.
    pub fn set(
        &mut self,
        tables: &mut Tables,
        (slot, family): (u32, u8),
        at: &ServiceAt,
        hold: Hold,
    ) -> Result<bool> {
        let range = (at.clone(), hold);
        if self.ranges.get(&(slot, family)) == Some(&range) {
            return Ok(false);
        }
        // Counted before it is counted off: a port that stays marked always is.
        self.count(at, family, hold, |count| *count += 1);
        if let Some((old, old_hold)) = self.ranges.insert((slot, family), range) {
            self.count(&old, family, old_hold, |count| *count -= 1);
            if old != *at {
                self.write(tables, old.first..=old.last)?;
            }
        }
        self.write(tables, at.first..=at.last)
    }

    /// Takes the marks of a range away.
    pub fn remove(&mut self, tables: &mut Tables, slot: u32, family: u8) -> Result<()> {
        let Some((at, hold)) = self.ranges.remove(&(slot, family)) else {
            return Ok(());
        };
        self.count(&at, family, hold, |count| *count -= 1);
        self.write(tables, at.first..=at.last).map(drop)
    }

    /// Ports whose marks in the map are not those that were written.
    pub fn differing(&self, tables: &Tables) -> Result<Vec<u16>> {
        let held = held(tables)?;
        let both = (0..=u16::MAX).zip(held.iter().zip(&self.bits));
        Ok(both
            .filter(|(_, (held, bits))| held != bits)
            .map(|(port, _)| port)
            .collect())
    }

    /// Takes away what is marked by no range.
    pub fn forget_found(&mut self, tables: &mut Tables) -> Result<()> {
        self.found.fill(0);
        self.write(tables, 0..=u16::MAX).map(drop)
    }

    fn count(&mut self, at: &ServiceAt, family: u8, hold: Hold, change: impl Fn(&mut u16)) {
        let held = match hold {
            Hold::Held => held_bit(at.protocol, family),
            Hold::Free => 0,
        };
        let bits = published_bit(at.protocol, family) | held;
        for port in at.first..=at.last {
            let counts = self.counts.entry(port).or_default();
            for (bit, count) in counts.iter_mut().enumerate() {
                if bits & (1 << bit) != 0 {
                    change(count);
                }
            }
            if counts.iter().all(|count| *count == 0) {
                self.counts.remove(&port);
            }
        }
    }

    fn write(&mut self, tables: &mut Tables, ports: std::ops::RangeInclusive<u16>) -> Result<bool> {
        let (mut changed, mut kinds) = (HashSet::new(), HashSet::new());
        for port in ports {
            let index = usize::from(port);
            let counted = self.counts.get(&port).map_or(0, |counts| {
                let set = (0..16).filter(|&bit| counts[bit] != 0);
                set.fold(0, |bits, bit| bits | 1 << bit)
            });
            let wanted = counted | self.found[index];
            if self.bits[index] != wanted {
                self.bits[index] = wanted;
                changed.insert(index / PER_ENTRY);
                kinds.extend(self.reserve(port));
            }
        }
        for &index in &changed {
            let mut entry = Published::default();
            let from = index * PER_ENTRY;
            entry
                .ports
                .copy_from_slice(&self.bits[from..from + PER_ENTRY]);
            tables
                .published
                .set(index as u32, entry, 0)
                .written(names::PUBLISHED, PUBLISHED_ENTRIES)?;
        }
        for kind in kinds {
            self.write_reserved(tables, kind)?;
        }
        Ok(!changed.is_empty())
    }
}

/// The map's content, by port.
fn held(tables: &Tables) -> Result<Vec<u16>> {
    let mut bits = Vec::with_capacity(PER_ENTRY * PUBLISHED_ENTRIES as usize);
    for index in 0..PUBLISHED_ENTRIES {
        let entry = tables.published.get(&index, 0).map_err(|e| {
            DatapathError::other(format!("read map {}", names::PUBLISHED), chain(&e))
        })?;
        bits.extend(entry.ports);
    }
    Ok(bits)
}
