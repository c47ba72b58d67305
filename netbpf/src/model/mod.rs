//! The nouns of the API: what requests carry and answers print. Field names are
//! a promise (docs/api.md); addresses are text, times RFC 3339.

mod doctor;
mod node;
mod traffic;
mod upgrade;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::{
    doctor::{Check, Finding, Severity},
    node::{BlockInfo, ClusterInfo, DrainSpec, MemberInfo, NodeInfo, NodeState},
    traffic::{
        DropInfo, EventFilter, EventInfo, EventKind, FLOW_KINDS, FlowFilter, FlowInfo, FlushInfo,
    },
    upgrade::{UpgradeInfo, UpgradeKind, UpgradeOutcome},
};

/// Labels of a network or an endpoint.
pub type Labels = BTreeMap<String, String>;

/// `address/prefix length`, in schemas.
struct Cidr;

impl JsonSchema for Cidr {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9a-fA-F.:]+/[0-9]+$",
            "examples": ["10.20.0.0/24", "fd00:8::/64"],
        })
    }
}

/// What a network is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    #[default]
    Bridge,
    Overlay,
    Lan,
}

/// A network that is to be made; only its name must be said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    pub name: String,
    #[serde(default)]
    pub driver: Driver,
    /// One of each family at most; left out, the next free one of the pools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Cidr>")]
    pub subnets: Vec<IpNet>,
    /// Gateway of the subnet that it lies in; left out, its first address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Addresses are given out of this part of a subnet alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Cidr>")]
    pub ip_ranges: Vec<IpNet>,
    /// A free private /64 besides, unless one of the subnets is IPv6.
    #[serde(default)]
    pub ipv6: bool,
    /// Nothing leaves or enters but the host's own traffic.
    #[serde(default)]
    pub internal: bool,
    /// Its members may talk to each other.
    #[serde(default = "yes")]
    pub icc: bool,
    /// Containers leave under the host's address, not their own.
    #[serde(default = "yes")]
    pub masquerade: bool,
    /// Bytes; left out, the smallest of the uplinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// For the driver `overlay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// Device of the host, for the driver `lan`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(default)]
    pub labels: Labels,
}

fn yes() -> bool {
    true
}

/// A subnet of a network with its gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubnetInfo {
    #[schemars(with = "Cidr")]
    pub subnet: IpNet,
    pub gateway: IpAddr,
    /// Addresses are given out of this part alone.
    #[schemars(with = "Option<Cidr>")]
    pub ip_range: Option<IpNet>,
}

/// A network, as `network inspect` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkInfo {
    pub name: String,
    pub driver: Driver,
    pub subnets: Vec<SubnetInfo>,
    /// Bytes.
    pub mtu: u16,
    /// Of the driver `overlay`.
    pub vni: Option<u32>,
    /// Nothing leaves or enters but the host's own traffic.
    pub internal: bool,
    /// Its members may talk to each other.
    pub icc: bool,
    /// Containers leave under the host's address, not their own.
    pub masquerade: bool,
    /// Of the driver `lan`.
    pub parent: Option<String>,
    pub labels: Labels,
    /// Names of the endpoints on it.
    pub endpoints: Vec<String>,
}

/// Where the container's network namespace is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NetnsRef {
    /// A path, or a name below `/run/netns`.
    Netns(String),
    Pid(i32),
    /// One that whoever asks holds open: its path may lead there only from where they are.
    Opened(OpenNetns),
}

/// A network namespace that a process holds open while it waits for the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenNetns {
    /// Where that process found it.
    pub path: String,
    pub pid: i32,
    /// Its descriptor of the namespace.
    pub fd: i32,
    /// Of the namespace, `st_ino`: a process of that number may be another one here.
    pub inode: u64,
}

/// Transport protocol of a published port.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A container that is to be attached; name and namespace must be said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachSpec {
    pub name: String,
    /// `default` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    pub netns: NetnsRef,
    /// Interface in the container; left out, the first free `ethN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// One of each family at most; left out, the next free one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Left out, made of the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Port specs as on the command line, short or long form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
    /// Ports that other endpoints have published may be published beside them.
    #[serde(default)]
    pub share: bool,
    /// Each of the exposed ports on a free port of the host.
    #[serde(default)]
    pub publish_all: bool,
    /// `PORT/PROTO`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Further names on the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// `NAME[:ALIAS]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    #[serde(default)]
    pub labels: Labels,
    /// The engine that asks, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineSpec>,
}

impl AttachSpec {
    /// Of a name and a namespace; all else is left to the daemon.
    pub fn new(name: impl Into<String>, netns: NetnsRef) -> AttachSpec {
        AttachSpec {
            name: name.into(),
            network: None,
            netns,
            ifname: None,
            ips: Vec::new(),
            mac: None,
            publish: Vec::new(),
            share: false,
            publish_all: false,
            expose: Vec::new(),
            aliases: Vec::new(),
            links: Vec::new(),
            labels: Labels::new(),
            engine: None,
        }
    }
}

/// By which interface of container engines an endpoint was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The CNI plug-in.
    Cni,
    /// The hook of an OCI runtime.
    Oci,
}

