//! One file of the store: tables of JSON records in redb.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableDefinition, TableHandle,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Record, Result, StoreError, copies::Kind};
use crate::{datapath::Records, sys::fault};

pub(super) const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
pub(super) const ENDPOINTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("endpoints");
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Version of the records' layout.
pub(super) const VERSION: u32 = 1;

/// The tables are small; redb's default cache of a gigabyte is for others.
const CACHE: usize = 2 * 1024 * 1024;

pub(super) const NO_SENSE: &str = "its structure makes no sense";

pub(super) fn create_durable(path: &Path) -> Result<Database, DatabaseError> {
    Builder::new()
        .set_cache_size(CACHE)
        .create_file(open_file(path)?)
}

pub(super) fn create_volatile(path: &Path) -> Result<Database, DatabaseError> {
    Builder::new()
        .set_cache_size(CACHE)
        .create_with_backend(PageCacheFile::open(path)?)
}

/// For root alone, whatever the umask or an earlier version made it.
fn open_file(path: &Path) -> io::Result<File> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o7777 != 0o600
        && let Err(error) = file.set_permissions(fs::Permissions::from_mode(0o600))
    {
        // Another user's.
        tracing::warn!(%error, path = %path.display(), "others may read the store");
    }
    Ok(file)
}

/// Key and record.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// How a file is opened.
pub(super) type Opener = fn(&Path) -> Result<Database, DatabaseError>;

/// One file.
#[derive(Debug)]
pub(super) struct Table {
    /// `None` while it cannot be opened anew.
    database: RwLock<Option<Database>>,
    pub(super) path: PathBuf,
    opener: Opener,
    pub(super) kind: Kind,
    /// Where each record is copied to once it is known.
    pub(super) copies: OnceLock<Arc<Records>>,
}

#[derive(Deserialize)]
struct VersionOf {
    version: u32,
}

#[derive(Serialize)]
pub(super) struct Versioned<'a, T> {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) record: &'a T,
}

impl Table {
    pub(super) fn open(path: PathBuf, opener: Opener, kind: Kind) -> Result<Table> {
        let database = RwLock::new(Some(open_database(&path, opener)?));
        let table = Table {
            database,
            path,
            opener,
            kind,
            copies: OnceLock::new(),
        };
        table.write(|transaction| {
            transaction.open_table(NETWORKS)?;
            transaction.open_table(ENDPOINTS)?;
            transaction.open_table(META)?;
            Ok(())
        })?;
        Ok(table)
    }

    /// Does the work. After an I/O error, of a disk that was full, redb refuses all until
    /// the file is opened anew.
    fn with<T>(&self, work: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T> {
        let attempt = || match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            // redb asserts on some kinds of damage; that must end in a clear word too.
            Some(database) => catch_unwind(AssertUnwindSafe(|| work(database)))
                .unwrap_or_else(|_| Err(redb::Error::Corrupted(NO_SENSE.into()))),
            None => Err(redb::Error::PreviousIo),
        };
        let done = match attempt() {
            Err(redb::Error::PreviousIo) => {
                self.open_anew()?;
                attempt()
            }
            done => done,
        };
        done.map_err(|e| self.failed(e))
    }

    fn open_anew(&self) -> Result<()> {
        let database = self.database.write();
        let mut database = database.unwrap_or_else(PoisonError::into_inner);
        // It is locked as long as it is open.
        *database = None;
        // A new one would have forgotten all.
        if !self.path.exists() {
            return Err(self.unavailable("it was removed"));
        }
        *database = Some(open_database(&self.path, self.opener)?);
        Ok(())
    }

