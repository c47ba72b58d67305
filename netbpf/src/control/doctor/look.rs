//! Gathers what the checks are about, with a running daemon.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    net::IpAddr,
};

use super::{
    conflicts::{self, OthersAddress, OthersRoute, Towards},
    findings::{Findings, endpoint},
    host, maps, programs,
    settings::{self, Forwarding, NetworkMtu, RpFilter},
};
use crate::{
    control::{
        Inner, check,
        host::{Hooks, cgroup},
        plan,
        ports::local_port_range,
        portset::PortSet,
        portspec::protocol_name,
        programs::Programs,
        recover, reserved,
        seen::Seen,
        state::State,
        uplinks,
    },
    datapath::{self, Device, Entries, Hung},
    error::Result,
    model::{Check, Finding},
    store::{EndpointRecord, NetworkRecord},
    sys::{
        netfilter,
        netlink::{Netlink, RouteKind},
        netns,
        sysctl::Sysctls,
    },
};

/// Ifindex of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// What can be compared only while nothing changes: store, host and maps.
pub fn still(inner: &Inner, state: &mut State) -> Result<Vec<Finding>> {
    // What leaves is on its way, and belongs to nothing meanwhile.
    inner.reaper.wait_for_all();
    let wanted = recover::wanted(state, inner.ipv6);
    let mut all = of_store(inner, state);

    let mut apply = inner.apply(&mut state.host);
    let found = apply.look_around()?;
    let (endpoints, services) = apply.entries(&wanted);
    let repairs = plan::repairs(&wanted, &found);
    all.extend(host::undone(&wanted, &found, &repairs));
    all.extend(host::strays(&plan::strays(&wanted, &found)));

    let hanging = state.uplinks.iter().filter(|u| u.failed.is_none());
    let entries = Entries {
        endpoints,
        services,
        uplinks: hanging
            .map(|u| (u.entry.clone(), u.early.clone()))
            .collect(),
        locals: uplinks::locals_of(state),
        subnets: uplinks::subnets(state),
        timeouts: inner.settings().timeouts,
        netns_cookie: netns::cookie()?,
    };
    let drift = inner.datapath.drift(&entries);
    all.extend(or_unseen(Check::Map, drift.map(|d| maps::drift(&d))));
    all.extend(or_unseen(Check::Port, of_ports(state)));
    all.extend(or_unseen(Check::ReservedPorts, of_reserved(inner, state)));
    Ok(all)
}

/// A check that cannot be made keeps none of the others.
fn or_unseen<E: Display>(check: Check, done: Result<Vec<Finding>, E>) -> Vec<Finding> {
    done.unwrap_or_else(|error| {
        let mut found = Findings::of(check);
        found.unseen("daemon", error);
        found.all()
    })
}

fn of_ports(state: &State) -> Result<Vec<Finding>> {
    let (mut in_the_way, mut absent) = (Vec::new(), Vec::new());
    let mut programs = Programs::default();
    let mut published = 0;
    for record in state.endpoints.values() {
        published += record.ports.len();
        let is_absent = |ip: &IpAddr| {
            !ip.is_loopback() && !ip.is_unspecified() && !state.addresses.contains(ip)
        };
        for port in &record.ports {
            if let Some(ip) = port.host_ip.filter(is_absent) {
                let (number, protocol) = (port.host_port, protocol_name(port.protocol));
                let message = format!(
                    "port {number}/{protocol} is published on {ip}, which the host does not have: nobody reaches it"
                );
                absent.push((endpoint(record), message));
            }
        }
        for port in record.ports.iter().filter(|p| !p.unheld) {
            if let Some((_, refusal)) = programs.in_the_way(record, port)? {
                in_the_way.push((endpoint(record), refusal.message));
            }
        }
    }
    Ok(conflicts::ports(&in_the_way, &absent, published))
}

fn of_reserved(inner: &Inner, state: &State) -> Result<Vec<Finding>> {
    let wanted = match inner.settings().reserve_ports {
        true => {
            let range = local_port_range(&state.sysctls);
            state.services.ports().within(range)
        }
        false => PortSet::default(),
    };
    let reserved = reserved::read(&state.sysctls)?;
    Ok(settings::reserved(&wanted, &reserved))
}

fn of_store(inner: &Inner, state: &State) -> Vec<Finding> {
    let known: Vec<EndpointRecord> = state.endpoints.values().map(|r| (**r).clone()).collect();
    let stored = inner.store.endpoints().map_err(|e| e.to_string());
    host::store(stored, &known, &inner.store.lost_files())
}

