//! Follows the cluster: networks that come and go, nodes, blocks and addresses.

use std::{
    collections::HashMap,
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::time::sleep;

use super::{
    device, networks,
    node::{self, name},
    tunnels,
};
use crate::{
    cluster::{self as of_cluster, Changed, Cluster, Key, Mine, View},
    control::{Inner, blocking, network, plan, state::State, uplinks::Uplink, view},
    datapath::{self, OverlayNetwork, TunnelEntry},
    error::{Code, Result},
    settings::Settings,
    store::{EndpointRecord, Meta, NetworkRecord},
    sys::netlink::Netlink,
};

/// The least MTU of IPv6.
const LEAST_IPV6: u32 = 1280;

/// Changes that come in this time after others are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// In which etcd is to answer a daemon that starts; one that does not is away for now.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Follows the cluster, where there is one, until the last strong reference goes. Whoever
/// asks the daemon next finds what the cluster has, and is not told of an etcd that was
/// about to answer.
pub async fn start(inner: &Arc<Inner>) {
    let Some(cluster) = &inner.cluster else {
        return;
    };
    cluster.wait_settled(FIRST_ANSWER).await;
    let mut changes = cluster.changes();
    let weak: Weak<Inner> = Arc::downgrade(inner);
    match Netlink::open() {
        Ok(host) => drop(tokio::spawn(look_around(weak.clone(), host))),
        Err(error) => tracing::warn!(%error, "others' VXLAN devices are not looked for"),
    }
    if !follow(inner.clone()).await {
        return;
    }
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            let Some(inner) = weak.upgrade() else { return };
            if !follow(inner).await {
                return;
            }
            sleep(DEBOUNCE).await;
        }
    });
}

/// Brings this host to what the cluster says now; whether the daemon goes on.
async fn follow(inner: Arc<Inner>) -> bool {
    match Inner::change(inner, sync).await {
        Ok(()) => {}
        Err(error) if error.code == Code::Unavailable => return false,
        Err(error) => tracing::warn!(%error, "following the cluster failed"),
    }
    true
}

/// How often the tables of the programs are compared with what they are to be.
const VERIFY: Duration = Duration::from_secs(10);
/// How often others' VXLAN devices are looked for, and at most for a hundredth of the time.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at what nobody tells: whether other software shares the VXLAN port, and whether
/// the tables are as they were written.
async fn look_around(inner: Weak<Inner>, mut host: Netlink) {
    let mut verified = Instant::now();
    let mut pause = LOOK;
    loop {
        let Some(strong) = inner.upgrade() else {
            return;
        };
        let wake = strong.overlay_wake.clone();
        let (began, verify) = (Instant::now(), verified.elapsed() >= VERIFY);
        let port = strong.settings().vxlan_port;
        let has_overlays = strong
            .seen()
            .networks
            .iter()
            .any(|n| n.record.overlay.is_some());
        if has_overlays {
            // Apart from changes: there may be a thousand namespaces to look into.
            let looked = blocking(move || {
                let shared = device::is_shared(&mut host, port);
                Ok((host, shared))
            });
            let shared = match looked.await {
                Ok((again, shared)) => {
                    host = again;
                    shared
                }
                Err(error) => {
                    tracing::warn!(%error, "others' VXLAN devices are not looked for any more");
                    return;
                }
            };
            let done = Inner::change(strong, move |inner, state| {
                match shared {
                    Ok(shared) => state.overlay.shared = Some(shared),
                    Err(error) => tracing::warn!(%error, "others' VXLAN devices"),
                }
                if verify {
                    repair(inner, state)?;
                }
                write(inner, state)
            });
            match done.await {
                Ok(()) => {}
                Err(error) if error.code == Code::Unavailable => return,
                Err(error) => tracing::warn!(%error, "looking after the overlay failed"),
            }
        } else {
            drop(strong);
        }
        if verify {
            verified = Instant::now();
        }
        pause = LOOK.max(began.elapsed() * 100).min(pause * 2);
        tokio::select! {
            () = sleep(pause) => {}
            () = wake.notified() => sleep(DEBOUNCE).await,
        }
    }
}

