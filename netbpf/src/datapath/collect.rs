//! Flows that are over are removed, and the mappings that none of the others use.
//!
//! The tables are read a page at a time, however large they are. A flow is asked for its
//! other half only once it has been silent for as long as any of its time-outs.

use std::collections::{HashMap, HashSet};

use aya::Pod;
use netbpf_common::{
    addr::Addr,
    flow::{State, Timeouts},
    maps::{
        Flow, FlowKey, Mapping, MappingKey, Outside, OutsideKey, Pool,
        flows::{FLOW_ORIGINAL, arrival_container},
        pools::pool_kind,
    },
    names,
    time::{Ticks, since, ticks, ticks_to_millis},
};

use super::{
    Result,
    attach::monotonic,
    events::{self, Close, EventRecord},
    flows::{Address, Ended, is_over, kind_label, state_of, tuple},
    flush::mapping_of,
    pages::{Page, Paged},
    tables::{FlowTables, removed},
    types::Collected,
};

/// A mapping that was used within this many seconds, or the time-out of a flow that opens, is
/// kept though no flow is seen: its first one may be on the way into the table, or evicted.
const MAPPING_GRACE: u32 = 60;

/// The ports in use of each outside address, by [`pool_kind`].
pub(super) type InUse = HashMap<(Addr, u32), Box<Pool>>;

/// What a collection goes by.
pub(super) struct Round<'a> {
    pub now: Ticks,
    pub ended: &'a Ended<'a>,
    /// Endpoints that are there.
    pub living: &'a dyn Fn() -> HashSet<u32>,
    pub tell: &'a dyn Fn(EventRecord),
}

/// The endpoints as last asked for. Again for each page in which one is missing, or one that
/// was attached meanwhile would lose its first flows.
struct Living<'a> {
    ask: &'a dyn Fn() -> HashSet<u32>,
    known: HashSet<u32>,
    is_fresh: bool,
}

