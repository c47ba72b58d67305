//! Published ports, as docker prints them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    cli::output::{Columns, Show},
    model::{Affinity, EndpointInfo, PortInfo, PortOf, Protocol},
};

impl Show for Vec<PortOf> {
    fn human(&self, width: Option<u16>) -> String {
        let mut columns = Columns::new(width, &["ENDPOINT", "NETWORK", "PORT"]);
        for of in self {
            for line in mappings(of) {
                columns.row([of.endpoint.clone(), of.network.clone(), line]);
            }
        }
        columns.to_string()
    }

    /// Host ports, which is what one looks up.
    fn names(&self) -> Vec<String> {
        self.iter().map(|of| host_ports(&of.port)).collect()
    }
}

/// The ports of an endpoint after they changed; the whole endpoint with `-j`.
#[derive(Serialize)]
#[serde(transparent)]
pub struct PortsOf(pub EndpointInfo);

impl Show for PortsOf {
    fn human(&self, width: Option<u16>) -> String {
        let ports = of_endpoint(&self.0);
        if ports.is_empty() {
            return String::new();
        }
        ports.human(width)
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }
}

fn of_endpoint(endpoint: &EndpointInfo) -> Vec<PortOf> {
    let nets = [&endpoint.ipv4, &endpoint.ipv6].into_iter().flatten();
    let nets = nets.filter_map(|net| net.parse::<IpNet>().ok());
    let ips: Vec<IpAddr> = nets.map(|net| net.addr()).collect();
    let ports = endpoint.ports.iter().map(|port| PortOf {
        endpoint: endpoint.name.clone(),
        network: endpoint.network.clone(),
        ips: ips.clone(),
        port: port.clone(),
    });
    ports.collect()
}

/// Those of all its ports.
pub fn all_mappings(endpoint: &EndpointInfo) -> Vec<String> {
    of_endpoint(endpoint).iter().flat_map(mappings).collect()
}

/// `80/tcp -> 0.0.0.0:8080`, one for each family of the endpoint where it is published on
/// all addresses, and what is not as usual behind it.
fn mappings(of: &PortOf) -> Vec<String> {
    let port = &of.port;
    let container = format!("{}/{}", container_ports(port), protocol(port.protocol));
    let (host, terms) = (host_ports(port), terms(port));
    hosts(of)
        .into_iter()
        .map(|address| format!("{container} -> {address}:{host}{terms}"))
        .collect()
}

/// ` weight=3 affinity=client allow=192.0.2.0/24`, as in a spec.
fn terms(port: &PortInfo) -> String {
    let mut terms = String::new();
    if port.weight != 1 {
        terms += &format!(" weight={}", port.weight);
    }
    if let Some(Affinity::Client) = port.affinity {
        terms += " affinity=client";
    }
    for net in &port.allow {
        terms += &format!(" allow={net}");
    }
    terms
}

/// `*:8080->80/tcp`: the short form for a column of many.
pub fn short(port: &PortInfo) -> String {
    let address = match port.host_ip.as_str() {
        address if address.contains(':') => format!("[{address}]"),
        address => address.into(),
    };
    format!(
        "{address}:{}->{}/{}",
        host_ports(port),
        container_ports(port),
        protocol(port.protocol)
    )
}

fn hosts(of: &PortOf) -> Vec<String> {
    // A daemon of before says nothing of them.
    let has = |family: fn(&IpAddr) -> bool| of.ips.is_empty() || of.ips.iter().any(family);
    let any4 = has(IpAddr::is_ipv4).then(|| "0.0.0.0".to_owned());
    let any6 = has(IpAddr::is_ipv6).then(|| "[::]".to_owned());
    match of.port.host_ip.as_str() {
        "*" => any4.into_iter().chain(any6).collect(),
        address if address.contains(':') => vec![format!("[{address}]")],
        address => vec![address.into()],
    }
}

fn host_ports(port: &PortInfo) -> String {
    range(port.host_port, port.host_port_end)
}

/// A range of the host's ports leads to as many of the container's.
fn container_ports(port: &PortInfo) -> String {
    let end = port.host_port_end.map(|end| {
        port.container_port
            .saturating_add(end.saturating_sub(port.host_port))
    });
    range(port.container_port, end)
}

fn range(first: u16, last: Option<u16>) -> String {
    match last {
        Some(last) if last != first => format!("{first}-{last}"),
        _ => first.to_string(),
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: &str, end: Option<u16>) -> PortInfo {
        PortInfo {
            protocol: Protocol::Tcp,
            host_ip: host_ip.into(),
            host_port: 8080,
            host_port_end: end,
            container_port: 80,
            allow: Vec::new(),
            weight: 1,
            affinity: None,
        }
    }

    fn of(port: PortInfo, ips: &str) -> PortOf {
        PortOf {
            endpoint: "web".into(),
            network: "front".into(),
            ips: ips.split(' ').map(|ip| ip.parse().unwrap()).collect(),
            port,
        }
    }

    #[test]
    fn ports_look_like_dockers() {
        let all = ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"];
        assert_eq!(mappings(&of(port("*", None), "10.0.0.2 fd00::2")), all);
        assert_eq!(mappings(&of(port("*", None), "10.0.0.2")), all[..1]);
        assert_eq!(mappings(&of(port("*", None), "fd00::2")), all[1..]);
        assert_eq!(
            mappings(&of(port("fd00::1", None), "fd00::2")),
            ["80/tcp -> [fd00::1]:8080"]
        );
        let special = PortInfo {
            weight: 3,
            affinity: Some(Affinity::Client),
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            ..port("127.0.0.1", Some(8082))
        };
        assert_eq!(
            mappings(&of(special, "10.0.0.2")),
            ["80-82/tcp -> 127.0.0.1:8080-8082 weight=3 affinity=client allow=192.0.2.0/24"]
        );
        assert_eq!(short(&port("*", None)), "*:8080->80/tcp");
    }

    #[test]
    fn list_names_endpoint_and_network() {
        let list = vec![of(port("*", None), "10.0.0.2 fd00::2")];
        let expected = "\
ENDPOINT  NETWORK  PORT
web       front    80/tcp -> 0.0.0.0:8080
web       front    80/tcp -> [::]:8080
";
        assert_eq!(list.human(None), expected);
        assert_eq!(list.names(), ["8080"]);
    }
}
