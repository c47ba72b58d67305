//! What the daemon runs with, after flags, environment, file and defaults have
//! been put together.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::IpNet;
use netbpf_common::flow::Timeouts;

use crate::cluster;

/// A pool that subnets are taken from when `--subnet` is left out: `CIDR:SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub net: IpNet,
    /// Prefix length of a subnet.
    pub size: u8,
}

/// Ranges that no network can have (RFC 6890): what there is between containers and the host
/// would be taken for something else, and mapped addresses for those of IPv4.
const RESERVED: [(&str, &str); 11] = [
    ("0.0.0.0/8", "addresses of this host (0.0.0.0/8)"),
    ("127.0.0.0/8", "loopback addresses (127.0.0.0/8)"),
    ("169.254.0.0/16", "link-local addresses (169.254.0.0/16)"),
    ("224.0.0.0/4", "multicast addresses (224.0.0.0/4)"),
    ("240.0.0.0/4", "reserved addresses (240.0.0.0/4)"),
    ("::/96", "loopback and reserved addresses (::/96)"),
    ("::ffff:0:0/96", "IPv4-mapped addresses (::ffff:0:0/96)"),
    ("64:ff9b::/96", "IPv4-translated addresses (64:ff9b::/96)"),
    ("2002::/16", "6to4 addresses (2002::/16)"),
    ("fe80::/10", "link-local addresses (fe80::/10)"),
    ("ff00::/8", "multicast addresses (ff00::/8)"),
];

/// What range a subnet has something of that no network can have.
pub fn reserved(subnet: &IpNet) -> Option<&'static str> {
    let overlaps = |range: &IpNet| range.contains(subnet) || subnet.contains(range);
    let mut ranges = RESERVED.iter();
    let found = ranges.find(|(range, _)| range.parse().is_ok_and(|range| overlaps(&range)));
    found.map(|(_, what)| *what)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub socket: PathBuf,
    pub socket_group: String,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub bpffs: PathBuf,
    pub cgroup: Option<PathBuf>,
    /// Empty: every device that is up and has an address.
    pub uplinks: Vec<String>,
    pub node: String,
    /// Empty: `172.20.0.0/14:20` and a ULA /48 of this node in /64s.
    pub pools: Vec<Pool>,
    /// Host address of port specs that name none.
    pub publish_ip: Option<IpAddr>,
    pub reserve_ports: bool,
    pub max_flows: u32,
    pub max_endpoints: u32,
    pub teardown_on_exit: bool,
    /// Use only what this kernel has.
    pub as_kernel: Option<Release>,
    /// Drop early by XDP on uplinks whose driver runs it.
    pub xdp: bool,
    /// New connections that one client may begin by published ports a second; 0: any
    /// number.
    pub client_rate: u32,
    /// When silent connections are forgotten.
    pub timeouts: Timeouts,
    /// Where Prometheus may ask.
    pub metrics: Option<SocketAddr>,
    /// Address by which other nodes reach this one; `None`: the default route's.
    pub node_ip: Option<IpAddr>,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// Without endpoints this node is on its own.
    pub etcd: cluster::Options,
}

/// A kernel's release, such as 6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    pub major: u8,
    pub minor: u8,
}

impl Release {
    /// The oldest kernel that netbpf runs on.
    pub const OLDEST: Release = Release { major: 6, minor: 1 };
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('.').and_then(|(major, minor)| {
            Some(Release {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        });
        match parsed {
            Some(release) if release >= Release::OLDEST => Ok(release),
            Some(_) => Err(format!(
                "kernel {text:?}: {} is the oldest",
                Release::OLDEST
            )),
            None => Err(format!(
                "kernel {text:?}: a release is MAJOR.MINOR, such as 6.1"
            )),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            socket: "/run/netbpf/netbpf.sock".into(),
            socket_group: "netbpf".into(),
            state_dir: "/var/lib/netbpf".into(),
            run_dir: "/run/netbpf".into(),
            bpffs: "/sys/fs/bpf/netbpf".into(),
            cgroup: None,
            uplinks: Vec::new(),
            node: String::new(),
            pools: Vec::new(),
            publish_ip: None,
            reserve_ports: true,
            max_flows: 65_536,
            max_endpoints: 4096,
            teardown_on_exit: false,
            as_kernel: None,
            xdp: false,
            client_rate: 0,
            timeouts: Timeouts::DEFAULT,
            metrics: None,
            node_ip: None,
            vxlan_port: 4789,
            etcd: cluster::Options::default(),
        }
    }
}
