//! Publishing on an endpoint that runs.

use super::{
    Inner,
    apply::Apply,
    endpoint,
    plan::Step,
    ports::{self, Chooser, find_published},
    state::State,
    view,
};
use crate::{
    error::{Code, Error, Result},
    model::{EndpointInfo, PublishSpec},
    store::PortRecord,
};

/// All of the ports, or none.
pub fn publish(
    inner: &Inner,
    state: &mut State,
    name: &str,
    spec: &PublishSpec,
) -> Result<EndpointInfo> {
    check(spec)?;
    let choose = |state: &State| -> Result<_> {
        let before = state.endpoint_meant(name, spec.network.as_deref())?.clone();
        let mut chooser = Chooser::new(state, inner.settings.publish_ip, &before)?;
        for text in &spec.publish {
            chooser.choose(text)?;
        }
        let (added, last_port) = chooser.finish();
        Ok((before, added, last_port))
    };
    let (before, added, last_port) = match choose(state) {
        // Who has the port may have died just now, and not be missed yet.
        Err(e) if e.code == Code::PortInUse && endpoint::clear_dead_publishers(inner, state)? => {
            choose(state)?
        }
        chosen => chosen?,
    };
    let mut after = before.clone();
    after.ports.extend(added.iter().cloned());

    // In the store first: what a crash leaves half-done, the next start finishes.
    inner.store.put_endpoint(&after)?;
    let endpoint = state.planned(&after);
    let steps: Vec<Step> = added
        .into_iter()
        .map(|port| Step::Publish(endpoint.clone(), port))
        .collect();
    let mut apply = Apply::new(&mut state.host, Some(&inner.datapath), inner.ipv6);
    if let Err(error) = apply.run(&steps) {
        inner.store.put_endpoint(&before)?;
        return Err(error);
    }
    state.last_port = last_port;
    state.put_endpoint(after.clone());
    if let Err(error) = ports::sync_reserved(inner, state) {
        tracing::warn!(%error, "ports not reserved");
    }
    Ok(view::endpoint(inner, &after))
}

pub fn unpublish(
    inner: &Inner,
    state: &mut State,
    name: &str,
    spec: &PublishSpec,
) -> Result<EndpointInfo> {
    check(spec)?;
    let mut record = state.endpoint_meant(name, spec.network.as_deref())?.clone();
    let mut removed: Vec<PortRecord> = Vec::new();
    for text in &spec.publish {
        let port = find_published(&record, inner.settings.publish_ip, text)?;
        record.ports.retain(|p| p.slot != port.slot);
        removed.push(port);
    }
    inner.store.put_endpoint(&record)?;
    let endpoint = state.planned(&record);
    let steps: Vec<Step> = removed
        .into_iter()
        .map(|port| Step::Unpublish(endpoint.clone(), port))
        .collect();
    let mut apply = Apply::new(&mut state.host, Some(&inner.datapath), inner.ipv6);
    let errors = apply.run_to_end(&steps);
    state.put_endpoint(record.clone());
    if let Err(error) = ports::sync_reserved(inner, state) {
        tracing::warn!(%error, "reserved ports not taken back");
    }
    // The store says that they are published no more; what is left in the maps is
    // taken away at the next start.
    for error in errors {
        tracing::warn!(%error, endpoint = record.name, "not unpublished cleanly");
    }
    Ok(view::endpoint(inner, &record))
}

fn check(spec: &PublishSpec) -> Result<()> {
    match spec.publish.is_empty() {
        true => Err(Error::invalid("no port is named")),
        false => Ok(()),
    }
}
