//! Where to look for an address when no block is free: in those of others.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    View,
    blocks::{address, bits},
};

impl View {
    /// Addresses of the network's subnet of that family that are nobody's as far as is
    /// known, one by one to be claimed. The last ones first: who has a block gives out
    /// its first ones. Those in blocks of nodes that are away come after all others: what
    /// such a node has given out meanwhile is not known.
    pub fn spare_addresses(&self, network: &str, v6: bool) -> impl Iterator<Item = IpAddr> + '_ {
        let subnet = self
            .networks
            .get(network)
            .and_then(|network| network.subnet_of(v6));
        let addresses = self.addresses.get(network);
        let away = self.away_blocks(network);
        let all = subnet.into_iter().flat_map(move |info| {
            let range = info.ip_range.unwrap_or(info.subnet);
            let bits = bits(range.network())..=bits(range.broadcast());
            let all = bits.rev().map(move |bits| address(bits, v6));
            all.filter(move |ip| *ip != info.gateway && is_usable(&info.subnet, *ip))
        });
        let free = all.filter(move |ip| addresses.is_none_or(|of| !of.contains_key(ip)));
        let is_away = move |ip: &IpAddr| away.iter().any(|block| block.contains(ip));
        let later = is_away.clone();
        let first = free.clone().filter(move |ip| !is_away(ip));
        first.chain(free.filter(later))
    }

    fn away_blocks(&self, network: &str) -> Vec<IpNet> {
        let blocks = self
            .blocks
            .get(network)
            .into_iter()
            .flat_map(|of| of.iter());
        let is_away = |node: &str| self.nodes.get(node).is_none_or(|node| node.away);
        blocks
            .filter(|(_, of)| is_away(&of.node))
            .map(|(block, _)| *block)
            .collect()
    }
}

/// Network, broadcast and (IPv6) the routers' anycast address are nobody's.
fn is_usable(subnet: &IpNet, ip: IpAddr) -> bool {
    ip != subnet.network() && (ip.is_ipv6() || ip != subnet.broadcast())
}

#[cfg(test)]
mod tests {
    use super::super::{
        keys::Key,
        records::{AddressOf, BlockOf, Me, encode},
        tests::network,
    };
    use super::*;

    #[test]
    fn the_last_free_addresses_come_first_and_those_of_nodes_that_are_away_last() {
        let mut view = View::new("n1");
        let front = encode(&network("front", "10.7.0.0/28")).unwrap();
        view.put(&Key::Network("front".into()), &front, 1).unwrap();
        let me = Me {
            name: "n2".into(),
            ..Me::default()
        };
        view.put(&Key::Node("n2".into()), &encode(&me).unwrap(), 1)
            .unwrap();
        view.put(&Key::Alive("n2".into()), br#"{"v":1,"id":""}"#, 1)
            .unwrap();
        for (block, node) in [("10.7.0.4/30", "n2"), ("10.7.0.8/30", "n3")] {
            let key = Key::Block {
                network: "front".into(),
                block: block.parse().unwrap(),
            };
            view.put(&key, &encode(&BlockOf { node: node.into() }).unwrap(), 1)
                .unwrap();
        }
        let of = AddressOf {
            node: "n2".into(),
            endpoint: "web".into(),
        };
        let key = Key::Address {
            network: "front".into(),
            ip: "10.7.0.13".parse().unwrap(),
        };
        view.put(&key, &encode(&of).unwrap(), 1).unwrap();
        let last: Vec<u8> = view
            .spare_addresses("front", false)
            .map(|ip| match ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect();
        // .0 and .15 are the subnet's own, .1 the gateway's.
        assert_eq!(last, [14, 12, 7, 6, 5, 4, 3, 2, 11, 10, 9, 8]);
        assert_eq!(view.spare_addresses("front", true).count(), 0);
        assert_eq!(view.spare_addresses("none", false).count(), 0);
    }

    #[test]
    fn in_the_largest_subnet_the_first_one_is_found_at_once() {
        let mut view = View::new("n1");
        let wide = encode(&network("wide", "fd00:7::/64")).unwrap();
        view.put(&Key::Network("wide".into()), &wide, 1).unwrap();
        let first = view.spare_addresses("wide", true).next();
        assert_eq!(first, Some("fd00:7::ffff:ffff:ffff:ffff".parse().unwrap()));
    }
}
