//! Overlay networks: what the cluster says becomes networks, nodes and tunnels of this
//! host, and what this host has is told to the cluster.
//!
//! The store stays the truth about this node: its overlay networks, its blocks and its
//! endpoints are there, and work without etcd. What other nodes have comes from the last
//! picture that etcd gave; before there is one, the tables of the programs stay as an
//! earlier daemon left them.

mod addresses;
mod device;
mod follow;
mod networks;
pub mod node;
mod rest;
mod tunnels;

use std::{net::IpAddr, time::Instant};

pub use self::{
    addresses::{MOST_TRIES, claim, left, next_address, unclaim},
    device::is_ours as is_our_device,
    follow::{start, sync, uplinks_changed},
    networks::{create, remove},
    node::{cluster_info, elsewhere, give_back, leave, me, name as node_name, say_stays_offline},
};
use super::{Inner, state::State};
use crate::{
    cluster::Cluster,
    datapath,
    error::{Code, Error, Result},
    store::{Meta, Store},
    sys::{netlink::Link, process},
};

/// What is known of overlay networks only while the daemon runs.
#[derive(Default)]
pub struct OverlayState {
    /// What the programs were told last.
    told: Option<datapath::Overlay>,
    /// Whether there is the device that makes the kernel put VXLAN packets together; `None`
    /// where nobody has looked.
    device: Option<bool>,
    /// Why there is no device, as it was logged.
    device_failed: Option<String>,
    /// Other software takes in VXLAN at our port, too; `None` until it was looked for.
    shared: Option<bool>,
    /// What `status` is to say.
    pub notes: Vec<String>,
    /// Addresses that somebody gave back lately.
    resting: rest::Resting,
    /// Up to where the changes of the cluster's picture were looked at.
    seen: u64,
    /// Something has changed since `told` that leads elsewhere.
    stale: bool,
}

/// Notes for the next daemon which addresses rest. One that is killed does not come to it.
/// Nothing else waits for that.
pub fn keep_rests(inner: &Inner, state: &State) {
    if inner.cluster.is_none() {
        return;
    }
    let keep = || -> Result<()> {
        let resting = &state.overlay.resting;
        let kept = resting.keep(Instant::now(), process::boottime_ms()?);
        Ok(inner.store.put_meta(Meta::Resting, &kept)?)
    };
    if let Err(error) = keep() {
        tracing::warn!(%error, "the next daemon does not know which addresses rest");
    }
}

/// What the daemon before has noted.
pub fn resume_rests(store: &Store, state: &mut State) {
    let mut resume = || -> Result<()> {
        let kept = store.meta(Meta::Resting)?.unwrap_or_default();
        let resting = &mut state.overlay.resting;
        resting.resume(kept, Instant::now(), process::boottime_ms()?);
        Ok(())
    };
    if let Err(error) = resume() {
        tracing::warn!(%error, "it is not known which addresses rest");
    }
}

/// The cluster, or why there is none.
fn cluster<'a>(inner: &'a Inner, what: &str) -> Result<&'a Cluster> {
    inner.cluster.as_ref().ok_or_else(|| {
        Error::new(
            Code::ClusterUnavailable,
            format!("{what}: this daemon runs without --etcd"),
        )
    })
}

/// Whether the network is on other nodes, too.
pub fn is_overlay(state: &State, network: &str) -> bool {
    let network = state.networks.get(network);
    network.is_some_and(|network| network.record.overlay.is_some())
}

/// The bytes that VXLAN adds to a packet, over the family of that address.
pub fn overhead(vtep: IpAddr) -> u32 {
    use netbpf_common::packet::vxlan::{OVERHEAD_V4, OVERHEAD_V6};
    match vtep {
        IpAddr::V4(_) => OVERHEAD_V4 as u32,
        IpAddr::V6(_) => OVERHEAD_V6 as u32,
    }
}

/// The alias of a device, as others are to see whose it is.
fn has_alias(link: &Link, alias: &str) -> bool {
    link.alias.as_deref() == Some(alias)
}
