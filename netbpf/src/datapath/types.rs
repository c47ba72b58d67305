//! What the rest of the daemon says to the datapath, and hears from it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use crate::settings::Release;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netbpf_common::{
    drop::DropReason,
    flow::{State, Timeouts},
    maps::EndpointStats,
};

/// A device of the daemon's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub name: String,
    pub ifindex: u32,
}

/// Ports from the first to the last.
pub type Ports = RangeInclusive<u16>;

/// What the maps have room for when they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub endpoints: u32,
    /// Most flows of each family that are established at a time; entries of the flow
    /// tables are twice that.
    pub flows: u32,
}

/// What the datapath is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory in a bpffs; exists.
    pub bpffs: PathBuf,
    pub sizes: Sizes,
    /// Outside ports that masquerade may give out, unless they are published.
    pub masquerade_ports: Vec<Ports>,
    /// Use only what this kernel has.
    pub as_kernel: Option<Release>,
    /// New flows that one client may begin by published ports in about a second; 0:
    /// any number.
    pub client_rate: u32,
    /// When silent flows are over.
    pub timeouts: Timeouts,
    /// The network namespace whose processes are the host's own (`SO_NETNS_COOKIE`).
    pub netns_cookie: u64,
}

/// Properties of a network that the programs act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkFlags {
    pub icc: bool,
    pub internal: bool,
    pub masquerade: bool,
    /// The network is on other nodes, too.
    pub overlay: Option<OverlayAt>,
}

/// Where an overlay network's packets and addresses are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayAt {
    /// VXLAN network identifier, 1…16,777,215.
    pub vni: u32,
    /// Of its addresses (1…65,532), which other networks may have, too.
    pub scope: u32,
    /// Another network has the host's routes to its addresses: the host is not reached.
    pub shadowed: bool,
}

/// An endpoint as the programs see it. `index` (1…max_endpoints-1) is chosen by
/// the caller and not reused while the endpoint lives, nor is `network`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    pub index: u32,
    pub network: u32,
    pub flags: NetworkFlags,
    /// Inode of the container's network namespace.
    pub container: u64,
    /// Host-side veth.
    pub device: Device,
    pub mac: [u8; 6],
    /// Its addresses, with the prefixes of its network.
    pub ipv4: Option<Ipv4Net>,
    pub ipv6: Option<Ipv6Net>,
    pub gateway4: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub mtu: u16,
}

/// A device by which packets leave and come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkEntry {
    pub device: Device,
    pub mtu: u32,
    /// False for devices without Ethernet header (tun, WireGuard, ppp).
    pub ethernet: bool,
    /// Drop early by XDP, if the driver runs it.
    pub xdp: bool,
    /// Fallback source addresses for masquerade.
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

/// Where an uplink drops what needs no state to be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EarlyDrop {
    /// In the driver, before there is a packet.
    Xdp,
    /// With all else; why not earlier, where that was asked for.
    Tc(Option<String>),
}

/// An address of the host itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalEntry {
    pub addr: IpAddr,
    /// The network whose gateway it is.
    pub gateway_of: Option<u32>,
}

/// The address that the host sends from to a destination by a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceEntry {
    pub ifindex: u32,
    pub destination: IpNet,
    pub source: IpAddr,
}

/// A subnet of one of our networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetEntry {
    pub subnet: IpNet,
    pub network: u32,
    pub flags: NetworkFlags,
}

/// Where something is published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAt {
    /// IP protocol number.
    pub protocol: u8,
    /// `None`: all addresses of the host, in the families that the endpoint has.
    pub host_ip: Option<IpAddr>,
    /// Host ports, first and last.
    pub first: u16,
    pub last: u16,
}

/// What is published at one place: one endpoint, or several that share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub at: ServiceAt,
    /// Programs of the host may not bind the ports.
    pub held: bool,
    /// A client address keeps its backend.
    pub affinity: bool,
    /// Clients that may use it; empty: all.
    pub allow: Vec<IpNet>,
    /// At least one, each with a slot of its own.
    pub backends: Vec<ServiceBackend>,
}

