//! Which published port of an endpoint a spec of `unpublish` or `update` means.

use std::{fmt, net::IpAddr};

use super::portspec::{self, HostPorts, PortRange, PortSpec, protocol_name};
use crate::{
    error::{Code, Error, Result},
    store::{EndpointRecord, PortRecord},
};

/// As many of an endpoint's ports are named in an error.
const MOST_NAMED: usize = 5;

/// The published range of an endpoint that a spec means: the only one that it fits. One
/// without a host address is that of `--publish-ip`, or of all addresses: the setting may
/// have come later than the port.
pub fn find_published(
    endpoint: &EndpointRecord,
    publish_ip: Option<IpAddr>,
    text: &str,
) -> Result<PortRecord> {
    let spec = portspec::parse(text)?;
    let on = |host_ip| {
        let ports = endpoint.ports.iter();
        let fitting = ports.filter(|p| p.host_ip == host_ip && fits(&spec, p));
        fitting.collect::<Vec<_>>()
    };
    let found = match spec.host_ip {
        Some(ip) => on(Some(ip)),
        None => match (on(publish_ip), spec.host) {
            // Neither says more than the container's port.
            (mut some, HostPorts::Free) if publish_ip.is_some() => {
                some.extend(on(None));
                some
            }
            (none, _) if none.is_empty() => on(None),
            (some, _) => some,
        },
    };
    match found[..] {
        [port] => Ok(port.clone()),
        [] => Err(not_published(endpoint, &spec, text)),
        _ => Err(Error::invalid(format!(
            "port {text:?} of endpoint {:?} is published as {}: say which",
            endpoint.name,
            Listed(&found)
        ))),
    }
}

fn fits(spec: &PortSpec, port: &PortRecord) -> bool {
    let in_host_range = match spec.host {
        HostPorts::Free => true,
        HostPorts::Exactly(host) => host_ports(port) == host,
        HostPorts::OneOf(host) => within(host, port.host_port),
    };
    port.protocol == spec.protocol && container_ports(port) == spec.container && in_host_range
}

fn not_published(endpoint: &EndpointRecord, spec: &PortSpec, text: &str) -> Error {
    let ports = endpoint.ports.iter();
    let part = ports.clone().find(|p| {
        let whole = container_ports(p);
        p.protocol == spec.protocol
            && whole != spec.container
            && within(whole, spec.container.first)
            && within(whole, spec.container.last)
    });
    let all: Vec<&PortRecord> = ports.collect();
    let hint = match part {
        Some(whole) => format!("{whole} is, as a whole"),
        None if all.is_empty() => "nothing is".into(),
        None => format!("it has published {}", Listed(&all)),
    };
    Error::new(
        Code::NotFound,
        format!(
            "port {text:?} is not published by endpoint {:?} on network {:?}: {hint}",
            endpoint.name, endpoint.network
        ),
    )
}

fn host_ports(port: &PortRecord) -> PortRange {
    PortRange {
        first: port.host_port,
        last: port.host_port_end,
    }
}

fn container_ports(port: &PortRecord) -> PortRange {
    PortRange {
        first: port.container_port,
        last: port.container_port + (port.host_port_end - port.host_port),
    }
}

fn within(range: PortRange, port: u16) -> bool {
    (range.first..=range.last).contains(&port)
}

/// As a spec that means this port and no other.
impl fmt::Display for PortRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            None => {}
        }
        let (host, container) = (host_ports(self), container_ports(self));
        write!(f, "{host}:{container}/{}", protocol_name(self.protocol))
    }
}

struct Listed<'a>(&'a [&'a PortRecord]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, port) in self.0.iter().take(MOST_NAMED).enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{port}")?;
        }
        match self.0.len().saturating_sub(MOST_NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Protocol, store};

    fn endpoint(specs: &[(&str, u16, u16, u16)]) -> EndpointRecord {
        let ports = specs
            .iter()
            .enumerate()
            .map(|(n, &(ip, host, end, to))| PortRecord {
                slot: n as u32,
                protocol: Protocol::Tcp,
                host_ip: ip.parse().ok(),
                host_port: host,
                host_port_end: end,
                container_port: to,
                allow: Vec::new(),
                weight: 1,
                affinity: false,
                unheld: false,
            });
        EndpointRecord {
            ports: ports.collect(),
            ..store::tests::endpoint(1)
        }
    }

    #[test]
    fn a_spec_means_the_only_port_that_it_fits() {
        let web = endpoint(&[
            ("", 8080, 8080, 80),
            ("", 9090, 9090, 80),
            ("127.0.0.1", 443, 443, 443),
            ("", 7000, 7010, 7000),
        ]);
        let slot = |text| find_published(&web, None, text).map(|p| p.slot);
        let refused = |text| {
            let error = slot(text).unwrap_err();
            (error.code, error.message)
        };
        assert_eq!(slot("8080:80").ok(), Some(0));
        assert_eq!(slot("9000-9100:80").ok(), Some(1));
        assert_eq!(slot("127.0.0.1:443:443").ok(), Some(2));
        assert_eq!(slot("127.0.0.1::443").ok(), Some(2));
        assert_eq!(slot("7000-7010:7000-7010").ok(), Some(3));
        assert_eq!(
            refused("80"),
            (
                Code::InvalidArgument,
                "port \"80\" of endpoint \"web\" is published as 8080:80/tcp, 9090:80/tcp: say which"
                    .into()
            )
        );
        assert_eq!(
            refused("7003:7003"),
            (
                Code::NotFound,
                "port \"7003:7003\" is not published by endpoint \"web\" on network \"front\": \
                 7000-7010:7000-7010/tcp is, as a whole"
                    .into()
            )
        );
        assert_eq!(
            refused("443:443").1,
            "port \"443:443\" is not published by endpoint \"web\" on network \"front\": it has \
             published 8080:80/tcp, 9090:80/tcp, 127.0.0.1:443:443/tcp, 7000-7010:7000-7010/tcp"
        );
        let nothing = find_published(&endpoint(&[]), None, "80").unwrap_err();
        assert!(
            nothing.message.ends_with(": nothing is"),
            "{}",
            nothing.message
        );
    }

    #[test]
    fn the_daemons_own_address_comes_before_all_of_them() {
        let web = endpoint(&[
            ("", 80, 80, 80),
            ("192.0.2.1", 80, 80, 80),
            ("", 81, 81, 81),
        ]);
        let own = "192.0.2.1".parse().ok();
        let slot = |text| find_published(&web, own, text).ok().map(|p| p.slot);
        assert_eq!(slot("80:80"), Some(1));
        assert_eq!(slot("80"), None);
        assert_eq!(slot("81:81"), Some(2));
    }
}