/// What an engine says of a container that is to be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EngineSpec {
    pub kind: Engine,
    /// Its own name for the container.
    pub container_id: String,
    /// Who asks on its behalf: ids may be one's own only among one runtime's containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// It listens on the published ports itself: they are neither checked nor held.
    #[serde(default)]
    pub holds_ports: bool,
}

/// Which attachments of an engine are to be taken away: those that fit all that is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetachSpec {
    pub engine: Engine,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Those of other callers stay; where no caller is known, it is anybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// These stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Attachment>,
}

/// One interface of a container of an engine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub container_id: String,
    pub ifname: String,
}

/// One published port or range of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortInfo {
    pub protocol: Protocol,
    /// `*` for all addresses of the host.
    pub host_ip: String,
    pub host_port: u16,
    /// Last port of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_end: Option<u16>,
    /// The first one of a range.
    pub container_port: u16,
    /// Clients that may use it; empty: all.
    #[schemars(with = "Vec<Cidr>")]
    pub allow: Vec<IpNet>,
    /// Of new connections, beside others that share the port.
    pub weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
}

/// Which clients of a shared port keep their endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Affinity {
    /// Those of one address.
    Client,
}

/// An endpoint, as `attach`, `ps` and `inspect` print it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointInfo {
    pub name: String,
    pub network: String,
    /// Of the engine that attached it.
    pub container_id: Option<String>,
    /// Null where no engine did.
    #[serde(default)]
    pub engine: Option<Engine>,
    /// Path of the namespace as it was given.
    pub netns: String,
    /// Interface in the container.
    pub ifname: String,
    /// Its other end, on the host.
    pub host_ifname: String,
    pub host_ifindex: u32,
    pub mac: String,
    /// `address/prefix`.
    pub ipv4: Option<String>,
    /// `address/prefix`.
    pub ipv6: Option<String>,
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    /// The container's default route leads to the gateway.
    #[serde(default)]
    pub default_route: bool,
    /// The same for IPv6.
    #[serde(default)]
    pub default_route6: bool,
    /// Bytes.
    pub mtu: u16,
    pub aliases: Vec<String>,
    pub links: Vec<String>,
    pub ports: Vec<PortInfo>,
    pub labels: Labels,
    /// As the container sees it, like all counters here.
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub dropped_packets: u64,
    /// RFC 3339.
    pub created_at: String,
    pub dns: DnsInfo,
}

/// Something of an endpoint that is not as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    pub network: String,
    pub what: DifferenceKind,
    /// One line for people.
    pub message: String,
}

/// What can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// One end of the veth pair is gone or down.
    Interface,
    /// The container's namespace is gone.
    Namespace,
    Mac,
    Address,
    /// A default route.
    Route,
}

/// What a resolv.conf for the endpoint would say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsInfo {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
}

/// Which endpoints are meant: those that fit all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointFilter {
    /// On this network only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Of this container of an engine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
}

/// What of an endpoint is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// On this network only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The container's namespace, held open by whoever asks: it must be that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<OpenNetns>,
}

/// Ports that are to be published.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// Ports that are to be published no more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// What is to change of an endpoint while it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateSpec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Published ports with the allow list or weight that they are to have.
    pub publish: Vec<String>,
}

/// One line of `netbpf port`: a published port and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortOf {
    pub endpoint: String,
    pub network: String,
    /// Addresses of the endpoint: a port on all addresses of the host is there in the
    /// families that they have.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    #[serde(flatten)]
    pub port: PortInfo,
}

/// The daemon and what it has in the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Null without --etcd.
    pub cluster: Option<ClusterInfo>,
    /// What an operator should know, one sentence each.
    pub notes: Vec<String>,
}

/// A device by which packets leave and come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// A program of the datapath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProgramInfo {
    pub name: String,
    pub id: u32,
    /// Instructions that the verifier went through.
    pub verified_instructions: Option<u32>,
    /// `device direction (tcx|clsact)`.
    pub attached_to: Vec<String>,
}

/// A map of the datapath, and how full it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MapInfo {
    pub name: String,
    /// Null where it says nothing: arrays and the ring buffer.
    pub entries: Option<u64>,
    pub max_entries: u64,
}

/// An error on the socket and, with `-j`, on stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    pub error: ErrorInfo,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorInfo {
    /// Stable.
    pub code: String,
    /// One line for people, which names the object and the value.
    pub message: String,
}

/// A key of the daemon's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingInfo {
    pub key: String,
    /// String, number, boolean or array; null is left to the daemon.
    pub value: Value,
    pub source: SettingSource,
    /// The flag, the variable, or `file:line`; null for a default.
    pub from: Option<String>,
}

/// Where a value comes from; the first of these that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettingSource {
    Flag,
    Environment,
    File,
    Default,
}

/// What became of a configuration that was read anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadInfo {
    /// In use from now on.
    pub applied: Vec<SettingChange>,
    /// Goes on with the value from before until the daemon is started anew.
    pub needs_restart: Vec<SettingChange>,
}

/// A key whose value has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SettingChange {
    pub key: String,
    pub before: Value,
    pub after: Value,
}
