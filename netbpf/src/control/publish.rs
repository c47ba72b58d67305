//! Publishing on an endpoint that runs.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Inner, detach,
    plan::{self, Leave, Service, Step},
    ports::{Chooser, Sharing},
    portspec::{self, Terms},
    published::find_published,
    reserved,
    services::{Place, place},
    state::State,
    uplinks, view,
};
use crate::{
    error::{Code, Error, Result},
    model::{EndpointInfo, PublishSpec, UnpublishSpec, UpdateSpec},
    store::{Draining, EndpointRecord, PortRecord},
    sys::process,
};

/// The longest drain that can be asked for.
const LONGEST_DRAIN_SECONDS: u64 = 7 * 24 * 3600;

/// All of the ports, or none.
pub fn publish(
    inner: &Inner,
    state: &mut State,
    name: &str,
    spec: &PublishSpec,
) -> Result<EndpointInfo> {
    check(&spec.publish)?;
    uplinks::look_for(inner, state, &spec.publish);
    let choose = |state: &State| -> Result<_> {
        let before = state.endpoint_meant(name, spec.network.as_deref())?.clone();
        let sharing = Sharing::from(spec.share);
        let mut chooser = Chooser::new(state, inner.settings().publish_ip, &before, sharing)?;
        for text in &spec.publish {
            chooser.choose(text)?;
        }
        let chosen = chooser.finish();
        Ok((before, chosen))
    };
    let (before, chosen) = match choose(state) {
        // Who has the port may have died just now, and not be missed yet.
        Err(e) if e.code == Code::PortInUse && detach::clear_dead_publishers(inner, state)? => {
            choose(state)?
        }
        chosen => chosen?,
    };
    let mut after = before.clone();
    after.ports.extend(chosen.ports.iter().cloned());

    // In the store first: what a crash leaves half-done, the next start finishes.
    inner.store.put_endpoint(&after)?;
    let endpoint = state.planned(&after);
    let ports = chosen.ports.iter();
    let steps: Vec<Step> = ports
        .map(|port| state.publishing(&endpoint, port))
        .collect();
    let mut apply = inner.apply(&mut state.host);
    if let Err(error) = apply.run(&steps) {
        inner.store.put_endpoint(&before)?;
        return Err(error);
    }
    tell(&after, &chosen.ports, "published");
    chosen.note(state);
    state.put_endpoint(after.clone());
    if let Err(error) = reserved::sync(inner, state) {
        tracing::warn!(%error, "ports not reserved");
    }
    Ok(view::endpoint(inner, &after))
}

/// Takes ports back; their connections end at once, or may go on for a while.
pub fn unpublish(
    inner: &Inner,
    state: &mut State,
    name: &str,
    spec: &UnpublishSpec,
) -> Result<EndpointInfo> {
    check(&spec.publish)?;
    let drain = spec.drain.unwrap_or(0);
    if drain > LONGEST_DRAIN_SECONDS {
        return Err(Error::invalid(format!(
            "drain {drain} s: {LONGEST_DRAIN_SECONDS} s are the most"
        )));
    }
    let mut record = state.endpoint_meant(name, spec.network.as_deref())?.clone();
    let before = state.planned(&record);
    let mut removed: Vec<PortRecord> = Vec::new();
    for text in &spec.publish {
        let port = find_published(&record, inner.settings().publish_ip, text)?;
        record.ports.retain(|p| p.slot != port.slot);
        removed.push(port);
    }
    if drain > 0 {
        let until = process::boottime_ms()? + drain * 1000;
        let draining = removed.iter().cloned();
        let draining = draining.map(|port| Draining { port, until });
        record.draining.extend(draining);
    }
    inner.store.put_endpoint(&record)?;
    match drain {
        0 => tell(&record, &removed, "published no more"),
        _ => tell(&record, &removed, "published no more, and drained"),
    }
    let ports = vec![(before, removed)];
    let mut steps = state.closing(&ports);
    if drain == 0 {
        steps.extend(plan::end_connections(ports));
    }
    let done = finish(inner, state, &record, &steps);
    inner.drains.notify_one();
    done?;
    Ok(view::endpoint(inner, &record))
}

/// Ends the connections of ports whose time is up; when the next is.
pub fn end_drained(inner: &Inner, state: &mut State) -> Result<Option<u64>> {
    let now = process::boottime_ms()?;
    let draining = state.endpoints.values().filter(|r| !r.draining.is_empty());
    let draining: Vec<EndpointRecord> = draining.map(|r| EndpointRecord::clone(r)).collect();
    let mut next = None;
    for before in draining {
        let endpoint = state.planned(&before);
        let mut record = before;
        let (due, later): (Vec<_>, Vec<_>) =
            record.draining.drain(..).partition(|d| d.until <= now);
        next = later.iter().map(|d| d.until).chain(next).min();
        if due.is_empty() {
            continue;
        }
        record.draining = later;
        let due: Vec<PortRecord> = due.into_iter().map(|d| d.port).collect();
        inner.store.put_endpoint(&record)?;
        tell(&record, &due, "drained long enough");
        let steps = plan::end_connections(vec![(endpoint, due)]);
        // One that fails keeps none of the others waiting; its maps are put right at
        // the next start.
        let _ = finish(inner, state, &record, &steps);
    }
    Ok(next)
}

