//! Flows read from the kernel, put together from their halves, and collected
//! when they are over.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use aya::Pod;
use netbpf_common::{
    addr::{self, Addr},
    flow::{State, Timeouts, state},
    maps::{
        Flow, FlowKey, Mapping, MappingKey, Outside, OutsideKey,
        flows::{
            FLOW_ORIGINAL, KIND_LOCAL, KIND_MASQUERADE, KIND_PUBLISH, arrival_container, is_of_port,
        },
    },
    names,
    time::{Ticks, since, ticks, ticks_to_millis},
};

use super::{
    Datapath, Result,
    attach::monotonic,
    events::{self, Close, EventRecord, Tuple},
    load::chain,
    pools::InUse,
    tables::{FlowTables, removed},
    types::{Collected, DatapathError, FlowRecord},
};

/// A mapping that was used within this many seconds is kept though no flow is
/// seen: its first one may be on the way into the table.
const MAPPING_GRACE_MILLIS: u64 = 60_000;

/// An address of a family.
pub(super) trait Address: Pod + Eq + Hash {
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

type Halves<A> = HashMap<FlowKey<A>, Flow<A>>;

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

    pub fn has<A>(&self, flow: &Flow<A>) -> bool {
        if !is_of_port(flow.kind) {
            return false;
        }
        let mut generations = self.generations.borrow_mut();
        let ask = || self.datapath.generation(flow.slot.into());
        *generations.entry(flow.slot).or_insert_with(ask) != Some(flow.generation)
    }
}

impl<A: Address> FlowTables<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
    MappingKey<A>: Pod,
    Mapping<A>: Pod,
    OutsideKey<A>: Pod,
    Outside<A>: Pod,
{
    /// All halves of both tables. Established flows are read before and after the
    /// others, so that one which moves meanwhile is seen wherever it goes.
    pub(super) fn halves(&self) -> Result<Halves<A>> {
        let mut halves = HashMap::new();
        for table in [&self.flows, &self.transient, &self.flows] {
            // The kernel begins anew when the entry that it is at was removed:
            // under a flood that would have no end.
            for entry in table.iter().take(self.max_entries * 2) {
                match entry {
                    Ok((key, flow)) => {
                        halves.insert(key, flow);
                    }
                    // Removed under the iteration.
                    Err(aya::maps::MapError::KeyNotFound) => {}
                    Err(error) => {
                        return Err(DatapathError::other("read the flow tables", chain(&error)));
                    }
                }
            }
        }
        Ok(halves)
    }

    /// A half as it is now, in whichever table.
    pub(super) fn half(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        self.flows
            .get(key, 0)
            .or_else(|_| self.transient.get(key, 0))
            .ok()
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
        let halves = self.halves()?;
        Ok(halves
            .iter()
            .filter(|(_, flow)| flow.flags & FLOW_ORIGINAL != 0 && !ended.has(flow))
            .filter_map(|(key, flow)| {
                let reply = halves.get(&key.reverse(flow));
                let record = record(key, flow, reply, now, &self.timeouts);
                (record.expires_in_seconds > 0).then_some(record)
            })
            .collect())
    }

    /// Removes flows that are over, those of endpoints that are no more, and after a
    /// while those of ports that were taken back. Flows that go on keep their
    /// mappings.
    pub(super) fn collect(
        &mut self,
        now: Ticks,
        living: impl Fn() -> HashSet<u32>,
        ended: &Ended,
        tell: &dyn Fn(EventRecord),
    ) -> Result<Collected> {
        let halves = self.halves()?;
        let endpoints = living();
        let before = std::mem::take(&mut self.suspects.ended);
        let mut collected = Collected::default();
        let mut used = HashSet::new();
        for (key, flow) in &halves {
            let original = flow.flags & FLOW_ORIGINAL != 0;
            let reverse_key = key.reverse(flow);
            let other = halves.get(&reverse_key);
            if !original && other.is_some() {
                continue;
            }
            let ended = ended.has(flow);
            if ended && !before.contains(key) {
                self.suspects.ended.insert(*key);
                continue;
            }
            let living = endpoints.contains(&flow.endpoint) && !ended;
            if !living || is_over(key, flow, other, now, &self.timeouts) {
                // Begun anew since it was read?
                let again = self.half(key).is_some_and(|f| f.created != flow.created);
                if again || living && self.goes_on(key, &reverse_key)? {
                    continue;
                }
                for key in [key, &reverse_key] {
                    removed(names::FLOWS4, self.flows.remove(key))?;
                    removed(names::TRANSIENT4, self.transient.remove(key))?;
                }
                collected.flows += 1;
                let close = match (ended, endpoints.contains(&flow.endpoint)) {
                    (_, false) => Close::Detached,
                    (true, true) => Close::Unpublished,
                    (false, true) => Close::Timeout,
                };
                // Whose end a packet brought was told then.
                if !state_of(key, flow, other).is_over() {
                    let tuple = tuple(key, flow);
                    let kind = kind_label(flow.kind);
                    tell(events::closed(close, flow.endpoint, kind, tuple)?);
                }
            } else if original && flow.kind == KIND_MASQUERADE {
                used.insert((key.src, flow.src, key.sport, key.protocol));
            }
        }
        self.collect_mappings(now, &used, &mut collected)?;
        Ok(collected)
    }

    /// Has either half seen a packet lately, as it is now?
    fn goes_on(&self, key: &FlowKey<A>, reverse: &FlowKey<A>) -> Result<bool> {
        let now = ticks(monotonic()?);
        let reply = self.half(reverse);
        Ok(self
            .half(key)
            .is_some_and(|flow| !is_over(key, &flow, reply.as_ref(), now, &self.timeouts)))
    }

    /// The outside ports that are in use.
    pub(super) fn in_use(&self) -> impl Iterator<Item = InUse> {
        let keys = self.outside.keys().flatten();
        keys.map(|key| (key.outside.mapped(), key.protocol, key.port))
    }

    fn collect_mappings(
        &mut self,
        now: Ticks,
        used: &HashSet<(A, A, u16, u8)>,
        collected: &mut Collected,
    ) -> Result<()> {
        let mut owned = HashSet::new();
        let mappings: Vec<_> = self.mappings.iter().flatten().collect();
        for (key, mapping) in mappings {
            let outside = OutsideKey {
                outside: key.outside,
                port: mapping.outside_port,
                protocol: key.protocol,
                reserved: 0,
            };
            let idle = ticks_to_millis(since(now, mapping.last_used));
            if idle < MAPPING_GRACE_MILLIS
                || used.contains(&(key.inside, key.outside, key.port, key.protocol))
            {
                owned.insert(outside);
                continue;
            }
            if self.unmap(&key, &mapping)? {
                collected.mappings += 1;
            } else {
                owned.insert(outside);
            }
        }
        // A port taken by a program that did not come to write its mapping;
        // twice seen so, it did not just begin.
        let orphans: HashSet<_> = self
            .outside
            .keys()
            .flatten()
            .filter(|key| !owned.contains(key))
            .collect();
        for key in orphans.intersection(&self.suspects.outside) {
            removed(names::OUTSIDE4, self.outside.remove(key))?;
        }
        self.suspects.outside = orphans;
        Ok(())
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

fn is_over<A>(
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
