//! Flows read from the kernel, put together from their halves.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use aya::{
    Pod,
    maps::{Array, MapData},
};
use netbpf_common::{
    addr::{self, Addr, OfFamily},
    flow::{State, Timeouts, state},
    maps::{
        Config, Flow, FlowKey,
        evictable::{OCCUPANCY, established_index},
        flows::{FLOW_ORIGINAL, KIND_LOCAL, KIND_PUBLISH, arrival_container, is_of_port},
    },
    names,
    time::{Ticks, since, ticks, ticks_to_millis},
};

use super::{
    Datapath, Result,
    attach::monotonic,
    collect::InUse,
    events::Tuple,
    load,
    pages::Page,
    tables::{FlowTables, Written},
    types::{DatapathError, FlowRecord},
};

/// The flow tables of both families.
pub(super) struct Flows {
    pub v4: FlowTables<[u8; 4]>,
    pub v6: FlowTables<[u8; 16]>,
    pub occupancy: Array<MapData, u64>,
}

impl Flows {
    /// How many flows of a family are established, as the programs count them.
    pub fn established(&self, is_v6: bool) -> Result<u64> {
        let count = self.occupancy.get(&established_index(is_v6), 0);
        count.map_err(|e| DatapathError::other("read map occupancy", load::chain(&e)))
    }

    /// Puts it right: programs are not told of what the daemon removes.
    pub fn count_established(&mut self, is_v6: bool, count: u64) -> Result<()> {
        self.occupancy
            .set(established_index(is_v6), count, 0)
            .written(names::OCCUPANCY, OCCUPANCY)
    }

    /// The outside ports that are in use.
    pub fn in_use(&self) -> Result<InUse> {
        let mut all = InUse::new();
        self.v4.add_in_use(&mut all)?;
        self.v6.add_in_use(&mut all)?;
        Ok(all)
    }
}

impl Datapath {
    /// Changes when silent flows are over, those that are there too.
    pub fn set_timeouts(&self, timeouts: Timeouts) -> Result<()> {
        let change = |config: &mut Config| config.timeouts = timeouts;
        load::change_config(&mut load::config(&mut self.inner().ebpf)?, change)?;
        let tables = &mut *self.flow_tables();
        tables.v4.timeouts = timeouts;
        tables.v6.timeouts = timeouts;
        Ok(())
    }

    /// All live flows.
    pub fn flows(&self) -> Result<Vec<FlowRecord>> {
        let now = ticks(monotonic()?);
        let tables = self.flow_tables();
        let ended = Ended::new(self);
        let mut records = tables.v4.records(now, &ended)?;
        records.extend(tables.v6.records(now, &ended)?);
        drop(tables);
        // Those of endpoints that are no more wait to be collected.
        let living = self.living();
        records.retain(|record| living.contains(&record.endpoint));
        Ok(records)
    }

    /// Whether a connection of a container, as it sees it, came by this published
    /// range.
    pub fn is_of_slot(
        &self,
        slot: u32,
        protocol: u8,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> bool {
        let tables = self.flow_tables();
        match (local.ip(), remote.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => tables.v4.is_of_slot(
                slot,
                protocol,
                (src.octets(), local.port()),
                (dst.octets(), remote.port()),
            ),
            (IpAddr::V6(src), IpAddr::V6(dst)) => tables.v6.is_of_slot(
                slot,
                protocol,
                (src.octets(), local.port()),
                (dst.octets(), remote.port()),
            ),
            _ => false,
        }
    }
}

/// An address of a family.
pub(super) trait Address: OfFamily + Pod + Eq + Hash {
    fn ip(self) -> IpAddr;
    fn mapped(self) -> Addr;
}

impl Address for [u8; 4] {
    fn ip(self) -> IpAddr {
        self.into()
    }

    fn mapped(self) -> Addr {
        addr::mapped(self)
    }
}

impl Address for [u8; 16] {
    fn ip(self) -> IpAddr {
        self.into()
    }

    fn mapped(self) -> Addr {
        self
    }
}

/// Knows which flows are of ports that were taken back. Each slot is asked for once.
pub(super) struct Ended<'a> {
    datapath: &'a Datapath,
    generations: RefCell<HashMap<u16, Option<u32>>>,
}

