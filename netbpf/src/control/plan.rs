//! From what is wanted and what is to the steps that lead there. Pure: reads
//! nothing, changes nothing; `apply` takes the steps.
//!
//! The same steps serve attach, restart and teardown. Ports come last and go
//! first, so that nothing reaches an endpoint that is not ready for it.

mod found;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

pub use self::found::{Found, Wanted, recover, repairs, strays};
use crate::{
    datapath::{NetworkFlags, OverlayAt},
    store::{EndpointRecord, NetworkRecord, PortRecord},
};

/// An endpoint with what of its network concerns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub record: Arc<EndpointRecord>,
    pub flags: NetworkFlags,
}

/// What the programs are to do with packets of a network.
pub fn flags(network: &NetworkRecord) -> NetworkFlags {
    NetworkFlags {
        icc: network.icc,
        internal: network.internal,
        masquerade: network.masquerade,
        overlay: network.overlay.as_ref().map(|overlay| OverlayAt {
            vni: overlay.vni,
            scope: overlay.scope,
            shadowed: overlay.shadowed,
        }),
    }
}

impl Endpoint {
    /// The host has no routes to it.
    pub fn is_shadowed(&self) -> bool {
        self.flags.overlay.is_some_and(|at| at.shadowed)
    }
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

/// Number of the routing table, in containers, of a network's endpoint. No network has the
/// number 0: its table is of the endpoint with the default route.
pub const fn table_of(network_index: u32) -> u32 {
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
    /// Both ends.
    SetMtu(Arc<Endpoint>),
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
    /// The sockets of connections by these ports, on both sides, while there is a way for
    /// what they are to hear.
    EndSockets(Vec<Ports>),
    /// What is left of the connections by these ports.
    EndSlots(Vec<u32>),
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

/// An endpoint, and a port of it.
pub type Member = (Arc<Endpoint>, PortRecord);

/// An endpoint, and ports of it.
pub type Ports = (Arc<Endpoint>, Vec<PortRecord>);

/// Ends the connections of ports that nobody gets to any more.
pub fn end_connections(ports: Vec<Ports>) -> Vec<Step> {
    let slots = ports.iter().flat_map(|(_, ports)| ports).map(|p| p.slot);
    let slots: Vec<u32> = slots.collect();
    match slots.is_empty() {
        true => Vec::new(),
        false => vec![Step::EndSockets(ports), Step::EndSlots(slots)],
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
    pub members: Vec<Member>,
}

impl Service {
    /// `None` without members.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Option<Arc<Service>> {
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

/// What an endpoint has outside of its device, in the order of taking it away, once
/// nothing is published there. The device itself, which the kernel frees slowly, follows
/// by [`remove_device`].
pub fn detach(endpoint: &Arc<Endpoint>, heirs: Heirs) -> Vec<Step> {
    let mut steps = vec![
        Step::RemoveEndpoint(endpoint.clone()),
        Step::RemoveHostRoutes(endpoint.clone()),
    ];
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
        .filter(|_| !network.is_shadowed())
        .filter(|s| ipv6 || s.gateway.is_ipv4())
        .flat_map(|s| [Step::HoldSubnet(s.subnet), Step::AddGateway(s.gateway)])
        .collect()
}

pub fn network_down(network: &NetworkRecord) -> Vec<Step> {
    let subnets = network.subnets.iter();
    subnets
        .filter(|_| !network.is_shadowed())
        .flat_map(|s| {
            [
                Step::RemoveGateway(s.gateway),
                Step::ReleaseSubnet(s.subnet),
            ]
        })
        .collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub mod tests;
