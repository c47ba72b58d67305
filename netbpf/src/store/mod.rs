//! This node's truth: networks, endpoints, and what of the host's settings is
//! ours to take back.
//!
//! Two redb files. `netbpf.redb` in the state directory keeps what outlives the
//! boot (networks); a commit there waits for the disk. `endpoints-BOOT.redb` in
//! the run directory keeps what dies with the boot (endpoints). Its commits must
//! survive kill -9 but not power loss, and an attach must not wait for a disk.
//! redb's own `Durability::None` is no answer: such a commit is only in the
//! process's memory until a durable one follows. So the file has a backend whose
//! `sync_data` does nothing: a commit writes to the page cache in redb's usual
//! order, which a killed process leaves in place just as a disk keeps what was
//! synced. The boot's id is in the file's name: what an earlier boot left, torn
//! or not, is removed unread.

mod copies;
mod records;

pub use copies::{ReadCopies, Restored, place_of};
pub use records::*;

use copies::Kind;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    StorageError, TableDefinition, TableHandle,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    datapath::{Copies, Records},
    error::{Code, Error},
    sys::fault,
};

const NETWORKS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("networks");
const ENDPOINTS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("endpoints");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Version of the records' layout.
const VERSION: u32 = 1;

/// The tables are small; redb's default cache of a gigabyte is for others.
const CACHE: usize = 2 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another daemon uses {}", path.display())]
    InUse { path: PathBuf },
    #[error("the store {} is corrupt: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "the store {} is of another version: a record has version {found}, this netbpf knows {VERSION}",
        path.display()
    )]
    Version { path: PathBuf, found: u32 },
    #[error("the store {} cannot be used: {reason}", path.display())]
    Unavailable { path: PathBuf, reason: String },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let code = match error {
            StoreError::InUse { .. } => Code::Conflict,
            StoreError::Corrupt { .. } | StoreError::Version { .. } => Code::StoreCorrupt,
            StoreError::Unavailable { .. } => Code::StoreUnavailable,
        };
        Error::new(code, error.to_string())
    }
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What of the node is kept beside networks and endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// Last number given to a network (`u32`).
    LastNetwork,
    /// The node's own ULA prefix (`Ipv6Net`).
    UlaPrefix,
    /// Ports that we added to `ip_local_reserved_ports`; dies with the boot.
    ReservedPorts,
    /// How the bpffs directory came to be; dies with the boot.
    Bpffs,
    /// The boot and network namespace of the daemon that used the store last
    /// ([`Place`]).
    Place,
    /// Tells this daemon from others of its node's name (`String`).
    NodeId,
    /// The address by which other nodes reached this one last (`IpAddr`).
    NodeAddress,
}

impl Meta {
    const fn key(self) -> &'static str {
        match self {
            Meta::LastNetwork => "last_network",
            Meta::UlaPrefix => "ula_prefix",
            Meta::ReservedPorts => "reserved_ports",
            Meta::Bpffs => "bpffs",
            Meta::Place => "place",
            Meta::NodeId => "node_id",
            Meta::NodeAddress => "node_address",
        }
    }
}

const NO_SENSE: &str = "its structure makes no sense";

/// In the state directory.
const DURABLE: &str = "netbpf.redb";

/// In the run directory.
fn volatile_name(boot_id: &str) -> String {
    format!("endpoints-{boot_id}.redb")
}

fn create_durable(path: &Path) -> Result<Database, DatabaseError> {
    Builder::new()
        .set_cache_size(CACHE)
        .create_file(open_file(path)?)
}

