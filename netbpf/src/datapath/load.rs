//! Loads the object of this binary, over maps that an earlier daemon pinned.

use std::{
    borrow::BorrowMut,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, Map, MapData, MapInfo},
    programs::Program,
    util::nr_cpus,
};
use netbpf_common::{
    abi::ABI,
    maps::{Config, evictable::evictable_entries},
    names,
};

use super::{
    GATEWAY_MAC, Result,
    kernel::{Feature, Kernel},
    object::{self, Kept, Object},
    pins, refusal,
    types::{DatapathError, Options, Sizes},
};

static OBJECT: &[u8] = include_bytes_aligned!(env!("NETBPF_EBPF_OBJECT"));

/// `BPF_FIB_LOOKUP_SKIP_NEIGH` and `BPF_FIB_LOOKUP_SRC` of `linux/bpf.h`.
const FIB_LOOKUP_SKIP_NEIGH: u32 = 4;
const FIB_LOOKUP_SRC: u32 = 16;

/// Loads programs and maps and pins them.
pub(super) fn load(options: &Options, kernel: Kernel) -> Result<Object> {
    let bpffs = &options.bpffs;
    check_layout(bpffs)?;
    check_pinned_maps(bpffs, options.sizes)?;
    let fib_flags = fib_flags(kernel);
    let mut loader = EbpfLoader::new();
    loader.override_global("FIB_FLAGS", &fib_flags, true);
    for (name, size) in sizes_of(options.sizes) {
        loader.map_max_entries(name, size);
    }
    let digest = digest(kernel);
    let kept = Kept::find(bpffs, digest);
    if kept.is_none() {
        pins::forget_programs(bpffs)?;
        // Working space holds nothing: made anew, so that its size may change.
        pins::remove(&pins::map(bpffs, names::SCRATCH))?;
    }
    let pinned: Vec<(&str, PathBuf)> = names::MAPS
        .iter()
        .map(|&name| (name, pins::map(&options.bpffs, name)))
        .collect();
    for (name, path) in &pinned {
        loader.map_pin_path(name, path.as_path());
    }
    let ebpf = loader
        .load(OBJECT)
        .map_err(|error| refusal::of_maps(&error))?;
    pins::make_directories(bpffs)?;
    let is_loaded = kept.is_some();
    let mut object = Object::new(ebpf, kept, digest);
    set_config(&mut object, options, is_loaded)?;
    if is_loaded {
        // Another note may be there, of a start that died between the two.
        object::note(bpffs, digest)?;
        return Ok(object);
    }
    // One that an earlier daemon needed is put in its place.
    let is_wanted =
        |name: &&&str| !names::AT_NEED.contains(*name) || pins::program(bpffs, name).exists();
    let wanted: Vec<&str> = names::PROGRAMS.iter().filter(is_wanted).copied().collect();
    load_side_by_side(&mut object, &wanted)?;
    for name in wanted {
        pin_program(program(&mut object, name)?, bpffs, name)?;
    }
    // Those of cgroups are held by their links until they are loaded, at need.
    for name in names::HOST_PROGRAMS {
        pins::remove(&pins::program(bpffs, name))?;
    }
    object::note(bpffs, digest)?;
    Ok(object)
}

/// Of this binary's programs on that kernel.
pub(super) fn digest(kernel: Kernel) -> u64 {
    object::digest(OBJECT, fib_flags(kernel))
}

