//! The start: the kernel is brought to what the store says, whatever happened
//! since.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, RwLock},
};

use netbpf_common::names;
use tokio::{runtime::Handle, sync::Mutex};

use super::{
    Inner,
    apply::{self, end_of_host},
    detach, host, network, overlay, plan,
    ports::{local_port_range, masquerade_ports},
    reaper::Reaper,
    reserved,
    state::State,
    teardown, uplinks,
};
use crate::{
    cluster::Cluster,
    datapath::{self, Copies, Datapath, Device, Options, Records, Sizes},
    error::{Code, Error, Result},
    settings::Settings,
    store::{self, EndpointRecord, EndpointState, Meta, NetworkRecord, Place, Store},
    sys::{
        bpffs::{self, Prepared},
        capabilities,
        lock::{DirectoryLock, NamespaceLock},
        netlink::Netlink,
        netns::{self, Namespace},
        process,
        sysctl::Sysctls,
    },
};

/// Ifindex of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

pub fn start(settings: Settings, lock: NamespaceLock) -> Result<Inner> {
    capabilities::check()?;
    let mut host = Netlink::open()?;
    check_loopback(&mut host)?;
    let place = here()?;
    // Before what another version has left is taken for lost.
    datapath::check_layout(&settings.bpffs)?;
    let copies = || copies(&settings, &place);
    let store = Store::open(&settings.state_dir, &settings.run_dir, &place.boot, &copies)?;
    say_restored(&store);
    // Nothing is made before all that is noted can be read.
    let last_network = store.meta(Meta::LastNetwork)?.unwrap_or(0);
    let reserved = store.meta(Meta::ReservedPorts)?.unwrap_or_default();
    let store = Arc::new(store);
    let sysctls = Arc::new(Sysctls::open()?);
    let me = overlay::me(&settings, &store, &mut host);
    let me = me.inspect_err(|_| store.discard_made())?;
    let opened = open(&settings, &store, &place, &sysctls);
    let (bpffs, pins, datapath) = opened.inspect_err(|_| store.discard_made())?;
    let ipv6 = sysctls.has_ipv6();
    let cluster = match me {
        Some(me) => {
            datapath.begin_overlay(me.address, me.port)?;
            let runtime = Handle::current();
            Some(Cluster::start(&runtime, settings.etcd.clone(), me)?)
        }
        None => None,
    };
    let mut state = State::new(host, sysctls.clone(), last_network);
    state.reserved = reserved;
    overlay::resume_rests(&store, &mut state);
    state.notes.extend_from_slice(store.restored());
    if bpffs == Prepared::Mounted && process::has_own_mounts() {
        state.notes.push(format!(
            "the bpf file system on {} was mounted in a mount namespace of the daemon's own (`ip netns exec` makes one): it goes when the daemon ends, and all programs with it; mount one there beforehand",
            settings.bpffs.display()
        ));
    }
    let state = Arc::new(Mutex::new(state));
    let inner = Inner {
        reaper: Reaper::start(store.clone(), datapath.clone(), sysctls.clone(), ipv6)?,
        state: state.clone(),
        seen: RwLock::default(),
        monitor: Arc::default(),
        store,
        datapath,
        settings: RwLock::new(Arc::new(settings)),
        ipv6,
        sysctls,
        bpffs,
        cluster,
        runtime: Handle::current(),
        overlay_wake: Arc::default(),
        overlay_revision: Default::default(),
        overlay_repairs: Default::default(),
        attaching: Default::default(),
        drains: Arc::default(),
        repairs: Default::default(),
        lost: Default::default(),
        overruns: Default::default(),
        _locks: (lock, pins),
    };
    let is_first = inner.store.networks()?.is_empty() && inner.store.endpoints()?.is_empty();
    let reloaded = reload(&inner, &mut state.blocking_lock());
    if reloaded.is_err() && is_first {
        // Nothing was there before that would have to go on.
        teardown::undo_start(&inner, &mut state.blocking_lock());
        inner.store.discard_made();
    }
    inner.show(&state.blocking_lock());
    reloaded.map(|()| inner)
}

type Opened = (Prepared, DirectoryLock, Arc<Datapath>);