/// Takes the steps of ports that are published no more. The store says so already:
/// what is left in the maps is taken away at the next start. The first error.
fn finish(inner: &Inner, state: &mut State, record: &EndpointRecord, steps: &[Step]) -> Result<()> {
    let mut apply = inner.apply(&mut state.host);
    let errors = apply.run_to_end(steps);
    for error in &errors {
        tracing::warn!(%error, endpoint = record.name, "not unpublished cleanly");
    }
    state.put_endpoint(record.clone());
    if let Err(error) = reserved::sync(inner, state) {
        tracing::warn!(%error, "reserved ports not taken back");
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Changes the terms of published ports: the weight of this endpoint, and what is said
/// of a port as a whole for all that share it.
pub fn update(
    inner: &Inner,
    state: &mut State,
    name: &str,
    spec: &UpdateSpec,
) -> Result<EndpointInfo> {
    check(&spec.publish)?;
    let named = state.endpoint_meant(name, spec.network.as_deref())?.clone();
    let mut changed: BTreeMap<u32, EndpointRecord> = BTreeMap::new();
    let mut places: Vec<Place> = Vec::new();
    for text in &spec.publish {
        let terms = portspec::parse(text)?.terms;
        if terms == Terms::default() {
            return Err(Error::invalid(format!(
                "port {text:?}: there is nothing to change: say allow, weight or affinity"
            )));
        }
        let port = find_published(&named, inner.settings().publish_ip, text)?;
        let place = place(&port);
        let service = state.service(&place);
        for (endpoint, _) in service.iter().flat_map(|s| &s.members) {
            let index = endpoint.record.index;
            let record = changed
                .entry(index)
                .or_insert_with(|| EndpointRecord::clone(&endpoint.record));
            let ports = record.ports.iter_mut();
            for member in ports.filter(|p| super::services::place(p) == place) {
                apply_terms(member, &terms, member.slot == port.slot);
            }
        }
        places.push(place);
    }
    let before: Vec<Option<Arc<Service>>> = places.iter().map(|p| state.service(p)).collect();
    let originals: Vec<EndpointRecord> = changed
        .keys()
        .filter_map(|index| state.endpoints.get(index))
        .map(|record| EndpointRecord::clone(record))
        .collect();
    // All of them or none, also for who is killed meanwhile.
    let put = |state: &mut State, records: &[EndpointRecord]| -> Result<()> {
        inner.store.put_endpoints(records)?;
        for record in records {
            state.put_endpoint(record.clone());
        }
        Ok(())
    };
    let changed: Vec<EndpointRecord> = changed.into_values().collect();
    put(state, &changed)?;
    let steps: Vec<Step> = places
        .iter()
        .zip(before)
        .map(|(place, before)| Step::SetService {
            before,
            after: state.service(place),
            leave: Leave::AtOnce,
        })
        .collect();
    let mut apply = inner.apply(&mut state.host);
    if let Err(error) = apply.run(&steps) {
        put(state, &originals)?;
        return Err(error);
    }
    let named = state.endpoints.get(&named.index).map_or(&named, |r| r);
    let ports = named.ports.iter();
    let ports = ports.filter(|port| places.contains(&place(port)));
    tell(named, ports, "terms changed");
    Ok(view::endpoint(inner, named))
}

/// Logs what has become of ports.
pub fn tell<'a>(
    record: &EndpointRecord,
    ports: impl IntoIterator<Item = &'a PortRecord>,
    what: &'static str,
) {
    for port in ports {
        let (endpoint, network) = (&record.name, &record.network);
        tracing::info!(endpoint, network, %port, "{what}");
    }
}

fn apply_terms(port: &mut PortRecord, terms: &Terms, is_named: bool) {
    if let Some(allow) = &terms.allow {
        port.allow.clone_from(allow);
    }
    if let Some(affinity) = terms.affinity {
        port.affinity = affinity;
    }
    if let Some(weight) = terms.weight.filter(|_| is_named) {
        port.weight = weight;
    }
}

fn check(publish: &[String]) -> Result<()> {
    match publish.is_empty() {
        true => Err(Error::invalid("no port is named")),
        false => Ok(()),
    }
}
