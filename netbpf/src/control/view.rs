//! Records as the API shows them.

use std::{collections::BTreeMap, net::IpAddr, sync::atomic::Ordering};

use super::{
    Inner, flows,
    host::Hooks,
    overlay, ports,
    seen::{Endpoints, Seen, SeenNetwork},
    uplinks::Uplink,
};
use crate::{
    datapath::{self, AttachKind, EarlyDrop, Feature, FlowRecord, MapUsage},
    error::Result,
    metrics::Figures,
    model::*,
    store::{EndpointRecord, NetworkRecord, PortRecord},
    sys::process,
};

/// The MTU of a network's new endpoints: its own, or the smallest uplink's; of an overlay
/// network what its tunnels leave of that of the uplink with this node's address.
pub fn mtu(uplinks: &[Uplink], vtep: Option<IpAddr>, network: &NetworkRecord) -> u16 {
    let smallest = || {
        let vtep = vtep.filter(|_| network.overlay.is_some());
        let has = |u: &&Uplink| vtep.is_some_and(|vtep| u.addresses.contains(&vtep));
        let of_vtep = uplinks.iter().find(has).map(|u| u.entry.mtu);
        let mtus = uplinks.iter().map(|u| u.entry.mtu);
        let smallest = of_vtep.or(mtus.min()).unwrap_or(1500);
        let smallest = smallest.saturating_sub(vtep.map_or(0, overlay::overhead));
        let smallest = smallest.min(u32::from(u16::MAX));
        // IPv6 does not work below.
        let least = if network.subnet_of(true).is_some() {
            1280
        } else {
            68
        };
        u16::try_from(smallest).unwrap_or(u16::MAX).max(least)
    };
    network.mtu.unwrap_or_else(smallest)
}

pub fn networks(inner: &Inner, seen: &Seen) -> Vec<NetworkInfo> {
    let all = seen.networks.iter();
    all.map(|n| network(inner, seen, n)).collect()
}

pub fn network(inner: &Inner, seen: &Seen, network: &SeenNetwork) -> NetworkInfo {
    let record = &network.record;
    let members = seen.members(network).into_iter();
    let mut endpoints: Vec<String> = members.map(|r| r.name.clone()).collect();
    if record.overlay.is_some() {
        endpoints.extend(overlay::elsewhere(inner, &record.name));
    }
    NetworkInfo {
        name: record.name.clone(),
        driver: record.driver,
        subnets: record.subnets.clone(),
        mtu: mtu(&seen.uplinks, inner.vtep(), record),
        vni: record.overlay.as_ref().map(|overlay| overlay.vni),
        internal: record.internal,
        icc: record.icc,
        masquerade: record.masquerade,
        parent: None,
        labels: record.labels.clone(),
        endpoints,
    }
}

/// Those of a name, on all networks or one.
pub fn endpoints_named(
    inner: &Inner,
    seen: &Seen,
    name: &str,
    network: Option<&str>,
) -> Result<Vec<EndpointInfo>> {
    let found = seen.found(Some(name), network)?.into_iter();
    Ok(found.map(|r| endpoint(inner, r)).collect())
}

/// Those that fit.
pub fn endpoints(inner: &Inner, seen: &Seen, filter: &EndpointFilter) -> Result<Vec<EndpointInfo>> {
    let id = filter.container_id.as_deref();
    let fits = |r: &EndpointRecord| {
        id.is_none_or(|id| r.engine.as_ref().is_some_and(|e| e.container_id == id))
    };
    let found = seen.found(None, filter.network.as_deref())?.into_iter();
    Ok(found
        .filter(|r| fits(r))
        .map(|r| endpoint(inner, r))
        .collect())
}

pub fn endpoint(inner: &Inner, record: &EndpointRecord) -> EndpointInfo {
    let stats = inner.datapath.stats(record.index).unwrap_or_default();
    EndpointInfo {
        name: record.name.clone(),
        network: record.network.clone(),
        container_id: record.engine.as_ref().map(|e| e.container_id.clone()),
        engine: record.engine.as_ref().map(|e| e.kind),
        netns: record.netns.clone(),
        ifname: record.ifname.clone(),
        host_ifname: record.host_ifname.clone(),
        host_ifindex: record.host_ifindex,
        mac: record.mac.map(|b| format!("{b:02x}")).join(":"),
        ipv4: record.ipv4.map(|net| net.to_string()),
        ipv6: record.ipv6.map(|net| net.to_string()),
        gateway: record.gateway,
        gateway6: record.gateway6,
        default_route: record.default4,
        default_route6: record.default6,
        mtu: record.mtu,
        aliases: record.aliases.clone(),
        links: record.links.clone(),
        ports: record.ports.iter().map(port).collect(),
        labels: record.labels.clone(),
        rx_bytes: stats.rx_bytes + stats.answer_bytes,
        rx_packets: stats.rx_packets + stats.answer_packets,
        tx_bytes: stats.tx_bytes + stats.refused_bytes,
        tx_packets: stats.tx_packets + stats.refused_packets,
        dropped_packets: stats.dropped_packets,
        created_at: record.created_at.clone(),
        dns: DnsInfo {
            // Nothing answers at the gateways yet.
            servers: Vec::new(),
            search: Vec::new(),
        },
    }
}

