//! Copies of the store's records (map `records`).

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::maps::{HashMap, Map, MapData, MapError};
use netbpf_common::{
    maps::{RecordKey, RecordPart, records::RECORD_BYTES},
    names,
};

use super::{
    Result,
    load::chain,
    pins,
    tables::{Written, removed},
    types::DatapathError,
};

/// A record as it was copied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordCopy {
    /// As it was said by whoever copied it.
    pub table: u32,
    pub key: Vec<u8>,
    pub record: Vec<u8>,
}

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    pub records: Vec<RecordCopy>,
    /// Records that are not whole: the daemon was killed while it wrote them.
    pub torn: usize,
    /// It is all that there was: no copy has failed.
    pub complete: bool,
}

/// The entry that says so. No table has this number.
const COMPLETE: RecordKey = RecordKey {
    table: 0,
    part: 0,
    record: 0,
};

/// The map, beside all others: what is done here waits for none of them.
#[derive(Debug)]
pub struct Records {
    map: Mutex<HashMap<MapData, RecordKey, RecordPart>>,
    max_entries: u32,
    complete: AtomicBool,
}

impl Records {
    /// As it is pinned; `None` where it is not.
    pub fn from_pin(bpffs: &Path) -> Result<Option<Records>> {
        let path = pins::map(bpffs, names::RECORDS);
        if !path.exists() {
            return Ok(None);
        }
        let failed =
            |e: MapError| DatapathError::other(format!("open {}", path.display()), chain(&e));
        let data = MapData::from_pin(&path).map_err(failed)?;
        let max_entries = data.info().map_err(failed)?.max_entries();
        let map = HashMap::try_from(Map::HashMap(data)).map_err(failed)?;
        Ok(Some(Records {
            map: Mutex::new(map),
            max_entries,
            complete: AtomicBool::new(false),
        }))
    }

    fn map(&self) -> MutexGuard<'_, HashMap<MapData, RecordKey, RecordPart>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to copy all: from now on it is not complete, and has nothing but some of
    /// these, given by table, key and bytes of the record.
    pub fn begin<'a>(&self, all: impl Iterator<Item = (u32, &'a [u8], usize)>) -> Result<()> {
        self.complete.store(false, Ordering::Relaxed);
        let mut map = self.map();
        removed(names::RECORDS, map.remove(&COMPLETE))?;
        let parts = all.flat_map(|(table, key, bytes)| {
            let parts = (key.len() + bytes).div_ceil(RECORD_BYTES) as u32;
            let first = first(table, key);
            (0..parts).map(move |part| RecordKey { part, ..first })
        });
        let known: HashSet<RecordKey> = parts.collect();
        let keys: Vec<RecordKey> = map.keys().filter_map(std::result::Result::ok).collect();
        let mut stale = keys.iter().filter(|key| !known.contains(key));
        stale.try_for_each(|key| removed(names::RECORDS, map.remove(key)))
    }

    /// Notes that all has been copied, if it has.
    pub fn finish(&self) -> Result<()> {
        let mark = RecordPart::new(0, 0, 0, &[]);
        self.map()
            .insert(COMPLETE, mark, 0)
            .written(names::RECORDS, self.max_entries)?;
        self.complete.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether all that there is has been copied.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// Copies a record, in the place of what was copied before.
    pub fn put(&self, table: u32, key: &[u8], record: &[u8]) -> Result<()> {
        let mut map = self.map();
        let put = self.put_parts(&mut map, table, key, record);
        self.unless_failed(&mut map, put)
    }

    /// Takes a copy away.
    pub fn remove(&self, table: u32, key: &[u8]) -> Result<()> {
        let mut map = self.map();
        let done = remove_from(&mut map, first(table, key));
        self.unless_failed(&mut map, done)
    }

    /// What a copy says that is missing, or of before, is not to be believed.
    fn unless_failed(
        &self,
        map: &mut HashMap<MapData, RecordKey, RecordPart>,
        done: Result<()>,
    ) -> Result<()> {
        if done.is_err() {
            self.complete.store(false, Ordering::Relaxed);
            removed(names::RECORDS, map.remove(&COMPLETE))?;
        }
        done
    }

    fn put_parts(
        &self,
        map: &mut HashMap<MapData, RecordKey, RecordPart>,
        table: u32,
        key: &[u8],
        record: &[u8],
    ) -> Result<()> {
        let whole = [key, record].concat();
        let (length, key_length) = (whole.len() as u32, key.len() as u32);
        let parts = whole.chunks(RECORD_BYTES);
        let digest = hash(&whole);
        let mut at = first(table, key);
        for chunk in parts {
            let part = RecordPart::new(digest, length, key_length, chunk);
            map.insert(at, part, 0)
                .written(names::RECORDS, self.max_entries)?;
            at.part += 1;
        }
        remove_from(map, at)
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.map().keys().flatten().count()
    }

    /// All that was copied.
    pub fn read(&self) -> Result<Copies> {
        let map = self.map();
        let mut parts: BTreeMap<(u32, u64), BTreeMap<u32, RecordPart>> = BTreeMap::new();
        let mut copies = Copies::default();
        for entry in map.iter() {
            let (key, part) =
                entry.map_err(|e| DatapathError::other("read map records", chain(&e)))?;
            if key == COMPLETE {
                copies.complete = true;
                continue;
            }
            let record = parts.entry((key.table, key.record)).or_default();
            record.insert(key.part, part);
        }
        for ((table, _), parts) in &parts {
            match together(*table, parts) {
                Some(copy) => copies.records.push(copy),
                None => copies.torn += 1,
            }
        }
        Ok(copies)
    }
}

