//! From blocks of any length to what the programs look up in one or two steps: areas of 64
//! addresses, and the addresses in them that live elsewhere. Pure.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use netbpf_common::maps::{
    TunnelKey,
    overlay::{ADDRESS_PREFIX, AREA_BITS, AREA_PREFIX, SINGLES},
};

use super::tables::{addr, mapped_prefix};

/// Areas of one block at most: a /14 of IPv4.
const MOST_AREAS: u128 = 4096;

/// The entries of `tunnels` that come to the same as these blocks of networks with the
/// numbers of their nodes, of several the longest prefix counting. Number 0 is nobody.
pub fn of(blocks: impl Iterator<Item = (u32, IpNet, u32)>) -> HashMap<TunnelKey, u32> {
    let mut blocks: Vec<(u32, IpNet, u32)> = blocks.collect();
    blocks.sort_by_key(|(_, block, _)| mapped_prefix(*block));
    let (mut areas, mut singles) = (HashMap::new(), HashMap::new());
    for (network, block, node) in blocks {
        let (length, first) = (mapped_prefix(block), bits(block.network()));
        if length <= AREA_PREFIX {
            let count = 1_u128 << (AREA_PREFIX - length).min(127);
            if count > MOST_AREAS {
                tracing::warn!(%block, "a block of this size is not followed");
                continue;
            }
            let starts = (0..count).map(|n| first + (n << AREA_BITS));
            areas.extend(starts.map(|start| (area(network, start), node)));
        } else {
            let addresses = (0..1_u128 << (ADDRESS_PREFIX - length)).map(|n| first + n);
            singles.extend(addresses.map(|at| ((network, at), node)));
        }
    }
    // Those that live where their area does need no word.
    singles.retain(|(network, at), node| {
        let of_area = areas.get(&area(*network, *at));
        of_area.copied().unwrap_or(0) != *node
    });
    for (network, at) in singles.keys() {
        *areas.entry(area(*network, *at)).or_insert(0) |= SINGLES;
    }
    areas.retain(|_, node| *node != 0);
    let singles = singles.into_iter().map(|((network, at), node)| {
        let key = TunnelKey::address(network, at.to_be_bytes());
        (key, node)
    });
    areas.into_iter().chain(singles).collect()
}

fn area(network: u32, at: u128) -> TunnelKey {
    TunnelKey::area(network, at.to_be_bytes())
}

fn bits(ip: IpAddr) -> u128 {
    Ipv6Addr::from(addr(ip)).to_bits()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    /// As the programs look it up.
    fn node_of(entries: &HashMap<TunnelKey, u32>, network: u32, ip: IpAddr) -> u32 {
        let Some(area) = entries.get(&TunnelKey::area(network, addr(ip))) else {
            return 0;
        };
        let single = entries.get(&TunnelKey::address(network, addr(ip)));
        match single {
            Some(node) if area & SINGLES != 0 => *node,
            _ => area & !SINGLES,
        }
    }

    fn entries(blocks: &[(&str, u32)]) -> HashMap<TunnelKey, u32> {
        let parsed = blocks.iter().map(|(block, node)| {
            let block: IpNet = block.parse().expect("a block");
            (1, block, *node)
        });
        of(parsed)
    }

    #[test]
    fn a_block_of_the_usual_size_is_one_entry() {
        for (blocks, count) in [
            (&[("10.7.0.0/26", 5), ("fd00::/122", 5)][..], 2),
            (&[("10.7.0.0/24", 5)], 4),
            (&[("10.7.0.0/28", 5)], 17),
            // The gateway, where it is at home or nobody knows of others; a node's own block.
            (&[("10.7.0.1/32", 0)], 0),
            (&[("10.7.0.0/26", 0), ("10.7.0.9/32", 0)], 0),
            (&[("10.7.0.0/26", 5), ("10.7.0.9/32", 5)], 1),
            (&[("10.7.0.0/26", 5), ("10.7.0.9/32", 6)], 2),
            (&[("10.7.0.0/26", 5), ("10.7.0.9/32", 0)], 2),
            // So many that nobody can have meant it.
            (&[("fd00::/64", 5)], 0),
        ] {
            assert_eq!(entries(blocks).len(), count, "{blocks:?}");
        }
    }

    #[test]
    fn networks_are_apart() {
        let block: IpNet = "10.7.0.0/26".parse().unwrap();
        let entries = of([(1, block, 5), (2, block, 6)].into_iter());
        for (network, node) in [(1, 5), (2, 6), (3, 0)] {
            let ip = Ipv4Addr::new(10, 7, 0, 3).into();
            assert_eq!(node_of(&entries, network, ip), node);
        }
    }

    proptest! {
        /// The same as a longest-prefix table says, for addresses in and around the blocks.
        #[test]
        fn the_longest_prefix_counts(
            blocks in proptest::collection::vec((0_u8..=255, 22_u8..=32, 0_u32..4), 0..24),
            last in 0_u16..1024,
        ) {
            let mut all: HashMap<IpNet, u32> = HashMap::new();
            for (at, length, node) in blocks {
                let ip = Ipv4Addr::new(10, 7, at % 4, at.wrapping_mul(7)).into();
                all.insert(IpNet::new(ip, length).unwrap().trunc(), node);
            }
            let [high, low] = last.to_be_bytes();
            let ip: IpAddr = Ipv4Addr::new(10, 7, high, low).into();
            let longest = all.iter().filter(|(block, _)| block.contains(&ip));
            let longest = longest.max_by_key(|(block, _)| block.prefix_len());
            let expected = longest.map_or(0, |(_, node)| *node);
            let entries = of(all.iter().map(|(block, node)| (1, *block, *node)));
            prop_assert_eq!(node_of(&entries, 1, ip), expected);
        }
    }
}
