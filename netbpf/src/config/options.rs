//! What can be set, each thing left out or given.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{ArgAction, Args, ValueEnum, builder::BoolishValueParser};
use ipnet::IpNet;
use netbpf_common::flow::Timeouts;

use super::cluster::ClusterOptions;
use crate::{
    cli::{LogFormat, args::duration},
    settings::{Pool, Release, reserved},
};

/// The least important lines that are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Where the daemon has its things.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Directories {
    /// What must survive: networks, endpoints, ports [default: /var/lib/netbpf]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// What ends with the boot [default: /run/netbpf]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where programs and maps are pinned; made or mounted if need be
    /// [default: /sys/fs/bpf/netbpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Cgroup of the programs that reach published ports on the host itself
    /// [default: the root of cgroup v2]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
}

/// The daemon's flags, and by the same names the keys of its file and the variables
/// of its environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Options {
    #[command(flatten)]
    pub directories: Directories,
    /// A way out; may be repeated [default: every device with an address]
    #[arg(long, value_name = "IFACE")]
    pub uplink: Option<Vec<String>>,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Where subnets come from, SIZE is their prefix length; may be repeated
    /// [default: 172.20.0.0/14:20 and a private IPv6 range in /64s]
    #[arg(long, value_name = "CIDR:SIZE")]
    pub pool: Option<Vec<Pool>>,
    /// Host address of published ports that name none [default: all]
    #[arg(long, value_name = "IP")]
    pub publish_ip: Option<IpAddr>,
    /// Leave net.ipv4.ip_local_reserved_ports alone
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true
    )]
    pub no_reserve_ports: Option<bool>,
    /// Group whose members may use the socket [default: netbpf]
    #[arg(long, value_name = "NAME")]
    pub socket_group: Option<String>,
    /// Remove the datapath when the daemon ends
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true
    )]
    pub teardown_on_exit: Option<bool>,
    /// How log lines are written [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged [default: info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
    /// Connections that are followed at most, of each family [default: 65536]; up to
    /// 65536 as many more may be opening or over, above that a quarter, but never fewer
    #[arg(long, value_name = "N")]
    pub max_flows: Option<u32>,
    /// Endpoints at most [default: 4096]
    #[arg(long, value_name = "N")]
    pub max_endpoints: Option<u32>,
    /// Drop martians and clients that may not by XDP, on uplinks whose driver runs it
    /// itself; others drop them with all else
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true
    )]
    pub xdp: Option<bool>,
    /// Connections that one client may begin by published ports a second, 0 for any
    /// number [default: 0]
    #[arg(long, value_name = "N")]
    pub client_rate: Option<u32>,
    /// When silent connections are forgotten; KIND is tcp-opening, tcp-established,
    /// tcp-closing, udp, udp-answered, icmp, sctp or other; may be repeated
    /// [default: 240s, 7440s, 240s, 120s, 300s, 60s, 300s, 600s]
    #[arg(long, value_name = "KIND=TIME")]
    pub timeout: Option<Vec<TimeoutOf>>,
    /// Answer Prometheus there by HTTP at /metrics, such as 127.0.0.1:9464; whoever
    /// reaches the address may read [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", value_parser = metrics_address)]
    pub metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub cluster: ClusterOptions,
    /// Use only what this kernel release has, such as 6.1
    #[arg(long, value_name = "RELEASE")]
    pub as_kernel: Option<Release>,

    #[arg(long, hide = true, action = ArgAction::Append)]
    pub dns_upstream: Option<NotYet>,
    #[arg(long, hide = true, action = ArgAction::Append)]
    pub docker_plugin: Option<NotYet>,
    #[arg(long, hide = true, action = ArgAction::Append)]
    pub flannel_prefix: Option<NotYet>,
}

impl Options {
    /// The first given option that a later version brings.
    pub fn not_yet(&self) -> Option<&'static str> {
        [
            ("dns-upstream", self.dns_upstream),
            ("docker-plugin", self.docker_plugin),
            ("flannel-prefix", self.flannel_prefix),
        ]
        .into_iter()
        .find_map(|(name, given)| given.map(|_| name))
    }
}

fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(format!(
            "metrics {text:?}: nobody would know which port 0 became"
        )),
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "metrics {text:?}: it is ADDR:PORT, such as 127.0.0.1:9464 or [::1]:9464"
        )),
    }
}

/// The value of an option that a later version brings: given, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotYet;

impl FromStr for NotYet {
    type Err = std::convert::Infallible;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Ok(NotYet)
    }
}

/// One time-out: `KIND=TIME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutOf {
    pub name: &'static str,
    pub seconds: u32,
}

impl FromStr for TimeoutOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("timeout {text:?}: {why}");
        let (name, time) = text
            .split_once('=')
            .ok_or_else(|| bad("a time-out is KIND=TIME, such as udp=120s"))?;
        let known = Timeouts::NAMES.into_iter().find(|known| *known == name);
        let name = known.ok_or_else(|| {
            let names = Timeouts::NAMES.join(", ");
            bad(&format!("the kind is one of {names}"))
        })?;
        let time = duration(time).map_err(|e| bad(&e))?;
        match u32::try_from(time.as_secs()) {
            Ok(seconds @ 1..=Timeouts::MOST) if time.subsec_nanos() == 0 => {
                Ok(TimeoutOf { name, seconds })
            }
            _ => Err(bad("it is whole seconds, from 1s to 30days")),
        }
    }
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("pool {text:?}: {why}");
        let shape = "a pool is CIDR:SIZE, such as 172.20.0.0/14:20";
        let (net, size) = text.rsplit_once(':').ok_or_else(|| bad(shape))?;
        if !net.contains('/') {
            return Err(bad(shape));
        }
        let net: IpNet = net.parse().map_err(|_| bad("this is no network"))?;
        let size: u8 = size.parse().map_err(|_| bad("the size is no number"))?;
        // The smallest subnet has a gateway and one endpoint.
        let longest = net.max_prefix_len() - 2;
        if net != net.trunc() {
            Err(bad(&format!(
                "the network's own address is {}",
                net.trunc()
            )))
        } else if size < net.prefix_len() || size > longest {
            Err(bad(&format!(
                "the size must be from {} to {longest}",
                net.prefix_len()
            )))
        } else if let Some(range) = reserved(&net) {
            Err(bad(&format!(
                "it overlaps {range}, which have a meaning of their own"
            )))
        } else {
            Ok(Pool { net, size })
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.net, self.size)
    }
}
