//! Hash tables read some thousand entries at a call (`BPF_MAP_LOOKUP_BATCH`, since Linux
//! 5.6), which aya does one by one: a million flows are read in a fraction of a second, and
//! need no more memory than a page.

use std::{
    io,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, Map, MapData},
};

use super::{Result, load::chain, types::DatapathError};

/// Entries that a page has room for at first. The kernel wants room for all of a bucket.
const PAGE: usize = 4096;

/// A hash table that can be read in pages.
pub(super) struct Paged<K, V> {
    map: HashMap<MapData, K, V>,
    name: &'static str,
    fd: OwnedFd,
    /// Entries that there is room for.
    pub max_entries: usize,
}

impl<K: Pod, V: Pod> Paged<K, V> {
    pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self> {
        let failed =
            |e: &dyn std::error::Error| DatapathError::other(format!("open map {name}"), chain(e));
        let map = ebpf
            .take_map(name)
            .ok_or_else(|| DatapathError::other("open maps", format!("no map {name}")))?;
        let (Map::HashMap(data) | Map::LruHashMap(data)) = &map else {
            return Err(DatapathError::other(
                format!("open map {name}"),
                "it is no hash table",
            ));
        };
        let fd = data.fd().as_fd().try_clone_to_owned();
        Ok(Paged {
            name,
            fd: fd.map_err(|e| failed(&e))?,
            max_entries: data.info().map_err(|e| failed(&e))?.max_entries() as usize,
            map: HashMap::try_from(map).map_err(|e| failed(&e))?,
        })
    }

    /// How many entries there are.
    pub fn count(&self) -> Result<usize> {
        let (mut page, mut count) = (Page::new(), 0);
        while page.read(self)? {
            count += page.read;
        }
        Ok(count)
    }
}

impl<K, V> Deref for Paged<K, V> {
    type Target = HashMap<MapData, K, V>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

impl<K, V> DerefMut for Paged<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.map
    }
}

/// Where the reading of a table is, and what was read last.
///
/// Buckets are read one after the other, each as a whole, so that whatever stays where it is
/// is seen once, whatever else comes and goes.
pub(super) struct Page<K, V> {
    keys: Vec<MaybeUninit<K>>,
    values: Vec<MaybeUninit<V>>,
    read: usize,
    /// The bucket that comes next; `None`: the first.
    next: Option<u32>,
    over: bool,
}

impl<K: Pod, V: Pod> Page<K, V> {
    pub fn new() -> Self {
        Page {
            keys: vec![MaybeUninit::uninit(); PAGE],
            values: vec![MaybeUninit::uninit(); PAGE],
            read: 0,
            next: None,
            over: false,
        }
    }

    /// Nothing has been read so far.
    pub fn is_first(&self) -> bool {
        self.next.is_none() && !self.over
    }

    /// Reads the entries that come next; `false`: there are no more.
    pub fn read(&mut self, table: &Paged<K, V>) -> Result<bool> {
        while !self.over {
            let failed = |e: io::Error| {
                DatapathError::other(format!("read map {}", table.name), e.to_string())
            };
            match self.call(table) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.over = true,
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && self.keys.len() < table.max_entries.max(PAGE) * 2 =>
                {
                    let more = self.keys.len() * 2;
                    self.keys.resize(more, MaybeUninit::uninit());
                    self.values.resize(more, MaybeUninit::uninit());
                    continue;
                }
                Err(error) => return Err(failed(error)),
            }
            if self.read != 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What was read last.
    pub fn entries(&self) -> impl Iterator<Item = (K, V)> {
        let entries = self.keys[..self.read].iter().zip(&self.values[..self.read]);
        // SAFETY: the kernel has written that many; any bytes are valid for `Pod`.
        entries.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) })
    }

    fn call(&mut self, table: &Paged<K, V>) -> io::Result<()> {
        let mut after = 0_u32;
        let before = self.next.unwrap_or(0);
        let mut attr = LookupBatch {
            in_batch: match self.next {
                Some(_) => (&raw const before) as u64,
                None => 0,
            },
            out_batch: (&raw mut after) as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: self.keys.len() as u32,
            map_fd: table.fd.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `attr` is the command's part of `union bpf_attr`; the kernel writes at most
        // `count` keys and values, whose sizes aya has compared with the map's, and one
        // number to `out_batch`.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<LookupBatch>(),
            )
        };
        let error = (done != 0).then(io::Error::last_os_error);
        self.read = 0;
        if let Some(error) = error
            && error.raw_os_error() != Some(libc::ENOENT)
        {
            return Err(error);
        }
        self.read = (attr.count as usize).min(self.keys.len());
        self.next = Some(after);
        match done {
            0 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }
}

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// `union bpf_attr` of `BPF_MAP_LOOKUP_BATCH`.
#[repr(C)]
struct LookupBatch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}
