//! Flows that are over are removed, and the mappings that none of the others use.
//!
//! The tables are read a page at a time, however large they are. A flow is asked for its
//! other half only once it has been silent for as long as any of its time-outs.

use std::collections::{HashMap, HashSet};

use netbpf_common::{
    addr::Addr,
    flow::{State, Timeouts},
    maps::{
        Flow, FlowKey, Mapping, MappingKey, Outside, OutsideKey, Pool,
        flows::{FLOW_ORIGINAL, arrival_container, is_counted},
        pools::pool_kind,
    },
    names,
    time::{Ticks, since, ticks, ticks_to_millis},
};

use super::{
    Datapath, Result,
    attach::monotonic,
    events::{self, Close, EventRecord},
    flows::{Address, Ended, is_over, kind_label, state_of, tuple},
    flush::mapping_of,
    pages::Page,
    tables::{FlowTables, Suspects, removed},
    types::Collected,
};

/// A mapping that was used within this many seconds, or the time-out of a flow that opens, is
/// kept though no flow is seen: its first one may be on the way into the table, or evicted.
const MAPPING_GRACE: u32 = 60;

impl Datapath {
    /// Removes expired flows and unused mappings, and flows of endpoints that are
    /// no more; tells of those that nobody closed.
    pub fn collect(&self, tell: &dyn Fn(EventRecord)) -> Result<Collected> {
        let living = || self.living();
        let now = ticks(monotonic()?);
        let ended = Ended::new(self);
        let round = Round {
            now,
            ended: &ended,
            living: &living,
            tell,
        };
        let (mut v4, mut v6) = (Collection::new(&round), Collection::new(&round));
        v4.before_first = self.flow_tables().established(false)?;
        v6.before_first = self.flow_tables().established(true)?;
        while v4.step(&mut self.flow_tables().v4)? {
            self.note_established(&mut v4, false)?;
        }
        while v6.step(&mut self.flow_tables().v6)? {
            self.note_established(&mut v6, true)?;
        }
        let (v4, v6) = (v4.end(), v6.end());
        let in_use = v4.1.into_iter().chain(v6.1);
        self.pools().set(in_use.collect())?;
        Ok(v4.0.and(v6.0))
    }

    /// Once all flows of a family were looked at, how many are established: as counted, with
    /// what the programs have added since the look began.
    fn note_established<A: Address>(
        &self,
        collection: &mut Collection<A>,
        is_v6: bool,
    ) -> Result<()> {
        let tables = &mut *self.flow_tables();
        let now = tables.established(is_v6)?;
        let before = collection.before_first;
        if matches!(collection.at, At::Mappings(_)) && !collection.is_noted {
            collection.is_noted = true;
            let since = (now as i64).saturating_sub(before as i64).max(0) as u64;
            tables.count_established(is_v6, collection.established + since)?;
        }
        Ok(())
    }
}

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

/// A look at all flows of a family, a page at a time: in between others get at the tables.
pub(super) struct Collection<'a, A> {
    round: &'a Round<'a>,
    living: Living<'a>,
    /// What seemed to be of no use at the last collection.
    before: Suspects<A>,
    at: At<A>,
    collected: Collected,
    in_use: InUse,
    /// Flows that are established, of those that were looked at.
    established: u64,
    /// What the programs had counted before it.
    before_first: u64,
    is_noted: bool,
}

/// Where it is.
enum At<A> {
    Flows(Page<FlowKey<A>, Flow<A>>),
    Mappings(Page<MappingKey<A>, Mapping<A>>),
    Outside(Page<OutsideKey<A>, Outside<A>>),
}

impl<'a, A: Address> Collection<'a, A> {
    pub(super) fn new(round: &'a Round<'a>) -> Self {
        Collection {
            round,
            living: Living {
                ask: round.living,
                known: HashSet::new(),
                is_fresh: false,
            },
            before: Suspects::default(),
            at: At::Flows(Page::new()),
            collected: Collected::default(),
            in_use: InUse::new(),
            established: 0,
            before_first: 0,
            is_noted: false,
        }
    }

    /// What came of it, and the outside ports that are in use.
    pub(super) fn end(self) -> (Collected, InUse) {
        (self.collected, self.in_use)
    }

