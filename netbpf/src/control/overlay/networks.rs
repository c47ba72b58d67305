//! Overlay networks, made and removed for all nodes.

use std::sync::Arc;

use super::{cluster, follow};
use crate::{
    cluster::{self as of_cluster, Overlap, Vni},
    control::{Inner, ipam, network, now, state::State},
    error::{Code, Error, Result},
    model::{Driver, NetworkSpec, SubnetInfo},
    store::{NetworkRecord, OverlayRecord},
};

/// Makes a network on all nodes, and on this one at once.
pub fn create(
    inner: &Inner,
    state: &mut State,
    spec: NetworkSpec,
    subnets: Vec<SubnetInfo>,
) -> Result<()> {
    let name = spec.name.clone();
    let what = format!("overlay network {name:?} cannot be made");
    let cluster = cluster(inner, &what)?;
    let wanted = of_cluster::Network {
        name: spec.name,
        vni: 0,
        subnets,
        mtu: spec.mtu,
        internal: spec.internal,
        icc: spec.icc,
        masquerade: spec.masquerade,
        labels: spec.labels,
        created_at: now(),
        created_by: super::node::name(&inner.settings()),
    };
    let vni = spec.vni.map_or(Vni::Free, Vni::This);
    // What overlaps is told apart by its number; on this host that was looked at.
    let made = cluster.create_network(&wanted, vni, Overlap::Allow);
    let made = inner.runtime.block_on(made);
    let made = made.map_err(|refusal| refusal.about(&what))?;
    adopt(inner, state, &made).inspect_err(|_| {
        let taken_back = cluster.remove_network(&made.name);
        if let Err(error) = inner.runtime.block_on(taken_back) {
            tracing::warn!(%error, network = made.name, "not taken back");
        }
    })?;
    follow::write(inner, state)
}

/// Removes a network of all nodes.
pub fn remove(inner: &Inner, state: &mut State, name: &str) -> Result<()> {
    let what = format!("overlay network {name:?} cannot be removed");
    let cluster = cluster(inner, &what)?;
    match inner.runtime.block_on(cluster.remove_network(name)) {
        // Here it is all the same.
        Ok(()) | Err(of_cluster::Refusal::NoNetwork(_)) => {}
        Err(refusal) => return Err(refusal.about(&what)),
    }
    if state.networks.contains_key(name) {
        network::forget(inner, state, name)?;
    }
    follow::write(inner, state)
}

/// Makes this host part of a network of the cluster.
pub fn adopt(inner: &Inner, state: &mut State, network: &of_cluster::Network) -> Result<()> {
    let subnets = network.subnets.iter();
    let usable = subnets.filter(|s| inner.ipv6 || s.gateway.is_ipv4());
    let subnets: Vec<SubnetInfo> = usable.cloned().collect();
    // Another node's version may not have looked.
    subnets
        .iter()
        .try_for_each(|s| network::check_subnet(&s.subnet))?;
    network::check_overlap(inner, state, &network.name, Driver::Overlay, &subnets)?;
    // The first that is on this host has its routes.
    let shadowed = state.networks.values().any(|other| {
        let mut theirs = other.record.subnets.iter();
        theirs.any(|t| subnets.iter().any(|s| ipam::overlaps(&t.subnet, &s.subnet)))
    });
    let record = NetworkRecord {
        index: state.next_network()?,
        name: network.name.clone(),
        driver: Driver::Overlay,
        subnets,
        mtu: network.mtu,
        internal: network.internal,
        icc: network.icc,
        masquerade: network.masquerade,
        overlay: Some(OverlayRecord {
            vni: network.vni,
            scope: free_scope(state)?,
            shadowed,
            blocks: Vec::new(),
        }),
        labels: network.labels.clone(),
        created_at: network.created_at.clone(),
    };
    network::install(inner, state, record)
}

/// A number for a network's addresses; in a flow's key there is room for so many.
fn free_scope(state: &State) -> Result<u32> {
    let taken: Vec<u32> = state
        .networks
        .values()
        .filter_map(|n| n.record.overlay.as_ref())
        .map(|overlay| overlay.scope)
        .collect();
    (1..65_533)
        .find(|scope| !taken.contains(scope))
        .ok_or_else(|| {
            Error::new(
                Code::PoolExhausted,
                "65532 overlay networks are the most that a node can have",
            )
        })
}

/// Writes a network's record anew.
pub fn change(
    inner: &Inner,
    state: &mut State,
    name: &str,
    change: impl FnOnce(&mut OverlayRecord),
) -> Result<()> {
    let Some(network) = state.networks.get_mut(name) else {
        return Ok(());
    };
    let mut record = NetworkRecord::clone(&network.record);
    let Some(overlay) = &mut record.overlay else {
        return Ok(());
    };
    change(overlay);
    if record == *network.record {
        return Ok(());
    }
    inner.store.put_network(&record)?;
    network.record = Arc::new(record);
    Ok(())
}
