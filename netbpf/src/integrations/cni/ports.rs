//! Port mappings of the conventions as specs of ours.

use std::net::IpAddr;

use super::{
    config::PortMapping,
    error::{CniError, Number},
};

/// One mapping that makes sense.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mapping {
    protocol: &'static str,
    host_ip: Option<IpAddr>,
    host: u16,
    container: u16,
}

/// Specs as `-p` takes them. Runtimes list the ports of a range one by one; in a row they
/// are one range again, which costs one entry.
pub fn specs(mappings: &[PortMapping]) -> Result<Vec<String>, CniError> {
    let mut all = mappings
        .iter()
        .map(mapping)
        .collect::<Result<Vec<_>, _>>()?;
    all.sort();
    // CRI and Podman may say one thing twice.
    all.dedup();
    let runs = all.chunk_by(|a, b| {
        (a.protocol, a.host_ip) == (b.protocol, b.host_ip)
            && a.host.checked_add(1) == Some(b.host)
            && a.container.checked_add(1) == Some(b.container)
    });
    Ok(runs.map(|run| spec(&run[0], &run[run.len() - 1])).collect())
}

fn spec(first: &Mapping, last: &Mapping) -> String {
    let range = |first: u16, last: u16| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let host_ip = match first.host_ip {
        None => String::new(),
        Some(IpAddr::V4(ip)) => format!("{ip}:"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:"),
    };
    let host = range(first.host, last.host);
    let container = range(first.container, last.container);
    format!("{host_ip}{host}:{container}/{}", first.protocol)
}

fn mapping(from: &PortMapping) -> Result<Mapping, CniError> {
    let invalid = |key: &str, value: &dyn std::fmt::Debug, why: &str| {
        let message = format!("portMappings: {key} {value:?} {why}");
        CniError::new(Number::InvalidConfiguration, message)
    };
    let port = |key: &str, value: i64| match u16::try_from(value) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(invalid(key, &value, "is no port")),
    };
    let protocol = match from.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => {
            return Err(invalid(
                "protocol",
                &from.protocol,
                "is not tcp, udp or sctp",
            ));
        }
    };
    let host_ip = match from.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| invalid("hostIP", &text, "is no IP address"))?,
        ),
    };
    Ok(Mapping {
        protocol,
        host_ip,
        host: port("hostPort", from.host_port)?,
        container: port("containerPort", from.container_port)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::portspec;

    fn map(host: i64, container: i64, protocol: &str, host_ip: &str) -> PortMapping {
        PortMapping {
            host_port: host,
            container_port: container,
            protocol: protocol.into(),
            host_ip: host_ip.into(),
        }
    }

    #[test]
    fn mappings_become_specs() {
        let all = [
            map(8080, 80, "TCP", ""),
            map(53, 53, "udp", "10.0.0.1"),
            map(443, 443, "", "fd00::1"),
        ];
        assert_eq!(
            specs(&all).unwrap(),
            ["8080:80/tcp", "[fd00::1]:443:443/tcp", "10.0.0.1:53:53/udp"]
        );
    }

    #[test]
    fn ports_in_a_row_are_one_range() {
        let mut all: Vec<_> = (0..1000)
            .map(|i| map(7000 + i, 9000 + i, "udp", ""))
            .collect();
        all.reverse();
        all.push(map(8000, 8000, "udp", ""));
        all.push(map(7000, 9000, "udp", ""));
        assert_eq!(
            specs(&all).unwrap(),
            ["7000-7999:9000-9999/udp", "8000:8000/udp"]
        );
        assert_eq!(
            specs(&[map(65535, 65535, "", "")]).unwrap(),
            ["65535:65535/tcp"]
        );
    }

    #[test]
    fn what_is_no_port_is_named() {
        for (mapping, shown) in [
            (map(0, 80, "tcp", ""), "hostPort 0"),
            (map(8080, 70000, "tcp", ""), "containerPort 70000"),
            (map(-1, 80, "tcp", ""), "hostPort -1"),
            (map(1, 1, "icmp", ""), "\"icmp\""),
            (map(1, 1, "", "host"), "\"host\""),
        ] {
            let error = specs(&[mapping]).unwrap_err();
            assert_eq!(error.number, Number::InvalidConfiguration);
            assert!(error.message.contains(shown), "{}", error.message);
        }
    }

    proptest! {
        #[test]
        fn every_spec_is_one(
            all in prop::collection::vec((1..20_i64, 1..20_i64, any::<bool>()), 0..40)
        ) {
            let all: Vec<_> = all
                .into_iter()
                .map(|(host, container, udp)| map(host, container, if udp { "udp" } else { "tcp" }, ""))
                .collect();
            let mut wanted: Vec<_> = all.iter().map(mapping).map(Result::unwrap).collect();
            wanted.sort();
            wanted.dedup();
            let mut found = Vec::new();
            for text in specs(&all).unwrap() {
                let spec = portspec::parse(&text).unwrap();
                let portspec::HostPorts::Exactly(host) = spec.host else {
                    panic!("{text}");
                };
                prop_assert_eq!(host.span(), spec.container.span());
                for i in 0..=host.span() {
                    found.push(Mapping {
                        protocol: portspec::protocol_name(spec.protocol),
                        host_ip: spec.host_ip,
                        host: host.first + i,
                        container: spec.container.first + i,
                    });
                }
            }
            found.sort();
            prop_assert_eq!(found, wanted);
        }
    }
}
