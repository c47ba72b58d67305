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
mod table;

pub use copies::{ReadCopies, place_of};
pub use records::*;

use std::{
    fs,
    path::{Path, PathBuf},
};

use redb::{Builder, TableHandle, backends::InMemoryBackend};
use serde::{Serialize, de::DeserializeOwned};

use self::{
    copies::Kind,
    table::{ENDPOINTS, META, NETWORKS, Opener, Table, VERSION, create_durable, create_volatile},
};
use crate::{
    error::{Code, Error},
    sys::directories,
};

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
    #[error("{flaw}: it is not kept")]
    Flawed { flaw: String },
    #[error("the store {} cannot be used: {reason}", path.display())]
    Unavailable { path: PathBuf, reason: String },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let code = match error {
            StoreError::InUse { .. } => Code::Conflict,
            StoreError::Corrupt { .. } | StoreError::Version { .. } => Code::StoreCorrupt,
            // Whatever is asked for was looked at before.
            StoreError::Flawed { .. } => Code::Internal,
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
    /// Addresses of overlay networks that were given back lately; dies with the boot.
    Resting,
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
            Meta::Resting => "resting",
        }
    }
}

/// In the state directory.
const DURABLE: &str = "netbpf.redb";

/// In the run directory.
fn volatile_name(boot_id: &str) -> String {
    format!("endpoints-{boot_id}.redb")
}

/// Both files, locked against other daemons.
#[derive(Debug)]
pub struct Store {
    durable: Table,
    volatile: Table,
    /// Files that were not there before, and the directories above them, innermost last.
    made: Vec<PathBuf>,
    made_directories: Vec<PathBuf>,
    /// What is to be said of files that were made anew.
    restored: Vec<String>,
}

impl Store {
    /// Files that somebody has removed since they were opened: what is written to them is
    /// seen by nobody who starts.
    pub fn lost_files(&self) -> Vec<PathBuf> {
        let tables = [&self.durable, &self.volatile];
        let paths = tables.map(|table| &table.path).into_iter();
        paths.filter(|path| !path.exists()).cloned().collect()
    }

    /// Opens or makes the store; what endpoints of an earlier boot left is
    /// removed. A file that is damaged or lost is made anew of copies, where there are any.
    pub fn open(
        state_dir: &Path,
        run_dir: &Path,
        boot_id: &str,
        copies: ReadCopies<'_>,
    ) -> Result<Store> {
        let made_directories = make_directories(state_dir, run_dir)?;
        let name = volatile_name(boot_id);
        let paths = [state_dir.join(DURABLE), run_dir.join(&name)];
        let mut made: Vec<PathBuf> = paths.iter().filter(|p| !p.exists()).cloned().collect();
        let [durable_path, volatile_path] = paths;
        // But for one that another daemon has made meanwhile.
        let forget = |made: &[PathBuf], at: &Path, error: &StoreError| {
            let in_use = matches!(error, StoreError::InUse { .. });
            let ours = made.iter().filter(|path| !in_use || *path != at);
            ours.for_each(|path| remove(path));
            directories::remove_empty(&made_directories);
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
            made_directories,
            restored: network.into_iter().chain(endpoint).collect(),
        })
    }

    /// Removes the files that this store has made: the daemon did not come to use
    /// them. They are still locked, so that they are nobody else's.
    pub fn discard_made(&self) {
        self.made.iter().for_each(|path| remove(path));
        directories::remove_empty(&self.made_directories);
    }

    /// Whether there is any file of a store.
    pub fn is_there(state_dir: &Path, run_dir: &Path, boot_id: &str) -> bool {
        state_dir.join(DURABLE).exists() || run_dir.join(volatile_name(boot_id)).exists()
    }

    /// Opens what there is of a store, for who takes everything away: a file that is not
    /// there, or cannot be used, is an empty one in memory, unless it can be made anew of
    /// copies. `None` where neither can.
    pub fn open_existing(
        state_dir: &Path,
        run_dir: &Path,
        boot_id: &str,
        copies: ReadCopies<'_>,
    ) -> Result<Option<Store>> {
        let is_copied = match copies() {
            Ok(copies) => !copies.records.is_empty(),
            Err(error) => {
                tracing::warn!(%error, "what the kernel keeps of the store cannot be read");
                false
            }
        };
        let mut made_directories = Vec::new();
        if is_copied {
            match make_directories(state_dir, run_dir) {
                Ok(made) => made_directories = made,
                Err(error) => tracing::warn!(%error, "nothing can be restored"),
            }
        }
        let paths = [
            state_dir.join(DURABLE),
            run_dir.join(volatile_name(boot_id)),
        ];
        let made = paths
            .iter()
            .filter(|path| !path.exists())
            .cloned()
            .collect();
        let in_memory: Opener = |_| Builder::new().create_with_backend(InMemoryBackend::new());
        let open = |path: PathBuf, opener: Opener, kind| -> Result<_> {
            if path.exists() || is_copied {
                match copies::open(&path, opener, kind, copies) {
                    Ok((table, restored)) => return Ok((table, restored, true)),
                    Err(error @ (StoreError::InUse { .. } | StoreError::Version { .. })) => {
                        return Err(error);
                    }
                    Err(error @ StoreError::Unavailable { .. }) if path.exists() => {
                        return Err(error);
                    }
                    Err(error) => tracing::error!(%error, "goes on without it"),
                }
            }
            Ok((Table::open(path, in_memory, kind)?, None, false))
        };
        let [durable, volatile] = paths;
        let (durable, network, is_durable) = open(durable, create_durable, Kind::Durable)?;
        let (volatile, endpoint, is_volatile) = open(volatile, create_volatile, Kind::Volatile)?;
        let store = Store {
            durable,
            volatile,
            made,
            made_directories,
            restored: network.into_iter().chain(endpoint).collect(),
        };
        Ok((is_durable || is_volatile).then_some(store))
    }

    /// What is to be said of files that were made anew of copies when the store was opened.
    pub fn restored(&self) -> &[String] {
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
        if endpoints.is_empty() {
            return Ok(());
        }
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
            Meta::ReservedPorts | Meta::Bpffs | Meta::Resting => &self.volatile,
        }
    }
}

/// What containers publish and are called is for root alone; in the run directory is the
/// socket, which others are to reach. Those that were not there before, innermost last.
fn make_directories(state_dir: &Path, run_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for (dir, mode) in [(state_dir, 0o700), (run_dir, 0o755)] {
        match directories::make(dir, mode) {
            Ok(more) => made.extend(more),
            Err(e) => {
                directories::remove_empty(&made);
                let (path, reason) = (dir.into(), e.to_string());
                return Err(StoreError::Unavailable { path, reason });
            }
        }
    }
    Ok(made)
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

#[cfg(test)]
pub(crate) mod tests;
