//! From what is wanted and what is to the steps that lead there. Pure: reads
//! nothing, changes nothing; `apply` takes the steps.
//!
//! The same steps serve attach, restart and teardown. Ports come last and go
//! first, so that nothing reaches an endpoint that is not ready for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    datapath::NetworkFlags,
    store::{EndpointRecord, NetworkRecord, PortRecord},
};

/// An endpoint with what of its network concerns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub record: EndpointRecord,
    pub flags: NetworkFlags,
}

/// The alias of an endpoint's host-side veth: whose it is at one look, and the
/// mark by which a stray one is known as ours.
pub fn alias(record: &EndpointRecord) -> String {
    format!("{ALIAS_PREFIX}{} {}", record.name, record.network)
}

pub const ALIAS_PREFIX: &str = "netbpf ";
const NAME_PREFIX: &str = "nb";
const NAME_DIGITS: usize = 8;

/// The name of a host-side veth with that random number.
pub fn host_ifname(number: u32) -> String {
    format!("{NAME_PREFIX}{number:08x}")
}

/// Whether a device may be a host-side veth of ours, by its name alone.
pub fn is_host_ifname(name: &str) -> bool {
    name.strip_prefix(NAME_PREFIX).is_some_and(|digits| {
        digits.len() == NAME_DIGITS
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// Number of the routing table, in containers, of a network's endpoint.
pub fn table_of(network_index: u32) -> u32 {
    0x6e62_0000 + network_index
}

/// One change. Those with an undo are taken back when a later one fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The gateway's address on `lo`.
    AddGateway(IpAddr),
    RemoveGateway(IpAddr),
    /// The unreachable route of a subnet.
    HoldSubnet(IpNet),
    ReleaseSubnet(IpNet),
    /// The veth pair, both ends down.
    MakeVeth(Arc<Endpoint>),
    RemoveVeth(Arc<Endpoint>),
    /// Our end: alias, forwarding, up.
    SetUpHostEnd(Arc<Endpoint>),
    /// The container's end: up, addresses, neighbours, routes, rules.
    SetUpContainer(Arc<Endpoint>),
    /// Rules taken back, the default route handed to its heirs.
    LeaveContainer {
        endpoint: Arc<Endpoint>,
        heirs: Heirs,
    },
    /// Routes and neighbour entries to the container's addresses.
    AddHostRoutes(Arc<Endpoint>),
    RemoveHostRoutes(Arc<Endpoint>),
    /// The neighbour entries alone.
    SetHostNeighbours(Arc<Endpoint>),
    /// Both ends are able to send.
    WaitRunning(Arc<Endpoint>),
    SetEndpoint(Arc<Endpoint>),
    RemoveEndpoint(Arc<Endpoint>),
    AttachPrograms(Arc<Endpoint>),
    DetachPrograms(Arc<Endpoint>),
    /// What is published at one place; who leaves does so as `leave` says.
    SetService {
        before: Option<Arc<Service>>,
        after: Option<Arc<Service>>,
        leave: Leave,
    },
    /// What is published no more, while its connections may go on.
    Drain(Arc<Service>),
    /// What is left of the connections by these ports once their endpoint goes, and the
    /// sockets of its container with it.
    EndSlots(Vec<u32>),
    /// The connections of a port that was drained.
    EndConnections(Arc<Endpoint>, PortRecord),
    /// A host-side veth of ours that belongs to no endpoint.
    RemoveStrayVeth {
        ifindex: u32,
        name: String,
    },
    /// A route of ours to a single address, on a device that is not its
    /// endpoint's.
    RemoveStrayRoute {
        destination: IpNet,
        ifindex: u32,
    },
}

impl Step {
    /// What takes this step back; none where removing the device does.
    pub fn undo(&self) -> Option<Step> {
        match self.clone() {
            Step::AddGateway(address) => Some(Step::RemoveGateway(address)),
            Step::HoldSubnet(subnet) => Some(Step::ReleaseSubnet(subnet)),
            Step::MakeVeth(e) => Some(Step::RemoveVeth(e)),
            Step::SetUpContainer(endpoint) => Some(Step::LeaveContainer {
                endpoint,
                heirs: Heirs::default(),
            }),
            Step::SetEndpoint(e) => Some(Step::RemoveEndpoint(e)),
            Step::AttachPrograms(e) => Some(Step::DetachPrograms(e)),
            Step::SetService { before, after, .. } => Some(Step::SetService {
                before: after,
                after: before,
                leave: Leave::AtOnce,
            }),
            _ => None,
        }
    }
}

/// What becomes of the connections of an endpoint whose port is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They end, and both sides hear of it.
    AtOnce,
    /// They may go on, for now.
    Later,
}

/// What is published at one place: mostly by one endpoint, several where they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// At least one; the places of all are the same.
    pub members: Vec<(Arc<Endpoint>, PortRecord)>,
}

