//! Port specs: Docker's short form and the long form of keys.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{
    error::{Code, Error, Result},
    model::Protocol,
};

/// One or more ports in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    /// Number of ports, less one: a range has at least one.
    pub fn span(self) -> u16 {
        self.last - self.first
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// What a spec says of the host's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPorts {
    /// Any that are free.
    Free,
    /// These, in step with the container's.
    Exactly(PortRange),
    /// A free one of these, for a single container port.
    OneOf(PortRange),
}

/// A parsed spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    pub protocol: Protocol,
    /// `None`: not named.
    pub host_ip: Option<IpAddr>,
    pub host: HostPorts,
    pub container: PortRange,
    pub terms: Terms,
}

/// Who may use a published port and what part of it an endpoint gets, as far as a
/// spec says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Empty: everybody.
    pub allow: Option<Vec<IpNet>>,
    pub weight: Option<u32>,
    /// A client address keeps its endpoint.
    pub affinity: Option<bool>,
}

/// The largest weight: with it and 1 both are met in 4,096 places.
pub const MAX_WEIGHT: u32 = 1000;

/// Name of a protocol as in `80/tcp`.
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// `[[HOST_IP:]HOST_PORT[-HOST_PORT]:]CONTAINER_PORT[-CONTAINER_PORT][/PROTOCOL]`
/// or `published=…,target=…,…`.
pub fn parse(text: &str) -> Result<PortSpec> {
    if text.contains('=') {
        long_form(text)
    } else {
        short_form(text)
    }
}

/// `PORT[-PORT][/PROTOCOL]` of `--expose`.
pub fn parse_expose(text: &str) -> Result<(PortRange, Protocol)> {
    let (ports, protocol) = split_protocol(text, text)?;
    Ok((range(ports, text)?, protocol))
}

fn short_form(text: &str) -> Result<PortSpec> {
    let (rest, protocol) = split_protocol(text, text)?;
    let (rest, container) = match rest.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, rest),
    };
    let (host_ip, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            // Within the brackets of an address: `[::1]` without a port.
            Some(_) if rest.ends_with(']') => {
                return Err(invalid(text, "the host port is missing"));
            }
            Some((ip, port)) => (Some(ip), Some(port)),
            None => (None, Some(rest)),
        },
    };
    let host_ip = host_ip.map(|ip| address(ip, text)).transpose()?;
    // `127.0.0.1::80` asks for a free port on that address.
    let host = match host {
        Some("") if host_ip.is_some() => None,
        other => other,
    };
    let host = host.map(|h| range(h, text)).transpose()?;
    build(text, protocol, host_ip, host, range(container, text)?)
}

fn long_form(text: &str) -> Result<PortSpec> {
    let (mut published, mut target, mut protocol, mut host_ip) = (None, None, None, None);
    let mut terms = Terms::default();
    for pair in text.split(',') {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| invalid(text, &format!("{pair:?} is not KEY=VALUE")))?;
        match key {
            "published" => set(&mut published, range(value, text)?, key, text)?,
            "target" => set(&mut target, range(value, text)?, key, text)?,
            "protocol" => set(&mut protocol, parse_protocol(value, text)?, key, text)?,
            "host_ip" => set(&mut host_ip, address(value, text)?, key, text)?,
            "allow" => {
                let list = terms.allow.get_or_insert_default();
                list.extend(clients(value, text)?);
            }
            "weight" => set(&mut terms.weight, weight(value, text)?, key, text)?,
            "affinity" => set(&mut terms.affinity, affinity(value, text)?, key, text)?,
            "ingress" => ingress(value, text)?,
            _ => return Err(invalid(text, &format!("unknown key {key:?}"))),
        }
    }
    let target = target.ok_or_else(|| invalid(text, "target is missing"))?;
    let protocol = protocol.unwrap_or(Protocol::Tcp);
    let spec = build(text, protocol, host_ip, published, target)?;
    Ok(PortSpec { terms, ..spec })
}

/// Networks or addresses of clients; none stands for everybody.
fn clients(value: &str, text: &str) -> Result<Option<IpNet>> {
    if value.is_empty() {
        return Ok(None);
    }
    let net = value.parse::<IpNet>();
    let net = net.or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
    match net {
        Ok(net) if net != net.trunc() => Err(invalid(
            text,
            &format!(
                "allow {value:?}: the network's own address is {}",
                net.trunc()
            ),
        )),
        Ok(net) => Ok(Some(canonical(net))),
        Err(_) => Err(invalid(text, &format!("allow {value:?} is not a network"))),
    }
}

/// A v4-mapped network is one of IPv4.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let (mapped, bits) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96));
    match (mapped, bits) {
        (Some(addr), Some(bits)) => IpNet::new_assert(addr.into(), bits),
        _ => net,
    }
}

