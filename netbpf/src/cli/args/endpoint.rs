//! `netbpf attach`, `detach`, `inspect`, `publish`, `unpublish`, `update`.

use std::{net::IpAddr, path::Path, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser, value_parser};

use super::values::{duration, label};
use crate::model::{AttachSpec, NetnsRef};

/// Connect a container to a network
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf attach --name web --pid 4711 -p 8080:80
  netbpf attach --name db --network back --netns /run/netns/db --ip 10.7.0.5
  netbpf attach --name web --pid $(docker inspect -f '{{.State.Pid}}' web) -p 127.0.0.1:8080:80/tcp
  netbpf attach --name game --netns game -p 7000-7010:7000-7010/udp

A port SPEC is, without a host port a free one, without an address all of the host's:

  [[HOST_IP:]HOST_PORT[-LAST]:]CONTAINER_PORT[-LAST][/tcp|/udp|/sctp]

HOST_IP::CONTAINER_PORT, or a CONTAINER_PORT alone, takes a free port of the host; a
range of the host's ports for one of the container's takes the first of them that is
free. An IPv6 address stands in brackets. Or the long form, in which all but the target may be left out:

  published=8080,target=80,protocol=tcp,host_ip=192.0.2.1,
  allow=198.51.100.0/24,weight=3,affinity=client

A container in several networks is attached once to each, under one name.")]
pub struct Attach {
    /// Name of the endpoint
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Network to connect it to [default: default]
    #[arg(long, value_name = "NET", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    #[command(flatten)]
    pub whose: Whose,
    /// Name of the interface in the container [default: the first free ethN]
    #[arg(long, value_name = "NAME")]
    pub ifname: Option<String>,
    /// Address, once for each family [default: the next free of the network]
    #[arg(long = "ip", value_name = "IP")]
    pub ips: Vec<IpAddr>,
    /// Its MAC address [default: made of the address]
    #[arg(long)]
    pub mac: Option<String>,
    /// Publish a port, such as 8080:80, 127.0.0.1:53:53/udp or 7000-7010:7000-7010;
    /// may be repeated
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,
    /// Publish each exposed port on a free port of the host
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// A port that the container listens on, for -P; may be repeated
    #[arg(long, value_name = "PORT/PROTO")]
    pub expose: Vec<String>,
    /// Another name on the network; may be repeated
    #[arg(long = "alias", value_name = "NAME")]
    pub aliases: Vec<String>,
    /// Give this endpoint, and no other, a name for another one; may be repeated
    #[arg(long = "link", value_name = "NAME[:ALIAS]")]
    pub links: Vec<String>,
    /// Note something about it; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Share ports that other endpoints have published
    #[arg(long)]
    pub share: bool,
    #[arg(long, value_name = "BITS", hide = true)]
    pub ingress_rate: Option<String>,
    #[arg(long, value_name = "BITS", hide = true)]
    pub egress_rate: Option<String>,
    #[arg(long, value_name = "PATH", hide = true)]
    pub resolv_conf: Option<String>,
}

/// The container's network namespace.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// Network namespace of the container: a path, or a name below /run/netns
    #[arg(long, value_name = "PATH|NAME", value_parser = NonEmptyStringValueParser::new())]
    pub netns: Option<String>,
    /// A process of the container
    #[arg(long, value_parser = value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
}

impl From<Whose> for NetnsRef {
    fn from(whose: Whose) -> Self {
        match (whose.netns, whose.pid) {
            (_, Some(pid)) => NetnsRef::Pid(pid),
            (netns, None) => NetnsRef::Netns(for_the_daemon(&netns.unwrap_or_default())),
        }
    }
}

/// A path as another process in another directory has to say it; a name stays.
fn for_the_daemon(netns: &str) -> String {
    if !netns.contains('/') {
        return netns.into();
    }
    if let Some(rest) = netns.strip_prefix("/proc/self/") {
        return format!("/proc/{}/{rest}", std::process::id());
    }
    std::path::absolute(Path::new(netns)).map_or_else(
        // The daemon says what is wrong with it.
        |_| netns.into(),
        |path| path.to_string_lossy().into_owned(),
    )
}