/// Opens the datapath; where it fails nothing new is left of it.
fn open(settings: &Settings, store: &Store, place: &Place, sysctls: &Sysctls) -> Result<Opened> {
    let prepared = bpffs::prepare(&settings.bpffs)?;
    let pins = DirectoryLock::take(&settings.bpffs)?;
    let open = || -> Result<_> {
        let bpffs = remember(settings, store, prepared)?;
        if store.meta(Meta::Place)?.as_ref() != Some(place) {
            store.put_meta(Meta::Place, place)?;
        }
        let had_pins = settings.bpffs.join(names::CONFIG).exists();
        let options = Options {
            bpffs: settings.bpffs.clone(),
            sizes: Sizes {
                endpoints: settings.max_endpoints,
                flows: settings.max_flows,
            },
            masquerade_ports: masquerade_ports(&local_port_range(sysctls)),
            as_kernel: settings.as_kernel,
            client_rate: settings.client_rate,
            timeouts: settings.timeouts,
            netns_cookie: netns::cookie()?,
        };
        let open = || -> Result<Datapath> {
            let datapath = Datapath::open(&options)?;
            if let Some(records) = Records::from_pin(&settings.bpffs)? {
                store.keep_copies(records)?;
                datapath.note_copies()?;
            }
            Ok(datapath)
        };
        let datapath = open().inspect_err(|_| {
            if !had_pins && let Err(error) = Datapath::teardown(&settings.bpffs) {
                tracing::warn!(%error, "pins are left");
            }
        })?;
        Ok((bpffs, Arc::new(datapath)))
    };
    let (bpffs, datapath) = open().inspect_err(|_| {
        if let Err(error) = bpffs::release(&settings.bpffs, prepared) {
            tracing::warn!(%error, "the directory of pins is left");
        }
    })?;
    Ok((bpffs, pins, datapath))
}

/// What the kernel keeps of the store of a daemon in this place.
pub fn copies(settings: &Settings, place: &Place) -> Result<Copies> {
    if !settings.bpffs.join(names::RECORDS).exists()
        || !datapath::has_copies(&settings.bpffs, netns::cookie()?)?
    {
        return Ok(Copies::default());
    }
    let Some(records) = Records::from_pin(&settings.bpffs)? else {
        return Ok(Copies::default());
    };
    let copies = records.read()?;
    match store::place_of(&copies) {
        Some(of) if of == *place => Ok(copies),
        None if !copies.damaged.is_empty() => Err(Error::new(
            Code::StoreCorrupt,
            "the kernel's copies of its records are damaged: `netbpf teardown`, then start",
        )),
        _ => {
            tracing::warn!(bpffs = %settings.bpffs.display(), "copies of records are of a daemon elsewhere");
            Ok(Copies::default())
        }
    }
}

pub fn say_restored(store: &Store) {
    for restored in store.restored() {
        tracing::error!("{restored}");
    }
}

/// Where this process is.
pub fn here() -> Result<Place> {
    Ok(Place {
        boot: process::boot_id()?,
        namespace: Namespace::own()?.id(),
    })
}

/// How the directory came to be is kept over restarts: the mount or directory
/// that an earlier daemon made is found by this one.
fn remember(settings: &Settings, store: &Store, prepared: Prepared) -> Result<Prepared> {
    let path = &settings.bpffs;
    let known: Option<(std::path::PathBuf, Prepared)> = store.meta(Meta::Bpffs)?;
    match known {
        Some((before, how)) if before == *path && prepared == Prepared::Found => Ok(how),
        _ => {
            store.put_meta(Meta::Bpffs, &(path, prepared))?;
            Ok(prepared)
        }
    }
}

fn check_loopback(host: &mut Netlink) -> Result<()> {
    match host.link("lo")? {
        Some(link) if link.up => Ok(()),
        _ => Err(Error::new(
            Code::Conflict,
            "device lo is down: networks have their gateway addresses on it; bring it up (ip link set lo up)",
        )),
    }
}

fn reload(inner: &Inner, state: &mut State) -> Result<()> {
    for record in inner.store.networks()? {
        state.add_network(record);
    }
    let (found, endpoints, broken) = take_stock(inner, state)?;
    for record in endpoints {
        state.put_endpoint(record);
    }
    give_up(inner, state, broken)?;
    uplinks::refresh_networks(inner, state)?;

    let wanted = wanted(state, inner.ipv6);
    let mut apply = inner.apply(&mut state.host);
    let mut is_whole = true;
    for error in apply.run_to_end(&plan::recover(&wanted, &found)) {
        is_whole = false;
        tracing::error!(%error, "not brought back");
        state.notes.push(format!("at start: {error}"));
    }
    let indexes: HashSet<u32> = state.endpoints.keys().copied().collect();
    let slots: HashSet<u32> = state.services.slots().collect();
    let ports = inner.datapath.retain_ports(&slots)?;
    if !ports.ended.is_empty() {
        // Programs of the host that still talk to what is published no more.
        let left = inner.datapath.host_connections(&ports.ended);
        if let Err(error) = left.map_err(Error::from).and_then(|c| end_of_host(&c)) {
            tracing::warn!(slots = ?ports.ended, %error, "connections of the host go on");
        }
    }
    let stale_ports = ports.entries;
    let stale_endpoints = inner.datapath.retain_endpoints(&indexes)?;
    if stale_ports + stale_endpoints > 0 {
        tracing::info!(stale_ports, stale_endpoints, "stale entries removed");
    }
    reserved::sync(inner, state)?;
    host::attach(inner, state)?;
    if let Err(error) = host::forget_connections(inner) {
        tracing::warn!(%error, "connections of the host that have ended are not forgotten");
    }
    uplinks::refresh(inner, state)?;
    if !state.networks.contains_key(network::DEFAULT) {
        network::create_default(inner, state)?;
    }
    detach_strangers(inner, state)?;
    // Where one hangs that is not of this version, flows begin that it does not mark.
    let is_whole = is_whole && state.uplinks.iter().all(|uplink| uplink.failed.is_none());
    // Where older programs may hang, it takes the long way.
    let trusted = match is_whole {
        true => inner.datapath.trust_marks(),
        false => Ok(()),
    };
    if let Err(error) = trusted {
        // Slower, and right all the same.
        tracing::warn!(%error, "the host's own packets take the long way");
    }
    Ok(())
}