fn weight(value: &str, text: &str) -> Result<u32> {
    match value.parse() {
        Ok(weight) if (1..=MAX_WEIGHT).contains(&weight) => Ok(weight),
        _ => Err(invalid(
            text,
            &format!("weight {value:?} is not between 1 and {MAX_WEIGHT}"),
        )),
    }
}

fn affinity(value: &str, text: &str) -> Result<bool> {
    match value {
        "client" => Ok(true),
        "none" => Ok(false),
        _ => Err(invalid(
            text,
            &format!("affinity {value:?} is neither client nor none"),
        )),
    }
}

fn ingress(value: &str, text: &str) -> Result<()> {
    match value {
        "node" => Ok(()),
        "all" => Err(Error::new(
            Code::NotImplemented,
            format!("port {text:?}: ingress=all is not implemented yet"),
        )),
        _ => Err(invalid(
            text,
            &format!("ingress {value:?} is neither node nor all"),
        )),
    }
}

fn set<T>(place: &mut Option<T>, value: T, key: &str, text: &str) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid(text, &format!("{key} is given twice"))),
    }
}

fn build(
    text: &str,
    protocol: Protocol,
    host_ip: Option<IpAddr>,
    host: Option<PortRange>,
    container: PortRange,
) -> Result<PortSpec> {
    let host = match host {
        None => HostPorts::Free,
        Some(host) if host.span() == container.span() => HostPorts::Exactly(host),
        Some(host) if container.span() == 0 => HostPorts::OneOf(host),
        Some(host) => {
            let reason =
                format!("host ports {host} and container ports {container} differ in number");
            return Err(invalid(text, &reason));
        }
    };
    // The checksum of SCTP covers the ports, and is a CRC over all of the packet.
    let host = match (protocol, host) {
        (Protocol::Sctp, HostPorts::Free) => HostPorts::Exactly(container),
        (Protocol::Sctp, HostPorts::Exactly(host)) if host == container => HostPorts::Exactly(host),
        (Protocol::Sctp, _) => {
            let reason = "sctp is published on the port that it has in the container only";
            return Err(invalid(text, reason));
        }
        (_, host) => host,
    };
    Ok(PortSpec {
        protocol,
        host_ip,
        host,
        container,
        terms: Terms::default(),
    })
}

fn split_protocol<'a>(rest: &'a str, text: &str) -> Result<(&'a str, Protocol)> {
    match rest.split_once('/') {
        Some((rest, name)) => Ok((rest, parse_protocol(name, text)?)),
        None => Ok((rest, Protocol::Tcp)),
    }
}

fn parse_protocol(name: &str, text: &str) -> Result<Protocol> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(invalid(text, &format!("unknown protocol {name:?}"))),
    }
}

fn address(ip: &str, text: &str) -> Result<IpAddr> {
    let bare = match ip.strip_prefix('[').map(|ip| ip.strip_suffix(']')) {
        Some(Some(bare)) if bare.contains(':') => bare,
        None if !ip.contains(':') => ip,
        // The long form has no use for brackets.
        None if text.contains('=') => ip,
        None if ip.parse::<Ipv6Addr>().is_ok() => {
            let reason = format!("an IPv6 address stands in brackets: [{ip}]");
            return Err(invalid(text, &reason));
        }
        _ => return Err(invalid(text, &format!("{ip:?} is not a host address"))),
    };
    bare.parse()
        .map_err(|_| invalid(text, &format!("{ip:?} is not a host address")))
}

fn range(ports: &str, text: &str) -> Result<PortRange> {
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (port(first, text)?, port(last, text)?),
        None => {
            let port = port(ports, text)?;
            (port, port)
        }
    };
    match first <= last {
        true => Ok(PortRange { first, last }),
        false => Err(invalid(text, &format!("the range {ports} runs backwards"))),
    }
}

fn port(digits: &str, text: &str) -> Result<u16> {
    // `parse` alone would take a plus sign.
    let number = digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten();
    match number {
        Some(0) | None => Err(invalid(
            text,
            &format!("{digits:?} is not a port between 1 and 65535"),
        )),
        Some(port) => Ok(port),
    }
}

