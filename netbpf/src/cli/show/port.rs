//! Published ports, as docker prints them.

use serde::Serialize;

use crate::{
    cli::output::{Columns, Show},
    model::{EndpointInfo, PortInfo, PortOf, Protocol},
};

impl Show for Vec<PortOf> {
    fn human(&self, width: Option<u16>) -> String {
        let mut columns = Columns::new(width, &["ENDPOINT", "NETWORK", "PORT"]);
        for of in self {
            for line in mappings(&of.port) {
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
        let ports: Vec<PortOf> = self
            .0
            .ports
            .iter()
            .map(|port| PortOf {
                endpoint: self.0.name.clone(),
                network: self.0.network.clone(),
                port: port.clone(),
            })
            .collect();
        if ports.is_empty() {
            return String::new();
        }
        ports.human(width)
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }
}

/// `80/tcp -> 0.0.0.0:8080`, one for each family where it is published on all
/// addresses.
pub fn mappings(port: &PortInfo) -> Vec<String> {
    let container = format!("{}/{}", container_ports(port), protocol(port.protocol));
    let host = host_ports(port);
    hosts(&port.host_ip)
        .into_iter()
        .map(|address| format!("{container} -> {address}:{host}"))
        .collect()
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

fn hosts(host_ip: &str) -> Vec<String> {
    match host_ip {
        "*" => vec!["0.0.0.0".into(), "[::]".into()],
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

    #[test]
    fn ports_look_like_dockers() {
        let all = ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080"];
        assert_eq!(mappings(&port("*", None)), all);
        assert_eq!(
            mappings(&port("fd00::1", None)),
            ["80/tcp -> [fd00::1]:8080"]
        );
        assert_eq!(
            mappings(&port("127.0.0.1", Some(8082))),
            ["80-82/tcp -> 127.0.0.1:8080-8082"]
        );
        assert_eq!(short(&port("*", None)), "*:8080->80/tcp");
    }

    #[test]
    fn list_names_endpoint_and_network() {
        let list = vec![PortOf {
            endpoint: "web".into(),
            network: "front".into(),
            port: port("*", None),
        }];
        let expected = "\
ENDPOINT  NETWORK  PORT
web       front    80/tcp -> 0.0.0.0:8080
web       front    80/tcp -> [::]:8080
";
        assert_eq!(list.human(None), expected);
        assert_eq!(list.names(), ["8080"]);
    }
}