fn port(port: &PortRecord) -> PortInfo {
    let is_range = port.host_port_end != port.host_port;
    PortInfo {
        protocol: port.protocol,
        host_ip: ports::shown(port.host_ip),
        host_port: port.host_port,
        host_port_end: is_range.then_some(port.host_port_end),
        container_port: port.container_port,
        allow: port.allow.clone(),
        weight: port.weight,
        affinity: port.affinity.then_some(Affinity::Client),
    }
}

fn ips(record: &EndpointRecord) -> Vec<IpAddr> {
    let v4 = record.ipv4.map(|net| net.addr().into());
    let v6 = record.ipv6.map(|net| net.addr().into());
    [v4, v6].into_iter().flatten().collect()
}

pub fn ports(seen: &Seen, name: Option<&str>) -> Result<Vec<PortOf>> {
    let records = seen.found(name, None)?.into_iter();
    Ok(records
        .flat_map(|r| {
            r.ports.iter().map(|p| PortOf {
                endpoint: r.name.clone(),
                network: r.network.clone(),
                ips: ips(r),
                port: port(p),
            })
        })
        .collect())
}

pub fn flow(flow: &FlowRecord, endpoints: &Endpoints) -> FlowInfo {
    let of = endpoints.get(&flow.endpoint);
    let (endpoint, network) = of.map(|r| (r.name.clone(), r.network.clone())).unzip();
    let is_v6 = flow.src.0.is_ipv6();
    let shown = |(ip, port)| std::net::SocketAddr::new(ip, port).to_string();
    FlowInfo {
        protocol: flows::protocol(flow.protocol),
        family: if is_v6 { "ipv6" } else { "ipv4" }.into(),
        endpoint,
        network,
        kind: flow.kind.into(),
        state: flow.state.label().into(),
        src: shown(flow.src),
        dst: shown(flow.dst),
        reply_src: shown(flow.reply_src),
        reply_dst: shown(flow.reply_dst),
        age: flow.age_seconds,
        expires_in: flow.expires_in_seconds,
        packets: flow.packets,
        bytes: flow.bytes,
        reply_packets: flow.reply_packets,
        reply_bytes: flow.reply_bytes,
    }
}

/// Drops of all, or of the endpoints of a name or a network.
pub fn drops(
    inner: &Inner,
    seen: &Seen,
    endpoint: Option<&str>,
    network: Option<&str>,
) -> Result<Vec<DropInfo>> {
    let indexes: Vec<Option<u32>> = match (endpoint, network) {
        (None, None) => vec![None],
        _ => {
            let found = seen.found(endpoint, network)?.into_iter();
            found.map(|r| Some(r.index)).collect()
        }
    };
    let mut sums = BTreeMap::new();
    for index in indexes {
        for (reason, packets) in inner.datapath.drops(index)? {
            let sum = sums.entry(reason as u8).or_insert((reason, 0_u64));
            sum.1 += packets;
        }
    }
    Ok(sums
        .into_values()
        .map(|(reason, packets)| DropInfo {
            reason: reason.label().into(),
            packets,
            description: reason.text().into(),
        })
        .collect())
}

/// What Prometheus reads.
pub fn figures(inner: &Inner, seen: &Seen) -> Result<Figures> {
    let networks = seen.networks.iter();
    Ok(Figures {
        networks: networks
            .map(|n| (n.record.name.clone(), n.endpoints.size()))
            .collect(),
        endpoints: endpoints(inner, seen, &EndpointFilter::default())?,
        total: inner.datapath.total_stats()?,
        drops: inner.datapath.drops(None)?,
        events_lost: inner.datapath.events_lost()?,
        repairs: inner.repairs.counts(),
        overruns: inner.overruns.load(Ordering::Relaxed),
        status: status_with(inner, seen, inner.datapath.recent_map_usage())?,
    })
}

pub fn status(inner: &Inner, seen: &Seen) -> Result<StatusInfo> {
    status_with(inner, seen, inner.datapath.map_usage())
}

