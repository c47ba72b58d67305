//! The same small town, built in several ways:
//!
//! ```text
//!   web :80 ── ┐
//!              ├ host 192.0.2.1:8080 ──── 192.0.2.2 client
//!   app ────── ┘
//! ```
//!
//! Each world has namespaces, devices and rules of its own. All wires are veth:
//! there is no network card, and packets of up to 64 KiB pass them whole.

mod bridge;
mod crowded;
mod iptables;
mod netbpf;
mod nftables;
mod overlay;
mod proxy;
mod wire;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

use serde::Serialize;

use super::Options;
use crate::lab::{Lab, Namespace};

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A client outside, by a published port, to a container.
    Published,
    /// A container to another one of its network.
    Sibling,
    /// A container to a server outside, under the host's address.
    Masquerade,
    /// A container to another one of its network on another host, in VXLAN.
    Overlay,
    /// A client outside to a program of the host: what is not ours pays for what is.
    Host,
    /// A program of the host, by a published port at 127.0.0.1, to a container.
    Loopback,
    /// [`Way::Published`] once more, where there are many other ports or flows.
    Crowded,
}

impl Way {
    pub const ALL: [Way; 7] = [
        Way::Published,
        Way::Sibling,
        Way::Masquerade,
        Way::Overlay,
        Way::Host,
        Way::Loopback,
        Way::Crowded,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Way::Published => "published",
            Way::Sibling => "sibling",
            Way::Masquerade => "masquerade",
            Way::Overlay => "overlay",
            Way::Host => "host",
            Way::Loopback => "loopback",
            Way::Crowded => "crowded",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// From where to where a measure goes.
#[derive(Clone)]
pub struct Path {
    pub client: Namespace,
    pub server: Namespace,
    pub listen: SocketAddr,
    pub connect: SocketAddr,
    /// Both ends of the wire on the way, if there is one.
    pub wire: Vec<(Namespace, &'static str)>,
}

/// One way of building the town.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Netbpf,
    /// The same once more: what these two differ by is noise.
    NetbpfAgain,
    /// Bridge and iptables as Docker writes them, bridged packets passing
    /// iptables.
    Iptables,
    /// The same without br_netfilter.
    IptablesPlainBridge,
    /// The first, with 10,000 published ports.
    IptablesPorts,
    /// netbpf with as many.
    NetbpfPorts,
    /// netbpf with a million flows.
    NetbpfFlows,
    /// The first, and a published port is reached at 127.0.0.1.
    IptablesLocalnet,
    /// A bridge and nftables.
    Nftables,
    /// A bridge, and a process of Docker's that takes connections in and makes others.
    Proxy,
    /// A bridge and nothing else.
    Bridge,
    /// A bridge and a VXLAN device on each of two hosts, with static tables.
    Vxlan,
    /// Client and server at the two ends of a veth.
    Wire,
}

impl Kind {
    pub const ALL: [Kind; 13] = [
        Kind::Netbpf,
        Kind::NetbpfAgain,
        Kind::Iptables,
        Kind::IptablesPlainBridge,
        Kind::IptablesLocalnet,
        Kind::Nftables,
        Kind::Proxy,
        Kind::Bridge,
        Kind::Vxlan,
        Kind::Wire,
        Kind::IptablesPorts,
        Kind::NetbpfPorts,
        Kind::NetbpfFlows,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Netbpf => "netbpf",
            Kind::NetbpfAgain => "netbpf again",
            Kind::Iptables => "iptables",
            Kind::IptablesPlainBridge => "iptables, no br_netfilter",
            Kind::IptablesLocalnet => "iptables, route_localnet",
            Kind::Nftables => "nftables",
            Kind::Proxy => "docker-proxy",
            Kind::Bridge => "bare bridge",
            Kind::Vxlan => "kernel vxlan and bridge",
            Kind::Wire => "bare wire",
            Kind::IptablesPorts => "iptables, 10,000 ports",
            Kind::NetbpfPorts => "netbpf, 10,000 ports",
            Kind::NetbpfFlows => "netbpf, a million flows",
        }
    }

    /// Builds it.
    pub fn build(self, lab: &Lab, options: &Options) -> Box<dyn World> {
        match self {
            Kind::Netbpf => Box::new(netbpf::build(
                lab,
                "n",
                None,
                &[],
                options.wants_way(Way::Overlay),
            )),
            Kind::NetbpfAgain => Box::new(netbpf::build(
                lab,
                "m",
                options.other.as_deref(),
                &options.other_flag,
                options.wants_way(Way::Overlay),
            )),
            Kind::Iptables => Box::new(iptables::build(lab, "i", iptables::Bridged::PassIptables)),
            Kind::IptablesPlainBridge => {
                Box::new(iptables::build(lab, "j", iptables::Bridged::Pass))
            }
            Kind::IptablesLocalnet => Box::new(iptables::with_localnet(lab, "l")),
            Kind::Nftables => Box::new(nftables::build(lab, "t")),
            Kind::Proxy => Box::new(proxy::build(lab, "p")),
            Kind::Bridge => Box::new(bridge::build(lab, "b")),
            Kind::Vxlan => Box::new(overlay::vxlan(lab, "v")),
            Kind::Wire => Box::new(wire::build(lab, "w")),
            Kind::IptablesPorts => Box::new(crowded::iptables_ports(lab, "q")),
            Kind::NetbpfPorts => Box::new(crowded::netbpf_ports(lab, "o")),
            Kind::NetbpfFlows => Box::new(crowded::netbpf_flows(lab, "f")),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A town that stands.
pub trait World {
    /// The path of a way, if this world has one.
    fn path(&self, way: Way) -> Option<Path>;
}

/// What a world consists of when it has a host between client and containers.
struct Town {
    host: Namespace,
    client: Namespace,
    web: Namespace,
    web_address: std::net::IpAddr,
    app: Namespace,
}

impl World for Town {
    fn path(&self, way: Way) -> Option<Path> {
        let (client, server, connect) = match way {
            Way::Published | Way::Crowded => (&self.client, &self.web, (host(), 8080)),
            Way::Sibling => (&self.app, &self.web, (self.web_address, 80)),
            Way::Masquerade => (&self.app, &self.client, (outside(), 80)),
            Way::Host => (&self.client, &self.host, (host(), 80)),
            Way::Loopback => (&self.host, &self.web, (Ipv4Addr::LOCALHOST.into(), 8080)),
            Way::Overlay => return None,
        };
        Some(Path {
            client: client.clone(),
            server: server.clone(),
            listen: SocketAddr::from(([0, 0, 0, 0], 80)),
            connect: connect.into(),
            wire: vec![(self.host.clone(), "up0"), (self.client.clone(), "eth0")],
        })
    }
}

fn host() -> std::net::IpAddr {
    crate::lab::Family::V4.ip(crate::lab::names::HOST)
}

fn outside() -> std::net::IpAddr {
    crate::lab::Family::V4.ip(crate::lab::names::CLIENT)
}

/// Sets what br_netfilter does in a namespace; a kernel without it passes none.
#[track_caller]
fn bridged_packets_pass_iptables(host: &Namespace, pass: bool) {
    if std::fs::exists("/proc/sys/net/bridge").unwrap_or(false) {
        let value = if pass { "1" } else { "0" };
        for family in ["iptables", "ip6tables"] {
            host.sysctl(&format!("net.bridge.bridge-nf-call-{family}"), value);
        }
    }
}
