//! What is in the kernel beside what the store says: what a start does about it, what
//! others have undone since, and what belongs to nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    ALIAS_PREFIX, Endpoint, EndpointRecord, Leave, NetworkRecord, Service, Step, guard, network_up,
};

/// What the store says.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub networks: Vec<NetworkRecord>,
    /// Whose devices exist.
    pub endpoints: Vec<Arc<Endpoint>>,
    pub services: Vec<Arc<Service>>,
    pub draining: Vec<Arc<Service>>,
    /// Whether the host has IPv6.
    pub ipv6: bool,
}

/// What of ours is in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Addresses on `lo`, and whether they bear our mark.
    pub addresses: BTreeMap<IpAddr, bool>,
    /// Subnets with an unreachable route of ours.
    pub held: BTreeSet<IpNet>,
    /// Routes of ours to single addresses by device, and the source addresses that they
    /// give: of IPv6 a route outlives that (`rt6_remove_prefsrc`).
    pub host_routes: BTreeMap<(IpNet, u32), Option<IpAddr>>,
    /// Devices that bear a name of ours: ifindex, name, alias.
    pub veths: Vec<(u32, String, Option<String>)>,
    /// Those of them that are down.
    pub down: BTreeSet<u32>,
    /// Those of them that forward no packets of a family that the host has.
    pub not_forwarding: BTreeSet<u32>,
    /// Neighbour entries of ours and others' that nobody has to be asked for.
    pub neighbours: BTreeMap<(IpAddr, u32), Vec<u8>>,
}

impl Found {
    /// Whether the host's routes to an endpoint are as they were made.
    pub fn has_routes_to(&self, record: &EndpointRecord) -> bool {
        let mut routes = record.host_routes();
        routes.all(|(route, source)| self.host_routes.get(&route) == Some(&Some(source)))
    }

    /// The same of one that may be without any.
    fn has_routes_of(&self, endpoint: &Endpoint) -> bool {
        endpoint.is_shadowed() || self.has_routes_to(&endpoint.record)
    }

    /// What puts back what is undone of an endpoint on the host; `set_up`: its device is
    /// as it was made.
    fn undone(&self, endpoint: &Arc<Endpoint>, set_up: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        if !set_up {
            steps.push(Step::SetUpHostEnd(endpoint.clone()));
        }
        // A route that is set anew has the kernel look at all others.
        if !self.has_routes_of(endpoint) {
            steps.push(Step::AddHostRoutes(endpoint.clone()));
        } else if !self.has_neighbours(&endpoint.record) {
            steps.push(Step::SetHostNeighbours(endpoint.clone()));
        }
        steps
    }

    /// The aliases of devices, by number and name.
    fn aliases(&self) -> BTreeMap<(u32, &str), Option<&str>> {
        let veths = self.veths.iter();
        veths
            .map(|(ifindex, name, alias)| ((*ifindex, name.as_str()), alias.as_deref()))
            .collect()
    }

    fn has_neighbours(&self, record: &EndpointRecord) -> bool {
        record.addresses().all(|(address, _)| {
            let held = self.neighbours.get(&(address.addr(), record.host_ifindex));
            held.is_some_and(|mac| *mac == record.mac)
        })
    }
}

/// From what is found at start to what is wanted. Maps are written anew in any case, and
/// programs where they are not those of this binary.
pub fn recover(wanted: &Wanted, found: &Found) -> Vec<Step> {
    let mut steps = missing_of_networks(wanted, found);
    let aliases = found.aliases();
    for endpoint in &wanted.endpoints {
        let record = &endpoint.record;
        let alias = aliases.get(&(record.host_ifindex, record.host_ifname.as_str()));
        let set_up = alias.is_some_and(|alias| is_set_up(record, *alias, found))
            && !found.not_forwarding.contains(&record.host_ifindex);
        steps.extend(guard(endpoint));
        steps.extend(found.undone(endpoint, set_up));
    }
    steps.extend(wanted.services.iter().map(|service| Step::SetService {
        before: None,
        after: Some(service.clone()),
        leave: Leave::AtOnce,
    }));
    steps.extend(wanted.draining.iter().cloned().map(Step::Drain));
    steps.extend(strays(wanted, found));
    steps
}

/// What others have undone meanwhile on the host, and what puts it back; nothing while all
/// is as it was made. An endpoint without its device is not for here: it is gone.
pub fn repairs(wanted: &Wanted, found: &Found) -> Vec<Step> {
    let mut steps = missing_of_networks(wanted, found);
    let aliases = found.aliases();
    for endpoint in &wanted.endpoints {
        let record = &endpoint.record;
        let device = (record.host_ifindex, record.host_ifname.as_str());
        if let Some(alias) = aliases.get(&device) {
            steps.extend(found.undone(endpoint, is_set_up(record, *alias, found)));
        }
    }
    steps
}

/// Up, and marked as ours. With the device down its routes are gone, too.
fn is_set_up(record: &EndpointRecord, alias: Option<&str>, found: &Found) -> bool {
    let is_marked = alias == Some(super::alias(record).as_str());
    is_marked && !found.down.contains(&record.host_ifindex)
}

fn missing_of_networks(wanted: &Wanted, found: &Found) -> Vec<Step> {
    wanted
        .networks
        .iter()
        .flat_map(|network| network_up(network, wanted.ipv6))
        .filter(|step| match step {
            Step::AddGateway(address) => !found.addresses.contains_key(address),
            Step::HoldSubnet(subnet) => !found.held.contains(subnet),
            _ => true,
        })
        .collect()
}

/// What is there and belongs to nothing.
pub fn strays(wanted: &Wanted, found: &Found) -> Vec<Step> {
    let subnets = || wanted.networks.iter().flat_map(|n| &n.subnets);
    let records = || wanted.endpoints.iter().map(|e| &e.record);
    let gateways: BTreeSet<IpAddr> = subnets().map(|s| s.gateway).collect();
    let held: BTreeSet<IpNet> = subnets().map(|s| s.subnet).collect();
    let devices: BTreeSet<u32> = records().map(|r| r.host_ifindex).collect();
    let routes: BTreeSet<(IpNet, u32)> = records()
        .flat_map(|r| r.host_routes().map(|(route, _)| route))
        .collect();

    let addresses = found
        .addresses
        .iter()
        .filter(|(address, ours)| **ours && !gateways.contains(address))
        .map(|(address, _)| Step::RemoveGateway(*address));
    let subnets = found
        .held
        .difference(&held)
        .map(|subnet| Step::ReleaseSubnet(*subnet));
    let host_routes = found
        .host_routes
        .keys()
        .filter(|route| !routes.contains(route))
        .map(|&(destination, ifindex)| Step::RemoveStrayRoute {
            destination,
            ifindex,
        });
    let veths = found
        .veths
        .iter()
        .filter(|(ifindex, _, alias)| {
            let ours = alias.as_ref().is_some_and(|a| a.starts_with(ALIAS_PREFIX));
            ours && !devices.contains(ifindex)
        })
        .map(|(ifindex, name, _)| Step::RemoveStrayVeth {
            ifindex: *ifindex,
            name: name.clone(),
        });
    addresses
        .chain(subnets)
        .chain(host_routes)
        .chain(veths)
        .collect()
}