fn status_with(
    inner: &Inner,
    seen: &Seen,
    map_usage: datapath::Result<Vec<MapUsage>>,
) -> Result<StatusInfo> {
    let attach = match inner.datapath.attach_kind() {
        AttachKind::Tcx => "tcx",
        AttachKind::Clsact => "clsact",
    };
    let ipv6 = match inner.ipv6 {
        true => "yes",
        false => "no: disabled on this host",
    };
    let node = overlay::node_name(&inner.settings());
    let uplinks = seen.uplinks.iter().map(|u| UplinkInfo {
        name: u.entry.device.name.clone(),
        ifindex: u.entry.device.ifindex,
        mtu: u.entry.mtu,
        addresses: u.addresses.clone(),
        link: if u.entry.ethernet { "ethernet" } else { "ip" }.into(),
        early_drop: match &u.early {
            EarlyDrop::Xdp => "xdp".into(),
            EarlyDrop::Tc(None) => "tc".into(),
            EarlyDrop::Tc(Some(why)) => format!("tc: {why}"),
        },
    });
    let hooks = seen.hooks.as_ref().map(Hooks::shown);
    // After a teardown the pins are gone, whether or not all else is.
    let usage = (inner.datapath.program_usage(), map_usage);
    let (programs, maps) = match usage {
        (programs, maps) if !seen.closed => (programs?, maps?),
        (programs, maps) => (programs.unwrap_or_default(), maps.unwrap_or_default()),
    };
    let features = [
        ("attach", attach.into()),
        ("host_sockets", hooks.unwrap_or_default()),
        ("ipv6", ipv6.into()),
    ];
    // How programs hang on devices says whether there is TCX.
    let probed = inner
        .datapath
        .features()
        .filter(|(f, _)| *f != Feature::Tcx);
    let probed = probed.map(|(feature, used)| match used {
        true => (feature.name(), "yes".to_owned()),
        false => (feature.name(), format!("no: {}", feature.instead())),
    });
    let features = features.into_iter().chain(probed);
    let features = features.map(|(name, value): (&str, String)| (name.to_owned(), value));
    Ok(StatusInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        node,
        pid: std::process::id(),
        kernel: process::kernel(),
        uplinks: uplinks.collect(),
        programs: programs
            .into_iter()
            .map(|p| ProgramInfo {
                name: p.name,
                id: p.id,
                verified_instructions: p.verified_instructions,
                attached_to: p.attached_to,
            })
            .collect(),
        maps: maps
            .into_iter()
            .map(|m| MapInfo {
                name: m.name,
                entries: m.entries,
                max_entries: m.max_entries,
            })
            .collect(),
        features: features.collect(),
        networks: seen.networks.len(),
        endpoints: seen.endpoints.len(),
        cluster: inner
            .cluster
            .as_ref()
            .map(|cluster| overlay::cluster_info(inner, cluster)),
        notes: notes(inner, seen),
    })
}

fn notes(inner: &Inner, seen: &Seen) -> Vec<String> {
    let mut notes = seen.notes.clone();
    match (inner.ipv6, inner.sysctls.ipv6_disabled()) {
        (true, None) => {}
        (false, None) => notes.push(
            "IPv6 was disabled on this host when the daemon started: networks have IPv4 alone until it starts anew".into(),
        ),
        (false, Some(why)) => notes.push(format!(
            "IPv6 is disabled on this host ({why}): networks have IPv4 alone"
        )),
        (true, Some(why)) => notes.push(format!(
            "IPv6 was switched off on this host while the daemon runs ({why}): no endpoint can be attached to networks that have it"
        )),
    }
    if let Some(cluster) = &inner.cluster {
        let clashes = cluster.state().clashes;
        notes.extend(clashes.iter().map(ToString::to_string));
    }
    for timeout in inner.settings().timeouts.all() {
        if let Some((least, rfc)) = timeout.least.filter(|(least, _)| timeout.seconds < *least) {
            notes.push(format!(
                "timeout {}={}s is less than the {least}s of {rfc}: silent connections may break",
                timeout.name, timeout.seconds
            ));
        }
    }
    let is_there = |name: &str| seen.uplinks.iter().any(|u| u.entry.device.name == name);
    for name in inner.settings().uplinks.iter().filter(|n| !is_there(n)) {
        notes.push(format!(
            "uplink {name} is awaited: there is no such device that is up and has an address"
        ));
    }
    if seen.uplinks.is_empty() {
        notes.push("there is no uplink: containers reach nothing outside of this host".into());
    }
    for uplink in &seen.uplinks {
        if let Some(why) = &uplink.failed {
            let name = &uplink.entry.device.name;
            notes.push(format!("the programs do not hang on uplink {name}: {why}"));
        }
    }
    notes
}
