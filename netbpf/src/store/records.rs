//! What the store keeps: JSON with a version, so that a later daemon can tell
//! what it finds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    model::{Driver, Engine, Labels, Protocol, SubnetInfo},
    sys::netns::NamespaceId,
};

/// What can be kept in a table.
pub trait Record: Serialize + DeserializeOwned {
    /// What of it can be nowhere but in a damaged store.
    fn flaw(&self) -> Option<String>;
}

/// Where a daemon runs: nothing that it made outlives the one or is found from
/// outside of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub boot: String,
    pub namespace: NamespaceId,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Number of the network in maps and routing tables; never given out again.
    pub index: u32,
    pub name: String,
    pub driver: Driver,
    pub subnets: Vec<SubnetInfo>,
    /// `None`: that of the smallest uplink.
    pub mtu: Option<u16>,
    pub internal: bool,
    pub icc: bool,
    pub masquerade: bool,
    /// The network is on other nodes, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayRecord>,
    pub labels: Labels,
    pub created_at: String,
}

/// What an overlay network is found by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayRecord {
    /// VXLAN network identifier, the same on all nodes.
    pub vni: u32,
    /// Number of its addresses' room in maps, of this node alone.
    pub scope: u32,
    /// Another overlay network of this node has some of its addresses, and the host's
    /// routes to them.
    #[serde(default)]
    pub shadowed: bool,
    /// Out of which this node gives addresses.
    #[serde(default)]
    pub blocks: Vec<IpNet>,
}

impl Record for NetworkRecord {
    fn flaw(&self) -> Option<String> {
        // One of the cluster was said by others: that it is odd is no damage of ours.
        match self.overlay {
            None => self.outside_gateway(),
            Some(_) => None,
        }
    }
}

impl NetworkRecord {
    /// A gateway that is not in its subnet: nothing can be made of such a network.
    pub fn outside_gateway(&self) -> Option<String> {
        let mut subnets = self.subnets.iter();
        let subnet = subnets.find(|s| !s.subnet.contains(&s.gateway))?;
        let (name, gateway) = (&self.name, subnet.gateway);
        Some(format!(
            "network {name}: its gateway {gateway} is not in {}",
            subnet.subnet
        ))
    }

    /// The host has no routes to its addresses, as another network has them.
    pub fn is_shadowed(&self) -> bool {
        self.overlay
            .as_ref()
            .is_some_and(|overlay| overlay.shadowed)
    }

    /// The subnet of that address's family.
    pub fn subnet_of(&self, v6: bool) -> Option<&SubnetInfo> {
        self.subnets.iter().find(|s| s.gateway.is_ipv6() == v6)
    }
}

/// How far an endpoint has come. What is half-done when the daemon starts is
/// undone (attaching) or finished (detaching).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointState {
    Attaching,
    Attached,
    Detaching,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Number of the endpoint in maps.
    pub index: u32,
    /// Order of attaching, over all endpoints.
    pub serial: u64,
    pub state: EndpointState,
    pub name: String,
    /// The engine that attached it, and what it calls the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineRecord>,
    pub network: String,
    pub network_index: u32,
    pub netns: String,
    pub namespace: NamespaceId,
    pub ifname: String,
    pub host_ifname: String,
    /// 0 until the device is made.
    pub host_ifindex: u32,
    pub mac: [u8; 6],
    /// With the subnet's prefix length.
    pub ipv4: Option<Ipv4Net>,
    pub ipv6: Option<Ipv6Net>,
    /// The address was chosen by us: the next one is looked for behind it.
    #[serde(default)]
    pub automatic4: bool,
    #[serde(default)]
    pub automatic6: bool,
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub mtu: u16,
    /// The container's default route of the family is this endpoint's.
    pub default4: bool,
    pub default6: bool,
    /// There are source rules for it in the container.
    pub rules: bool,
    pub aliases: Vec<String>,
    pub links: Vec<String>,
    pub labels: Labels,
    pub ports: Vec<PortRecord>,
    /// Published no more, while their connections may go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<Draining>,
    pub created_at: String,
}

impl Record for EndpointRecord {
    fn flaw(&self) -> Option<String> {
        let draining = self.draining.iter().map(|d| &d.port);
        let range = self.ports.iter().chain(draining).find(|p| !p.is_range())?;
        let (first, last, container) = (range.host_port, range.host_port_end, range.container_port);
        let name = &self.name;
        Some(format!(
            "endpoint {name}: {first}-{last}:{container} is no range of ports"
        ))
    }
}

impl EndpointRecord {
    /// Address with prefix and gateway, of each family that the endpoint has.
    pub fn addresses(&self) -> impl Iterator<Item = (IpNet, IpAddr)> + use<> {
        let v4 = self.ipv4.map(IpNet::V4).zip(self.gateway.map(IpAddr::V4));
        let v6 = self.ipv6.map(IpNet::V6).zip(self.gateway6.map(IpAddr::V6));
        v4.into_iter().chain(v6)
    }

    /// The host's routes to it: each address by our device's number, and the source
    /// address of the host's own packets there.
    pub fn host_routes(&self) -> impl Iterator<Item = ((IpNet, u32), IpAddr)> + use<> {
        let device = self.host_ifindex;
        self.addresses()
            .map(move |(address, gateway)| ((IpNet::from(address.addr()), device), gateway))
    }

    /// What is left of an endpoint when only its device is to be removed.
    pub fn forget_all_but_device(&mut self) {
        self.ports.clear();
        self.draining.clear();
        (self.default4, self.default6, self.rules) = (false, false, false);
    }

    pub fn has_default_route(&self) -> bool {
        self.default4 || self.default6
    }
}

/// Whose container an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    pub kind: Engine,
    pub container_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
}

/// A published port or range of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Number of the range in maps.
    pub slot: u32,
    pub protocol: Protocol,
    /// `None`: all addresses of the host, in both families.
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    /// The same as `host_port` for a single port.
    pub host_port_end: u16,
    pub container_port: u16,
    /// Clients that may use it; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<IpNet>,
    /// Of new connections, beside others that share the port.
    #[serde(default = "one")]
    pub weight: u32,
    /// A client address keeps its backend.
    #[serde(default)]
    pub affinity: bool,
    /// Programs of the host may bind it: an engine holds it itself.
    #[serde(default)]
    pub unheld: bool,
}

impl PortRecord {
    fn is_range(&self) -> bool {
        let span = self.host_port_end.checked_sub(self.host_port);
        let last = span.and_then(|span| self.container_port.checked_add(span));
        self.host_port != 0 && self.container_port != 0 && last.is_some()
    }
}

fn one() -> u32 {
    1
}

/// A range that is published no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    pub port: PortRecord,
    /// `CLOCK_BOOTTIME` in milliseconds, when its connections end.
    pub until: u64,
}
