//! `netbpf network`.

use std::net::IpAddr;

use clap::{
    Args, Subcommand, ValueEnum, builder::NonEmptyStringValueParser, builder::PossibleValue,
};
use ipnet::IpNet;

use super::values::{cidr, label};
use crate::model::{Driver, NetworkSpec};

/// Make, list and remove networks
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  netbpf network create front
  netbpf network ls
  netbpf network inspect front
  netbpf network rm front"
)]
pub struct Network {
    #[command(subcommand)]
    pub verb: NetworkVerb,
}

#[derive(Debug, Subcommand)]
pub enum NetworkVerb {
    Create(Box<CreateNetwork>),
    /// List networks
    #[command(
        alias = "list",
        after_help = "Examples:\n  netbpf network ls\n  netbpf network ls -q"
    )]
    Ls,
    /// Show one network in full
    #[command(
        after_help = "Examples:\n  netbpf network inspect front\n  netbpf network inspect front -j"
    )]
    Inspect(Named),
    /// Remove networks that have no endpoints
    #[command(
        alias = "remove",
        after_help = "\
Examples:
  netbpf network rm front
  netbpf network rm front back

Each is tried; what cannot be removed is told by name, and the exit status is 1."
    )]
    Rm(AllNamed),
    /// Remove all networks without endpoints, `default` aside
    #[command(after_help = "Examples:\n  netbpf network prune")]
    Prune,
}

#[derive(Debug, Args)]
pub struct Named {
    /// Name of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct AllNamed {
    /// Names of the networks
    #[arg(value_name = "NAME", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
}

/// Make a network
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf network create front
  netbpf network create back --subnet 10.7.0.0/24 --internal
  netbpf network create dual --subnet 10.8.0.0/24 --subnet fd00:8::/64
  netbpf network create auto6 --ipv6 --label team=web
  netbpf network create wide --driver overlay          the same on all nodes

Networks are isolated from one another. A subnet must overlap no route, address or
network of the host.")]
pub struct CreateNetwork {
    /// Name of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// What it is made of: a private network of this host, or of all nodes of the cluster
    #[arg(long, value_enum, default_value = "bridge")]
    pub driver: Driver,
    /// Its addresses, IPv4 /8 to /30 or IPv6; once for each family
    /// [default of IPv4: the next free of the pools]
    #[arg(long = "subnet", value_name = "CIDR", value_parser = cidr)]
    pub subnets: Vec<IpNet>,
    /// Gateway of a subnet; once for each family [default: its first address]
    #[arg(long = "gateway", value_name = "IP")]
    pub gateways: Vec<IpAddr>,
    /// Give out addresses of this part of a subnet only; once for each family
    #[arg(long = "ip-range", value_name = "CIDR", value_parser = cidr)]
    pub ip_ranges: Vec<IpNet>,
    /// IPv6 as well, with a private /64 unless --subnet has one
    #[arg(long)]
    pub ipv6: bool,
    /// Nothing leaves or enters but the host's own traffic
    #[arg(long)]
    pub internal: bool,
    /// Its members cannot talk to each other, except to published ports
    #[arg(long)]
    pub no_icc: bool,
    /// Containers leave, and are reached, under their own addresses
    #[arg(long)]
    pub no_masquerade: bool,
    /// Largest packet of its members [default: the smallest MTU of the uplinks; of an
    /// overlay network what VXLAN leaves of it]
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u16>,
    /// Number of an overlay network in VXLAN, 1 to 16777214 [default: the lowest free one]
    #[arg(long, value_name = "N")]
    pub vni: Option<u32>,
    #[arg(long, value_name = "IFACE", hide = true)]
    pub parent: Option<String>,
    /// How packets of an overlay network go between nodes; auto is vxlan so far
    #[arg(long, value_enum, value_name = "KIND")]
    pub encap: Option<Encap>,
    /// Note something about it
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub labels: Vec<(String, String)>,
}

impl From<CreateNetwork> for NetworkSpec {
    fn from(args: CreateNetwork) -> Self {
        NetworkSpec {
            name: args.name,
            driver: args.driver,
            subnets: args.subnets,
            gateways: args.gateways,
            ip_ranges: args.ip_ranges,
            ipv6: args.ipv6,
            internal: args.internal,
            icc: !args.no_icc,
            masquerade: !args.no_masquerade,
            mtu: args.mtu,
            vni: args.vni,
            parent: args.parent,
            labels: args.labels.into_iter().collect(),
        }
    }
}

/// `--encap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encap {
    Vxlan,
    Auto,
    /// Nodes that share a wire route to each other.
    #[value(hide = true)]
    None,
}

impl ValueEnum for Driver {
    fn value_variants<'a>() -> &'a [Self] {
        &[Driver::Bridge, Driver::Overlay, Driver::Lan]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Driver::Bridge => PossibleValue::new("bridge"),
            Driver::Overlay => PossibleValue::new("overlay"),
            Driver::Lan => PossibleValue::new("lan").hide(true),
        })
    }
}