/// Removes a part and those behind it.
fn remove_from(map: &mut HashMap<MapData, RecordKey, RecordPart>, mut at: RecordKey) -> Result<()> {
    loop {
        match map.remove(&at) {
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
                return Ok(());
            }
            done => removed(names::RECORDS, done)?,
        }
        at.part += 1;
    }
}

fn first(table: u32, key: &[u8]) -> RecordKey {
    RecordKey {
        table,
        part: 0,
        record: hash(key),
    }
}

/// FNV-1a: the same in every version.
fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// A record of its parts; `None` where they are not of one, as the daemon was killed between.
fn together(table: u32, parts: &BTreeMap<u32, RecordPart>) -> Option<RecordCopy> {
    let head = parts.get(&0)?;
    let length = head.length as usize;
    let of_this = (0..length.div_ceil(RECORD_BYTES) as u32).map(|n| parts.get(&n));
    let mut bytes = Vec::new();
    for part in of_this {
        let part = part.filter(|part| part.digest == head.digest)?;
        bytes.extend_from_slice(&part.bytes);
    }
    bytes.truncate(length);
    if hash(&bytes) != head.digest {
        return None;
    }
    let record = bytes.split_off((head.key_length as usize).min(length));
    Some(RecordCopy {
        table,
        key: bytes,
        record,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(key: &[u8], record: &[u8]) -> BTreeMap<u32, RecordPart> {
        let whole = [key, record].concat();
        let (length, key_length) = (whole.len() as u32, key.len() as u32);
        let part = |chunk: &[u8]| RecordPart::new(hash(&whole), length, key_length, chunk);
        (0..).zip(whole.chunks(RECORD_BYTES).map(part)).collect()
    }

    #[test]
    fn parts_are_put_together_where_they_are_of_one() {
        let long = vec![b'x'; RECORD_BYTES * 2];
        for record in [&b"{}"[..], b"", &long] {
            let copy = together(7, &parts(b"web", record)).unwrap();
            assert_eq!(
                (copy.table, &copy.key[..], &copy.record[..]),
                (7, &b"web"[..], record)
            );
        }
        let mut mixed = parts(b"web", &long);
        mixed.insert(1, parts(b"web", &vec![b'y'; RECORD_BYTES * 2])[&1]);
        assert_eq!(together(7, &mixed), None);
        mixed.remove(&1);
        assert_eq!(together(7, &mixed), None);
        assert_eq!(together(7, &BTreeMap::new()), None);
    }

    proptest::proptest! {
        #[test]
        fn damaged_parts_are_none_or_what_they_were(
            length in 0..RECORD_BYTES * 3,
            damage in proptest::collection::vec((0_u32..5, 0_usize..4, proptest::prelude::any::<u32>()), 1..4),
        ) {
            let record = vec![b'x'; length];
            let mut damaged = parts(b"web", &record);
            for (part, field, value) in damage {
                let Some(part) = damaged.get_mut(&part) else {
                    damaged.insert(part, RecordPart::new(u64::from(value), value, value, b"y"));
                    continue;
                };
                match field {
                    0 => part.digest ^= u64::from(value),
                    1 => part.length = value,
                    2 => part.key_length = value % 8,
                    _ => part.bytes[value as usize % RECORD_BYTES] ^= 1,
                }
            }
            if let Some(copy) = together(7, &damaged) {
                proptest::prop_assert_eq!([copy.key, copy.record].concat(), [&b"web"[..], &record].concat());
            }
        }
    }
}