type Stock = (plan::Found, Vec<EndpointRecord>, Vec<EndpointRecord>);

/// What is in the kernel, the endpoints that live, and those that do not: half
/// attached, half detached, or without a device.
fn take_stock(inner: &Inner, state: &mut State) -> Result<Stock> {
    let mut apply = inner.apply(&mut state.host);
    let found = apply.look_around()?;
    let mut records = inner.store.endpoints()?;
    records.sort_by_key(|r| r.serial);
    let planned: Vec<_> = records.iter().map(|r| state.planned(r)).collect();
    let without_device = apply::without_device(&planned, &found);
    let is_on = |r: &EndpointRecord| {
        let network = state.networks.get(&r.network);
        network.is_some_and(|n| n.record.index == r.network_index)
    };
    let lives = |r: &EndpointRecord| {
        r.state == EndpointState::Attached && !without_device.contains(&r.index) && is_on(r)
    };
    let (living, broken) = records.into_iter().partition(lives);
    Ok((found, living, broken))
}

/// Finishes or undoes what was half-done. Those that live are known by now: they
/// inherit default routes, and keep ports that were another's before.
fn give_up(inner: &Inner, state: &mut State, broken: Vec<EndpointRecord>) -> Result<()> {
    let slots: HashSet<u32> = state.services.slots().collect();
    for mut record in broken {
        let was = record.state;
        record.ports.retain(|p| !slots.contains(&p.slot));
        record.draining.retain(|d| !slots.contains(&d.port.slot));
        let (name, network) = (&record.name, &record.network);
        tracing::info!(endpoint = name, network, ?was, "cleared away at start");
        let endpoint = state.planned(&record);
        // None of the broken ones is among the heirs: they are not in the state.
        let mut steps = detach::last_words(state, std::slice::from_ref(&endpoint));
        let heirs = state.heirs(&record, &BTreeSet::new());
        steps.extend(plan::detach(&endpoint, heirs));
        steps.extend(plan::remove_device(&endpoint));
        let mut apply = inner.apply(&mut state.host);
        for error in apply.run_to_end(&steps) {
            tracing::warn!(%error, endpoint = name, "not cleared away");
        }
        let handed = apply.handed().clone();
        detach::inherit(inner, state, &handed)?;
        inner.store.remove_endpoint(record.index)?;
    }
    Ok(())
}

pub fn wanted(state: &State, ipv6: bool) -> plan::Wanted {
    let networks = state
        .networks
        .values()
        .map(|n| NetworkRecord::clone(&n.record));
    let endpoints = state.endpoints.values().map(|r| state.planned(r));
    plan::Wanted {
        networks: networks.collect(),
        endpoints: endpoints.collect(),
        services: state.all_services(),
        draining: state.all_draining(),
        ipv6,
    }
}

/// Takes programs off devices that are neither an endpoint's nor an uplink.
fn detach_strangers(inner: &Inner, state: &mut State) -> Result<()> {
    let known: BTreeSet<u32> = state
        .uplinks
        .iter()
        .map(|u| u.entry.device.ifindex)
        .chain(state.endpoints.values().map(|e| e.host_ifindex))
        .chain([LOOPBACK])
        .collect();
    for ifindex in inner.datapath.attached()? {
        if known.contains(&ifindex) {
            continue;
        }
        let link = state.host.link_by_index(ifindex)?;
        let name = link.map(|l| l.name).unwrap_or_default();
        tracing::info!(ifindex, device = name, "programs taken off");
        inner.datapath.detach(&Device { name, ifindex })?;
    }
    Ok(())
}