fn create_volatile(path: &Path) -> Result<Database, DatabaseError> {
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

/// Both files, locked against other daemons.
#[derive(Debug)]
pub struct Store {
    durable: Table,
    volatile: Table,
    /// Files that were not there before.
    made: Vec<PathBuf>,
    /// Files that were made anew.
    restored: Vec<Restored>,
}

impl Store {
    /// Opens or makes the store; what endpoints of an earlier boot left is
    /// removed. A file that is damaged or lost is made anew of copies, where there are any.
    pub fn open(
        state_dir: &Path,
        run_dir: &Path,
        boot_id: &str,
        copies: ReadCopies<'_>,
    ) -> Result<Store> {
        make_directories(state_dir, run_dir)?;
        let name = volatile_name(boot_id);
        let paths = [state_dir.join(DURABLE), run_dir.join(&name)];
        let mut made: Vec<PathBuf> = paths.iter().filter(|p| !p.exists()).cloned().collect();
        let [durable_path, volatile_path] = paths;
        // But for one that another daemon has made meanwhile.
        let forget = |made: &[PathBuf], at: &Path, error: &StoreError| {
            let in_use = matches!(error, StoreError::InUse { .. });
            let ours = made.iter().filter(|path| !in_use || *path != at);
            ours.for_each(|path| remove(path));
        };
        let durable = copies::open(&durable_path, create_durable, Kind::Durable, copies);
        let (durable, network) =
            durable.inspect_err(|error| forget(&made, &durable_path, error))?;
        if network.is_some() {
            // What was restored is not taken away again.
            made.retain(|path| *path != durable_path);
        }
        let beside = || Ok(copies::beside(&durable, copies()?)?);
        let volatile = copies::open(&volatile_path, create_volatile, Kind::Volatile, &beside);
        let (volatile, endpoint) =
            volatile.inspect_err(|error| forget(&made, &volatile_path, error))?;
        if endpoint.is_some() {
            made.retain(|path| *path != volatile_path);
        }
        remove_other_boots(run_dir, &name);
        Ok(Store {
            durable,
            volatile,
            made,
            restored: network.into_iter().chain(endpoint).collect(),
        })
    }

    /// Removes the files that this store has made: the daemon did not come to use
    /// them. They are still locked, so that they are nobody else's.
    pub fn discard_made(&self) {
        self.made.iter().for_each(|path| remove(path));
    }

    /// Whether there is any file of a store.
    pub fn is_there(state_dir: &Path, run_dir: &Path, boot_id: &str) -> bool {
        state_dir.join(DURABLE).exists() || run_dir.join(volatile_name(boot_id)).exists()
    }

    /// Opens what there is of a store and makes nothing: a file that is not there
    /// is an empty one in memory. `None` where neither is, nor any copy. With copies it is
    /// made anew of them, as one is that is damaged.
    pub fn open_existing(
        state_dir: &Path,
        run_dir: &Path,
        boot_id: &str,
        copies: ReadCopies<'_>,
    ) -> Result<Option<Store>> {
        let durable = state_dir.join(DURABLE);
        let volatile = run_dir.join(volatile_name(boot_id));
        // What can be taken away is, whatever becomes of what can be restored.
        let has_copies = match copies() {
            Ok(copies) => !copies.records.is_empty(),
            Err(error) => {
                tracing::warn!(%error, "what the kernel keeps of the store cannot be read");
                false
            }
        };
        if !Store::is_there(state_dir, run_dir, boot_id) && !has_copies {
            return Ok(None);
        }
        let nothing = || Ok(Copies::default());
        if has_copies && let Err(error) = make_directories(state_dir, run_dir) {
            tracing::warn!(%error, "nothing can be restored");
        }
        let in_memory: Opener =
            |_| Builder::new().create_with_backend(redb::backends::InMemoryBackend::new());
        let open = |path: PathBuf, opener: Opener, kind| {
            if path.exists() {
                return copies::open(&path, opener, kind, copies);
            }
            let restored = match has_copies {
                true => copies::open(&path, opener, kind, copies),
                false => return copies::open(&path, in_memory, kind, &nothing),
            };
            restored.or_else(|error| {
                tracing::warn!(%error, "not restored");
                copies::open(&path, in_memory, kind, &nothing)
            })
        };
        let (durable, network) = open(durable, create_durable, Kind::Durable)?;
        let (volatile, endpoint) = open(volatile, create_volatile, Kind::Volatile)?;
        Ok(Some(Store {
            durable,
            volatile,
            made: Vec::new(),
            restored: network.into_iter().chain(endpoint).collect(),
        }))
    }

    /// Files that were made anew of copies when the store was opened.
    pub fn restored(&self) -> &[Restored] {
        &self.restored
    }

    pub fn networks(&self) -> Result<Vec<NetworkRecord>> {
        self.durable.read_all(NETWORKS)
    }

    /// Returns when the disk has it.
    pub fn put_network(&self, network: &NetworkRecord) -> Result<()> {
        self.durable.put(
            NETWORKS,
            network.name.as_str(),
            &self.durable.encode(network)?,
        )
    }

    pub fn remove_network(&self, name: &str) -> Result<()> {
        self.durable.remove(NETWORKS, name)
    }

    pub fn endpoints(&self) -> Result<Vec<EndpointRecord>> {
        self.volatile.read_all(ENDPOINTS)
    }

    /// Survives kill -9 when it returns, not power loss.
    pub fn put_endpoint(&self, endpoint: &EndpointRecord) -> Result<()> {
        self.put_endpoints(std::slice::from_ref(endpoint))
    }

    /// All of them or none.
    pub fn put_endpoints(&self, endpoints: &[EndpointRecord]) -> Result<()> {
        let encoded = endpoints.iter().map(|e| self.volatile.encode(e));
        let encoded = encoded.collect::<Result<Vec<_>>>()?;
        self.volatile.write(|transaction| {
            let mut table = transaction.open_table(ENDPOINTS)?;
            for (endpoint, bytes) in endpoints.iter().zip(&encoded) {
                table.insert(endpoint.index, bytes.as_slice())?;
            }
            Ok(())
        })?;
        for (endpoint, bytes) in endpoints.iter().zip(&encoded) {
            let key = endpoint.index.to_le_bytes();
            self.volatile.copy(ENDPOINTS.name(), &key, Some(bytes));
        }
        Ok(())
    }

    pub fn remove_endpoint(&self, index: u32) -> Result<()> {
        self.volatile.remove(ENDPOINTS, index)
    }

    pub fn meta<T: DeserializeOwned>(&self, meta: Meta) -> Result<Option<T>> {
        self.of(meta).get(META, meta.key())
    }

    pub fn put_meta<T: Serialize>(&self, meta: Meta, value: &T) -> Result<()> {
        let table = self.of(meta);
        let bytes = serde_json::to_vec(value).map_err(|e| table.unavailable(e))?;
        table.put(META, meta.key(), &bytes)
    }

    fn of(&self, meta: Meta) -> &Table {
        match meta {
            Meta::LastNetwork
            | Meta::UlaPrefix
            | Meta::Place
            | Meta::NodeId
            | Meta::NodeAddress => &self.durable,
            Meta::ReservedPorts | Meta::Bpffs => &self.volatile,
        }
    }
}

/// What containers publish and are called is for root alone; in the run directory is the
/// socket, which others are to reach.
fn make_directories(state_dir: &Path, run_dir: &Path) -> Result<()> {
    for (dir, mode) in [(state_dir, 0o700), (run_dir, 0o755)] {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(mode).create(dir);
        made.map_err(|e| StoreError::Unavailable {
            path: dir.into(),
            reason: e.to_string(),
        })?;
    }
    Ok(())
}

/// Removes a file that nobody needs; that it stays harms nobody.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Removes what endpoints of earlier boots left.
fn remove_other_boots(run_dir: &Path, keep: &str) {
    for entry in fs::read_dir(run_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("endpoints-") && name.contains(".redb") && !name.starts_with(keep) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Key and record.
type Row = (Vec<u8>, Vec<u8>);

/// How a file is opened.
type Opener = fn(&Path) -> Result<Database, DatabaseError>;

/// One file.
#[derive(Debug)]
struct Table {
    /// `None` while it cannot be opened anew.
    database: RwLock<Option<Database>>,
    path: PathBuf,
    opener: Opener,
    kind: Kind,
    /// Where each record is copied to once it is known.
    copies: OnceLock<Arc<Records>>,
}

#[derive(Deserialize)]
struct VersionOf {
    version: u32,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    record: &'a T,
}

impl Table {
    fn open(path: PathBuf, opener: Opener, kind: Kind) -> Result<Table> {
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

    fn write(
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

    fn put<K: redb::Key>(
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

    fn remove<K: redb::Key>(
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

    fn get<T: DeserializeOwned>(
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

    fn read_all<K: redb::Key, T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, K, &[u8]>,
    ) -> Result<Vec<T>> {
        let rows = self.rows(table)?;
        rows.iter().map(|(_, bytes)| self.decode(bytes)).collect()
    }

    /// Keys and records as they are in the file.
    fn rows<K: redb::Key>(&self, table: TableDefinition<'_, K, &[u8]>) -> Result<Vec<Row>> {
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

    fn encode<T: Serialize>(&self, record: &T) -> Result<Vec<u8>> {
        let versioned = Versioned {
            version: VERSION,
            record,
        };
        serde_json::to_vec(&versioned).map_err(|e| self.unavailable(e))
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        let found: VersionOf = serde_json::from_slice(bytes).map_err(|e| self.corrupt(e))?;
        if found.version != VERSION {
            return Err(StoreError::Version {
                path: self.path.clone(),
                found: found.version,
            });
        }
        serde_json::from_slice(bytes).map_err(|e| self.corrupt(e))
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Corrupted(reason) => self.corrupt(reason),
            redb::Error::TableTypeMismatch { .. } => self.corrupt(error),
            redb::Error::Io(error) if is_damage(&error) => self.corrupt(error),
            _ => self.unavailable(error),
        }
    }

    fn corrupt(&self, reason: impl ToString) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn unavailable(&self, reason: impl ToString) -> StoreError {
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

#[cfg(test)]
pub(crate) mod tests;
