//! Which flows a filter means.

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use netbpf_common::{
    flow::State as FlowState,
    packet::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP},
};

use super::seen::Seen;
use crate::{
    datapath::FlowRecord,
    error::{Error, Result},
    model::{FLOW_KINDS, FlowFilter},
};

/// Protocols that have a name.
const PROTOCOLS: [(u8, &str); 5] = [
    (IPPROTO_ICMP, "icmp"),
    (IPPROTO_TCP, "tcp"),
    (IPPROTO_UDP, "udp"),
    (IPPROTO_ICMPV6, "icmp6"),
    (IPPROTO_SCTP, "sctp"),
];

/// A protocol's name, or its number.
pub fn protocol(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(known, _)| *known == number);
    named.map_or_else(|| number.to_string(), |(_, name)| (*name).into())
}

/// A filter, understood. What is `None` is not asked for.
#[derive(Debug, Default)]
pub struct Wanted {
    endpoints: Option<HashSet<u32>>,
    protocol: Option<u8>,
    state: Option<FlowState>,
    kind: Option<&'static str>,
    src: Option<Side>,
    dst: Option<Side>,
    reply_src: Option<Side>,
    reply_dst: Option<Side>,
}

impl Wanted {
    /// Refuses what is not there and what is no value of its kind.
    pub fn of(seen: &Seen, filter: &FlowFilter) -> Result<Wanted> {
        let wanted = Wanted::parse(filter)?;
        Ok(Wanted {
            endpoints: endpoints(seen, filter)?,
            ..wanted
        })
    }

    /// All but the endpoints.
    fn parse(filter: &FlowFilter) -> Result<Wanted> {
        Ok(Wanted {
            endpoints: None,
            protocol: read("protocol", &filter.protocol, parse_protocol)?,
            state: read("state", &filter.state, |text| {
                FlowState::ALL.into_iter().find(|s| s.label() == text)
            })?,
            kind: read("kind", &filter.kind, |text| {
                FLOW_KINDS.into_iter().find(|kind| *kind == text)
            })?,
            src: read("src", &filter.src, Side::parse)?,
            dst: read("dst", &filter.dst, Side::parse)?,
            reply_src: read("reply_src", &filter.reply_src, Side::parse)?,
            reply_dst: read("reply_dst", &filter.reply_dst, Side::parse)?,
        })
    }

    pub fn fits(&self, flow: &FlowRecord) -> bool {
        let side = |wanted: &Option<Side>, at| wanted.as_ref().is_none_or(|side| side.fits(at));
        self.protocol.is_none_or(|wanted| wanted == flow.protocol)
            && self.state.is_none_or(|wanted| wanted == flow.state)
            && self.kind.is_none_or(|wanted| wanted == flow.kind)
            && side(&self.src, flow.src)
            && side(&self.dst, flow.dst)
            && side(&self.reply_src, flow.reply_src)
            && side(&self.reply_dst, flow.reply_dst)
            && self
                .endpoints
                .as_ref()
                .is_none_or(|wanted| wanted.contains(&flow.endpoint))
    }
}

/// The endpoints of a name, of a network, or of both.
fn endpoints(seen: &Seen, filter: &FlowFilter) -> Result<Option<HashSet<u32>>> {
    let (endpoint, network) = (filter.endpoint.as_deref(), filter.network.as_deref());
    if endpoint.is_none() && network.is_none() {
        return Ok(None);
    }
    let found = seen.found(endpoint, network)?;
    Ok(Some(found.iter().map(|record| record.index).collect()))
}

fn read<T>(
    what: &str,
    text: &Option<String>,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>> {
    let Some(text) = text else { return Ok(None) };
    let wanted = || match what {
        "protocol" => "tcp, udp, icmp, icmp6, sctp or a number".into(),
        "state" => FlowState::ALL.map(FlowState::label).join(", "),
        "kind" => FLOW_KINDS.join(", "),
        _ => "IP, IP/LEN, IP:PORT, [IP6]:PORT or :PORT".into(),
    };
    match parse(text) {
        Some(value) => Ok(Some(value)),
        None => Err(Error::invalid(format!(
            "{what} {text:?}: it is {}",
            wanted()
        ))),
    }
}

fn parse_protocol(text: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(_, name)| *name == text);
    named.map_or_else(|| text.parse().ok(), |(number, _)| Some(*number))
}

/// One side of a tuple: addresses, a port, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Side {
    net: Option<IpNet>,
    port: Option<u16>,
}