impl<'a> Ended<'a> {
    pub fn new(datapath: &'a Datapath) -> Ended<'a> {
        Ended {
            datapath,
            generations: RefCell::default(),
        }
    }

    /// What is asked from now on is of flows that were read from now on: a port may have been
    /// published anew since.
    pub fn ask_anew(&self) {
        self.generations.borrow_mut().clear();
    }

    pub fn has<A>(&self, flow: &Flow<A>) -> bool {
        if !is_of_port(flow.kind) {
            return false;
        }
        let mut generations = self.generations.borrow_mut();
        let ask = || self.datapath.generation(flow.slot.into());
        *generations.entry(flow.slot).or_insert_with(ask) != Some(flow.generation)
    }
}

impl<A: Address> FlowTables<A> {
    /// All flows by the half that began them, and what answers it.
    pub(super) fn for_each(
        &self,
        mut each: impl FnMut(&FlowKey<A>, &Flow<A>, Option<&Flow<A>>) -> Result<()>,
    ) -> Result<()> {
        let mut page = Page::new();
        while page.read(&self.flows)? {
            for (key, flow) in page.entries() {
                if flow.flags & FLOW_ORIGINAL != 0 {
                    let reply = self.half(&key.reverse(&flow));
                    each(&key, &flow, reply.as_ref())?;
                }
            }
        }
        Ok(())
    }

    /// A half as it is now.
    pub(super) fn half(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        self.flows.get(key, 0).ok()
    }

    /// Whether a published port's answers leave by this tuple.
    pub(super) fn is_of_slot(
        &self,
        slot: u32,
        protocol: u8,
        (src, sport): (A, u16),
        (dst, dport): (A, u16),
    ) -> bool {
        let key = FlowKey {
            src,
            dst,
            sport,
            dport,
            protocol,
            reserved: 0,
            arrival: arrival_container(0),
        };
        self.half(&key)
            .is_some_and(|flow| is_of_port(flow.kind) && u32::from(flow.slot) == slot)
    }

    pub(super) fn records(&self, now: Ticks, ended: &Ended) -> Result<Vec<FlowRecord>> {
        let mut records = Vec::new();
        self.for_each(|key, flow, reply| {
            let record = record(key, flow, reply, now, &self.timeouts);
            if record.expires_in_seconds > 0 && !ended.has(flow) {
                records.push(record);
            }
            Ok(())
        })?;
        Ok(records)
    }
}

/// As JSON and listings say it.
pub(super) fn kind_label(kind: u8) -> &'static str {
    match kind {
        KIND_PUBLISH => "publish",
        KIND_LOCAL => "local",
        _ => "masquerade",
    }
}

/// Both sides, in the direction of the packet that began the flow.
pub(super) fn tuple<A: Address>(key: &FlowKey<A>, half: &Flow<A>) -> Tuple {
    let at = |ip: A, port| SocketAddr::new(ip.ip(), port);
    let own = (at(key.src, key.sport), at(key.dst, key.dport));
    let left = (at(half.src, half.sport), at(half.dst, half.dport));
    let (came, left) = match half.flags & FLOW_ORIGINAL != 0 {
        true => (own, left),
        false => ((left.1, left.0), (own.1, own.0)),
    };
    Tuple {
        protocol: key.protocol,
        src: came.0,
        dst: came.1,
        new: Some(left),
    }
}

pub(super) fn state_of<A>(key: &FlowKey<A>, flow: &Flow<A>, other: Option<&Flow<A>>) -> State {
    state(key.protocol, flow.seen, other.map_or(0, |r| r.seen))
}

fn remaining<A>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
    reply: Option<&Flow<A>>,
    now: Ticks,
    timeouts: &Timeouts,
) -> u64 {
    let state = state_of(key, flow, reply);
    let idle = |f: &Flow<A>| ticks_to_millis(since(now, f.last_seen));
    let idle = idle(flow).min(reply.map_or(u64::MAX, idle));
    (u64::from(timeouts.seconds(key.protocol, state)) * 1000).saturating_sub(idle)
}

pub(super) fn is_over<A>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
    reply: Option<&Flow<A>>,
    now: Ticks,
    timeouts: &Timeouts,
) -> bool {
    remaining(key, flow, reply, now, timeouts) == 0
}

pub(super) fn record<A: Address>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
    reply: Option<&Flow<A>>,
    now: Ticks,
    timeouts: &Timeouts,
) -> FlowRecord {
    FlowRecord {
        protocol: key.protocol,
        endpoint: flow.endpoint,
        kind: kind_label(flow.kind),
        state: state_of(key, flow, reply),
        src: (key.src.ip(), key.sport),
        dst: (key.dst.ip(), key.dport),
        reply_src: (flow.dst.ip(), flow.dport),
        reply_dst: (flow.src.ip(), flow.sport),
        age_seconds: ticks_to_millis(since(now, flow.created)) / 1000,
        expires_in_seconds: remaining(key, flow, reply, now, timeouts).div_ceil(1000),
        packets: flow.packets,
        bytes: flow.bytes,
        reply_packets: reply.map_or(0, |r| r.packets),
        reply_bytes: reply.map_or(0, |r| r.bytes),
    }
}
