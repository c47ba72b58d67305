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
    /// The tables of records that are not what was written, whoever changed them.
    pub damaged: Vec<u32>,
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
        for ((table, record), parts) in &parts {
            match together(*table, *record, parts) {
                Found::Whole(copy) => copies.records.push(copy),
                Found::Torn => copies.torn += 1,
                Found::Damaged => copies.damaged.push(*table),
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

/// What parts of one record's key are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Whole(RecordCopy),
    /// Not of one record, or not all of it: the daemon was killed between two parts.
    Torn,
    /// All of one record, and not what it was.
    Damaged,
}

/// A record of its parts, which are kept under this hash of its key.
fn together(table: u32, record: u64, parts: &BTreeMap<u32, RecordPart>) -> Found {
    let Some(head) = parts.get(&0) else {
        return Found::Torn;
    };
    let is_of_head = |part: &&RecordPart| {
        (part.digest, part.length, part.key_length) == (head.digest, head.length, head.key_length)
    };
    let (length, key_length) = (head.length as usize, head.key_length as usize);
    let numbers = 0..length.div_ceil(RECORD_BYTES) as u32;
    let of_head = |number: &u32| parts.get(number).filter(is_of_head);
    if let Some(other) = numbers.clone().find(|number| of_head(number).is_none()) {
        // They are written in order: behind one of before there is none that is new.
        let any_behind = numbers
            .skip(other as usize)
            .any(|number| of_head(&number).is_some());
        return match any_behind || is_whole_but_for_its_head(parts) {
            true => Found::Damaged,
            false => Found::Torn,
        };
    }
    let mut bytes: Vec<u8> = Vec::new();
    for part in numbers.filter_map(|number| of_head(&number)) {
        bytes.extend_from_slice(&part.bytes);
    }
    bytes.truncate(length);
    if hash(&bytes) != head.digest || key_length > length {
        return Found::Damaged;
    }
    let value = bytes.split_off(key_length);
    // What is the key's is not under the digest, and tells by the place.
    if hash(&bytes) != record {
        return Found::Damaged;
    }
    Found::Whole(RecordCopy {
        table,
        key: bytes,
        record: value,
    })
}

/// Do all bytes make the record that the parts behind the first one are of? Then it is the
/// first one that says something else: it was not written so.
fn is_whole_but_for_its_head(parts: &BTreeMap<u32, RecordPart>) -> bool {
    let Some(next) = parts.get(&1) else {
        return false;
    };
    let mut bytes: Vec<u8> = parts.values().flat_map(|part| part.bytes).collect();
    bytes.truncate(next.length as usize);
    hash(&bytes) == next.digest
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

    const KEY: &[u8] = b"web";

    fn found(parts: &BTreeMap<u32, RecordPart>) -> Found {
        together(7, hash(KEY), parts)
    }

    fn whole(record: &[u8]) -> Found {
        Found::Whole(RecordCopy {
            table: 7,
            key: KEY.into(),
            record: record.into(),
        })
    }

    #[test]
    fn parts_are_put_together_where_they_are_of_one() {
        let long = vec![b'x'; RECORD_BYTES * 2];
        for record in [&b"{}"[..], b"", &long] {
            assert_eq!(found(&parts(KEY, record)), whole(record));
        }
        let mut mixed = parts(KEY, &long);
        let before = parts(KEY, &vec![b'y'; RECORD_BYTES * 2]);
        for part in [2, 1] {
            mixed.insert(part, before[&part]);
            assert_eq!(found(&mixed), Found::Torn);
        }
        mixed.remove(&2);
        assert_eq!(found(&mixed), Found::Torn);
        mixed.remove(&1);
        assert_eq!(found(&mixed), Found::Torn);
        assert_eq!(found(&BTreeMap::new()), Found::Torn);
    }

    #[test]
    fn what_was_written_otherwise_is_damaged_and_not_torn() {
        let damaged = |change: &dyn Fn(&mut RecordPart)| {
            let mut parts = parts(KEY, b"{}");
            change(parts.get_mut(&0).unwrap());
            found(&parts)
        };
        assert_eq!(damaged(&|part| part.bytes[4] ^= 1), Found::Damaged);
        assert_eq!(damaged(&|part| part.digest ^= 1), Found::Damaged);
        assert_eq!(damaged(&|part| part.length = 4), Found::Damaged);
        assert_eq!(damaged(&|part| part.key_length = 2), Found::Damaged);
        assert_eq!(damaged(&|part| part.key_length = 9), Found::Damaged);
        // In the middle of several.
        let long = vec![b'x'; RECORD_BYTES * 3];
        let within = |change: &dyn Fn(&mut RecordPart)| {
            let mut parts = parts(KEY, &long);
            change(parts.get_mut(&1).unwrap());
            found(&parts)
        };
        assert_eq!(within(&|part| part.digest ^= 1), Found::Damaged);
        assert_eq!(within(&|part| part.length += 1), Found::Damaged);
        assert_eq!(within(&|part| part.key_length = 2), Found::Damaged);
        assert_eq!(within(&|part| part.bytes[4] ^= 1), Found::Damaged);
        let head = |change: &dyn Fn(&mut RecordPart)| {
            let mut parts = parts(KEY, &long);
            change(parts.get_mut(&0).unwrap());
            found(&parts)
        };
        assert_eq!(head(&|part| part.digest ^= 1), Found::Damaged);
        assert_eq!(head(&|part| part.length -= 1), Found::Damaged);
        assert_eq!(head(&|part| part.key_length = 2), Found::Damaged);
        // Whole, and of another key.
        let of_another = together(7, hash(b"app"), &parts(KEY, b"{}"));
        assert_eq!(of_another, Found::Damaged);
    }

    proptest::proptest! {
        #[test]
        fn damaged_parts_are_nothing_or_what_they_were(
            length in 0..RECORD_BYTES * 3,
            damage in proptest::collection::vec((0_u32..5, 0_usize..4, proptest::prelude::any::<u32>()), 1..4),
        ) {
            let record = vec![b'x'; length];
            let mut damaged = parts(KEY, &record);
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
            let found = found(&damaged);
            let is_right = match found {
                Found::Whole(_) => found == whole(&record),
                Found::Torn | Found::Damaged => true,
            };
            proptest::prop_assert!(is_right, "{:?}", found);
        }
    }
}
