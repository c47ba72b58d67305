//! The only user of aya: loads the programs, pins them and the maps, hangs them
//! on devices and keeps the maps right.
//!
//! All methods block for microseconds to a few milliseconds (`open`: some
//! hundred) and may be called from any thread of the daemon's network namespace.

mod arrivals;
mod attach;
mod blocks;
mod collect;
mod connections;
mod drift;
mod early;
mod endpoints;
mod events;
mod flows;
mod flush;
mod hanging;
mod host;
mod kernel;
mod load;
mod marks;
mod object;
mod overlay;
mod pages;
mod pins;
mod places;
mod pools;
mod probe;
mod records;
mod refusal;
mod repin;
mod services;
mod subnets;
mod tables;
mod types;
mod upgrade;
mod usage;
mod ways;

pub use drift::{Drift, DriftKind, Entries};
pub use events::{Close, EventRecord, Events, Happened, Tuple};
pub use hanging::{Hung, Running, foreign, program_name};
pub use load::{check_layout, has_copies};
pub use overlay::{NodeEntry, Overlay, OverlayNetwork, TunnelEntry};
pub use probe::{Probed, probe};
pub use records::{Copies, RecordCopy, Records};
pub use services::MAX_BACKENDS;
pub use types::*;
pub use upgrade::{Fate, Upgrade, check_upgrade};

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aya::programs::links::{FdLink, PinnedLink};
use netbpf_common::{drop::DropReason, names};

use crate::sys::cgroup::Cgroup;
use attach::name_of;
use flows::Flows;
pub use kernel::Feature;
use kernel::Kernel;
use load::chain;
use object::Object;
use pins::{Direction, Hook};
use pools::Pools;
use repin::MapIds;
use services::Known;
use tables::{FlowTables, Tables, Written, removed};

/// The MAC that every container sees as its gateway's, and that every host-side
/// veth has, so that the kernel takes frames to it as its own.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x6e, 0x65, 0x74, 0x62, 0x70];

/// Ifindex of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// Programs and maps in the kernel.
pub struct Datapath {
    bpffs: PathBuf,
    kind: AttachKind,
    kernel: Kernel,
    max_endpoints: u32,
    map_ids: MapIds,
    /// When it was counted last, how long that took, and what came out.
    usage: Mutex<Option<(Instant, Duration, Vec<MapUsage>)>>,
    inner: Mutex<Inner>,
    /// Apart from the rest: reading a million flows must not keep an attach
    /// waiting.
    flows: Mutex<Flows>,
    /// Taken for a moment, within either of the others.
    pools: Mutex<Pools>,
}

struct Inner {
    ebpf: Object,
    tables: Tables,
    known: Known,
    overlay: overlay::Tables,
}

pub type Result<T, E = DatapathError> = std::result::Result<T, E>;

