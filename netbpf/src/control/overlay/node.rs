//! This node, as the cluster knows it, and the others.

use std::{collections::HashMap, net::IpAddr, sync::atomic::Ordering, time::Instant};

use tokio::runtime::Handle;

use super::cluster;
use crate::{
    cluster::{Cluster, Link, Me, Mine, View},
    control::{Inner, seen::Seen, state::State},
    datapath::GATEWAY_MAC,
    error::{Code, Error, Result},
    model::{BlockInfo, ClusterInfo, MemberInfo, NodeInfo, NodeState},
    settings::Settings,
    store::{Meta, Store},
    sys::{
        netlink::{Netlink, RouteKind},
        process,
    },
};

/// This node as it is to join the cluster, where there is one. Fails for settings with which
/// it could not.
pub fn me(settings: &Settings, store: &Store, host: &mut Netlink) -> Result<Option<Me>> {
    if settings.etcd.endpoints.is_empty() {
        return Ok(None);
    }
    Cluster::check(&Handle::current(), &settings.etcd)?;
    let address = match settings.node_ip {
        Some(address) => address,
        None => match default_address(host)? {
            Some(address) => address,
            // The device may come later than the daemon.
            None => store.meta(Meta::NodeAddress)?.ok_or_else(|| {
                Error::invalid(
                    "etcd: the host has no default route whose address could be this node's: say --node-ip",
                )
            })?,
        },
    };
    store.put_meta(Meta::NodeAddress, &address)?;
    let device = host.addresses()?.into_iter().find(|a| a.address == address);
    let link = match device {
        Some(device) => host.link_by_index(device.ifindex)?,
        None => None,
    };
    Ok(Some(Me {
        name: name(settings),
        id: id(store)?,
        address,
        mtu: link.map_or(Me::default().mtu, |link| link.mtu),
        port: settings.vxlan_port,
        mac: GATEWAY_MAC,
        ..Me::default()
    }))
}

pub fn name(settings: &Settings) -> String {
    match settings.node.as_str() {
        "" => process::hostname(),
        node => node.to_owned(),
    }
}

/// Rolled once: tells two daemons of one name apart.
fn id(store: &Store) -> Result<String> {
    if let Some(id) = store.meta(Meta::NodeId)? {
        return Ok(id);
    }
    let id = process::random::<16>()?
        .map(|b| format!("{b:02x}"))
        .concat();
    store.put_meta(Meta::NodeId, &id)?;
    Ok(id)
}

/// The address from which the host sends by its default route, of IPv4 if it has one.
pub fn default_address(host: &mut Netlink) -> Result<Option<IpAddr>> {
    let mut routes = host.routes()?;
    routes.retain(|r| r.destination.prefix_len() == 0 && r.table.is_none());
    // The kernel's own order.
    routes.sort_by_key(|r| (r.destination.addr().is_ipv6(), r.metric.unwrap_or(0)));
    let addresses = host.addresses()?;
    for route in routes {
        let RouteKind::Unicast(target) = route.kind else {
            continue;
        };
        if target.source.is_some() {
            return Ok(target.source);
        }
        let is_v6 = route.destination.addr().is_ipv6();
        let found = addresses.iter().find(|a| {
            a.ifindex == target.ifindex && a.global && !a.ours && a.address.is_ipv6() == is_v6
        });
        if let Some(found) = found {
            return Ok(Some(found.address));
        }
    }
    Ok(None)
}

/// All of them; without a cluster this one alone.
pub fn list(inner: &Inner, seen: &Seen) -> Vec<NodeInfo> {
    let Some(cluster) = &inner.cluster else {
        return vec![alone(inner, seen)];
    };
    let view = cluster.view();
    let own = name(&inner.settings());
    if !view.nodes.contains_key(&own) {
        // It has not registered yet: etcd was never there.
        let mut all = vec![alone(inner, seen)];
        all.extend(nodes(&own, &view));
        return all;
    }
    nodes(&own, &view)
}

pub fn inspect(inner: &Inner, seen: &Seen, name: &str) -> Result<NodeInfo> {
    let all = list(inner, seen);
    let found = all.into_iter().find(|node| node.name == name);
    found.ok_or_else(|| no_node(name))
}

pub fn remove(inner: &Inner, name: &str) -> Result<()> {
    let what = format!("node {name:?} cannot be removed");
    let removed = cluster(inner, &what)?.remove_node(name);
    let removed = inner.runtime.block_on(removed);
    removed.map_err(|refusal| refusal.about(&what))
}

pub fn drain(inner: &Inner, seen: &Seen, name: &str, drained: bool) -> Result<NodeInfo> {
    let what = format!("node {name:?} cannot be drained");
    let changed = cluster(inner, &what)?.drain_node(name, drained);
    let changed = inner.runtime.block_on(changed);
    changed.map_err(|refusal| refusal.about(&what))?;
    // The picture follows in its own time.
    Ok(NodeInfo {
        drained,
        ..inspect(inner, seen, name)?
    })
}

fn no_node(name: &str) -> Error {
    Error::new(Code::NotFound, format!("node {name:?} not found"))
}

