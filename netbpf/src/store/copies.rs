//! Copies of all records, which the kernel keeps as long as the datapath (map `records`):
//! from them a file that was damaged or lost is made anew.

use std::{
    fs::{self, File},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::TableHandle;

use super::{
    Code, EndpointRecord, Meta, NetworkRecord, Place, Result, StoreError,
    table::{ENDPOINTS, META, NETWORKS, NO_SENSE, Opener, Row, Table},
};
use crate::{
    datapath::{self, Copies, RecordCopy, Records},
    sys::fault,
};

/// Which file a table is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Durable,
    Volatile,
}

/// Numbers of the tables among copies, which must never change.
mod number {
    pub const NETWORKS: u32 = 1;
    pub const ENDPOINTS: u32 = 2;
    pub const META_DURABLE: u32 = 3;
    pub const META_VOLATILE: u32 = 4;
}

impl Kind {
    /// The number of one of its tables.
    fn number_of(self, table: &str) -> u32 {
        match (self, table) {
            (_, "networks") => number::NETWORKS,
            (_, "endpoints") => number::ENDPOINTS,
            (Kind::Durable, _) => number::META_DURABLE,
            (Kind::Volatile, _) => number::META_VOLATILE,
        }
    }

    fn has(self, table: u32) -> bool {
        let numbers = match self {
            Kind::Durable => [number::NETWORKS, number::META_DURABLE],
            Kind::Volatile => [number::ENDPOINTS, number::META_VOLATILE],
        };
        numbers.contains(&table)
    }
}

/// How what is copied is read, once it is needed.
pub type ReadCopies<'a> = &'a dyn Fn() -> crate::error::Result<Copies>;

/// What a file is found to be.
#[derive(Debug)]
enum Condition {
    Sound,
    /// It is not there, or has not one row: a daemon notes where it runs before all else.
    Lost,
    Corrupt(String),
}

/// Opens a file, or makes it anew of copies where it is damaged or lost; then with what is
/// to be said of it.
pub(super) fn open(
    path: &Path,
    opener: Opener,
    kind: Kind,
    read: ReadCopies<'_>,
) -> Result<(Table, Option<String>)> {
    let condition = examine(path, opener, kind)?;
    let what = match &condition {
        Condition::Sound => return Ok((Table::open(path.into(), opener, kind)?, None)),
        Condition::Lost => "was lost".to_owned(),
        Condition::Corrupt(why) => format!("was corrupt ({why})"),
    };
    let corrupt = |reason: String| StoreError::Corrupt {
        path: path.into(),
        reason,
    };
    let copies = read().map_err(|error| {
        let (path, reason) = (path.into(), format!("it {what}, and {}", error.message));
        match error.code {
            Code::StoreCorrupt => StoreError::Corrupt { path, reason },
            _ => StoreError::Unavailable { path, reason },
        }
    })?;
    let (complete, torn) = (copies.complete, copies.torn);
    let damaged = copies.damaged.iter().filter(|&&table| kind.has(table));
    let damaged = damaged.count();
    let copies: Vec<RecordCopy> = copies
        .records
        .into_iter()
        .filter(|copy| kind.has(copy.table))
        .collect();
    match &condition {
        Condition::Corrupt(why) if copies.is_empty() => return Err(corrupt(why.clone())),
        // Containers that have no copy would lose their network.
        _ if damaged > 0 => {
            return Err(corrupt(format!(
                "it {what}, and so are {damaged} of the copies that the kernel has of its \
                 records: `netbpf teardown`, then start"
            )));
        }
        _ if copies.is_empty() => return Ok((Table::open(path.into(), opener, kind)?, None)),
        // The same.
        _ if !complete => {
            return Err(corrupt(format!(
                "it {what}, and the kernel has not a copy of each record: \
                 `netbpf teardown`, then start"
            )));
        }
        _ => {}
    }
    // Whole before it is in its place: a start that dies here is followed by one that
    // finds the file as this one did.
    let fresh = with_suffix(path, ".new");
    let failed = |step: &str, e: std::io::Error| StoreError::Unavailable {
        path: path.into(),
        reason: format!("{step}: {e}"),
    };
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove what was begun", e));
        }
        _ => {}
    }
    let restored = Table::open(fresh.clone(), opener, kind);
    let restored = restored.and_then(|table| table.restore(path, &copies));
    let found = restored.inspect_err(|_| super::remove(&fresh))?;
    let kept = match condition {
        Condition::Corrupt(_) => {
            let aside = free_name(path);
            // So that there is no moment without a file, where links are to be had.
            fs::hard_link(path, &aside)
                .or_else(|_| fs::rename(path, &aside))
                .map_err(|e| failed("put aside", e))?;
            format!(" and is kept as {}", aside.display())
        }
        _ => String::new(),
    };
    let sync = || File::open(path.parent().unwrap_or(path))?.sync_all();
    sync().map_err(|e| failed("write the directory", e))?;
    fault::point("before", || format!("renaming {}", fresh.display()));
    fs::rename(&fresh, path).map_err(|e| failed("put what was restored in its place", e))?;
    sync().map_err(|e| failed("write the directory", e))?;
    let torn = match torn {
        0 => String::new(),
        n => format!(", {n} records had not been written"),
    };
    let path_shown = path.display();
    let text =
        format!("the store {path_shown} {what}{kept}; {found} are restored from the kernel{torn}");
    Ok((Table::open(path.into(), opener, kind)?, Some(text)))
}