impl Living<'_> {
    fn has(&mut self, endpoint: u32) -> bool {
        if !self.known.contains(&endpoint) && !self.is_fresh {
            self.known = (self.ask)();
            self.is_fresh = true;
        }
        self.known.contains(&endpoint)
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
    /// Removes flows that are over, those of endpoints that are no more, and after a
    /// while those of ports that were taken back. Flows that go on keep their
    /// mappings.
    pub(super) fn collect(&mut self, round: &Round) -> Result<Collected> {
        let mut collected = Collected::default();
        let before = std::mem::take(&mut self.suspects.ended);
        let mut unused = std::mem::take(&mut self.suspects.mappings);
        let mut living = Living {
            ask: round.living,
            known: HashSet::new(),
            is_fresh: false,
        };
        // In this order one that settles meanwhile is not missed. One that closes may be,
        // until the next round.
        for is_transient in [true, false] {
            let mut page = Page::new();
            while page.read(self.table(is_transient))? {
                living.is_fresh = false;
                for (key, flow) in page.entries() {
                    let goes_on = self.judge(&key, &flow, round, &before, &mut living)?;
                    if !goes_on {
                        collected.flows += 1;
                    } else if !unused.is_empty()
                        && let Some(used) = mapping_of(&key, &flow)
                    {
                        unused.remove(&used);
                    }
                }
            }
        }
        collected.mappings = self.collect_mappings(round.now, &unused)?;
        self.collect_outside()?;
        Ok(collected)
    }

    fn table(&self, is_transient: bool) -> &Paged<FlowKey<A>, Flow<A>> {
        match is_transient {
            true => &self.transient,
            false => &self.flows,
        }
    }

    /// Removes a flow that does not go on; `false` when it did.
    fn judge(
        &mut self,
        key: &FlowKey<A>,
        flow: &Flow<A>,
        round: &Round,
        before: &HashSet<FlowKey<A>>,
        living: &mut Living,
    ) -> Result<bool> {
        let (now, ended) = (round.now, round.ended.has(flow));
        let is_living = living.has(flow.endpoint);
        let silent = ticks_to_millis(since(now, flow.last_seen));
        if is_living && !ended && silent < shortest(&self.timeouts, key.protocol) * 1000 {
            return Ok(true);
        }
        let original = flow.flags & FLOW_ORIGINAL != 0;
        let reverse_key = key.reverse(flow);
        let other = self.half(&reverse_key);
        if !original && other.is_some() {
            return Ok(true);
        }
        if ended && !before.contains(key) {
            self.suspects.ended.insert(*key);
            return Ok(true);
        }
        let lives = is_living && !ended;
        if lives && !is_over(key, flow, other.as_ref(), now, &self.timeouts) {
            return Ok(true);
        }
        // Begun anew since it was read, or gone already?
        let is_same = |f: Flow<A>| f.created == flow.created;
        if !self.half(key).is_some_and(is_same) || lives && self.goes_on(key, &reverse_key)? {
            return Ok(true);
        }
        for key in [key, &reverse_key] {
            removed(names::FLOWS4, self.flows.remove(key))?;
            removed(names::TRANSIENT4, self.transient.remove(key))?;
        }
        let close = match (ended, is_living) {
            (_, false) => Close::Detached,
            (true, true) => Close::Unpublished,
            (false, true) => Close::Timeout,
        };
        // Whose end a packet brought was told then.
        if !state_of(key, flow, other.as_ref()).is_over() {
            let (kind, tuple) = (kind_label(flow.kind), tuple(key, flow));
            (round.tell)(events::closed(close, flow.endpoint, kind, tuple)?);
        }
        Ok(false)
    }

    /// Has either half seen a packet lately, as it is now?
    fn goes_on(&self, key: &FlowKey<A>, reverse: &FlowKey<A>) -> Result<bool> {
        let now = ticks(monotonic()?);
        let reply = self.half(reverse);
        Ok(self
            .half(key)
            .is_some_and(|flow| !is_over(key, &flow, reply.as_ref(), now, &self.timeouts)))
    }

    /// Gives outside ports back; how many. The one flow that a mapping was made with is
    /// looked for. Of those with several it takes a look at all flows: `unused` are those of
    /// which none was seen since the last collection.
    fn collect_mappings(&mut self, now: Ticks, unused: &HashSet<MappingKey<A>>) -> Result<u64> {
        let mut collected = 0;
        let mut page = Page::new();
        while page.read(&self.mappings)? {
            for (key, mapping) in page.entries() {
                let opening = self.timeouts.seconds(key.protocol, State::Opening);
                let grace = u64::from(opening.min(MAPPING_GRACE)) * 1000;
                if ticks_to_millis(since(now, mapping.last_used)) < grace {
                    continue;
                }
                let is_unused = if mapping.flows <= 1 {
                    self.half(&only_flow(&key, &mapping)).is_none()
                } else if unused.contains(&key) {
                    true
                } else {
                    self.suspects.mappings.insert(key);
                    false
                };
                if is_unused && self.unmap(&key, &mapping)? {
                    collected += 1;
                }
            }
        }
        Ok(collected)
    }

    /// Frees ports that were taken by a program that did not come to write their mapping;
    /// twice seen so, it did not just begin.
    fn collect_outside(&mut self) -> Result<()> {
        let before = std::mem::take(&mut self.suspects.outside);
        let mut page = Page::new();
        while page.read(&self.outside)? {
            for (key, owner) in page.entries() {
                let mapping = MappingKey {
                    inside: owner.inside,
                    outside: key.outside,
                    port: owner.port,
                    protocol: key.protocol,
                    reserved: 0,
                    scope: owner.scope,
                };
                let mapping = self.mappings.get(&mapping, 0);
                if mapping.is_ok_and(|mapping| mapping.outside_port == key.port) {
                    continue;
                }
                if before.contains(&key) {
                    removed(names::OUTSIDE4, self.outside.remove(&key))?;
                } else {
                    self.suspects.outside.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Adds the outside ports that are in use.
    pub(super) fn add_in_use(&self, all: &mut InUse) -> Result<()> {
        let mut page = Page::new();
        while page.read(&self.outside)? {
            for (key, _) in page.entries() {
                all.entry((key.outside.mapped(), pool_kind(key.protocol)))
                    .or_insert_with(|| Box::new(Pool::EMPTY))
                    .put(key.port, true);
            }
        }
        Ok(())
    }
}

/// The shortest time-out of a protocol's states, in seconds.
fn shortest(timeouts: &Timeouts, protocol: u8) -> u64 {
    let all = State::ALL.map(|state| timeouts.seconds(protocol, state));
    all.into_iter().min().unwrap_or(0).into()
}

/// The half that began the flow which a mapping was made with.
fn only_flow<A: Address>(key: &MappingKey<A>, mapping: &Mapping<A>) -> FlowKey<A> {
    FlowKey {
        src: key.inside,
        dst: mapping.remote,
        sport: key.port,
        dport: mapping.remote_port,
        protocol: key.protocol,
        reserved: 0,
        arrival: arrival_container(key.scope),
    }
}