/// This node, without a cluster.
fn alone(inner: &Inner, seen: &Seen) -> NodeInfo {
    let settings = inner.settings();
    let addresses = seen.uplinks.iter().flat_map(|u| &u.addresses);
    let address = settings.node_ip.or_else(|| {
        let mut addresses = addresses.filter(|a| !is_link_local(**a));
        addresses.next().copied()
    });
    NodeInfo {
        name: name(&settings),
        address,
        state: NodeState::Alive,
        drained: false,
        this: true,
        mtu: seen.uplinks.iter().map(|u| u.entry.mtu).min(),
        version: env!("CARGO_PKG_VERSION").into(),
        blocks: Vec::new(),
        endpoints: seen.endpoints.len(),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// All nodes, by one look at blocks and endpoints: there may be twenty thousand.
fn nodes(own: &str, view: &View) -> Vec<NodeInfo> {
    let mut blocks: HashMap<&str, Vec<BlockInfo>> = HashMap::new();
    for (network, of_network) in view.blocks.iter() {
        for (block, of) in of_network.iter() {
            blocks.entry(&of.node).or_default().push(BlockInfo {
                network: network.clone(),
                block: *block,
            });
        }
    }
    let mut endpoints: HashMap<&str, usize> = HashMap::new();
    for endpoint in view.endpoints.values().flat_map(|of| of.values()) {
        *endpoints.entry(&endpoint.node).or_default() += 1;
    }
    let nodes = view.nodes.iter().map(|(name, node)| NodeInfo {
        name: name.clone(),
        address: Some(node.address),
        state: match node.away {
            true => NodeState::Away,
            false => NodeState::Alive,
        },
        drained: node.drained,
        this: own == name,
        mtu: Some(node.mtu),
        version: node.version.clone(),
        blocks: blocks.remove(name.as_str()).unwrap_or_default(),
        endpoints: endpoints.get(name.as_str()).copied().unwrap_or(0),
    });
    nodes.collect()
}

/// Endpoints of a network on other nodes that are there.
pub fn elsewhere(inner: &Inner, network: &str) -> Vec<String> {
    let Some(cluster) = &inner.cluster else {
        return Vec::new();
    };
    let (view, own) = (cluster.view(), name(&inner.settings()));
    let is_there = |node: &str| view.nodes.get(node).is_some_and(|node| !node.away);
    let endpoints = view.endpoints.get(network);
    let endpoints = endpoints.into_iter().flat_map(|of| of.values());
    endpoints
        .filter(|e| e.node != own && is_there(&e.node))
        .map(|e| e.name.clone())
        .collect()
}

/// How this node stands to the cluster.
pub fn cluster_info(inner: &Inner, cluster: &Cluster) -> ClusterInfo {
    let (state, view) = (cluster.state(), cluster.view());
    let (name, since) = match state.link {
        Link::Starting => ("starting", None),
        Link::Connected { since } => ("connected", Some(since)),
        Link::Conflict { since, .. } => ("conflict", Some(since)),
        Link::Away { since } => ("away", Some(since)),
    };
    let rfc3339 = |time| {
        let time = jiff::Timestamp::try_from(time).ok()?;
        let second = jiff::Timestamp::from_second(time.as_second()).ok()?;
        Some(second.to_string())
    };
    let members = state.members.into_iter().map(|member| MemberInfo {
        name: member.name,
        urls: member.urls,
        leader: member.leader,
    });
    ClusterInfo {
        state: name.into(),
        since: since.and_then(rfc3339),
        url: state.url,
        error: state.last_error,
        members: members.collect(),
        revision: inner.overlay_revision.load(Ordering::Relaxed),
        nodes: view.nodes.size(),
        nodes_away: view.nodes.values().filter(|node| node.away).count(),
        drift_repaired: state.drift_repaired,
        tables_repaired: inner.overlay_repairs.load(Ordering::Relaxed),
        unreadable: state.unreadable,
    }
}

/// This node's endpoints are gone: others are told, if etcd answers, and their addresses
/// rest.
pub fn give_back(inner: &Inner, state: &mut State) {
    let Some(cluster) = &inner.cluster else {
        return;
    };
    let (view, own, now) = (cluster.view(), name(&inner.settings()), Instant::now());
    cluster.set_mine(Mine::default());
    let all = view.endpoints.values().flat_map(|of| of.values());
    let all: Vec<_> = all.filter(|endpoint| endpoint.node == own).collect();
    for endpoint in &all {
        for ip in &endpoint.addresses {
            state.overlay.resting.begin(&endpoint.network, *ip, now);
        }
    }
    super::keep_rests(inner, state);
    for endpoint in all {
        let released = cluster.release_endpoint(&endpoint.network, &endpoint.name);
        if let Err(error) = inner.runtime.block_on(released) {
            // The next daemon on this node puts it right.
            tracing::info!(%error, "the cluster is not told of the teardown");
            return;
        }
    }
}

/// The node is to be no more: it is taken out of the cluster, if etcd answers.
pub fn leave(inner: &Inner) {
    let Some(cluster) = &inner.cluster else {
        return;
    };
    let own = name(&inner.settings());
    match inner.runtime.block_on(cluster.leave()) {
        Ok(()) => tracing::info!(node = own, "left the cluster"),
        Err(error) => say_stays(&error.to_string()),
    }
}

/// A purge takes nothing out of etcd without a daemon, which alone knows where etcd is, and
/// by which name.
pub fn say_stays_offline(store: &Store) {
    if let Ok(Some(_)) = store.meta::<String>(Meta::NodeId) {
        say_stays("no daemon runs");
    }
}

/// The name may be another daemon's by now, which must not be removed.
fn say_stays(why: &str) {
    tracing::warn!(
        why,
        "the cluster may still have this node: where `netbpf node ls` on another one shows it \
         as away, `netbpf node rm` removes it"
    );
}
