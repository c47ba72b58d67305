//! Flows read from the kernel, put together from their halves, and collected
//! when they are over.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
};

use aya::Pod;
use netbpf_common::{
    flow::{state, timeout_seconds},
    maps::{
        Flow, FlowKey, MappingKey, Outside, OutsideKey,
        flows::{
            ARRIVAL_UPLINK, FLOW_ORIGINAL, FLOW_TO_CONTAINER, KIND_MASQUERADE, KIND_PUBLISH,
            arrival_container,
        },
    },
    names,
    time::{Ticks, since, ticks_to_millis},
};

use super::{
    Result,
    load::chain,
    tables::{FlowTables, removed},
    types::{Collected, DatapathError, FlowRecord},
};

/// A mapping that was used within this many seconds is kept though no flow is
/// seen: its first one may be on the way into the table.
const MAPPING_GRACE_MILLIS: u64 = 60_000;

/// An address of a family.
pub(super) trait Address: Pod + Eq + Hash {
    fn ip(self) -> IpAddr;
}

impl Address for [u8; 4] {
    fn ip(self) -> IpAddr {
        self.into()
    }
}

impl Address for [u8; 16] {
    fn ip(self) -> IpAddr {
        self.into()
    }
}

type Halves<A> = HashMap<FlowKey<A>, Flow<A>>;

impl<A: Address> FlowTables<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
    MappingKey<A>: Pod,
    OutsideKey<A>: Pod,
    Outside<A>: Pod,
{
    /// All halves of both tables. One that moves meanwhile is seen once.
    fn halves(&self) -> Result<Halves<A>> {
        let mut halves = HashMap::new();
        for table in [&self.transient, &self.flows] {
            for entry in table.iter() {
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

    pub(super) fn records(&self, now: Ticks) -> Result<Vec<FlowRecord>> {
        let halves = self.halves()?;
        Ok(halves
            .iter()
            .filter(|(_, flow)| flow.flags & FLOW_ORIGINAL != 0)
            .filter_map(|(key, flow)| {
                let reply = halves.get(&reverse(key, flow));
                let record = record(key, flow, reply, now);
                (record.expires_in_seconds > 0).then_some(record)
            })
            .collect())
    }

    /// Removes flows that are over, and those of endpoints that are no more.
    /// Flows that go on keep their mappings.
    pub(super) fn collect(
        &mut self,
        now: Ticks,
        living: impl Fn() -> HashSet<u32>,
        suspects: &mut HashSet<OutsideKey<A>>,
    ) -> Result<Collected> {
        let halves = self.halves()?;
        let endpoints = living();
        let mut collected = Collected::default();
        let mut used = HashSet::new();
        for (key, flow) in &halves {
            let original = flow.flags & FLOW_ORIGINAL != 0;
            let reverse_key = reverse(key, flow);
            let other = halves.get(&reverse_key);
            if !original && other.is_some() {
                continue;
            }
            if !endpoints.contains(&flow.endpoint) || is_over(key, flow, other, now) {
                for key in [key, &reverse_key] {
                    removed(names::FLOWS4, self.flows.remove(key))?;
                    removed(names::TRANSIENT4, self.transient.remove(key))?;
                }
                collected.flows += 1;
            } else if original && flow.kind == KIND_MASQUERADE {
                used.insert((key.src, flow.src, key.sport, key.protocol));
            }
        }
        self.collect_mappings(now, &used, suspects, &mut collected)?;
        Ok(collected)
    }

    fn collect_mappings(
        &mut self,
        now: Ticks,
        used: &HashSet<(A, A, u16, u8)>,
        suspects: &mut HashSet<OutsideKey<A>>,
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
            // The port is given free last: nobody else has it meanwhile.
            removed(names::MAPPINGS4, self.mappings.remove(&key))?;
            removed(names::OUTSIDE4, self.outside.remove(&outside))?;
            collected.mappings += 1;
        }
        // A port taken by a program that did not come to write its mapping;
        // twice seen so, it did not just begin.
        let orphans: HashSet<_> = self
            .outside
            .keys()
            .flatten()
            .filter(|key| !owned.contains(key))
            .collect();
        for key in orphans.intersection(suspects) {
            removed(names::OUTSIDE4, self.outside.remove(key))?;
        }
        *suspects = orphans;
        Ok(())
    }
}

/// The key of the other half.
fn reverse<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowKey<A> {
    FlowKey {
        src: flow.dst,
        dst: flow.src,
        sport: flow.dport,
        dport: flow.sport,
        protocol: key.protocol,
        reserved: 0,
        arrival: if flow.flags & FLOW_TO_CONTAINER != 0 {
            arrival_container(0)
        } else {
            ARRIVAL_UPLINK
        },
    }
}

fn remaining<A>(key: &FlowKey<A>, flow: &Flow<A>, reply: Option<&Flow<A>>, now: Ticks) -> u64 {
    let state = state(key.protocol, flow.seen, reply.map_or(0, |r| r.seen));
    let idle = |f: &Flow<A>| ticks_to_millis(since(now, f.last_seen));
    let idle = idle(flow).min(reply.map_or(u64::MAX, idle));
    (u64::from(timeout_seconds(key.protocol, state)) * 1000).saturating_sub(idle)
}

fn is_over<A>(key: &FlowKey<A>, flow: &Flow<A>, reply: Option<&Flow<A>>, now: Ticks) -> bool {
    remaining(key, flow, reply, now) == 0
}

fn record<A: Address>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
    reply: Option<&Flow<A>>,
    now: Ticks,
) -> FlowRecord {
    FlowRecord {
        protocol: key.protocol,
        endpoint: flow.endpoint,
        kind: if flow.kind == KIND_PUBLISH {
            "publish"
        } else {
            "masquerade"
        },
        state: state(key.protocol, flow.seen, reply.map_or(0, |r| r.seen)),
        src: (key.src.ip(), key.sport),
        dst: (key.dst.ip(), key.dport),
        reply_src: (flow.dst.ip(), flow.dport),
        reply_dst: (flow.src.ip(), flow.sport),
        age_seconds: ticks_to_millis(since(now, flow.created)) / 1000,
        expires_in_seconds: remaining(key, flow, reply, now).div_ceil(1000),
        packets: flow.packets,
        bytes: flow.bytes,
        reply_packets: reply.map_or(0, |r| r.packets),
        reply_bytes: reply.map_or(0, |r| r.bytes),
    }
}