    pub(super) fn write(
        &self,
        work: impl Fn(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<()> {
        let what = || format!("a commit to {}", self.path.display());
        self.with(|database| {
            let transaction = database.begin_write()?;
            work(&transaction)?;
            fault::point("before", what);
            Ok(transaction.commit()?)
        })?;
        fault::point("after", what);
        Ok(())
    }

    pub(super) fn put<K: redb::Key>(
        &self,
        table: TableDefinition<'_, K, &[u8]>,
        key: K::SelfType<'_>,
        bytes: &[u8],
    ) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(table)?.insert(&key, bytes)?;
            Ok(())
        })?;
        self.copy(table.name(), K::as_bytes(&key).as_ref(), Some(bytes));
        Ok(())
    }

    pub(super) fn remove<K: redb::Key>(
        &self,
        table: TableDefinition<'_, K, &[u8]>,
        key: K::SelfType<'_>,
    ) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(table)?.remove(&key)?;
            Ok(())
        })?;
        self.copy(table.name(), K::as_bytes(&key).as_ref(), None);
        Ok(())
    }

    pub(super) fn get<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &str, &[u8]>,
        key: &str,
    ) -> Result<Option<T>> {
        let found = self.with(|database| {
            let table = database.begin_read()?.open_table(table)?;
            Ok(table.get(key)?.map(|bytes| bytes.value().to_vec()))
        })?;
        found
            .map(|bytes| serde_json::from_slice(&bytes).map_err(|e| self.corrupt(e)))
            .transpose()
    }

    pub(super) fn read_all<K: redb::Key, T: Record>(
        &self,
        table: TableDefinition<'_, K, &[u8]>,
    ) -> Result<Vec<T>> {
        let rows = self.rows(table)?;
        rows.iter().map(|(_, bytes)| self.decode(bytes)).collect()
    }

    /// Keys and records as they are in the file.
    pub(super) fn rows<K: redb::Key>(
        &self,
        table: TableDefinition<'_, K, &[u8]>,
    ) -> Result<Vec<Row>> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(table)?;
            let mut rows = Vec::new();
            for entry in table.iter()? {
                let (key, record) = entry?;
                let key = K::as_bytes(&key.value()).as_ref().to_vec();
                rows.push((key, record.value().to_vec()));
            }
            Ok(rows)
        })
    }

    /// Nothing is written that is not read back.
    pub(super) fn encode<T: Record>(&self, record: &T) -> Result<Vec<u8>> {
        if let Some(flaw) = record.flaw() {
            return Err(StoreError::Flawed { flaw });
        }
        let versioned = Versioned {
            version: VERSION,
            record,
        };
        serde_json::to_vec(&versioned).map_err(|e| self.unavailable(e))
    }

    pub(super) fn decode<T: Record>(&self, bytes: &[u8]) -> Result<T> {
        let found: VersionOf = serde_json::from_slice(bytes).map_err(|e| self.corrupt(e))?;
        if found.version != VERSION {
            return Err(StoreError::Version {
                path: self.path.clone(),
                found: found.version,
            });
        }
        let record: T = serde_json::from_slice(bytes).map_err(|e| self.corrupt(e))?;
        match record.flaw() {
            None => Ok(record),
            Some(flaw) => Err(self.corrupt(flaw)),
        }
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Corrupted(reason) => self.corrupt(reason),
            redb::Error::TableTypeMismatch { .. } => self.corrupt(error),
            redb::Error::Io(error) if is_damage(&error) => self.corrupt(error),
            _ => self.unavailable(error),
        }
    }

    pub(super) fn corrupt(&self, reason: impl ToString) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    pub(super) fn unavailable(&self, reason: impl ToString) -> StoreError {
        StoreError::Unavailable {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

fn open_database(path: &Path, opener: Opener) -> Result<Database> {
    match catch_unwind(AssertUnwindSafe(|| opener(path))) {
        Ok(opened) => opened.map_err(|e| refused(path, &e)),
        Err(_) => Err(StoreError::Corrupt {
            path: path.into(),
            reason: NO_SENSE.into(),
        }),
    }
}

/// What cannot be read any more is lost as what makes no sense is.
fn is_damage(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof];
    error.raw_os_error() == Some(libc::EIO) || kinds.contains(&error.kind())
}

fn refused(path: &Path, error: &DatabaseError) -> StoreError {
    let dir = path.parent().unwrap_or(path).to_path_buf();
    let reason = error.to_string();
    let path = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: dir },
        DatabaseError::Storage(StorageError::Io(e)) if !is_damage(e) => {
            StoreError::Unavailable { path, reason }
        }
        _ => StoreError::Corrupt { path, reason },
    }
}

/// A file whose writes are done when the page cache has them.
#[derive(Debug)]
struct PageCacheFile(File);

impl PageCacheFile {
    fn open(path: &Path) -> Result<PageCacheFile, DatabaseError> {
        let file = open_file(path)?;
        match file.try_lock() {
            Ok(()) => Ok(PageCacheFile(file)),
            Err(TryLockError::WouldBlock) => Err(DatabaseError::DatabaseAlreadyOpen),
            Err(TryLockError::Error(e)) => Err(e.into()),
        }
    }
}

impl StorageBackend for PageCacheFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}
