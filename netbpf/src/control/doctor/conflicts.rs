//! What of others is in our way: routes, addresses, firewalls, programs that listen.

use std::net::IpAddr;

use ipnet::IpNet;

use super::findings::{Findings, endpoint};
use crate::{
    model::{Check, Finding},
    store::{EndpointRecord, NetworkRecord},
    sys::netfilter::BaseChain,
};

/// A route of others, in the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OthersRoute {
    pub destination: IpNet,
    pub device: String,
}

/// An address that is on a device of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OthersAddress {
    pub address: IpAddr,
    pub device: String,
}

/// By which device the host sends to an endpoint.
#[derive(Clone, Debug)]
pub struct Towards<'a> {
    pub record: &'a EndpointRecord,
    pub address: IpAddr,
    pub device: String,
}

/// What lies within our subnets, and ways to endpoints that lead elsewhere.
pub fn overlaps(
    networks: &[&NetworkRecord],
    routes: &[OthersRoute],
    addresses: &[OthersAddress],
    towards: &[Towards<'_>],
) -> Vec<Finding> {
    let mut found = Findings::of(Check::Overlap);
    let within = |net: &IpNet| {
        let mut subnets = networks
            .iter()
            .flat_map(|n| n.subnets.iter().map(|s| (&n.name, s.subnet)));
        subnets.find(|(_, subnet)| subnet.contains(net))
    };
    let advice = "give one of the two another subnet: netbpf network create --subnet, docker network create --subnet";
    for route in routes {
        // Wider ones are beaten by ours.
        if let Some((network, subnet)) = within(&route.destination) {
            found.warning(
                format!("route {}", route.destination),
                format!(
                    "it leads by {} into {subnet}, which is network {network}'s: the host sends there what is for absent containers",
                    route.device
                ),
                advice,
            );
        }
    }
    for OthersAddress { address, device } in addresses {
        if let Some((network, subnet)) = within(&IpNet::from(*address)) {
            found.warning(
                format!("address {address}"),
                format!("it is on {device} and within {subnet}, which is network {network}'s"),
                advice,
            );
        }
    }
    for way in towards {
        found.error(
            endpoint(way.record),
            format!(
                "the host sends what is for {} by {}, not by {}",
                way.address, way.device, way.record.host_ifname
            ),
            "look at the host's rules and routes: ip rule; ip route get ADDRESS",
        );
    }
    found.or_ok("subnets", "no route or address of others is within ours")
}

/// Chains that drop what they do not know. What containers send to each other and to the
/// outside never comes there.
pub fn firewall(chains: &[BaseChain]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Firewall);
    for chain in chains.iter().filter(|chain| chain.drops) {
        found.warning(
            format!("chain {} {} {}", chain.family, chain.table, chain.name),
            format!(
                "its policy for {} is drop: it decides what containers and the host's own programs may say to each other",
                chain.hook.label()
            ),
            "where that is not meant, accept what comes from and goes to devices nb*: nft add rule … iifname \"nb*\" accept",
        );
    }
    found.or_ok(
        "firewall",
        "no chain of nftables drops by policy what is between containers and host",
    )
}

/// Published ports that a program of the host has: what it makes of it, by endpoint.
/// `absent`: ports on addresses that the host does not have.
pub fn ports(
    in_the_way: &[(String, String)],
    absent: &[(String, String)],
    published: usize,
) -> Vec<Finding> {
    let mut found = Findings::of(Check::Port);
    for (object, message) in in_the_way {
        found.warning(
            object,
            message,
            "stop the program, or publish another port: ss -ltnp (-lunp for udp) names it",
        );
    }
    for (object, message) in absent {
        found.warning(
            object,
            message,
            "give the host that address, or publish the port on one that it has",
        );
    }
    let message = match published {
        0 => "none is published".to_owned(),
        _ => "no program of the host has a published one".to_owned(),
    };
    found.or_ok("ports", message)
}

#[cfg(test)]
mod tests {
    use super::{super::findings::tests::short, *};
    use crate::{
        control::plan::tests as plans,
        model::Severity::{Error, Ok, Warning},
        sys::netfilter::Hook,
    };

    fn route(destination: &str) -> OthersRoute {
        OthersRoute {
            destination: destination.parse().unwrap(),
            device: "docker0".into(),
        }
    }

    #[test]
    fn routes_within_our_subnets_and_none_else() {
        let wanted = plans::wanted();
        let networks: Vec<&NetworkRecord> = wanted.networks.iter().collect();
        let of = |routes: &[OthersRoute]| overlaps(&networks, routes, &[], &[]);
        let beside = ["0.0.0.0/0", "10.0.0.0/8", "10.0.1.0/24", "fd01::/64"].map(route);
        assert_eq!(short(&of(&beside)), [(Ok, "subnets")]);
        let found = of(&["10.0.0.0/24", "10.0.0.5/32", "fd00::/96"].map(route));
        let expected = [
            (Warning, "route 10.0.0.0/24"),
            (Warning, "route 10.0.0.5/32"),
            (Warning, "route fd00::/96"),
        ];
        assert_eq!(short(&found), expected);
        assert!(found[0].message.contains("docker0"), "{found:?}");
    }

    #[test]
    fn addresses_within_our_subnets_and_ways_that_lead_elsewhere() {
        let wanted = plans::wanted();
        let networks: Vec<&NetworkRecord> = wanted.networks.iter().collect();
        let on = |ip: &str| OthersAddress {
            address: ip.parse().unwrap(),
            device: "eth0".into(),
        };
        let record = &wanted.endpoints[0].record;
        let towards = Towards {
            record,
            address: "10.0.0.2".parse().unwrap(),
            device: "eth0".into(),
        };
        let found = overlaps(
            &networks,
            &[],
            &[on("10.0.0.9"), on("192.0.2.1")],
            &[towards],
        );
        let object = endpoint(record);
        let expected = [(Warning, "address 10.0.0.9"), (Error, object.as_str())];
        assert_eq!(short(&found), expected);
    }

    #[test]
    fn chains_that_drop_by_policy() {
        let chain = |drops| BaseChain {
            family: "inet",
            table: "filter".into(),
            name: "input".into(),
            hook: Hook::Input,
            drops,
        };
        let found = firewall(&[chain(true)]);
        assert_eq!(short(&found), [(Warning, "chain inet filter input")]);
        assert_eq!(short(&firewall(&[chain(false)])), [(Ok, "firewall")]);
    }

    #[test]
    fn programs_on_published_ports() {
        let one = [("endpoint web on front".into(), "x".into())];
        let found = ports(&[], &one, 1);
        assert_eq!(short(&found), [(Warning, "endpoint web on front")]);
        let found = ports(&one, &[], 1);
        assert_eq!(short(&found), [(Warning, "endpoint web on front")]);
        assert_eq!(short(&ports(&[], &[], 0)), [(Ok, "ports")]);
    }
}