impl Service {
    /// `None` without members.
    pub fn new(
        members: impl IntoIterator<Item = (Arc<Endpoint>, PortRecord)>,
    ) -> Option<Arc<Service>> {
        let mut members: Vec<_> = members.into_iter().collect();
        // Always the same order, whoever came last.
        members.sort_by_key(|(_, port)| port.slot);
        (!members.is_empty()).then(|| Arc::new(Service { members }))
    }

    pub fn has(&self, slot: u32) -> bool {
        self.members.iter().any(|(_, port)| port.slot == slot)
    }
}

/// The endpoints that take over a container's default routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heirs {
    pub ipv4: Option<Arc<Endpoint>>,
    pub ipv6: Option<Arc<Endpoint>>,
}

impl Heirs {
    pub fn is_empty(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }
}

/// What is in a container's namespace before an attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFound {
    pub devices: BTreeSet<String>,
    pub default4: bool,
    pub default6: bool,
}

impl ContainerFound {
    /// The first free ethN.
    pub fn free_ifname(&self) -> String {
        (0..)
            .map(|n| format!("eth{n}"))
            .find(|name| !self.devices.contains(name))
            .unwrap_or_default()
    }
}

/// Settles which default routes and rules an endpoint gets: it has the default
/// route of a family where the container has none yet, and else source rules, so
/// that answers leave by the network that was asked. Not both: rules cost every
/// packet of the container a lookup.
pub fn settle_routes(record: &mut EndpointRecord, internal: bool, found: &ContainerFound) {
    record.default4 = record.ipv4.is_some() && !internal && !found.default4;
    record.default6 = record.ipv6.is_some() && !internal && !found.default6;
    // An internal network leads nowhere but to its own subnet.
    record.rules = !internal
        && (record.ipv4.is_some() && !record.default4 || record.ipv6.is_some() && !record.default6);
}

/// Everything of a new endpoint; `ports` publishes what it has.
pub fn attach(endpoint: &Arc<Endpoint>, ports: Vec<Step>) -> Vec<Step> {
    let mut steps = vec![Step::MakeVeth(endpoint.clone())];
    // The guard before the gate: with forwarding on and the device up, the host
    // would route whatever the container sends.
    steps.extend(guard(endpoint));
    steps.extend([
        Step::SetUpHostEnd(endpoint.clone()),
        Step::SetUpContainer(endpoint.clone()),
        Step::AddHostRoutes(endpoint.clone()),
        Step::WaitRunning(endpoint.clone()),
    ]);
    steps.extend(ports);
    steps
}

fn guard(endpoint: &Arc<Endpoint>) -> [Step; 2] {
    [
        Step::SetEndpoint(endpoint.clone()),
        Step::AttachPrograms(endpoint.clone()),
    ]
}

/// What an endpoint has outside of its device, in the order of taking it away.
/// The device itself, which the kernel frees slowly, follows by
/// [`remove_device`]. `ports` takes back what it has published.
pub fn detach(endpoint: &Arc<Endpoint>, ports: Vec<Step>, heirs: Heirs) -> Vec<Step> {
    let mut steps = ports;
    steps.push(Step::RemoveEndpoint(endpoint.clone()));
    steps.push(Step::RemoveHostRoutes(endpoint.clone()));
    if endpoint.record.rules || !heirs.is_empty() {
        steps.push(Step::LeaveContainer {
            endpoint: endpoint.clone(),
            heirs,
        });
    }
    steps
}

/// The device and what hangs on it. The pins go last: without the device they
/// are names only.
pub fn remove_device(endpoint: &Arc<Endpoint>) -> Vec<Step> {
    vec![
        Step::RemoveVeth(endpoint.clone()),
        Step::DetachPrograms(endpoint.clone()),
    ]
}

/// What the host has for a network. `ipv6`: whether the host has it.
pub fn network_up(network: &NetworkRecord, ipv6: bool) -> Vec<Step> {
    network
        .subnets
        .iter()
        .filter(|s| ipv6 || s.gateway.is_ipv4())
        .flat_map(|s| [Step::HoldSubnet(s.subnet), Step::AddGateway(s.gateway)])
        .collect()
}

pub fn network_down(network: &NetworkRecord) -> Vec<Step> {
    network
        .subnets
        .iter()
        .flat_map(|s| {
            [
                Step::RemoveGateway(s.gateway),
                Step::ReleaseSubnet(s.subnet),
            ]
        })
        .collect()
}

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
}

/// From what is found at start to what is wanted. Maps and programs are written
/// anew in any case: the programs are those of this binary then.
pub fn recover(wanted: &Wanted, found: &Found) -> Vec<Step> {
    let mut steps = missing_of_networks(wanted, found);
    for endpoint in &wanted.endpoints {
        steps.extend(guard(endpoint));
        steps.push(Step::SetUpHostEnd(endpoint.clone()));
        // A route that is set anew has the kernel look at all others.
        let mut routes = endpoint.record.host_routes();
        let is_right = |(route, source)| found.host_routes.get(&route) == Some(&Some(source));
        steps.push(match routes.all(is_right) {
            true => Step::SetHostNeighbours(endpoint.clone()),
            false => Step::AddHostRoutes(endpoint.clone()),
        });
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

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