/// What is looked at while changes go on.
pub fn moving(inner: &Inner, seen: &Seen) -> Result<Vec<Finding>> {
    let mut netlink = Netlink::open()?;
    let netlink = &mut netlink;
    let datapath = &inner.datapath;
    let mut all = of_endpoints(inner, seen, netlink);
    all.extend(or_unseen(Check::Network, of_loopback(netlink)));
    all.extend(or_unseen(Check::Program, of_programs(inner, seen, netlink)));
    all.extend(or_unseen(Check::Overlap, of_routes(inner, seen, netlink)));
    let forwarding = forwarding(inner, seen);
    all.extend(or_unseen(
        Check::Forwarding,
        forwarding.map(|f| settings::forwarding(&f)),
    ));
    all.extend(of_firewall());
    all.extend(settings::mtu(&mtus(seen), &seen.uplinks));
    let usage = datapath
        .recent_map_usage()
        .and_then(|maps| Ok((maps, datapath.established()?)));
    let usage = usage.map(|(maps, established)| maps::usage(&maps, &established));
    all.extend(or_unseen(Check::MapUsage, usage));
    let drops = datapath.drops(None);
    all.extend(or_unseen(Check::Drops, drops.map(|d| maps::drops(&d))));
    let lost = datapath.events_lost();
    all.extend(or_unseen(Check::Events, lost.map(maps::events)));
    let configured = inner.settings();
    all.extend(settings::timeouts(&configured.timeouts));
    all.extend(settings::uplinks(&seen.uplinks, &configured.uplinks));
    all.extend(settings::notes(&seen.notes));
    Ok(all)
}

/// Gateway addresses are on it.
fn of_loopback(netlink: &mut Netlink) -> Result<Vec<Finding>> {
    let mut found = Findings::of(Check::Network);
    if !netlink.link("lo")?.is_some_and(|lo| lo.up) {
        found.error(
            "device lo",
            "it is down: published ports do not answer the host itself, and the daemon would not start",
            "ip link set lo up",
        );
    }
    Ok(found.all())
}

/// Whether an endpoint is still the one that was looked at.
fn is_there(inner: &Inner, record: &EndpointRecord) -> bool {
    let seen = inner.seen();
    let now = seen.endpoints.get(&record.index);
    now.is_some_and(|now| now.serial == record.serial)
}

fn of_endpoints(inner: &Inner, seen: &Seen, netlink: &mut Netlink) -> Vec<Finding> {
    let mut differing = Vec::new();
    for record in seen.endpoints.values() {
        let messages = match check::check_one(netlink, record) {
            Ok(messages) => messages,
            Err(error) => vec![error.message],
        };
        if !messages.is_empty() && is_there(inner, record) {
            differing.push((endpoint(record), messages));
        }
    }
    host::endpoints(seen.endpoints.len(), &differing)
}

fn of_programs(inner: &Inner, seen: &Seen, netlink: &mut Netlink) -> Result<Vec<Finding>> {
    let datapath = &inner.datapath;
    let mut places: Vec<Hung> = vec![datapath.hung_on_loopback(netlink)?];
    let mut devices: HashMap<u32, &str> = HashMap::new();
    for uplink in seen.uplinks.iter().filter(|u| u.failed.is_none()) {
        places.extend(datapath.hung_on_uplink(netlink, &uplink.entry, &uplink.early)?);
        if uplink.early != datapath::EarlyDrop::Xdp {
            let device = &uplink.entry.device;
            devices.insert(device.ifindex, &device.name);
        }
    }
    for record in seen.endpoints.values() {
        let device = Device {
            name: record.host_ifname.clone(),
            ifindex: record.host_ifindex,
        };
        let here = datapath.hung_on_veth(netlink, &device)?;
        if is_there(inner, record) {
            places.extend(here);
            devices.insert(record.host_ifindex, &record.host_ifname);
        }
    }
    if let (Some(Hooks::Cgroup), Some(cgroup)) = (&seen.hooks, cgroup(inner)?) {
        places.extend(datapath.hung_on_cgroup(&cgroup)?);
    }
    let xdp = netlink.xdp_programs()?.into_iter();
    let xdp: Vec<(String, String)> = xdp
        .filter_map(|(on, id)| Some(((*devices.get(&on)?).to_owned(), datapath::program_name(id))))
        .collect();
    let mut all = programs::hung(&places, &datapath.missing_pins());
    all.extend(programs::foreign(&places, &xdp));
    Ok(all)
}

