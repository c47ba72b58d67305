//! Endpoints that leave: detached by whoever attached them, or gone by themselves.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::{Inner, attaching::same_caller, overlay, plan, publish, reserved, state::State, view};
use crate::{
    error::{Code, Error, Result},
    model::{AttachSpec, DetachSpec, EndpointInfo},
    store::{EndpointRecord, EndpointState, PortRecord},
};

/// The steps that close all that these endpoints have published, and end the connections
/// by it and by what they drain: all at once, while there is a way for what either side is
/// to hear.
pub fn last_words(state: &State, leaving: &[Arc<plan::Endpoint>]) -> Vec<plan::Step> {
    let ports = |of: &dyn Fn(&EndpointRecord) -> Vec<PortRecord>| {
        let ports = leaving.iter().map(|e| (e.clone(), of(&e.record)));
        let some = ports.filter(|(_, ports)| !ports.is_empty());
        some.collect::<Vec<plan::Ports>>()
    };
    let published = ports(&|record| record.ports.clone());
    let connected = ports(&|record| {
        let draining = record.draining.iter().map(|d| &d.port);
        record.ports.iter().chain(draining).cloned().collect()
    });
    let mut steps = state.closing(&published);
    steps.extend(plan::end_connections(connected));
    steps
}

/// Clears away who may be in the way of a request with that outcome and whose
/// namespace is gone; whether there was anybody.
pub fn clear_dead(inner: &Inner, state: &mut State, spec: &AttachSpec, code: Code) -> Result<bool> {
    let in_the_way = |r: &EndpointRecord| match code {
        Code::AlreadyExists => r.name == spec.name,
        Code::AddressInUse => r.addresses().any(|(a, _)| spec.ips.contains(&a.addr())),
        _ => false,
    };
    match code {
        Code::PortInUse => clear_dead_publishers(inner, state),
        _ => clear_dead_of(inner, state, in_the_way),
    }
}

/// The same for whoever has published a port.
pub fn clear_dead_publishers(inner: &Inner, state: &mut State) -> Result<bool> {
    clear_dead_of(inner, state, |r| !r.ports.is_empty())
}

fn clear_dead_of(
    inner: &Inner,
    state: &mut State,
    suspect: impl Fn(&EndpointRecord) -> bool,
) -> Result<bool> {
    let mut dead = BTreeSet::new();
    for record in state.endpoints.values().filter(|r| suspect(r)) {
        let (name, ifindex) = (&record.host_ifname, record.host_ifindex);
        if !state.host.other_end_lives(ifindex, name)? {
            dead.insert(record.index);
        }
    }
    gone(inner, state, &dead)?;
    Ok(!dead.is_empty())
}

pub fn detach(
    inner: &Inner,
    state: &mut State,
    name: &str,
    network: Option<&str>,
) -> Result<Vec<EndpointInfo>> {
    let found = state.endpoints_named(name, network);
    let found = found.into_iter().cloned().collect();
    take_all_away(inner, state, found)
}

/// Detaches what an engine has attached.
pub fn detach_of_engine(
    inner: &Inner,
    state: &mut State,
    spec: &DetachSpec,
) -> Result<Vec<EndpointInfo>> {
    let found = of_engine(state, spec);
    take_all_away(inner, state, found)
}

/// The endpoints that are meant.
pub fn of_engine(state: &State, spec: &DetachSpec) -> Vec<EndpointRecord> {
    let except: HashSet<(&str, &str)> = spec
        .except
        .iter()
        .map(|a| (a.container_id.as_str(), a.ifname.as_str()))
        .collect();
    let same = |said: &Option<String>, ours: &str| said.as_ref().is_none_or(|s| s == ours);
    let is_meant = |r: &EndpointRecord| {
        r.engine.as_ref().is_some_and(|engine| {
            engine.kind == spec.engine
                && same(&spec.container_id, &engine.container_id)
                && same_caller(&spec.caller, &engine.caller)
                && !except.contains(&(engine.container_id.as_str(), r.ifname.as_str()))
        }) && same(&spec.ifname, &r.ifname)
            && same(&spec.network, &r.network)
    };
    let all = state.endpoints.values();
    all.filter(|r| is_meant(r)).map(|r| (**r).clone()).collect()
}

