//! What the maps have of endpoints.

use std::collections::HashSet;

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuValues},
};
use netbpf_common::{
    drop::DropReason,
    maps::{
        EndpointStats, Veth, VethSlot,
        endpoints::{VETH_SLOTS, veth_slot},
    },
    names,
    verdict::MAX_ENDPOINT,
};

use super::{
    DETACHED, Datapath, Result,
    load::chain,
    sum,
    tables::{self, Tables, Written, removed},
    types::{DatapathError, EndpointEntry},
};

type Veths = HashMap<MapData, u32, Veth>;

/// `veth_slots`. What it has of a device is in `veths` as well: where it has nothing, that
/// tells.
pub(super) struct Slots(Array<MapData, VethSlot>);

impl Slots {
    pub fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Slots(tables::take(ebpf, names::VETH_SLOTS)?))
    }

    fn at(&self, index: u32) -> Result<VethSlot> {
        let held = self.0.get(&index, 0);
        held.map_err(|e| DatapathError::other("read map veth_slots", chain(&e)))
    }

    fn write(&mut self, index: u32, slot: VethSlot) -> Result<()> {
        let written = self.0.set(index, slot, 0);
        written.written(names::VETH_SLOTS, VETH_SLOTS)
    }

    /// Those that are taken.
    pub fn taken(&self) -> impl Iterator<Item = VethSlot> {
        self.0.iter().flatten().filter(|slot| slot.ifindex != 0)
    }

    /// Writes what `veths` has been given already, unless another device has the place that is
    /// known there.
    fn set(&mut self, slot: VethSlot, veths: &Veths) -> Result<()> {
        let index = veth_slot(slot.ifindex);
        let held = self.at(index)?;
        if held == slot || held.ifindex != slot.ifindex && is_known(&held, veths) {
            return Ok(());
        }
        // The kernel copies an entry of an array piece by piece: nobody goes by it until all of
        // it is there.
        self.write(index, VethSlot { ifindex: 0, ..slot })?;
        self.write(index, slot)
    }

    /// Frees the place of a device, if it has one.
    fn remove(&mut self, ifindex: u32) -> Result<()> {
        let index = veth_slot(ifindex);
        let held = self.at(index)?;
        if held.ifindex != ifindex {
            return Ok(());
        }
        self.free(index, held)
    }

    /// The rest of it stays: a program may be reading it.
    fn free(&mut self, index: u32, held: VethSlot) -> Result<()> {
        self.write(index, VethSlot { ifindex: 0, ..held })
    }

    /// Frees the places of devices that `veths` does not know, or of which it says something else
    /// (versions that knew of no places leave them behind), and what is at no device's place.
    fn retain(&mut self, veths: &Veths) -> Result<()> {
        for index in 0..VETH_SLOTS {
            let held = self.at(index)?;
            let is_right = veth_slot(held.ifindex) == index && is_known(&held, veths);
            if held.ifindex != 0 && !is_right {
                self.free(index, held)?;
            }
        }
        Ok(())
    }
}

fn is_known(slot: &VethSlot, veths: &Veths) -> bool {
    slot.ifindex != 0
        && veths
            .get(&slot.ifindex, 0)
            .is_ok_and(|veth| veth == slot.veth)
}

impl Datapath {
    /// Writes an endpoint's entries, new or changed.
    pub fn set_endpoint(&self, endpoint: &EndpointEntry) -> Result<()> {
        // A verdict has 16 bits for an endpoint.
        let max = self.max_endpoints.min(MAX_ENDPOINT + 1);
        if endpoint.index == 0 || endpoint.index >= max {
            return Err(DatapathError::Full {
                map: names::ENDPOINT_STATS,
                max_entries: max,
            });
        }
        let tables = &mut self.inner().tables;
        let slot = tables::veth_slot(endpoint);
        tables
            .veths
            .insert(endpoint.device.ifindex, slot.veth, 0)
            .written(names::VETHS, max)?;
        tables.veth_slots.set(slot, &tables.veths)?;
        for key in tables::endpoint_keys(endpoint) {
            tables
                .endpoints
                .insert(key, tables::endpoint(endpoint), 0)
                .written(names::ENDPOINTS, max * 2)?;
        }
        Ok(())
    }

    /// Removes an endpoint's entries and counters; idempotent. Its masqueraded
    /// flows are followed no more, and collected with the next [`Self::collect`].
    pub fn remove_endpoint(&self, endpoint: &EndpointEntry) -> Result<()> {
        let tables = &mut self.inner().tables;
        for key in tables::endpoint_keys(endpoint) {
            // The address may be another's by now.
            if tables
                .endpoints
                .get(&key, 0)
                .is_ok_and(|e| e.endpoint == endpoint.index)
            {
                removed(names::ENDPOINTS, tables.endpoints.remove(&key))?;
            }
        }
        tables.veth_slots.remove(endpoint.device.ifindex)?;
        removed(names::VETHS, tables.veths.remove(&endpoint.device.ifindex))?;
        reset_counters(tables, endpoint.index)
    }

    /// Removes entries of endpoints other than these indexes; returns how many.
    pub fn retain_endpoints(&self, indexes: &HashSet<u32>) -> Result<usize> {
        let tables = &mut self.inner().tables;
        let gone: Vec<_> = tables
            .endpoints
            .iter()
            .flatten()
            .filter(|(_, e)| !indexes.contains(&e.endpoint))
            .collect();
        for (key, _) in &gone {
            removed(names::ENDPOINTS, tables.endpoints.remove(key))?;
        }
        let veths: Vec<_> = tables
            .veths
            .iter()
            .flatten()
            .filter(|(_, veth)| !indexes.contains(&veth.endpoint))
            .collect();
        for (ifindex, veth) in &veths {
            removed(names::VETHS, tables.veths.remove(ifindex))?;
            reset_counters(tables, veth.endpoint)?;
        }
        tables.veth_slots.retain(&tables.veths)?;
        Ok(gone.len().max(veths.len()))
    }
}

/// Sets an endpoint's counters to 0 for whoever gets its index next.
fn reset_counters(tables: &mut Tables, index: u32) -> Result<()> {
    let failed = |e| DatapathError::other(format!("reset counters of {index}"), chain(&e));
    let zeros = tables.zeros::<EndpointStats>()?;
    let stats = &mut tables.endpoint_stats;
    let last = match stats.get(&index, 0) {
        // Others wrote it into a map: no endpoint ever had it.
        Err(MapError::OutOfBounds { .. }) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let detached = stats.get(&DETACHED, 0).map_err(failed)?;
    let per_cpu = detached.iter().zip(last.iter());
    let detached: Vec<_> = per_cpu.map(|(all, last)| sum([*all, *last])).collect();
    let detached = PerCpuValues::try_from(detached)
        .map_err(|e| DatapathError::other("make a per-CPU value", chain(&e)))?;
    // In this order: ended in between, some is counted twice and nothing becomes less.
    stats.set(DETACHED, detached, 0).map_err(failed)?;
    stats.set(index, zeros, 0).map_err(failed)?;
    for &reason in DropReason::ALL {
        let key = netbpf_common::maps::DropKey {
            endpoint: index,
            reason: reason as u32,
        };
        removed(names::ENDPOINT_DROPS, tables.endpoint_drops.remove(&key))?;
    }
    Ok(())
}