impl Datapath {
    /// Takes over the maps pinned under `options.bpffs` or makes them, loads
    /// the programs of this binary and pins them. Attachments of an earlier
    /// daemon go on with the earlier programs until they are attached anew.
    pub fn open(options: &Options) -> Result<Self> {
        let kernel = Kernel::new(options.as_kernel);
        let mut ebpf = load::load(options, kernel)?;
        let mut tables = Tables::open(&mut ebpf)?;
        let known = Known::read(&mut tables, &options.masquerade_ports)?;
        let overlay = overlay::Tables::open(&mut ebpf)?;
        let pools = Pools::read(
            tables::take(&mut ebpf, names::POOLS)?,
            tables::take(&mut ebpf, names::IDLE)?,
            &tables.locals,
        );
        let flows = Flows {
            v4: FlowTables::open4(&mut ebpf, options.timeouts)?,
            v6: FlowTables::open6(&mut ebpf, options.timeouts)?,
            occupancy: tables::take(&mut ebpf, names::OCCUPANCY)?,
        };
        Ok(Datapath {
            bpffs: options.bpffs.clone(),
            kind: attach::kind(kernel),
            kernel,
            max_endpoints: options.sizes.endpoints,
            map_ids: repin::map_ids(&options.bpffs)?,
            usage: Mutex::default(),
            inner: Mutex::new(Inner {
                ebpf,
                tables,
                known,
                overlay,
            }),
            flows: Mutex::new(flows),
            pools: Mutex::new(pools),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic between two map writes leaves nothing that the next write
        // would not put right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flow_tables(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the map `records` is kept.
    pub fn note_copies(&self) -> Result<()> {
        let ebpf = &mut self.inner().ebpf;
        load::change_config(&mut load::config(ebpf)?, |config| config.copies = 1)
    }

    /// How programs hang on uplinks on this kernel. On our own veths it is clsact
    /// in any case.
    pub fn attach_kind(&self) -> AttachKind {
        self.kind
    }

    /// Hangs `from_container` and `to_container` on a host-side veth; replaces
    /// the programs atomically where they hang already.
    pub fn attach_veth(&self, device: &Device) -> Result<()> {
        let ebpf = &mut self.inner().ebpf;
        // A TCX link takes the kernel 8 to 15 ms on 6.18, a filter 0.1 ms, and no
        // one else is expected on a device of ours.
        let kind = AttachKind::Clsact;
        // What guards against the container comes first.
        for (program, direction) in [
            (names::FROM_CONTAINER, Direction::Ingress),
            (names::TO_CONTAINER, Direction::Egress),
        ] {
            attach::attach(ebpf, &self.bpffs, program, device, direction, kind)?;
        }
        Ok(())
    }

    /// Hangs `from_uplink` on an uplink and writes its entry; `early_drop`, too, where that
    /// is asked for and the driver runs it. [`Self::attach_way_out`] comes after it.
    pub fn attach_uplink(&self, uplink: &UplinkEntry) -> Result<EarlyDrop> {
        let inner = &mut *self.inner();
        let device = &uplink.device;
        let early = match uplink.xdp {
            true => early::attach(&mut inner.ebpf, &self.bpffs, device)?,
            false => {
                pins::remove(&pins::xdp_link(&self.bpffs, device.ifindex))?;
                EarlyDrop::Tc(None)
            }
        };
        let entry = tables::uplink(uplink, &early);
        let was_known = inner.tables.uplinks.get(&device.ifindex, 0).is_ok();
        inner
            .tables
            .uplinks
            .insert(device.ifindex, entry, 0)
            .written(names::UPLINKS, 256)?;
        let [(program, ingress), _] = on_uplink(uplink.ethernet);
        load::load_at_need(&mut inner.ebpf, &self.bpffs, &[program])?;
        attach::attach(
            &mut inner.ebpf,
            &self.bpffs,
            program,
            device,
            ingress,
            self.kind,
        )
        .inspect_err(|_| {
            // No way out by which nothing comes back. Where it was one already, what hung
            // there does so still.
            if !was_known {
                let _ = inner.tables.uplinks.remove(&device.ifindex);
            }
        })?;
        Ok(early)
    }

    /// Whether the programs take the device for an uplink.
    pub fn is_uplink(&self, ifindex: u32) -> bool {
        self.inner().tables.uplinks.get(&ifindex, 0).is_ok()
    }

    /// Hangs `to_uplink` on an uplink: once `from_uplink` hangs on all of them, so that what
    /// leaves by another port finds its way back by whichever.
    pub fn attach_way_out(&self, uplink: &UplinkEntry) -> Result<()> {
        let inner = &mut *self.inner();
        let [_, (program, egress)] = on_uplink(uplink.ethernet);
        load::load_at_need(&mut inner.ebpf, &self.bpffs, &[program])?;
        attach::attach(
            &mut inner.ebpf,
            &self.bpffs,
            program,
            &uplink.device,
            egress,
            self.kind,
        )
    }

    /// Hangs `host_local` on `lo`: published ports answer the host's own programs,
    /// packet by packet.
    pub fn attach_loopback(&self) -> Result<()> {
        let inner = &mut *self.inner();
        let lo = Device {
            name: "lo".into(),
            ifindex: LOOPBACK,
        };
        let (program, egress) = (names::HOST_LOCAL, Direction::Egress);
        attach::attach(
            &mut inner.ebpf,
            &self.bpffs,
            program,
            &lo,
            egress,
            self.kind,
        )
    }

    /// Hangs the programs of cgroups on this one and takes them off all others: its
    /// processes reach published ports without anything to do per packet, and cannot
    /// bind them.
    pub fn attach_cgroup(&self, cgroup: &Cgroup) -> Result<()> {
        let inner = &mut *self.inner();
        load::load_host(&mut inner.ebpf, &self.bpffs)?;
        host::attach(&mut inner.ebpf, &self.bpffs, cgroup)
    }

    /// Takes the programs of cgroups off, wherever they are.
    pub fn detach_cgroups(&self) -> Result<()> {
        host::detach(&self.bpffs)
    }

    /// Takes our programs off a device, and its pins and entries away; a device
    /// that is gone is success.
    pub fn detach(&self, device: &Device) -> Result<()> {
        removed(
            names::UPLINKS,
            self.inner().tables.uplinks.remove(&device.ifindex),
        )?;
        pins::remove(&pins::xdp_link(&self.bpffs, device.ifindex))?;
        for direction in Direction::BOTH {
            for (clsact, kind) in [(false, AttachKind::Tcx), (true, AttachKind::Clsact)] {
                if pins::link(&self.bpffs, device.ifindex, direction, kind).exists() {
                    let hook = Hook {
                        ifindex: device.ifindex,
                        direction,
                        clsact,
                    };
                    attach::detach(&self.bpffs, hook)?;
                }
            }
        }
        pins::remove_unfinished(&self.bpffs, device.ifindex)?;
        attach::release_qdisc(&self.bpffs, device.ifindex)
    }

    /// Devices that have pins of ours, by ifindex.
    pub fn attached(&self) -> Result<HashSet<u32>> {
        pins::devices(&self.bpffs)
    }

    /// Makes the table of the host's own addresses just this.
    pub fn set_locals(&self, locals: &[LocalEntry]) -> Result<()> {
        let mut wanted: HashMap<_, _> = locals.iter().map(tables::local).collect();
        let mut pools = self.pools();
        let outside = wanted.iter().filter(|(_, local)| local.network == 0);
        pools.assign(&outside.map(|(key, _)| key.addr).collect())?;
        for (key, local) in &mut wanted {
            local.pool = pools.number(&key.addr);
        }
        drop(pools);
        let table = &mut self.inner().tables.locals;
        let held: HashMap<_, _> = table.iter().flatten().collect();
        for (key, value) in &wanted {
            if held.get(key) != Some(value) {
                table.insert(key, value, 0).written(names::LOCALS, 4096)?;
            }
        }
        for key in held.keys().filter(|key| !wanted.contains_key(key)) {
            removed(names::LOCALS, table.remove(key))?;
        }
        Ok(())
    }

    /// Whether the programs ask [`Self::set_sources`] for source addresses; else the
    /// kernel tells them.
    pub fn wants_sources(&self) -> bool {
        !self.kernel.has(Feature::FibSource)
    }

    /// What of the kernel is used where it is there: each, and whether it is.
    pub fn features(&self) -> impl Iterator<Item = (Feature, bool)> + '_ {
        Feature::ALL
            .into_iter()
            .map(|feature| (feature, self.kernel.has(feature)))
    }

    /// Makes the table of source addresses just this.
    pub fn set_sources(&self, sources: &[SourceEntry]) -> Result<()> {
        let wanted: Vec<_> = sources.iter().map(tables::source).collect();
        tables::replace_all(names::SOURCES, &mut self.inner().tables.sources, &wanted)
    }

    /// An endpoint's counters.
    pub fn stats(&self, index: u32) -> Result<Stats> {
        let values = self
            .inner()
            .tables
            .endpoint_stats
            .get(&index, 0)
            .map_err(|e| DatapathError::other(format!("read counters of {index}"), chain(&e)))?;
        Ok(sum(values.iter().copied()))
    }

    /// What all endpoints have carried, those that are no more too: it never becomes
    /// less, as none comes or goes while it is read.
    pub fn total_stats(&self) -> Result<Stats> {
        let tables = &self.inner().tables;
        let veths = tables.veths.iter().flatten();
        let indexes = veths.map(|(_, veth)| veth.endpoint).chain([DETACHED]);
        let each = indexes.map(|index| {
            let values = tables.endpoint_stats.get(&index, 0);
            let values = values.map_err(|e| {
                DatapathError::other(format!("read counters of {index}"), chain(&e))
            })?;
            Ok(sum(values.iter().copied()))
        });
        Ok(sum(each.collect::<Result<Vec<_>>>()?))
    }

    /// Drops by reason: of all, or of one endpoint. Reasons without drops are
    /// left out.
    pub fn drops(&self, endpoint: Option<u32>) -> Result<Vec<DropCount>> {
        let tables = &self.inner().tables;
        let mut counts = Vec::new();
        for &reason in DropReason::ALL {
            let number = reason as u32;
            let count = match endpoint {
                Some(endpoint) => {
                    let key = netbpf_common::maps::DropKey {
                        endpoint,
                        reason: number,
                    };
                    tables.endpoint_drops.get(&key, 0).unwrap_or(0)
                }
                None => tables
                    .drops
                    .get(&number, 0)
                    .map_err(|e| DatapathError::other("read drops", chain(&e)))?
                    .iter()
                    .sum(),
            };
            if count != 0 {
                counts.push((reason, count));
            }
        }
        Ok(counts)
    }

    /// The generation of a published range's slot.
    fn generation(&self, slot: u32) -> Option<u32> {
        self.inner().tables.generations.get(&slot, 0).ok()
    }

    /// Endpoints that are there, and the host itself.
    fn living(&self) -> HashSet<u32> {
        let tables = &self.inner().tables;
        let veths = tables.veths.iter().flatten();
        let endpoints = veths.map(|(_, veth)| veth.endpoint);
        endpoints.chain([OF_HOST]).collect()
    }

    /// Removes every link, filter, program and map pin under `bpffs`; works
    /// without an open datapath. Devices that are gone are passed over.
    pub fn teardown(bpffs: &Path) -> Result<()> {
        // First: they say what is to be there, which is nothing.
        pins::remove(&pins::map(bpffs, names::RECORDS))?;
        let hooks = pins::hooks(bpffs)?;
        for &hook in &hooks {
            attach::detach(bpffs, hook)?;
        }
        for ifindex in pins::devices(bpffs)? {
            attach::release_qdisc(bpffs, ifindex)?;
        }
        pins::remove_all(bpffs)
    }
}

/// The name of a device in this network namespace.
pub fn device_name(ifindex: u32) -> Option<String> {
    name_of(ifindex)
}

/// The number of the program that a pinned link holds.
fn linked_program(pin: &Path) -> Option<u32> {
    let link = FdLink::from(PinnedLink::from_pin(pin).ok()?);
    Some(link.info().ok()?.program_id())
}

/// The programs of an uplink.
fn on_uplink(ethernet: bool) -> [(&'static str, Direction); 2] {
    let (from, to) = match ethernet {
        true => (names::FROM_UPLINK, names::TO_UPLINK),
        false => (names::FROM_UPLINK_L3, names::TO_UPLINK_L3),
    };
    [(from, Direction::Ingress), (to, Direction::Egress)]
}

/// No endpoint has this index: flows of the host's own have it.
const OF_HOST: u32 = 0;

/// No endpoint has this index: here is the sum of those that are no more, so that what
/// all of them carried never becomes less.
const DETACHED: u32 = 0;