/// Detaches these. One that fails keeps none of the others.
pub fn take_all_away(
    inner: &Inner,
    state: &mut State,
    found: Vec<EndpointRecord>,
) -> Result<Vec<EndpointInfo>> {
    let infos: Vec<EndpointInfo> = found.iter().map(|r| view::endpoint(inner, r)).collect();
    let done = leave(inner, state, found, Device::There);
    let (mut detached, mut failed) = (Vec::new(), None);
    for (info, done) in infos.into_iter().zip(done) {
        match done {
            Ok(()) => detached.push(info),
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(detached), Err)
}

/// The devices of these endpoints have vanished, and mostly their namespaces with
/// them. One that cannot be cleared away keeps none of the others.
pub fn gone(inner: &Inner, state: &mut State, indexes: &BTreeSet<u32>) -> Result<()> {
    let records = indexes.iter().filter_map(|i| state.endpoints.get(i));
    let records: Vec<EndpointRecord> = records.map(|r| EndpointRecord::clone(r)).collect();
    for record in &records {
        tracing::info!(
            endpoint = record.name,
            network = record.network,
            "its device is gone: detached"
        );
    }
    let done = leave(inner, state, records, Device::Gone);
    done.into_iter()
        .filter_map(Result::err)
        .next_back()
        .map_or(Ok(()), Err)
}

/// Takes these away, in order; what became of each.
fn leave(
    inner: &Inner,
    state: &mut State,
    mut leaving: Vec<EndpointRecord>,
    device: Device,
) -> Vec<Result<()>> {
    // From now on it will be finished, whatever happens.
    let leaves = |record: &mut EndpointRecord| record.state = EndpointState::Detaching;
    leaving.iter_mut().for_each(leaves);
    if let Err(error) = inner.store.put_endpoints(&leaving) {
        let error = Error::from(error);
        tracing::warn!(%error, "not detached");
        return leaving.iter().map(|_| Err(error.clone())).collect();
    }
    for record in &leaving {
        publish::tell(record, &record.ports, "published no more");
    }
    let indexes: BTreeSet<u32> = leaving.iter().map(|r| r.index).collect();
    let planned: Vec<_> = leaving.iter().map(|r| state.planned(r)).collect();
    let steps = last_words(state, &planned);
    let mut apply = inner.apply(&mut state.host);
    if device == Device::Gone {
        apply.trust_paths();
    }
    for error in apply.run_to_end(&steps) {
        tracing::warn!(%error, "connections of endpoints that leave go on");
    }
    let take = |record: EndpointRecord| {
        let name = record.name.clone();
        take_away(inner, state, record, &indexes, device)
            .inspect_err(|error| tracing::warn!(%error, endpoint = name, "not detached"))
    };
    leaving.into_iter().map(take).collect()
}

/// Whether an endpoint that leaves still has its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Device {
    There,
    Gone,
}

#[tracing::instrument(level = "debug", skip_all, fields(endpoint = record.name, network = record.network))]
fn take_away(
    inner: &Inner,
    state: &mut State,
    mut record: EndpointRecord,
    leaving: &BTreeSet<u32>,
    device: Device,
) -> Result<()> {
    let heirs = state.heirs(&record, leaving);
    let endpoint = state.planned(&record);
    let mut apply = inner.apply(&mut state.host);
    if device == Device::Gone && heirs.is_empty() {
        apply.trust_paths();
    }
    for error in apply.run_to_end(&plan::detach(&endpoint, heirs)) {
        // What stays has no way to the endpoint once its device is gone, and is
        // swept at the next start.
        tracing::warn!(%error, endpoint = record.name, "not detached cleanly");
    }
    let handed = apply.handed().clone();
    inherit(inner, state, &handed)?;
    // Ports and routes may be another's from now on: should the daemon end before
    // the device is gone, only that is left to be done.
    record.forget_all_but_device();
    inner.store.put_endpoint(&record)?;
    state.remove_endpoint(record.index);
    overlay::left(inner, state, &record);
    inner.reaper.remove(state.planned(&record));
    if let Err(error) = reserved::sync(inner, state) {
        tracing::warn!(%error, "reserved ports not taken back");
    }
    tracing::info!(
        endpoint = record.name,
        network = record.network,
        "endpoint detached"
    );
    Ok(())
}

/// Notes who has the default routes now.
pub fn inherit(inner: &Inner, state: &mut State, heirs: &plan::Heirs) -> Result<()> {
    for (heir, is_v6) in [(&heirs.ipv4, false), (&heirs.ipv6, true)] {
        let index = heir.as_ref().map(|h| h.record.index);
        let Some(heir) = index.and_then(|i| state.endpoints.get(&i)) else {
            continue;
        };
        let mut heir = EndpointRecord::clone(heir);
        match is_v6 {
            false => heir.default4 = true,
            true => heir.default6 = true,
        }
        inner.store.put_endpoint(&heir)?;
        state.put_endpoint(heir);
    }
    Ok(())
}