/// The kernel's check of the programs is most of a start, and needs no lock.
fn load_side_by_side(ebpf: &mut Ebpf, wanted: &[&str]) -> Result<()> {
    let found = ebpf.programs_mut().filter_map(|(name, program)| {
        let name = *wanted.iter().find(|wanted| **wanted == name)?;
        Some((name, program))
    });
    let mut found: Vec<(&str, &mut Program)> = found.collect();
    if found.len() != wanted.len() {
        return Err(DatapathError::other("load", "the object lacks a program"));
    }
    // More at a time would take memory and no less time.
    let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
    found.chunks_mut(at_a_time).try_for_each(|some| {
        std::thread::scope(|scope| {
            let threads = some.iter_mut();
            let threads: Vec<_> = threads
                .map(|(name, program)| scope.spawn(|| load_into_kernel(program, name)))
                .collect();
            let mut results = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            results.try_for_each(|result| match result {
                Ok(loaded) => loaded,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    })
}

/// Loads the programs of cgroups and pins them, if they are not loaded yet.
pub(super) fn load_host(object: &mut Object, bpffs: &Path) -> Result<()> {
    load_at_need(object, bpffs, names::HOST_PROGRAMS)
}

/// Loads programs that are not loaded with all others, if they are not yet.
pub(super) fn load_at_need(
    object: &mut Object,
    bpffs: &Path,
    names: &[&'static str],
) -> Result<()> {
    let is_loaded = |program: &Program| program.fd().is_ok();
    let is_missing = |name: &&&str| !object.program(name).is_some_and(is_loaded);
    let missing: Vec<&str> = names.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    for name in missing {
        let program = program(object, name)?;
        load_into_kernel(program, name)?;
        pin_program(program, bpffs, name)?;
    }
    object::note(bpffs, object.digest())
}

fn program<'a>(ebpf: &'a mut Object, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name)
        .ok_or_else(|| DatapathError::other("load", format!("no program {name} in the object")))
}

fn load_into_kernel(program: &mut Program, name: &str) -> Result<()> {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        _ => {
            return Err(DatapathError::other(
                "load",
                format!("what kind is {name}?"),
            ));
        }
    };
    loaded.map_err(|error| refusal::of_program(name, &error))
}

fn pin_program(program: &mut Program, bpffs: &Path, name: &str) -> Result<()> {
    pins::replace(&pins::program(bpffs, name), |path| {
        program.pin(path).map_err(|error| chain(&error))
    })
}

/// Entries of the maps whose size is configured.
fn sizes_of(sizes: Sizes) -> HashMap<&'static str, u32> {
    let (endpoints, flows) = (sizes.endpoints, sizes.flows.max(64));
    let evictable = evictable_entries(flows);
    let halves = (flows + evictable) * 2;
    HashMap::from([
        (names::ENDPOINTS, endpoints * 2),
        (names::VETHS, endpoints),
        // Of most endpoints one or two, and of all else.
        (names::RECORDS, endpoints * 2 + 4096),
        (names::ENDPOINT_STATS, endpoints),
        (names::FLOWS4, halves),
        (names::FLOWS6, halves),
        (names::EVICTABLE4, evictable),
        (names::EVICTABLE6, evictable),
        (names::MAPPINGS4, flows),
        (names::MAPPINGS6, flows),
        (names::OUTSIDE4, flows),
        (names::OUTSIDE6, flows),
    ])
}

/// Refuses maps whose layout is not ours before anything touches them.
pub fn check_layout(bpffs: &Path) -> Result<()> {
    pinned_config(bpffs).map(drop)
}

/// Whether the daemon that ran last, in the network namespace with that cookie, has kept
/// copies in the map `records`.
pub fn has_copies(bpffs: &Path, netns_cookie: u64) -> Result<bool> {
    let is_its = |config: Config| config.copies != 0 && config.netns_cookie == netns_cookie;
    Ok(pinned_config(bpffs)?.is_some_and(is_its))
}

/// As it is pinned, if it is; refused where its layout is another.
fn pinned_config(bpffs: &Path) -> Result<Option<Config>> {
    let path = pins::map(bpffs, names::CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let failed = |e: &dyn std::error::Error| {
        DatapathError::other(format!("read {}", path.display()), chain(e))
    };
    let data = MapData::from_pin(&path).map_err(|e| failed(&e))?;
    let info = data.info().map_err(|e| failed(&e))?;
    let layout = |found| DatapathError::Layout {
        path: bpffs.into(),
        found,
        wanted: ABI,
    };
    if info.value_size() != size_of::<Config>() as u32 {
        return Err(layout(0));
    }
    let config: Array<_, Config> = Array::try_from(Map::Array(data)).map_err(|e| failed(&e))?;
    match config.get(&0, 0) {
        // Made, but not yet written when its daemon was killed.
        Ok(config) if config.abi == ABI || config.abi == 0 => Ok(Some(config)),
        Ok(config) => Err(layout(config.abi)),
        Err(error) => Err(failed(&error)),
    }
}

/// Refuses pinned maps that are not what the programs expect: they would be used unseen.
fn check_pinned_maps(bpffs: &Path, sizes: Sizes) -> Result<()> {
    for (name, fit) in fits(bpffs, sizes)? {
        match fit {
            Fit::Missing | Fit::Same => {}
            Fit::Size { found, configured } => tracing::warn!(
                map = name,
                entries = found,
                configured,
                "the map keeps its size until `netbpf teardown`"
            ),
            Fit::Other(error) => return Err(error),
        }
    }
    Ok(())
}

/// How a pinned map compares with the one that the programs expect.
pub(super) enum Fit {
    Missing,
    Same,
    /// Used as it is.
    Size {
        found: u32,
        configured: u32,
    },
    /// Its type, key or value is another.
    Other(DatapathError),
}

/// Of every map that is pinned, or will be.
pub(super) fn fits(bpffs: &Path, sizes: Sizes) -> Result<Vec<(&'static str, Fit)>> {
    let object = aya_obj::Object::parse(OBJECT)
        .map_err(|e| DatapathError::other("parse the eBPF object", chain(&e)))?;
    let sizes = sizes_of(sizes);
    let mut fits = Vec::new();
    for &name in names::MAPS {
        // Working space is made anew.
        let wanted = object.maps.get(name).filter(|_| name != names::SCRATCH);
        let Some(wanted) = wanted else { continue };
        let path = pins::map(bpffs, name);
        if !path.exists() {
            fits.push((name, Fit::Missing));
            continue;
        }
        let found = MapInfo::from_pin(&path)
            .map_err(|e| DatapathError::other(format!("read {}", path.display()), chain(&e)))?;
        let kind = found.map_type().map_or(0, |kind| kind as u32);
        let same_value = wanted.value_size() == found.value_size();
        let size = sizes.get(name).copied();
        let size = size.filter(|size| *size != found.max_entries());
        fits.push((
            name,
            match size {
                _ if kind != wanted.map_type()
                    || found.key_size() != wanted.key_size()
                    || !same_value =>
                {
                    Fit::Other(DatapathError::Map { path })
                }
                Some(configured) => Fit::Size {
                    found: found.max_entries(),
                    configured,
                },
                None => Fit::Same,
            },
        ));
    }
    Ok(fits)
}

/// `is_loaded`: the programs are those of before.
fn set_config(object: &mut Ebpf, options: &Options, is_loaded: bool) -> Result<()> {
    // Maps that were there have the size of then.
    let least = |a, b| Ok(entries(object, a)?.min(entries(object, b)?));
    let evictable: u32 = least(names::EVICTABLE4, names::EVICTABLE6)?;
    let halves: u32 = least(names::FLOWS4, names::FLOWS6)?;
    let established = (halves / 2).saturating_sub(evictable);
    let value = |before: &Config| Config {
        abi: ABI,
        events: 0,
        gateway_mac: GATEWAY_MAC,
        // Others may have begun flows, and go on until they are replaced: they may not know of
        // all marks.
        marked: before.marked * u8::from(is_loaded),
        evictable,
        established,
        client_rate: options.client_rate,
        netns_cookie: options.netns_cookie,
        timeouts: options.timeouts,
        // The overlay goes on as it was until it is said anew.
        ..*before
    };
    change_config(&mut config(object)?, |config| *config = value(config))
}

/// How many a map has room for.
fn entries(ebpf: &Ebpf, name: &str) -> Result<u32> {
    let failed =
        |e: &dyn std::error::Error| DatapathError::other(format!("read map {name}"), chain(e));
    let map = ebpf.map(name);
    let Some(Map::Array(data) | Map::HashMap(data)) = map else {
        return Err(DatapathError::other(
            "load",
            format!("no map {name} in the object"),
        ));
    };
    Ok(data.info().map_err(|e| failed(&e))?.max_entries())
}

/// The map of what all programs need to know.
pub(super) fn config(ebpf: &mut Ebpf) -> Result<Array<&mut MapData, Config>> {
    let map = ebpf
        .map_mut(names::CONFIG)
        .ok_or_else(|| DatapathError::other("load", "no map config in the object"))?;
    Array::try_from(map).map_err(|e| DatapathError::other("open config", chain(&e)))
}

/// Whether programs go by the marks in `arrivals`, `siblings` and `areas`.
pub(super) fn is_trusted(ebpf: &mut Ebpf) -> Result<bool> {
    let config = config(ebpf)?.get(&0, 0);
    let config = config.map_err(|e| DatapathError::other("read config", chain(&e)))?;
    Ok(config.marked != 0)
}

/// Changes it; the programs see it with their next packet. One change at a time: each
/// writes the whole of what it has read.
pub(super) fn change_config<T: BorrowMut<MapData>>(
    map: &mut Array<T, Config>,
    change: impl FnOnce(&mut Config),
) -> Result<()> {
    static ONE: Mutex<()> = Mutex::new(());
    let failed = |e: &aya::maps::MapError| DatapathError::other("write config", chain(e));
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut value = map.get(&0, 0).map_err(|e| failed(&e))?;
    change(&mut value);
    map.set(0, value, 0).map_err(|e| failed(&e))
}

/// What `bpf_fib_lookup` of this kernel knows: not the neighbour, which the
/// kernel finds when it sends, but the source address.
fn fib_flags(kernel: Kernel) -> u32 {
    let mut flags = 0;
    if kernel.has(Feature::FibSkipsNeighbour) {
        flags |= FIB_LOOKUP_SKIP_NEIGH;
    }
    if kernel.has(Feature::FibSource) {
        flags |= FIB_LOOKUP_SRC;
    }
    flags
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Possible CPUs, the length of per-CPU values.
pub(super) fn cpus() -> Result<usize> {
    nr_cpus().map_err(|(what, error)| DatapathError::Io {
        step: what.into(),
        source: error,
    })
}