fn of_routes(inner: &Inner, seen: &Seen, netlink: &mut Netlink) -> Result<Vec<Finding>> {
    let names: HashMap<u32, String> = {
        let links = netlink.links()?.into_iter();
        links.map(|link| (link.ifindex, link.name)).collect()
    };
    let name = |ifindex: u32| {
        let name = names.get(&ifindex).cloned();
        name.unwrap_or_else(|| format!("device {ifindex}"))
    };
    let routes = netlink.routes()?.into_iter();
    let routes: Vec<OthersRoute> = routes
        .filter(|route| !route.ours && route.table.is_none())
        .filter_map(|route| match route.kind {
            RouteKind::Unicast(target) if target.ifindex != LOOPBACK => Some(OthersRoute {
                destination: route.destination,
                device: name(target.ifindex),
            }),
            _ => None,
        })
        .collect();
    let addresses = netlink.addresses()?.into_iter();
    let addresses: Vec<OthersAddress> = addresses
        .filter(|a| a.ifindex != LOOPBACK)
        .map(|a| OthersAddress {
            address: a.address,
            device: name(a.ifindex),
        })
        .collect();
    let (mut towards, mut filters) = (Vec::new(), Vec::new());
    let strictest = rp_filter(&inner.sysctls, "all");
    for record in seen.endpoints.values() {
        for (address, _) in record.addresses() {
            let device = netlink.device_towards(address.addr())?;
            let leads_back = device == Some(record.host_ifindex);
            if !is_there(inner, record) {
                continue;
            }
            // That there is no way is said where routes are looked at.
            if let Some(device) = device.filter(|_| !leads_back) {
                towards.push((record, address.addr(), name(device)));
            }
            if address.addr().is_ipv4() {
                filters.push(RpFilter {
                    device: record.host_ifname.clone(),
                    value: strictest.max(rp_filter(&inner.sysctls, &record.host_ifname)),
                    address: address.addr(),
                    leads_back,
                });
            }
        }
    }
    let towards: Vec<Towards<'_>> = towards
        .into_iter()
        .map(|(record, address, device)| Towards {
            record,
            address,
            device,
        })
        .collect();
    let networks: Vec<&NetworkRecord> = seen.networks.iter().map(|n| &*n.record).collect();
    let mut all = conflicts::overlaps(&networks, &routes, &addresses, &towards);
    all.extend(settings::rp_filter(&filters));
    Ok(all)
}

fn rp_filter(sysctls: &Sysctls, device: &str) -> u8 {
    let value = sysctls.ipv4.read(&["conf", device, "rp_filter"]);
    let value = value.ok().flatten().and_then(|text| text.parse().ok());
    value.unwrap_or(0)
}

fn forwarding(inner: &Inner, seen: &Seen) -> Result<Vec<Forwarding>> {
    let ipv6 = inner.sysctls.ipv6.as_ref().filter(|_| inner.ipv6);
    let mut all = Vec::new();
    for record in seen.endpoints.values() {
        for family in [Some(&inner.sysctls.ipv4), ipv6].into_iter().flatten() {
            let value = family.read(&["conf", &record.host_ifname, "forwarding"])?;
            // A device that went meanwhile has none.
            all.extend(value.map(|value| Forwarding {
                device: record.host_ifname.clone(),
                family: family.name(),
                is_on: value != "0",
            }));
        }
    }
    Ok(all)
}

pub fn of_firewall() -> Vec<Finding> {
    match netfilter::base_chains() {
        Ok(chains) => conflicts::firewall(&chains),
        Err(error) => {
            let mut found = Findings::of(Check::Firewall);
            found.unseen("firewall", error);
            found.all()
        }
    }
}

/// The largest of each network's endpoints.
fn mtus(seen: &Seen) -> Vec<NetworkMtu> {
    let mut largest: BTreeMap<&str, u16> = BTreeMap::new();
    for record in seen.endpoints.values() {
        let mtu = largest.entry(&record.network).or_default();
        *mtu = record.mtu.max(*mtu);
    }
    let internal = |name: &str| seen.network(name).is_ok_and(|n| n.record.internal);
    largest
        .into_iter()
        .filter(|(network, _)| !internal(network))
        .map(|(network, mtu)| NetworkMtu {
            network: network.into(),
            mtu: mtu.into(),
        })
        .collect()
}