fn examine(path: &Path, opener: Opener, kind: Kind) -> Result<Condition> {
    if !path.exists() {
        return Ok(Condition::Lost);
    }
    let look = || -> Result<bool> {
        let table = Table::open(path.into(), opener, kind)?;
        table.check()
    };
    // redb asserts on some kinds of damage, also when it is closed.
    match catch_unwind(AssertUnwindSafe(look)) {
        Ok(Ok(true)) => Ok(Condition::Sound),
        Ok(Ok(false)) => Ok(Condition::Lost),
        Ok(Err(StoreError::Corrupt { reason, .. })) => Ok(Condition::Corrupt(reason)),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(Condition::Corrupt(NO_SENSE.into())),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// For a file that is put aside.
fn free_name(path: &Path) -> PathBuf {
    let named = |n: u32| match n {
        0 => with_suffix(path, ".corrupt"),
        n => with_suffix(path, &format!(".corrupt-{n}")),
    };
    let free = (0..).map(named).find(|path| !path.exists());
    free.unwrap_or_else(|| named(0))
}

impl Table {
    /// Reads all that it has; whether there is anything.
    fn check(&self) -> Result<bool> {
        let networks = self.read_all::<_, NetworkRecord>(NETWORKS)?.len();
        let endpoints = self.read_all::<_, EndpointRecord>(ENDPOINTS)?.len();
        let metas = self.rows(META)?;
        metas
            .iter()
            .try_for_each(|(_, bytes)| self.is_json(bytes))?;
        Ok(networks + endpoints + metas.len() > 0)
    }

    fn is_json(&self, bytes: &[u8]) -> Result<()> {
        let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(bytes);
        parsed.map(drop).map_err(|e| self.corrupt(e))
    }

    /// Whether a copy can be read: of a later version none is, and none is thrown away.
    fn check_copy(&self, copy: &RecordCopy) -> Result<()> {
        let is_named = || match str::from_utf8(&copy.key) {
            Ok(_) => Ok(()),
            Err(e) => Err(self.corrupt(e)),
        };
        match copy.table {
            number::NETWORKS => self
                .decode::<NetworkRecord>(&copy.record)
                .map(drop)
                .and(is_named()),
            number::ENDPOINTS if copy.key.len() != size_of::<u32>() => {
                Err(self.corrupt("an endpoint without a number"))
            }
            number::ENDPOINTS => self.decode::<EndpointRecord>(&copy.record).map(drop),
            _ => self.is_json(&copy.record).and(is_named()),
        }
    }

    /// Writes copies, all at once; what there is then. `path`: of which file they are.
    fn restore(self, path: &Path, copies: &[RecordCopy]) -> Result<String> {
        let of_file = |error| match error {
            StoreError::Version { found, .. } => StoreError::Version {
                path: path.into(),
                found,
            },
            StoreError::Corrupt { reason, .. } => StoreError::Corrupt {
                path: path.into(),
                reason: format!("and so is its copy in the kernel: {reason}"),
            },
            other => other,
        };
        copies
            .iter()
            .try_for_each(|copy| self.check_copy(copy))
            .map_err(of_file)?;
        self.write(|transaction| {
            let mut networks = transaction.open_table(NETWORKS)?;
            let mut endpoints = transaction.open_table(ENDPOINTS)?;
            let mut metas = transaction.open_table(META)?;
            for copy in copies {
                let (key, record) = (copy.key.as_slice(), copy.record.as_slice());
                let name = str::from_utf8(key).unwrap_or_default();
                let index = <[u8; 4]>::try_from(key).map(u32::from_le_bytes);
                match copy.table {
                    number::NETWORKS => drop(networks.insert(name, record)?),
                    number::ENDPOINTS => drop(endpoints.insert(index.unwrap_or_default(), record)?),
                    _ => drop(metas.insert(name, record)?),
                }
            }
            Ok(())
        })?;
        let count = |table: u32| copies.iter().filter(|copy| copy.table == table).count();
        Ok(match self.kind {
            Kind::Durable => format!("{} networks", count(number::NETWORKS)),
            Kind::Volatile => format!("{} endpoints", count(number::ENDPOINTS)),
        })
    }

    /// All that there is: number of the table, key, record.
    fn everything(&self) -> Result<Vec<(u32, Row)>> {
        let tables = [
            (NETWORKS.name().to_owned(), self.rows(NETWORKS)?),
            (ENDPOINTS.name().to_owned(), self.rows(ENDPOINTS)?),
            (META.name().to_owned(), self.rows(META)?),
        ];
        let all = tables.into_iter().flat_map(|(name, rows)| {
            let number = self.kind.number_of(&name);
            rows.into_iter().map(move |row| (number, row))
        });
        Ok(all.collect())
    }

    /// Copies what has become of a record: the file has it already, and goes on alone where
    /// there is no room for a copy.
    pub(super) fn copy(&self, table: &str, key: &[u8], record: Option<&[u8]>) {
        let Some(copies) = self.copies.get() else {
            return;
        };
        let table = self.kind.number_of(table);
        let copied = match record {
            Some(record) => copies.put(table, key, record),
            None => copies.remove(table, key),
        };
        if let Err(error) = copied {
            tracing::warn!(%error, "the kernel has no copy of a record, and is given all anew");
        }
    }
}

/// What a store of volatile records may take of copies: those that were made beside the
/// same networks. Others are of another store.
pub(super) fn beside(durable: &Table, copies: Copies) -> Result<Copies> {
    let mut networks: Vec<Row> = durable.rows(NETWORKS)?;
    let copied = copies
        .records
        .iter()
        .filter(|copy| copy.table == number::NETWORKS);
    let mut copied: Vec<Row> = copied.map(|c| (c.key.clone(), c.record.clone())).collect();
    let damaged = copies.damaged.iter();
    let damaged = damaged.filter(|table| **table == number::NETWORKS).count();
    networks.sort();
    copied.sort();
    let is_known = |row: &Row| networks.binary_search(row).is_ok();
    // Which ones are damaged cannot be told; all others are the same.
    match copied.iter().all(is_known) && copied.len() + damaged == networks.len() {
        true => Ok(copies),
        false => {
            tracing::warn!("the kernel's copies of records are of another store");
            Ok(Copies::default())
        }
    }
}

/// Of the daemon that copied them; `None` where they do not say.
pub fn place_of(copies: &Copies) -> Option<Place> {
    let key = Meta::Place.key().as_bytes();
    let is_it = |copy: &&RecordCopy| copy.table == number::META_DURABLE && copy.key == key;
    serde_json::from_slice(&copies.records.iter().find(is_it)?.record).ok()
}

impl super::Store {
    /// Copies all that there is and is to come.
    pub fn keep_copies(&self, copies: Records) -> Result<()> {
        let copies = Arc::new(copies);
        for table in [&self.durable, &self.volatile] {
            table.copies.get_or_init(|| copies.clone());
        }
        if let Err(error) = self.copy_all(&copies)? {
            tracing::warn!(%error, "the kernel has not a copy of each record");
        }
        Ok(())
    }

    /// Copies all anew where a copy has failed. To be called while nothing changes.
    pub fn complete_copies(&self) -> Result<()> {
        match self.durable.copies.get() {
            Some(copies) if !copies.is_complete() => match self.copy_all(copies)? {
                Ok(()) => tracing::info!("the kernel has a copy of each record again"),
                // It was said when it failed first.
                Err(error) => tracing::debug!(%error, "the kernel has not a copy of each record"),
            },
            _ => {}
        }
        Ok(())
    }

    /// Whether each record has its copy.
    pub fn has_all_copies(&self) -> bool {
        let copies = self.durable.copies.get();
        copies.is_none_or(|copies| copies.is_complete())
    }

    fn copy_all(&self, copies: &Records) -> Result<datapath::Result<()>> {
        let mut all = self.durable.everything()?;
        all.extend(self.volatile.everything()?);
        let sizes = all
            .iter()
            .map(|(table, (key, record))| (*table, key.as_slice(), record.len()));
        let copy = || {
            copies.begin(sizes)?;
            for (table, (key, record)) in &all {
                copies.put(*table, key, record)?;
            }
            copies.finish()
        };
        Ok(copy())
    }
}