impl Side {
    fn parse(text: &str) -> Option<Side> {
        if let Some(net) = parse_net(text) {
            return Some(Side {
                net: Some(net),
                port: None,
            });
        }
        let (host, port) = text.rsplit_once(':')?;
        let net = match host {
            "" => None,
            // Only in brackets is it clear where an IPv6 address ends.
            _ => match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
                Some(host) => Some(parse_net(host)?),
                None => Some(parse_net(host).filter(|net| net.addr().is_ipv4())?),
            },
        };
        Some(Side {
            net,
            port: Some(port.parse().ok()?),
        })
    }

    fn fits(&self, (ip, port): (IpAddr, u16)) -> bool {
        self.net.is_none_or(|net| net.contains(&ip)) && self.port.is_none_or(|p| p == port)
    }
}

fn parse_net(text: &str) -> Option<IpNet> {
    let host = text.parse::<IpAddr>().ok().map(IpNet::from);
    host.or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> FlowRecord {
        FlowRecord {
            protocol: IPPROTO_UDP,
            endpoint: 7,
            kind: "masquerade",
            state: FlowState::Established,
            src: ([10, 0, 0, 2].into(), 4000),
            dst: ([192, 0, 2, 2].into(), 53),
            reply_src: ([192, 0, 2, 2].into(), 53),
            reply_dst: ([192, 0, 2, 1].into(), 1024),
            age_seconds: 0,
            expires_in_seconds: 300,
            packets: 1,
            bytes: 100,
            reply_packets: 1,
            reply_bytes: 100,
        }
    }

    fn fits(set: impl FnOnce(&mut FlowFilter)) -> bool {
        let mut filter = FlowFilter::default();
        set(&mut filter);
        Wanted::parse(&filter).expect("a filter").fits(&record())
    }

    #[test]
    fn all_that_is_said_must_fit() {
        assert!(fits(|_| ()));
        for (protocol, wanted) in [("udp", true), ("17", true), ("tcp", false), ("1", false)] {
            assert_eq!(
                fits(|f| f.protocol = Some(protocol.into())),
                wanted,
                "{protocol}"
            );
        }
        for state in FlowState::ALL {
            let wanted = state == FlowState::Established;
            assert_eq!(fits(|f| f.state = Some(state.label().into())), wanted);
        }
        for kind in FLOW_KINDS {
            assert_eq!(fits(|f| f.kind = Some(kind.into())), kind == "masquerade");
        }
        assert!(fits(|f| {
            f.src = Some("10.0.0.0/8".into());
            f.dst = Some(":53".into());
            f.reply_src = Some("192.0.2.2:53".into());
            f.reply_dst = Some("192.0.2.1".into());
        }));
        assert!(!fits(|f| {
            f.src = Some("10.0.0.2".into());
            f.reply_dst = Some(":1025".into());
        }));
    }

    #[test]
    fn a_side_is_an_address_a_port_or_both() {
        let side = |net: &str, port: Option<u16>| {
            let net = (!net.is_empty()).then(|| net.parse().expect("a net"));
            Some(Side { net, port })
        };
        for (text, wanted) in [
            ("10.0.0.2", side("10.0.0.2/32", None)),
            ("10.0.0.0/24", side("10.0.0.0/24", None)),
            ("10.0.0.2:80", side("10.0.0.2/32", Some(80))),
            ("10.0.0.0/24:80", side("10.0.0.0/24", Some(80))),
            ("fd00::80", side("fd00::80/128", None)),
            ("[fd00::1]:80", side("fd00::1/128", Some(80))),
            ("[fd00::/64]:80", side("fd00::/64", Some(80))),
            (":80", side("", Some(80))),
            ("", None),
            ("web", None),
            ("10.0.0.2:", None),
            ("10.0.0.2:65536", None),
            ("10.0.0.0/33", None),
            ("fd00::/64:80", None),
            ("[fd00::1]", None),
        ] {
            assert_eq!(Side::parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let refused = |set: fn(&mut FlowFilter)| {
            let mut filter = FlowFilter::default();
            set(&mut filter);
            Wanted::parse(&filter).expect_err("refused").message
        };
        assert!(refused(|f| f.protocol = Some("256".into())).contains("protocol \"256\""));
        assert!(refused(|f| f.state = Some("open".into())).contains("half_closed"));
        assert!(refused(|f| f.kind = Some("nat".into())).contains("masquerade"));
        assert!(refused(|f| f.reply_dst = Some("web".into())).contains("reply_dst \"web\""));
    }

    proptest! {
        #[test]
        fn every_socket_address_is_a_side(ip: IpAddr, port: u16) {
            let shown = std::net::SocketAddr::new(ip, port).to_string();
            let side = Side::parse(&shown).expect("a side");
            prop_assert!(side.fits((ip, port)));
            prop_assert!(!side.fits((ip, port.wrapping_add(1))));
        }

        #[test]
        fn any_text_is_a_side_or_refused(text in "[0-9a-f.:/\\[\\]]{0,24}") {
            let _ = Side::parse(&text);
        }
    }
}