/// Puts right what others have changed in the tables.
fn repair(inner: &Inner, state: &mut State) -> Result<()> {
    let Some(told) = &state.overlay.told else {
        return Ok(());
    };
    let repaired = inner.datapath.repair_overlay(told)?;
    if repaired > 0 {
        tracing::warn!(
            repaired,
            "entries of the overlay were not as they had been written"
        );
        inner
            .overlay_repairs
            .fetch_add(repaired as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Brings this host to what the cluster says.
pub fn sync(inner: &Inner, state: &mut State) -> Result<()> {
    let Some(cluster) = inner.cluster.clone() else {
        return Ok(());
    };
    let view = look(state, &cluster, &inner.settings());
    if view.revision > 0 {
        state.overlay.notes.clear();
        follow_networks(inner, state, &view);
        note_narrow(inner, state);
        follow_blocks(inner, state, &view)?;
    }
    if state.overlay.stale || state.overlay.told.is_none() {
        return write(inner, state);
    }
    // Most of what happens on other nodes changes no way to them.
    tell(inner, state);
    inner
        .overlay_revision
        .store(view.revision, Ordering::Relaxed);
    Ok(())
}

/// Looks at what is new in the cluster's picture: what was given back rests, and what lives
/// elsewhere now makes the tables stale.
pub fn look(state: &mut State, cluster: &Cluster, settings: &Settings) -> Arc<View> {
    let changed = cluster.changed_since(state.overlay.seen);
    state.overlay.seen = changed.seen;
    state.overlay.resting.follow(&changed, Instant::now());
    state.overlay.stale |= leads_elsewhere(&name(settings), state, &changed);
    changed.view
}

/// Whether the tunnels are to be others than the programs were told.
fn leads_elsewhere(me: &str, state: &State, changed: &Changed) -> bool {
    let (Some(keys), Some(told)) = (&changed.keys, &state.overlay.told) else {
        return true;
    };
    let mut maps: HashMap<&str, tunnels::Ways> = HashMap::new();
    let mut singles: Option<HashMap<(u32, IpNet), &TunnelEntry>> = None;
    keys.iter().any(|key| match key {
        Key::Network(_) | Key::Vni(_) | Key::Node(_) | Key::Block { .. } => true,
        Key::Alive(_) | Key::Drained(_) | Key::Endpoint { .. } => false,
        Key::Address { network, ip } => state.networks.get(network).is_some_and(|of| {
            let ways = maps
                .entry(network)
                .or_insert_with(|| tunnels::Ways::new(&changed.view, me, &of.record));
            let singles = singles.get_or_insert_with(|| {
                let all = told.tunnels.iter();
                let all = all.filter(|t| t.block.prefix_len() == t.block.max_prefix_len());
                all.map(|t| ((t.network, t.block), t)).collect()
            });
            let was = singles.get(&(of.record.index, IpNet::from(*ip)));
            ways.to(*ip).as_ref() != was.copied()
        }),
    })
}

/// The host's devices or addresses have changed.
pub fn uplinks_changed(inner: &Inner, state: &mut State) -> Result<()> {
    let Some(cluster) = &inner.cluster else {
        return Ok(());
    };
    let before = cluster.me();
    let mut me = before.clone();
    // Of one that was not told by which address, the host may have another one now.
    if inner.settings().node_ip.is_none()
        && !state.addresses.contains(&me.address)
        && let Some(address) = node::default_address(&mut state.host)?
    {
        inner.store.put_meta(Meta::NodeAddress, &address)?;
        tracing::info!(before = %me.address, now = %address, "this node has another address");
        me.address = address;
        state.overlay.device = None;
    }
    let has = |u: &&Uplink| u.addresses.contains(&me.address);
    let uplink = state.uplinks.iter().find(has);
    me.mtu = uplink.map_or(me.mtu, |uplink| uplink.entry.mtu);
    if me != before {
        cluster.set_me(me);
        write(inner, state)?;
    }
    inner.overlay_wake.notify_one();
    follow_mtu(inner, state)
}

/// Networks of the cluster that are not here yet, and those here that are no more.
fn follow_networks(inner: &Inner, state: &mut State, view: &View) {
    let ours: Vec<Arc<NetworkRecord>> = state
        .networks
        .values()
        .filter(|n| n.record.overlay.is_some())
        .map(|n| n.record.clone())
        .collect();
    let is_same = |record: &NetworkRecord| is_the_clusters(record, view);
    for record in ours.iter().filter(|record| !is_same(record)) {
        let name = &record.name;
        let in_use = state
            .networks
            .get(name)
            .is_some_and(|n| !n.endpoints.is_empty());
        if in_use {
            state.overlay.notes.push(format!(
                "network {name:?} is not in the cluster any more, while it has endpoints on this node"
            ));
        } else if let Err(error) = network::forget(inner, state, name) {
            tracing::warn!(%error, network = name, "not removed");
        } else {
            state.overlay.stale = true;
            tracing::info!(network = name, "the cluster has removed the network");
        }
    }
    for network in view.networks.values() {
        match state.networks.get(&network.name).map(|n| n.record.clone()) {
            Some(record) if is_same(&record) => {}
            Some(record) if record.overlay.is_none() => state.overlay.notes.push(format!(
                "overlay network {:?} of the cluster is not on this node, where another network has the name",
                network.name
            )),
            Some(_) => {}
            None => match networks::adopt(inner, state, network) {
                Ok(()) => {
                    state.overlay.stale = true;
                    tracing::info!(network = network.name, "the cluster has a new network");
                }
                Err(error) => state.overlay.notes.push(format!(
                    "overlay network {:?} of the cluster is not on this node: {}",
                    network.name, error.message
                )),
            },
        }
    }
}

/// IPv6 needs 1,280 bytes of every way (RFC 8200 section 5), inside of a tunnel as well.
fn note_narrow(inner: &Inner, state: &mut State) {
    let Some(vtep) = inner.vtep() else { return };
    let has = |u: &&Uplink| u.addresses.contains(&vtep);
    let needed = LEAST_IPV6 + super::overhead(vtep);
    let Some(uplink) = state.uplinks.iter().find(has) else {
        return;
    };
    if uplink.entry.mtu >= needed {
        return;
    }
    let networks = state.networks.values().map(|n| &n.record);
    let of_ipv6 = networks.filter(|n| n.overlay.is_some() && n.subnet_of(true).is_some());
    let device = &uplink.entry.device.name;
    let notes = of_ipv6.map(|n| {
        format!(
            "IPv6 between nodes does not work on network {:?}: {device} has an MTU of {}, and VXLAN needs {needed}",
            n.name, uplink.entry.mtu
        )
    });
    let notes: Vec<String> = notes.collect();
    state.overlay.notes.extend(notes);
}

/// Whether a network of this node is the cluster's of that name, not one that was made anew
/// since, under the same number or another.
fn is_the_clusters(record: &NetworkRecord, view: &View) -> bool {
    let (Some(overlay), Some(network)) = (&record.overlay, view.networks.get(&record.name)) else {
        return false;
    };
    // A host without IPv6 has no part of it.
    let mut subnets = record.subnets.iter();
    overlay.vni == network.vni
        && record.created_at == network.created_at
        && subnets.all(|subnet| network.subnets.contains(subnet))
        && (record.internal, record.icc, record.masquerade, record.mtu)
            == (
                network.internal,
                network.icc,
                network.masquerade,
                network.mtu,
            )
}

/// Notes this node's blocks, so that it can give out addresses of them without etcd.
fn follow_blocks(inner: &Inner, state: &mut State, view: &View) -> Result<()> {
    let me = name(&inner.settings());
    let names: Vec<String> = state.networks.keys().cloned().collect();
    for network in names {
        networks::change(inner, state, &network, |overlay| {
            // One that was another's by the time that etcd was back is lost.
            overlay.blocks.retain(|block| {
                let of = view.block(&network, block);
                of.is_none_or(|of| of.node == me)
            });
            let in_etcd = view.blocks.get(&network);
            let of_me = in_etcd.iter().flat_map(|blocks| blocks.iter());
            let of_me = of_me.filter(|(_, of)| of.node == me);
            let known: Vec<IpNet> = overlay.blocks.clone();
            overlay.blocks.extend(
                of_me
                    .map(|(block, _)| *block)
                    .filter(|b| !known.contains(b)),
            );
        })?;
    }
    Ok(())
}

/// Tells the cluster what this node has.
pub fn tell(inner: &Inner, state: &State) {
    if let Some(cluster) = &inner.cluster {
        cluster.set_mine(mine(inner, state));
    }
}

/// Tells the programs and the cluster what there is.
pub fn write(inner: &Inner, state: &mut State) -> Result<()> {
    let Some(cluster) = &inner.cluster else {
        return Ok(());
    };
    // Until it is done.
    state.overlay.stale = true;
    tell(inner, state);
    let view = cluster.view();
    if view.revision == 0 {
        return Ok(());
    }
    let me = cluster.me();
    let shared = match state.overlay.shared {
        Some(shared) => shared,
        None => device::is_shared(&mut state.host, me.port)?,
    };
    state.overlay.shared = Some(shared);
    // One that is not in the cluster any more has no way to other nodes: its number may be
    // another's by now.
    let overlays = || {
        let all = state.networks.values();
        all.filter(|n| is_the_clusters(&n.record, &view))
    };
    let networks: Vec<OverlayNetwork> = overlays()
        .map(|n| OverlayNetwork {
            network: n.record.index,
            flags: n.flags(),
        })
        .collect();
    let tunnels = overlays().flat_map(|n| tunnels::tunnels(&view, &me.name, &n.record));
    let wanted = datapath::Overlay {
        vtep: Some(me.address),
        port: me.port,
        // Without a network of ours all of it is others'.
        shared: shared || networks.is_empty(),
        nodes: tunnels::nodes(&view, &me.name, me.address),
        tunnels: tunnels.collect(),
        networks,
    };
    let made = match wanted.networks.is_empty() {
        true => device::remove(inner, state),
        false => device::make(inner, state, me.address, me.port),
    };
    // Without it packets come one by one, that is all. It is tried again and said once.
    let failed = made.err().map(|error| error.message);
    if failed.is_some() && failed != state.overlay.device_failed {
        tracing::warn!(error = failed, "the device for VXLAN");
    }
    state.overlay.device_failed = failed;
    if state.overlay.told.as_ref() != Some(&wanted) {
        inner.datapath.set_overlay(&wanted)?;
        state.overlay.told = Some(wanted);
    }
    state.overlay.stale = false;
    inner
        .overlay_revision
        .store(view.revision, Ordering::Relaxed);
    Ok(())
}

/// What this node has of overlay networks.
fn mine(inner: &Inner, state: &State) -> Mine {
    let node = name(&inner.settings());
    let overlays = state.networks.values().filter_map(|network| {
        let overlay = network.record.overlay.as_ref()?;
        Some((network, overlay))
    });
    let mut mine = Mine::default();
    for (network, overlay) in overlays {
        mine.blocks
            .extend(overlay.blocks.iter().map(|block| of_cluster::Block {
                network: network.record.name.clone(),
                block: *block,
            }));
        let members = network.endpoints.iter();
        let members = members.filter_map(|index| state.endpoints.get(index));
        mine.endpoints
            .extend(members.map(|record| endpoint(record, &node)));
    }
    mine
}

/// An endpoint as the cluster knows it.
pub fn endpoint(record: &EndpointRecord, node: &str) -> of_cluster::Endpoint {
    of_cluster::Endpoint {
        network: record.network.clone(),
        name: record.name.clone(),
        node: node.to_owned(),
        container: record.engine.as_ref().map(|e| e.container_id.clone()),
        addresses: record
            .addresses()
            .map(|(address, _)| address.addr())
            .collect(),
        mac: record.mac,
        aliases: record.aliases.clone(),
        created_at: record.created_at.clone(),
    }
}

/// Gives endpoints the MTU that the way to other nodes has now.
fn follow_mtu(inner: &Inner, state: &mut State) -> Result<()> {
    let mut changed = Vec::new();
    for network in state.networks.values() {
        if network.record.overlay.is_none() {
            continue;
        }
        let mtu = view::mtu(&state.uplinks, inner.vtep(), &network.record);
        let members = network.endpoints.iter();
        let members = members.filter_map(|index| state.endpoints.get(index));
        changed.extend(members.filter(|r| r.mtu != mtu).map(|r| EndpointRecord {
            mtu,
            ..EndpointRecord::clone(r)
        }));
    }
    for record in changed {
        let (endpoint, mtu) = (record.name.clone(), record.mtu);
        inner.store.put_endpoint(&record)?;
        state.put_endpoint(record.clone());
        let planned = state.planned(&record);
        let steps = [
            plan::Step::SetMtu(planned.clone()),
            plan::Step::SetEndpoint(planned),
        ];
        for error in inner.apply(&mut state.host).run_to_end(&steps) {
            tracing::warn!(%error, endpoint, "its MTU stays");
        }
        tracing::info!(endpoint, mtu, "follows the uplink's MTU");
    }
    Ok(())
}
