//! Addresses of overlay networks: given out of this node's blocks, and agreed on with
//! the others by name and address.

use std::{net::IpAddr, time::Instant};

use ipnet::IpNet;

use super::{cluster, follow, networks, node::name, rest::REST};
use crate::{
    cluster::{Refusal, View},
    control::{Inner, state::State},
    error::{Code, Error, Result},
    store::EndpointRecord,
};

/// So often another address is chosen where another node was quicker.
pub const MOST_TRIES: usize = 256;

/// An address for an endpoint that has no wish: out of this node's blocks, out of a new
/// one, or, where there is none left, a single one of another node's. Not one of `avoid`.
pub fn next_address(
    inner: &Inner,
    state: &mut State,
    network: &str,
    v6: bool,
    avoid: &[IpAddr],
) -> Result<IpAddr> {
    if let Some(cluster) = &inner.cluster {
        // Another node may have given one back a moment ago.
        follow::look(state, cluster, &inner.settings());
    }
    if let Some(address) = of_own_blocks(inner, state, network, v6, avoid) {
        return Ok(address);
    }
    let cluster = cluster(inner, &format!("network {network:?}"))?;
    let exhausted = |state: &State| {
        let place = state.networks.get(network).map(|n| &n.record.subnets);
        let subnets = place.into_iter().flatten();
        let subnet = subnets.map(|s| s.subnet).find(|s| s.addr().is_ipv6() == v6);
        let subnet = subnet.map_or_else(String::new, |s| format!("subnet {s} of "));
        let rest = state.overlay.resting.next_end(network, v6, Instant::now());
        let rest = rest.map_or_else(String::new, |left| {
            format!(
                "; those that were given back rest for {} s, the first of them for another {} s",
                REST.as_secs(),
                left.as_secs() + 1
            )
        });
        Error::new(
            Code::PoolExhausted,
            format!("no free address in {subnet}network {network:?}{rest}"),
        )
    };
    match inner.runtime.block_on(cluster.claim_block(network, v6)) {
        Ok(block) => {
            networks::change(inner, state, network, |overlay| overlay.blocks.push(block))?;
            let found = of_own_blocks(inner, state, network, v6, avoid);
            found.ok_or_else(|| exhausted(state))
        }
        Err(Refusal::Exhausted { .. }) => {
            // Some may have been given back meanwhile.
            let view = follow::look(state, cluster, &inner.settings());
            let found = of_others(&view, state, network, v6, avoid);
            found.ok_or_else(|| exhausted(state))
        }
        Err(refusal) => Err(refusal.about(&format!(
            "network {network:?}: no address is left in this node's own blocks"
        ))),
    }
}

fn of_own_blocks(
    inner: &Inner,
    state: &mut State,
    network: &str,
    v6: bool,
    avoid: &[IpAddr],
) -> Option<IpAddr> {
    let record = state.networks.get(network)?.record.clone();
    let blocks = &record.overlay.as_ref()?.blocks;
    let blocks: Vec<IpNet> = blocks
        .iter()
        .copied()
        .filter(|block| block.addr().is_ipv6() == v6)
        .collect();
    let view = inner.cluster.as_ref().map(|cluster| cluster.view());
    let me = name(&inner.settings());
    let elsewhere = |ip: IpAddr| {
        let of = view.as_ref().and_then(|view| view.address(network, ip));
        of.is_some_and(|of| of.node != me)
    };
    let (resting, now) = (&state.overlay.resting, Instant::now());
    let is_free = |ip: IpAddr| {
        !avoid.contains(&ip) && !elsewhere(ip) && !resting.is_resting(network, ip, now)
    };
    let ipam = state.networks.get_mut(network)?.ipam_of(v6)?;
    ipam.next_of(&blocks, is_free)
}

/// An address of another node's block that nobody has, so far as is known.
fn of_others(
    view: &View,
    state: &mut State,
    network: &str,
    v6: bool,
    avoid: &[IpAddr],
) -> Option<IpAddr> {
    let (resting, now) = (&state.overlay.resting, Instant::now());
    let ipam = state.networks.get_mut(network)?.ipam_of(v6)?;
    let mut spare = view.spare_addresses(network, v6);
    spare.find(|ip| {
        ipam.check(*ip).is_ok() && !avoid.contains(ip) && !resting.is_resting(network, *ip, now)
    })
}

/// Agrees with the other nodes that name and addresses are this endpoint's. `Ok(Some)`: an
/// address that was chosen here was another's already; another is to be chosen.
pub fn claim(inner: &Inner, state: &State, record: &EndpointRecord) -> Result<Option<IpAddr>> {
    let network = state.network_of(record)?;
    let Some(overlay) = &network.record.overlay else {
        return Ok(None);
    };
    let what = format!("endpoint {:?} on network {:?}", record.name, record.network);
    let cluster = cluster(inner, &what)?;
    let wanted = follow::endpoint(record, &name(&inner.settings()));
    match inner.runtime.block_on(cluster.claim_endpoint(&wanted)) {
        Ok(()) => Ok(None),
        Err(Refusal::Address { ip, .. }) if is_automatic(record, ip) => Ok(Some(ip)),
        // What is in this node's blocks is for this node to give out. One that is being
        // registered anew agrees on it in a moment.
        Err(refusal @ (Refusal::Away(_) | Refusal::Unregistered)) => {
            let is_own = |ip: &IpAddr| overlay.blocks.iter().any(|block| block.contains(ip));
            match wanted.addresses.iter().find(|ip| !is_own(ip)) {
                None => {
                    tracing::info!(endpoint = record.name, why = %refusal, "attached without the cluster");
                    Ok(None)
                }
                Some(ip) => {
                    Err(refusal.about(&format!("{what}: address {ip} is in no block of this node")))
                }
            }
        }
        Err(refusal) => Err(refusal.about(&what)),
    }
}

fn is_automatic(record: &EndpointRecord, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => record.automatic4,
        IpAddr::V6(_) => record.automatic6,
    }
}

/// Takes back what [`claim`] has got, where nothing came of it.
pub fn unclaim(inner: &Inner, state: &mut State, record: &EndpointRecord) {
    if !super::is_overlay(state, &record.network) {
        return;
    }
    for (address, _) in record.addresses() {
        let resting = &mut state.overlay.resting;
        resting.was_unused(&record.network, address.addr());
    }
    release(inner, record);
}

fn release(inner: &Inner, record: &EndpointRecord) {
    if let Some(cluster) = &inner.cluster {
        let released = cluster.release_endpoint(&record.network, &record.name);
        if let Err(error) = inner.runtime.block_on(released) {
            tracing::debug!(%error, endpoint = record.name, "released later");
        }
    }
}

/// An endpoint has left: others may have its name at once, and its addresses for the
/// asking.
pub fn left(inner: &Inner, state: &mut State, record: &EndpointRecord) {
    if !super::is_overlay(state, &record.network) {
        return;
    }
    let (resting, now) = (&mut state.overlay.resting, Instant::now());
    for (address, _) in record.addresses() {
        resting.begin(&record.network, address.addr(), now);
    }
    // What etcd does not hear now it hears when it is back.
    follow::tell(inner, state);
    release(inner, record);
}
