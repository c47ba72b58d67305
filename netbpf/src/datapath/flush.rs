//! Flows that are forgotten because somebody asks for it, with the mappings that
//! none of the others use.

use std::collections::HashMap;

use netbpf_common::{
    maps::{
        Flow, FlowKey, Mapping, MappingKey, Outside, OutsideKey,
        flows::{FLOW_ORIGINAL, KIND_MASQUERADE, arrival_container},
    },
    names,
    time::{Ticks, ticks},
};

use super::{
    Datapath, OF_HOST, Result,
    attach::monotonic,
    events::{self, Close, EventRecord},
    flows::{Address, Ended, kind_label, record, state_of, tuple},
    tables::{FlowTables, removed},
    types::{Collected, FlowRecord},
};

impl Datapath {
    /// Forgets the flows that are wanted, as [`Self::flows`] shows them, and the outside
    /// ports that no other uses.
    pub fn flush(
        &self,
        wanted: impl Fn(&FlowRecord) -> bool,
        tell: &dyn Fn(EventRecord),
    ) -> Result<Collected> {
        let flows = &mut *self.flow_tables();
        let (now, ended, living) = (ticks(monotonic()?), Ended::new(self), self.living());
        // Connections of the host's own are not to end by it.
        let wanted = |flow: &FlowRecord| {
            flow.endpoint != OF_HOST && living.contains(&flow.endpoint) && wanted(flow)
        };
        let v4 = flows.v4.flush(now, &ended, &wanted, tell)?;
        let v6 = flows.v6.flush(now, &ended, &wanted, tell)?;
        let flushed = v4.and(v6);
        if flushed.mappings != 0 {
            self.pools().set(flows.in_use()?)?;
        }
        Ok(flushed)
    }
}

impl<A: Address> FlowTables<A> {
    /// Removes the flows that are wanted and the mappings that only they used; tells
    /// of those that nobody closed.
    pub(super) fn flush(
        &mut self,
        now: Ticks,
        ended: &Ended,
        wanted: &impl Fn(&FlowRecord) -> bool,
        tell: &dyn Fn(EventRecord),
    ) -> Result<Collected> {
        let mut flushed = Collected::default();
        let mut unused = HashMap::new();
        let mut found = Vec::new();
        self.for_each(|key, flow, reply| {
            let shown = record(key, flow, reply, now, &self.timeouts);
            if shown.expires_in_seconds > 0 && !ended.has(flow) && wanted(&shown) {
                found.push((*key, *flow, state_of(key, flow, reply)));
            }
            Ok(())
        })?;
        for (key, flow, state) in &found {
            let mapping = mapping_of(key, flow);
            let mapping = mapping.and_then(|key| Some((key, self.mappings.get(&key, 0).ok()?)));
            if self.remove(key, &key.reverse(flow), flow)? {
                flushed.flows += 1;
                unused.extend(mapping);
                if !state.is_over() {
                    let (kind, tuple) = (kind_label(flow.kind), tuple(key, flow));
                    // What has begun is brought to its end, told or not.
                    if let Ok(event) = events::closed(Close::Flushed, flow.endpoint, kind, tuple) {
                        tell(event);
                    }
                }
            }
        }
        drop(found);
        if !unused.is_empty() {
            // Read anew: some may have begun meanwhile.
            self.for_each(|key, flow, _| {
                if let Some(used) = mapping_of(key, flow) {
                    unused.remove(&used);
                }
                Ok(())
            })?;
        }
        for (key, mapping) in &unused {
            flushed.mappings += u64::from(self.unmap(key, mapping)?);
        }
        Ok(flushed)
    }

    /// Removes a flow unless it was begun anew since it was read.
    fn remove(&mut self, key: &FlowKey<A>, reverse: &FlowKey<A>, flow: &Flow<A>) -> Result<bool> {
        if self.half(key).is_none_or(|f| f.created != flow.created) {
            return Ok(false);
        }
        for key in [key, reverse] {
            removed(names::FLOWS4, self.flows.remove(key))?;
        }
        Ok(true)
    }

    /// Gives an outside port back, unless a flow was made with it meanwhile. One that is
    /// made right now finds its port to be nobody's with the next flow, and takes a new
    /// one.
    pub(super) fn unmap(&mut self, key: &MappingKey<A>, mapping: &Mapping<A>) -> Result<bool> {
        let made = |m: &Mapping<A>| (m.last_used, m.flows);
        let is_same = |m: Mapping<A>| made(&m) == made(mapping);
        if !self.mappings.get(key, 0).is_ok_and(is_same) {
            return Ok(false);
        }
        removed(names::MAPPINGS4, self.mappings.remove(key))?;
        let outside = OutsideKey {
            outside: key.outside,
            port: mapping.outside_port,
            protocol: key.protocol,
            reserved: 0,
        };
        // A program may have taken the port over since.
        let owner = (key.inside, key.port, key.scope);
        let is_ours = |owned: Outside<A>| (owned.inside, owned.port, owned.scope) == owner;
        if self.outside.get(&outside, 0).is_ok_and(is_ours) {
            removed(names::OUTSIDE4, self.outside.remove(&outside))?;
        }
        Ok(true)
    }
}

/// The mapping that a flow uses, of its half that leads out.
pub(super) fn mapping_of<A: Address>(key: &FlowKey<A>, flow: &Flow<A>) -> Option<MappingKey<A>> {
    let masqueraded = flow.kind == KIND_MASQUERADE && flow.flags & FLOW_ORIGINAL != 0;
    masqueraded.then(|| MappingKey {
        inside: key.src,
        outside: flow.src,
        port: key.sport,
        protocol: key.protocol,
        reserved: 0,
        scope: u32::from(key.arrival.wrapping_sub(arrival_container(0))),
    })
}