impl From<Attach> for AttachSpec {
    fn from(args: Attach) -> Self {
        AttachSpec {
            name: args.name,
            network: args.network,
            netns: args.whose.into(),
            ifname: args.ifname,
            ips: args.ips,
            mac: args.mac,
            publish: args.publish,
            share: args.share,
            publish_all: args.publish_all,
            expose: args.expose,
            aliases: args.aliases,
            links: args.links,
            labels: args.labels.into_iter().collect(),
            engine: None,
        }
    }
}

/// Disconnect containers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf detach web                     from all its networks
  netbpf detach web --network front
  netbpf detach web db cache

An endpoint that is not there is no error.")]
pub struct Detach {
    /// Names of the endpoints
    #[arg(value_name = "NAME", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    /// From this network only
    #[arg(long, value_name = "NET", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
}

/// Show one endpoint in full
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf inspect web
  netbpf inspect web --network front -j

With -j an endpoint in several networks is an array unless --network is given.")]
pub struct InspectEndpoint {
    /// Name of the endpoint
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// On this network only
    #[arg(long, value_name = "NET", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
}

/// Publish ports of a running endpoint
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf publish web -p 8443:443
  netbpf publish web --network front -p 53:53/udp -p 53:53/tcp
  netbpf publish web -p published=8080,target=80,host_ip=192.0.2.1,allow=198.51.100.0/24
  netbpf publish web2 --share -p published=8443,target=443,weight=3

The forms of SPEC are those of `netbpf attach`. All of the ports are published, or none.")]
pub struct Publish {
    /// Name of the endpoint
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// On this network [default: the one with the default route]
    #[arg(long, value_name = "NET", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// A port, such as 8443:443; may be repeated
    #[arg(short, long, value_name = "SPEC", required = true)]
    pub publish: Vec<String>,
    /// Share ports that other endpoints have published: new connections are spread by
    /// weight
    #[arg(long)]
    pub share: bool,
}

/// Take back published ports; their connections end
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf unpublish web -p 8443:443
  netbpf unpublish web --network front -p 53:53/udp
  netbpf unpublish web -p 8443:443 --drain 30s

Clients get a reset, and the container's connections are aborted; for datagrams both
sides hear port unreachable with the next one.")]
pub struct Unpublish {
    /// Name of the endpoint
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// On this network [default: the one with the default route]
    #[arg(long, value_name = "NET", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// As it was published
    #[arg(short, long, value_name = "SPEC", required = true)]
    pub publish: Vec<String>,
    /// Let connections go on for as long; new ones are refused
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub drain: Option<Duration>,
}

/// Change published ports of a running endpoint in place
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf update web -p published=8080,target=80,allow=198.51.100.0/24,allow=2001:db8::/32
  netbpf update web -p published=8080,target=80,allow=      everybody again
  netbpf update web2 -p published=8443,target=443,weight=1

Established connections stay. Of a shared port, allow and affinity are changed for all
that share it.")]
pub struct Update {
    /// Name of the endpoint
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// On this network [default: the one with the default route]
    #[arg(long, value_name = "NET", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Long form of a published port, with what is to change: allow=CIDR (again for
    /// more), weight=N, affinity=client|none
    #[arg(short, long, value_name = "SPEC")]
    pub publish: Vec<String>,
    #[arg(long, value_name = "BITS", hide = true)]
    pub ingress_rate: Option<String>,
    #[arg(long, value_name = "BITS", hide = true)]
    pub egress_rate: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netns_is_told_as_the_daemon_finds_it() {
        assert_eq!(for_the_daemon("web"), "web");
        assert_eq!(for_the_daemon("/run/netns/web"), "/run/netns/web");
        let own = format!("/proc/{}/ns/net", std::process::id());
        assert_eq!(for_the_daemon("/proc/self/ns/net"), own);
        assert!(for_the_daemon("./web").starts_with('/'));
    }
}