fn invalid(text: &str, reason: &str) -> Error {
    Error::invalid(format!("port {text:?}: {reason}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(port: u16) -> PortRange {
        PortRange {
            first: port,
            last: port,
        }
    }

    fn spec(ip: Option<&str>, host: HostPorts, container: PortRange) -> PortSpec {
        PortSpec {
            protocol: Protocol::Tcp,
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            host,
            container,
            terms: Terms::default(),
        }
    }

    #[test]
    fn dockers_short_form() {
        let ports = |first, last| PortRange { first, last };
        let exactly = |port| HostPorts::Exactly(one(port));
        for (text, wanted) in [
            ("80", spec(None, HostPorts::Free, one(80))),
            ("80-82", spec(None, HostPorts::Free, ports(80, 82))),
            ("8080:80", spec(None, exactly(8080), one(80))),
            ("8080:80/TCP", spec(None, exactly(8080), one(80))),
            (
                "127.0.0.1:8080:80",
                spec(Some("127.0.0.1"), exactly(8080), one(80)),
            ),
            (
                "127.0.0.1::80",
                spec(Some("127.0.0.1"), HostPorts::Free, one(80)),
            ),
            ("[::1]:8080:80", spec(Some("::1"), exactly(8080), one(80))),
            ("[::]:8080:80", spec(Some("::"), exactly(8080), one(80))),
            ("[::1]::80", spec(Some("::1"), HostPorts::Free, one(80))),
            (
                "8000-8002:80-82",
                spec(None, HostPorts::Exactly(ports(8000, 8002)), ports(80, 82)),
            ),
            (
                "8000-8010:80",
                spec(None, HostPorts::OneOf(ports(8000, 8010)), one(80)),
            ),
            (
                "published=8080,target=80,host_ip=::1",
                spec(Some("::1"), exactly(8080), one(80)),
            ),
            (
                "target=80,protocol=tcp",
                spec(None, HostPorts::Free, one(80)),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), wanted, "{text}");
        }
        assert_eq!(parse("53:53/udp").unwrap().protocol, Protocol::Udp);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for text in [
            "",
            "0",
            "0:80",
            "80:0",
            "65536",
            "x",
            "80/icmp",
            "8080:",
            ":80",
            "82-80",
            "8000-8001:80-82",
            "8080:80-81",
            "1.2.3:80:80",
            "::1:80:80",
            "[::1]:80",
            "+80",
            "1.2.3.4:5:6:7",
            "[1.2.3.4]:5:6",
            "target=80,target=81",
            "published=80",
            "a=b",
            "target=80,published",
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.code, Code::InvalidArgument, "{text}");
            assert!(
                error.message.contains(&format!("{text:?}")),
                "{}",
                error.message
            );
        }
        let all_nodes = parse("target=80,ingress=all").unwrap_err();
        assert_eq!(all_nodes.code, Code::NotImplemented);
    }

    #[test]
    fn sctp_keeps_its_ports() {
        let exactly = HostPorts::Exactly(one(3868));
        for text in ["3868/sctp", "3868:3868/sctp", "target=3868,protocol=sctp"] {
            assert_eq!(parse(text).unwrap().host, exactly, "{text}");
        }
        for text in ["3869:3868/sctp", "3868-3870:3868/sctp"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains("sctp"), "{error}");
        }
    }

    #[test]
    fn terms_stand_in_the_long_form() {
        let terms = |text: &str| parse(text).unwrap().terms;
        let given = terms("target=80,allow=10.0.0.0/8,allow=2001:db8::1,weight=3,affinity=client");
        assert_eq!(
            given,
            Terms {
                allow: Some(vec![
                    "10.0.0.0/8".parse().unwrap(),
                    "2001:db8::1/128".parse().unwrap()
                ]),
                weight: Some(3),
                affinity: Some(true),
            }
        );
        assert_eq!(terms("target=80,allow=").allow, Some(vec![]));
        assert_eq!(terms("target=80,ingress=node"), Terms::default());
        for wrong in [
            "allow=10.0.0.1/8",
            "allow=x",
            "weight=0",
            "weight=1001",
            "weight=x",
            "affinity=x",
            "ingress=x",
        ] {
            let error = parse(&format!("target=80,{wrong}")).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
            let _ = parse_expose(&text);
        }

        #[test]
        fn never_panics_on_what_nearly_fits(text in "[0-9:./=\\[\\]a-z,-]{0,30}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read_back(
            v6 in any::<bool>(), ip in any::<u128>(), host in 1_u16..60000,
            container in 1_u16..60000, span in 0_u16..100, udp in any::<bool>(),
        ) {
            let ip: IpAddr = if v6 {
                Ipv6Addr::from_bits(ip).into()
            } else {
                std::net::Ipv4Addr::from_bits(ip as u32).into()
            };
            let host = PortRange { first: host, last: host + span };
            let container = PortRange { first: container, last: container + span };
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let name = protocol_name(protocol);
            let bracketed = if v6 { format!("[{ip}]") } else { ip.to_string() };
            let wanted = PortSpec {
                protocol, host_ip: Some(ip), host: HostPorts::Exactly(host), container,
                terms: Terms::default(),
            };
            prop_assert_eq!(parse(&format!("{bracketed}:{host}:{container}/{name}")).unwrap(), wanted.clone());
            let long = format!("published={host},target={container},host_ip={ip},protocol={name}");
            prop_assert_eq!(parse(&long).unwrap(), wanted);
        }
    }
}