/// An endpoint behind a published port. Host and container ports go in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceBackend {
    /// 0…65,535, chosen by the caller, one per endpoint and published range.
    pub slot: u32,
    /// Container port of the first host port.
    pub container_port: u16,
    /// At least 1.
    pub weight: u32,
    pub endpoint: EndpointEntry,
}

/// A connection of a program of the host that went to a container directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostConnection {
    /// `SO_COOKIE`.
    pub cookie: u64,
    pub backend: SocketAddr,
}

/// A flow, both halves put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    pub protocol: u8,
    pub endpoint: u32,
    /// `publish`, `masquerade` or `local`.
    pub kind: &'static str,
    pub state: State,
    /// Tuple of the packet that made the flow, as it came.
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    /// Tuple of its answers, as they come.
    pub reply_src: (IpAddr, u16),
    pub reply_dst: (IpAddr, u16),
    pub age_seconds: u64,
    pub expires_in_seconds: u64,
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    pub name: String,
    /// `None` for maps whose fill says nothing (arrays, ring buffer).
    pub entries: Option<u64>,
    pub max_entries: u64,
}

/// How many flows of a family are established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    pub is_v6: bool,
    pub flows: u64,
    /// Further ones are served, but may be evicted.
    pub most: u64,
}

/// A program and where it hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramUsage {
    pub name: String,
    pub id: u32,
    pub verified_instructions: Option<u32>,
    /// `device direction (tcx|clsact)`.
    pub attached_to: Vec<String>,
}

/// What a collection of dead flows removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub flows: u64,
    pub mappings: u64,
}

impl Collected {
    pub fn and(self, other: Collected) -> Collected {
        Collected {
            flows: self.flows + other.flows,
            mappings: self.mappings + other.mappings,
        }
    }
}

/// How programs are held in place on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachKind {
    /// TCX links, pinned (6.6 and newer).
    Tcx,
    /// clsact filters with a fixed handle.
    Clsact,
}

pub use netbpf_common::maps::EndpointStats as Stats;

/// Drops of one reason.
pub type DropCount = (DropReason, u64);

/// Why the datapath refused.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error(
        "the maps under {path} have layout {found}, this netbpf needs {wanted}: run `netbpf teardown` with the version that made them, or use another --bpffs"
    )]
    Layout {
        path: PathBuf,
        found: u32,
        wanted: u32,
    },
    #[error(
        "the map pinned at {path} is not of the form that this netbpf needs: run `netbpf teardown` with the version that made it, or use another --bpffs"
    )]
    Map { path: PathBuf },
    #[error("the kernel refused program {program}: {message}")]
    Verifier { program: String, message: String },
    #[error("this process lacks {capability}")]
    MissingCapability { capability: &'static str },
    #[error("this kernel lacks {feature}: netbpf needs Linux 6.1 or newer")]
    UnsupportedKernel { feature: String },
    #[error("map {map} is full ({max_entries} entries)")]
    Full { map: &'static str, max_entries: u32 },
    #[error("device {device} is gone")]
    DeviceGone { device: String },
    #[error("{step}: {source}")]
    Io {
        step: String,
        source: std::io::Error,
    },
    #[error("{step}: {message}")]
    Other { step: String, message: String },
}

impl DatapathError {
    pub(crate) fn other(step: impl Into<String>, error: impl std::fmt::Display) -> Self {
        DatapathError::Other {
            step: step.into(),
            message: error.to_string(),
        }
    }
}

/// Counters of an endpoint summed over all CPUs.
pub fn sum(per_cpu: impl IntoIterator<Item = EndpointStats>) -> EndpointStats {
    per_cpu
        .into_iter()
        .fold(EndpointStats::default(), |a, b| EndpointStats {
            rx_packets: a.rx_packets + b.rx_packets,
            rx_bytes: a.rx_bytes + b.rx_bytes,
            tx_packets: a.tx_packets + b.tx_packets,
            tx_bytes: a.tx_bytes + b.tx_bytes,
            dropped_packets: a.dropped_packets + b.dropped_packets,
            refused_packets: a.refused_packets + b.refused_packets,
            refused_bytes: a.refused_bytes + b.refused_bytes,
            answer_packets: a.answer_packets + b.answer_packets,
            answer_bytes: a.answer_bytes + b.answer_bytes,
        })
}
