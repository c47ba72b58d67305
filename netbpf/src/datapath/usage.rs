//! What there is in the kernel: how full the maps are, where the programs hang.

use std::{
    collections::HashMap,
    sync::PoisonError,
    time::{Duration, Instant},
};

use aya::{
    maps::MapInfo as KernelMapInfo,
    programs::{ProgramInfo, SchedClassifier},
};
use netbpf_common::names;

use super::{
    AttachKind, Datapath, DatapathError, Established, MapUsage, ProgramUsage, Records, Result,
    attach::name_of,
    linked_program,
    load::{self, chain},
    pins::{self, Hook},
};

impl Datapath {
    /// How full the maps have been lately. Counting large ones takes its time: asked
    /// again soon it says the same once more, so that it counts for a tenth of the time at
    /// most, and for one at a time.
    pub fn recent_map_usage(&self) -> Result<Vec<MapUsage>> {
        const QUICK: Duration = Duration::from_millis(20);
        let usage = self.usage.lock();
        let mut usage = usage.unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        if let Some((at, took, known)) = &*usage
            && *took > QUICK
            && began - *at < *took * 10
        {
            return Ok(known.clone());
        }
        let counted = self.map_usage()?;
        *usage = Some((Instant::now(), began.elapsed(), counted.clone()));
        Ok(counted)
    }

    /// How many flows are established.
    pub fn established(&self) -> Result<[Established; 2]> {
        let config = load::config(&mut self.inner().ebpf)?.get(&0, 0);
        let config = config.map_err(|e| DatapathError::other("read config", chain(&e)))?;
        let tables = self.flow_tables();
        let of = |is_v6| {
            Ok(Established {
                is_v6,
                // Below 0 it may be for a moment.
                flows: (tables.established(is_v6)?.cast_signed())
                    .max(0)
                    .cast_unsigned(),
                most: config.established.into(),
            })
        };
        Ok([of(false)?, of(true)?])
    }

    /// How full the maps are.
    pub fn map_usage(&self) -> Result<Vec<MapUsage>> {
        let mut entries: HashMap<&str, usize> = {
            let inner = self.inner();
            let t = &inner.tables;
            let mut entries: HashMap<_, _> = [
                (names::ENDPOINTS, t.endpoints.keys().flatten().count()),
                (names::VETHS, t.veths.keys().flatten().count()),
                (names::UPLINKS, t.uplinks.keys().flatten().count()),
                (names::LOCALS, t.locals.keys().flatten().count()),
                (names::SUBNETS, t.subnets.keys().flatten().count()),
                (names::SOURCES, t.sources.keys().flatten().count()),
                (names::PORTS, t.ports.keys().flatten().count()),
                (names::SHARES, t.shares.keys().flatten().count()),
                (names::BACKENDS, t.backends.keys().flatten().count()),
                (names::ALLOWS, t.allows.keys().flatten().count()),
                (names::CLIENTS, t.clients.count()?),
                (names::HOST_CONNS, t.host_conns.count()?),
                (names::HOST_PEERS, t.host_peers.count()?),
                (names::HOST_ASKED, t.host_asked.count()?),
                (names::HANDED, t.handed.count()?),
                (names::ANSWERED, t.answered.count()?),
                (
                    names::ENDPOINT_DROPS,
                    t.endpoint_drops.keys().flatten().count(),
                ),
            ]
            .into();
            entries.extend(inner.overlay.usage());
            entries
        };
        if let Ok(Some(records)) = Records::from_pin(&self.bpffs) {
            entries.insert(names::RECORDS, records.count());
        }
        {
            let t = &self.flow_tables();
            entries.extend([
                (names::FLOWS4, t.v4.flows.count()?),
                (names::FLOWS6, t.v6.flows.count()?),
                (names::MAPPINGS4, t.v4.mappings.count()?),
                (names::MAPPINGS6, t.v6.mappings.count()?),
                (names::OUTSIDE4, t.v4.outside.count()?),
                (names::OUTSIDE6, t.v6.outside.count()?),
                (names::FRAGMENTS4, t.v4.fragments.count()?),
                (names::FRAGMENTS6, t.v6.fragments.count()?),
            ]);
        }
        names::MAPS
            .iter()
            .map(|&name| {
                // Also where somebody has removed its pin.
                let info = KernelMapInfo::from_id(self.map_id(name)?)
                    .map_err(|e| DatapathError::other(format!("read map {name}"), chain(&e)))?;
                Ok(MapUsage {
                    name: name.into(),
                    entries: entries.get(name).map(|&n| n as u64),
                    max_entries: info.max_entries().into(),
                })
            })
            .collect()
    }

    pub fn program_usage(&self) -> Result<Vec<ProgramUsage>> {
        let mut attached: HashMap<u32, Vec<String>> = HashMap::new();
        for hook in pins::hooks(&self.bpffs)? {
            if let Some((id, text)) = self.describe(hook) {
                attached.entry(id).or_default().push(text);
            }
        }
        for (ifindex, pin) in pins::xdp_links(&self.bpffs)? {
            if let (Some(name), Some(id)) = (name_of(ifindex), linked_program(&pin)) {
                let text = format!("{name} ingress (xdp)");
                attached.entry(id).or_default().push(text);
            }
        }
        for (cgroup, pin) in pins::cgroup_links(&self.bpffs)? {
            if let Some(id) = linked_program(&pin) {
                let text = format!("cgroup {cgroup} (link)");
                attached.entry(id).or_default().push(text);
            }
        }
        let names = names::PROGRAMS.iter().chain(names::HOST_PROGRAMS);
        let mut programs = Vec::new();
        for &name in names {
            let pin = pins::program(&self.bpffs, name);
            if !pin.exists() {
                continue;
            }
            let info = ProgramInfo::from_pin(&pin)
                .map_err(|e| DatapathError::other(format!("read {name}"), chain(&e)))?;
            let mut attached_to = attached.remove(&info.id()).unwrap_or_default();
            attached_to.sort();
            programs.push(ProgramUsage {
                name: name.into(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count(),
                attached_to,
            });
        }
        Ok(programs)
    }

    /// The program of a hook and where it is; `None` when its device is gone.
    fn describe(&self, hook: Hook) -> Option<(u32, String)> {
        let name = name_of(hook.ifindex)?;
        let direction = hook.direction.label();
        if hook.clsact {
            let pin = pins::link(
                &self.bpffs,
                hook.ifindex,
                hook.direction,
                AttachKind::Clsact,
            );
            let program = SchedClassifier::from_pin(pin).ok()?;
            return Some((
                program.info().ok()?.id(),
                format!("{name} {direction} (clsact)"),
            ));
        }
        let pin = pins::link(&self.bpffs, hook.ifindex, hook.direction, AttachKind::Tcx);
        Some((linked_program(&pin)?, format!("{name} {direction} (tcx)")))
    }
}