    /// Removes flows that are over, those of endpoints that are no more, and after a while
    /// those of ports that were taken back; then mappings of which no flow goes on, and ports
    /// that are nobody's. One page of it; `false`: it was the last.
    pub(super) fn step(&mut self, tables: &mut FlowTables<A>) -> Result<bool> {
        match &mut self.at {
            At::Flows(page) => {
                if page.is_first() {
                    self.before = std::mem::take(&mut tables.suspects);
                }
                if !page.read(&tables.flows)? {
                    self.at = At::Mappings(Page::new());
                    return Ok(true);
                }
            }
            At::Mappings(page) => {
                if !page.read(&tables.mappings)? {
                    self.at = At::Outside(Page::new());
                    return Ok(true);
                }
                for (key, mapping) in page.entries() {
                    let unused = &self.before.mappings;
                    if tables.is_unused(&key, &mapping, self.round.now, unused)
                        && tables.unmap(&key, &mapping)?
                    {
                        self.collected.mappings += 1;
                    }
                }
                return Ok(true);
            }
            At::Outside(page) => {
                if !page.read(&tables.outside)? {
                    return Ok(false);
                }
                for (key, owner) in page.entries() {
                    if !tables.is_nobodys(&key, &owner, &self.before.outside)? {
                        mark(&mut self.in_use, &key);
                    }
                }
                return Ok(true);
            }
        }
        let At::Flows(page) = &self.at else {
            return Ok(true);
        };
        self.living.is_fresh = false;
        self.round.ended.ask_anew();
        for (key, flow) in page.entries() {
            let ended = &self.before.ended;
            if !tables.goes_on(&key, &flow, self.round, ended, &mut self.living)? {
                self.collected.flows += 1;
                continue;
            }
            self.established += u64::from(is_counted(flow.flags));
            if !self.before.mappings.is_empty()
                && let Some(used) = mapping_of(&key, &flow)
            {
                self.before.mappings.remove(&used);
            }
        }
        Ok(true)
    }
}

impl<A: Address> FlowTables<A> {
    /// Removes a flow that does not go on; `false` when it did.
    fn goes_on(
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
        // Its own: two CPUs that begin a flow at once may leave halves of different ones.
        let other = self.half(&reverse_key);
        let other = other.filter(|other| reverse_key.reverse(other) == *key);
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
        // As it is now: begun anew, gone already, or has either half seen a packet?
        let Some(fresh) = self.half(key).filter(|f| f.created == flow.created) else {
            return Ok(true);
        };
        if lives {
            let (now, other) = (ticks(monotonic()?), self.half(&reverse_key));
            if !is_over(key, &fresh, other.as_ref(), now, &self.timeouts) {
                return Ok(true);
            }
        }
        for key in [key, &reverse_key] {
            removed(names::FLOWS4, self.flows.remove(key))?;
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

    /// Is an outside port to be given back? The one flow that a mapping was made with is
    /// looked for. Of those with several it takes a look at all flows: `unused` are those of
    /// which none was seen since the last collection.
    fn is_unused(
        &mut self,
        key: &MappingKey<A>,
        mapping: &Mapping<A>,
        now: Ticks,
        unused: &HashSet<MappingKey<A>>,
    ) -> bool {
        let opening = self.timeouts.seconds(key.protocol, State::Opening);
        let grace = u64::from(opening.min(MAPPING_GRACE)) * 1000;
        if ticks_to_millis(since(now, mapping.last_used)) < grace {
            return false;
        }
        if mapping.flows <= 1 {
            return self.half(&only_flow(key, mapping)).is_none();
        }
        let is_unused = unused.contains(key);
        if !is_unused {
            self.suspects.mappings.insert(*key);
        }
        is_unused
    }

    /// Frees a port that was taken by a program that did not come to write its mapping; twice
    /// seen so, it did not just begin. `false`: it stays.
    fn is_nobodys(
        &mut self,
        key: &OutsideKey<A>,
        owner: &Outside<A>,
        before: &HashSet<OutsideKey<A>>,
    ) -> Result<bool> {
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
            return Ok(false);
        }
        if before.contains(key) {
            return removed(names::OUTSIDE4, self.outside.remove(key)).map(|()| true);
        }
        self.suspects.outside.insert(*key);
        Ok(false)
    }

    /// Adds the outside ports that are in use.
    pub(super) fn add_in_use(&self, all: &mut InUse) -> Result<()> {
        let mut page = Page::new();
        while page.read(&self.outside)? {
            for (key, _) in page.entries() {
                mark(all, &key);
            }
        }
        Ok(())
    }
}

/// Notes an outside port as in use.
fn mark<A: Address>(all: &mut InUse, key: &OutsideKey<A>) {
    all.entry((key.outside.mapped(), pool_kind(key.protocol)))
        .or_insert_with(|| Box::new(Pool::EMPTY))
        .put(key.port, true);
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
