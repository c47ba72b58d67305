//! The nouns of the API: what requests carry and answers print. Field names are
//! a promise (docs/api.md); addresses are text, times RFC 3339.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Labels of a network or an endpoint.
pub type Labels = BTreeMap<String, String>;

/// What a network is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    #[default]
    Bridge,
    Overlay,
    Lan,
}

/// `POST /v1/networks`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    pub name: String,
    #[serde(default)]
    pub driver: Driver,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<IpNet>,
    #[serde(default)]
    pub ipv6: bool,
    #[serde(default)]
    pub internal: bool,
    #[serde(default = "yes")]
    pub icc: bool,
    #[serde(default = "yes")]
    pub masquerade: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(default)]
    pub labels: Labels,
}

fn yes() -> bool {
    true
}

/// A subnet of a network with its gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetInfo {
    pub subnet: IpNet,
    pub gateway: IpAddr,
    pub ip_range: Option<IpNet>,
}

/// A network, as `network inspect` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkInfo {
    pub name: String,
    pub driver: Driver,
    pub subnets: Vec<SubnetInfo>,
    pub mtu: u16,
    pub vni: Option<u32>,
    pub internal: bool,
    pub icc: bool,
    pub masquerade: bool,
    pub parent: Option<String>,
    pub labels: Labels,
    /// Names of the endpoints on it.
    pub endpoints: Vec<String>,
}

/// Where the container's network namespace is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetnsRef {
    /// A path, or a name below `/run/netns`.
    Netns(String),
    Pid(i32),
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// `POST /v1/endpoints`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachSpec {
    pub name: String,
    /// `default` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    pub netns: NetnsRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Port specs as on the command line, short or long form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Ports that other endpoints have published may be published beside them.
    #[serde(default)]
    pub share: bool,
    #[serde(default)]
    pub publish_all: bool,
    /// `PORT/PROTO`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `NAME[:ALIAS]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    #[serde(default)]
    pub labels: Labels,
}

/// One published port or range of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    pub protocol: Protocol,
    /// `*` for all addresses of the host.
    pub host_ip: String,
    pub host_port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_end: Option<u16>,
    pub container_port: u16,
    /// Clients that may use it; empty: all.
    pub allow: Vec<IpNet>,
    /// Of new connections, beside others that share the port.
    pub weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
}

/// Which clients of a shared port keep their endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Those of one address.
    Client,
}

/// An endpoint, as `attach`, `ps` and `inspect` print it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointInfo {
    pub name: String,
    pub network: String,
    pub container_id: Option<String>,
    /// Path of the namespace as it was given.
    pub netns: String,
    pub ifname: String,
    pub host_ifname: String,
    pub host_ifindex: u32,
    pub mac: String,
    /// `address/prefix`.
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub mtu: u16,
    pub aliases: Vec<String>,
    pub links: Vec<String>,
    pub ports: Vec<PortInfo>,
    pub labels: Labels,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub dropped_packets: u64,
    /// RFC 3339.
    pub created_at: String,
    pub dns: DnsInfo,
}

/// What a resolv.conf for the endpoint would say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsInfo {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
}

/// `POST /v1/endpoints/{name}/ports`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Port specs as on the command line, short or long form.
    pub publish: Vec<String>,
    /// Ports that other endpoints have published may be published beside them.
    #[serde(default)]
    pub share: bool,
}

/// `DELETE /v1/endpoints/{name}/ports`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpublishSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Port specs as they were published.
    pub publish: Vec<String>,
    /// Seconds for which connections may go on; without it they end at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<u64>,
}

/// `PATCH /v1/endpoints/{name}`: what changes while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Published ports with the allow list or weight that they are to have.
    pub publish: Vec<String>,
}

/// One line of `netbpf port`: a published port and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortOf {
    pub endpoint: String,
    pub network: String,
    #[serde(flatten)]
    pub port: PortInfo,
}

/// A live connection, as `netbpf flows` prints it; addresses are `ip:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    pub protocol: String,
    pub family: String,
    pub endpoint: Option<String>,
    pub network: Option<String>,
    /// `publish`, `masquerade`, `forward` or `local`.
    pub kind: String,
    pub state: String,
    pub src: String,
    pub dst: String,
    pub reply_src: String,
    pub reply_dst: String,
    /// Seconds since it began.
    pub age: u64,
    pub expires_in: u64,
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

/// One line of `netbpf drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropInfo {
    pub reason: String,
    pub packets: u64,
    pub description: String,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusInfo {
    pub version: String,
    pub node: String,
    pub pid: u32,
    pub kernel: String,
    pub uplinks: Vec<UplinkInfo>,
    pub programs: Vec<ProgramInfo>,
    pub maps: Vec<MapInfo>,
    /// Kernel features in use or missing: name → `tcx`, `clsact`, `yes`, `no: …`.
    pub features: BTreeMap<String, String>,
    pub networks: usize,
    pub endpoints: usize,
    /// What an operator should know, one sentence each.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkInfo {
    pub name: String,
    pub ifindex: u32,
    pub mtu: u32,
    pub addresses: Vec<IpAddr>,
    /// `ethernet` or `ip`.
    pub link: String,
    /// Where what needs no state is dropped: `xdp`, `tc`, or `tc: WHY` where XDP was
    /// asked for.
    pub early_drop: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramInfo {
    pub name: String,
    pub id: u32,
    /// Instructions that the verifier went through.
    pub verified_instructions: Option<u32>,
    /// `device direction (tcx|clsact)`.
    pub attached_to: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapInfo {
    pub name: String,
    pub entries: Option<u64>,
    pub max_entries: u64,
}

/// An error on the socket and, with `-j`, on stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorInfo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorInfo {
    pub code: String,
    pub message: String,
}
