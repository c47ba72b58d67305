//! Copies of all records, which the kernel keeps as long as the datapath (map `records`):
//! from them a file that was damaged or lost is made anew.

use std::{collections::HashSet, path::Path};

use redb::TableDefinition;
use serde::de::DeserializeOwned;

use super::{
    ENDPOINTS, EndpointRecord, META, NETWORKS, NetworkRecord, Opener, Result, StoreError, Table,
};
use crate::datapath::{RecordCopy, Records};

/// Which file a table is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Durable,
    Volatile,
}

impl Kind {
    /// The number of one of its tables among copies.
    const fn table(self, name: &str) -> u32 {
        match (self, name.as_bytes()) {
            (_, b"networks") => 1,
            (_, b"endpoints") => 2,
            (Kind::Durable, _) => 3,
            (Kind::Volatile, _) => 4,
        }
    }

    fn has(self, copy: &RecordCopy) -> bool {
        match self {
            Kind::Durable => [1, 3].contains(&copy.table),
            Kind::Volatile => [2, 4].contains(&copy.table),
        }
    }
}

/// A file that was made anew of copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What is in it now, and where what was found is.
    pub text: String,
}

/// Opens a file, or makes it anew of copies where it is damaged or lost.
pub(super) fn open(
    path: &Path,
    opener: Opener,
    kind: Kind,
    copies: &[RecordCopy],
) -> Result<(Table, Option<Restored>)> {
    let copies: Vec<&RecordCopy> = copies.iter().filter(|copy| kind.has(copy)).collect();
    let is_lost = !path.exists();
    let opened = Table::open(path.into(), opener, kind);
    let why = match opened.and_then(|table| table.check().map(|()| table)) {
        Ok(table) if !is_lost || copies.is_empty() => return Ok((table, None)),
        // It is empty.
        Ok(table) => {
            return table
                .restore(&copies, "was lost")
                .map(|(t, r)| (t, Some(r)));
        }
        Err(StoreError::Corrupt { reason, .. }) if !copies.is_empty() => reason,
        Err(error) => return Err(error),
    };
    let aside = put_aside(path)?;
    let what = format!("was corrupt ({why}) and is kept as {}", aside.display());
    let table = Table::open(path.into(), opener, kind)?;
    table.restore(&copies, &what).map(|(t, r)| (t, Some(r)))
}

/// Renames a file to a name that is free.
fn put_aside(path: &Path) -> Result<std::path::PathBuf> {
    let named = |n: u32| {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(match n {
            0 => ".corrupt".to_owned(),
            n => format!(".corrupt-{n}"),
        });
        path.with_file_name(name)
    };
    let free = (0..).map(named).find(|path| !path.exists());
    let aside = free.unwrap_or_else(|| named(0));
    std::fs::rename(path, &aside).map_err(|e| StoreError::Unavailable {
        path: path.into(),
        reason: format!("put aside: {e}"),
    })?;
    Ok(aside)
}

impl Table {
    /// Whether all that it has can be read.
    fn check(&self) -> Result<()> {
        self.read_all::<_, NetworkRecord>(NETWORKS)?;
        self.read_all::<_, EndpointRecord>(ENDPOINTS)?;
        let metas = self.rows(META)?;
        metas.iter().try_for_each(|(_, bytes)| self.is_json(bytes))
    }

    fn is_json(&self, bytes: &[u8]) -> Result<()> {
        let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(bytes);
        parsed.map(drop).map_err(|e| self.corrupt(e))
    }

    /// Whether a copy can be read, which has come as it is.
    fn is_right(&self, copy: &RecordCopy) -> bool {
        fn reads<T: DeserializeOwned>(table: &Table, copy: &RecordCopy) -> bool {
            table.decode::<T>(&copy.record).is_ok()
        }
        match copy.table {
            1 => reads::<NetworkRecord>(self, copy) && str::from_utf8(&copy.key).is_ok(),
            2 => reads::<EndpointRecord>(self, copy) && copy.key.len() == 4,
            _ => self.is_json(&copy.record).is_ok() && str::from_utf8(&copy.key).is_ok(),
        }
    }

    /// Writes copies, all at once.
    fn restore(self, copies: &[&RecordCopy], what: &str) -> Result<(Table, Restored)> {
        let (right, wrong): (Vec<&RecordCopy>, Vec<_>) =
            copies.iter().partition(|copy| self.is_right(copy));
        self.write(|transaction| {
            let mut networks = transaction.open_table(NETWORKS)?;
            let mut endpoints = transaction.open_table(ENDPOINTS)?;
            let mut metas = transaction.open_table(META)?;
            for copy in &right {
                let (key, record) = (copy.key.as_slice(), copy.record.as_slice());
                let name = str::from_utf8(key).unwrap_or_default();
                let index = <[u8; 4]>::try_from(key).map(u32::from_le_bytes);
                match copy.table {
                    1 => drop(networks.insert(name, record)?),
                    2 => drop(endpoints.insert(index.unwrap_or_default(), record)?),
                    _ => drop(metas.insert(name, record)?),
                }
            }
            Ok(())
        })?;
        let count = |table: u32| right.iter().filter(|copy| copy.table == table).count();
        let found = match self.kind {
            Kind::Durable => format!("{} networks", count(1)),
            Kind::Volatile => format!("{} endpoints", count(2)),
        };
        let unread = match wrong.len() {
            0 => String::new(),
            n => format!(", {n} records could not be read"),
        };
        let path = self.path.display();
        let text = format!("the store {path} {what}; {found} are restored from the kernel{unread}");
        Ok((self, Restored { text }))
    }

    /// Writes all that there is to the copies.
    pub(super) fn copy_all(&self, known: &mut HashSet<(u32, Vec<u8>)>) -> Result<()> {
        let mut rows = Vec::new();
        let of = |definition: TableDefinition<'_, &str, &[u8]>| self.rows(definition);
        rows.extend(of(NETWORKS)?.into_iter().map(|row| ("networks", row)));
        rows.extend(
            self.rows(ENDPOINTS)?
                .into_iter()
                .map(|row| ("endpoints", row)),
        );
        rows.extend(of(META)?.into_iter().map(|row| ("meta", row)));
        for (name, (key, bytes)) in rows {
            self.copy(name, &key, Some(&bytes));
            known.insert((self.kind.table(name), key));
        }
        Ok(())
    }

    /// Copies what has become of a record: the file has it already, and goes on alone where
    /// there is no room for a copy.
    pub(super) fn copy(&self, table: &str, key: &[u8], record: Option<&[u8]>) {
        let Some(copies) = self.copies.get() else {
            return;
        };
        let table = self.kind.table(table);
        let copied = match record {
            Some(record) => copies.put(table, key, record),
            None => copies.remove(table, key),
        };
        if let Err(error) = copied {
            tracing::warn!(%error, "the kernel has no copy of a record");
        }
    }
}

impl super::Store {
    /// Copies all that there is and is to come.
    pub fn keep_copies(&self, copies: Records) -> Result<()> {
        let copies = std::sync::Arc::new(copies);
        let mut known = HashSet::new();
        for table in [&self.durable, &self.volatile] {
            table.copies.get_or_init(|| copies.clone());
            table.copy_all(&mut known)?;
        }
        if let Err(error) = copies.retain(&known) {
            tracing::warn!(%error, "copies of records are left in the kernel");
        }
        Ok(())
    }
}
