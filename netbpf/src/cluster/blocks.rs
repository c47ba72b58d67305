//! Parts of a subnet, each claimed by a node, which gives its addresses out alone. Other
//! nodes reach all of a block by one route.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    Cluster, Network, Refusal,
    etcd::{self, Listing},
    keys::Key,
    records::{AddressOf, Block, BlockOf, decode, encode},
    shared::{Live, Shared, lock},
};
use crate::model::SubnetInfo;

/// Others may be quicker that often; with each time there are fewer who want the same.
const TRIES: u32 = 32;

impl Cluster {
    /// The first free block of the network's subnet of that family, or another one where
    /// many want it at a time. The one with the subnet's own and the gateway's address is
    /// like all others; who gives out addresses passes over those.
    pub async fn claim_block(&self, network: &str, v6: bool) -> Result<IpNet, Refusal> {
        let live = self.shared.live()?;
        let shared = &self.shared;
        let view = shared.view();
        let known = match view.networks.get(network) {
            Some(known) => known.record.clone(),
            None => read_network(shared, &live, network).await?,
        };
        let subnet = known.subnet_of(v6).ok_or_else(|| Refusal::NoSubnet {
            network: network.into(),
            v6,
        })?;
        let of_view = view.blocks.get(network);
        let mut taken: Taken = of_view.into_iter().flat_map(|of| of.keys()).collect();
        for attempt in 0..TRIES {
            let window = if attempt == 0 {
                1
            } else {
                1 << attempt.min(10)
            };
            let free: Vec<IpNet> = taken.free(subnet).take(window).collect();
            let choice = choose(&shared.name, attempt, free.len());
            match choice.and_then(|choice| free.get(choice)) {
                Some(block) => {
                    if self.try_block(&live, network, *block).await? {
                        return Ok(*block);
                    }
                }
                // What was given back just now is not in the picture yet.
                None if attempt == 0 => {}
                None => {
                    return Err(Refusal::Exhausted {
                        network: network.into(),
                        v6,
                    });
                }
            }
            let listing = live
                .etcd
                .list(&shared.keys.blocks_of(network), None)
                .await?;
            taken = blocks(shared, &listing).iter().collect();
        }
        Err(Refusal::Busy(format!("the blocks of network {network:?}")))
    }

    /// Whether it was free.
    async fn try_block(&self, live: &Live, network: &str, block: IpNet) -> Result<bool, Refusal> {
        let shared = &self.shared;
        let network_key = shared.keys.of(&Key::Network(network.into()));
        let alive_key = shared.keys.of(&Key::Alive(shared.name.clone()));
        let drained_key = shared.keys.of(&Key::Drained(shared.name.clone()));
        let of = Block {
            network: network.into(),
            block,
        };
        let key = shared.keys.of(&Key::Block {
            network: network.into(),
            block,
        });
        let own = BlockOf {
            node: shared.name.clone(),
        };
        let when = vec![
            etcd::present(&network_key),
            etcd::under_lease(&alive_key, live.lease),
            etcd::absent(&drained_key),
            etcd::absent(&key),
        ];
        let then = vec![etcd::put(&key, encode(&own)?)];
        let reads = vec![network_key, alive_key, drained_key];
        let outcome = live.etcd.transact(when, then, reads).await?;
        if outcome.done {
            lock(&shared.held).claimed_block(of);
            return Ok(true);
        }
        match &outcome.found[..] {
            [None, ..] => Err(Refusal::NoNetwork(network.into())),
            [_, alive, _]
                if alive
                    .as_ref()
                    .is_none_or(|alive| alive.lease() != live.lease) =>
            {
                Err(Refusal::Unregistered)
            }
            [_, _, Some(_)] => Err(Refusal::Drained(shared.name.clone())),
            _ => Ok(false),
        }
    }

    /// Gives a block of this node back, unless an address in it is in use by anybody. One
    /// that is not this node's stays, and is no error.
    pub async fn release_block(&self, network: &str, block: IpNet) -> Result<(), Refusal> {
        let live = self.shared.live()?;
        let of = Block {
            network: network.into(),
            block,
        };
        let was_held = lock(&self.shared.held).released_block(&of);
        let released = self.try_release(&live, network, block).await;
        if released.is_err() && was_held {
            lock(&self.shared.held).claimed_block(of);
        }
        released
    }

    async fn try_release(&self, live: &Live, network: &str, block: IpNet) -> Result<(), Refusal> {
        let shared = &self.shared;
        let addresses = shared.keys.addresses_of(network);
        let key = shared.keys.of(&Key::Block {
            network: network.into(),
            block,
        });
        for _ in 0..TRIES {
            let Some(entry) = live.etcd.get(key.clone()).await? else {
                return Ok(());
            };
            if decode::<BlockOf>(entry.value()).is_ok_and(|of| of.node != shared.name) {
                return Ok(());
            }
            let listing = live.etcd.list(&addresses, None).await?;
            in_use(shared, &listing, network, block)?;
            let when = vec![
                etcd::unchanged(&key, entry.mod_revision()),
                etcd::none_newer(&addresses, listing.revision),
            ];
            let then = vec![etcd::delete(&key)];
            if live.etcd.transact(when, then, Vec::new()).await?.done {
                return Ok(());
            }
        }
        Err(Refusal::Busy(format!(
            "block {block} of network {network:?}"
        )))
    }
}

async fn read_network(shared: &Shared, live: &Live, name: &str) -> Result<Network, Refusal> {
    let key = shared.keys.of(&Key::Network(name.into()));
    match live.etcd.get(key.clone()).await? {
        Some(entry) => decode(entry.value()).map_err(|_| Refusal::Unreadable(key)),
        None => Err(Refusal::NoNetwork(name.into())),
    }
}

fn blocks(shared: &Shared, listing: &Listing) -> Vec<IpNet> {
    let keys = listing.entries.iter();
    let keys = keys.filter_map(|entry| match shared.keys.parse(entry.key()) {
        Some(Key::Block { block, .. }) => Some(block),
        _ => None,
    });
    keys.collect()
}

fn in_use(shared: &Shared, listing: &Listing, network: &str, block: IpNet) -> Result<(), Refusal> {
    for entry in &listing.entries {
        if let Some(Key::Address { ip, .. }) = shared.keys.parse(entry.key())
            && block.contains(&ip)
        {
            let of = decode::<AddressOf>(entry.value());
            return Err(Refusal::BlockInUse {
                network: network.into(),
                block,
                ip,
                endpoint: of.map_or_else(|_| "?".into(), |of| of.endpoint),
            });
        }
    }
    Ok(())
}

/// The first, and after a failure one that others do not choose as well.
fn choose(node: &str, attempt: u32, among: usize) -> Option<usize> {
    let mut hasher = DefaultHasher::new();
    (node, attempt).hash(&mut hasher);
    (hasher.finish() as usize).checked_rem(among)
}

/// Prefix length of a subnet's blocks: 64 addresses, or fewer where a subnet is so small
/// that less than 16 nodes could have some. Four addresses are the least: smaller ones
/// would cost each node more routes than they spare.
pub fn block_length(subnet: &IpNet) -> u8 {
    let (usual, longest) = match subnet {
        IpNet::V4(_) => (26, 30),
        IpNet::V6(_) => (122, 126),
    };
    let length = subnet.prefix_len();
    length.saturating_add(4).clamp(usual, longest).max(length)
}

/// Blocks that are somebody's: first address to last.
#[derive(Debug, Default)]
struct Taken(BTreeMap<u128, u128>);

impl<'a> FromIterator<&'a IpNet> for Taken {
    fn from_iter<I: IntoIterator<Item = &'a IpNet>>(blocks: I) -> Self {
        let blocks = blocks.into_iter();
        Taken(
            blocks
                .map(|b| (bits(b.network()), bits(b.broadcast())))
                .collect(),
        )
    }
}

impl Taken {
    /// Free blocks of the part of a subnet that addresses come from.
    fn free(&self, info: &SubnetInfo) -> impl Iterator<Item = IpNet> + use<'_> {
        let v6 = info.subnet.addr().is_ipv6();
        let length = block_length(&info.subnet);
        let range = info.ip_range.unwrap_or(info.subnet);
        let size = 1_u128 << (info.subnet.max_prefix_len() - length);
        let last = bits(range.broadcast());
        let first = bits(range.network()) & !(size - 1);
        let starts = std::iter::successors(Some(first), move |start| start.checked_add(size));
        starts
            .take_while(move |start| *start <= last)
            .filter(move |start| self.is_free(*start, start + (size - 1)))
            .filter_map(move |start| IpNet::new(address(start, v6), length).ok())
    }

    /// Also where blocks of another size lie there.
    fn is_free(&self, first: u128, last: u128) -> bool {
        let before = self.0.range(..=last).next_back();
        before.is_none_or(|(_, end)| *end < first)
    }
}

pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

pub fn address(bits: u128, v6: bool) -> IpAddr {
    match v6 {
        true => Ipv6Addr::from_bits(bits).into(),
        // Of an IPv4 subnet they fit.
        false => Ipv4Addr::from_bits(bits as u32).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(subnet: &str, range: Option<&str>) -> SubnetInfo {
        let subnet: IpNet = subnet.parse().unwrap();
        SubnetInfo {
            subnet,
            gateway: subnet.network(),
            ip_range: range.map(|range| range.parse().unwrap()),
        }
    }

    fn first_free(info: &SubnetInfo, taken: &[&str], count: usize) -> Vec<String> {
        let taken: Vec<IpNet> = taken.iter().map(|block| block.parse().unwrap()).collect();
        let taken: Taken = taken.iter().collect();
        taken
            .free(info)
            .take(count)
            .map(|block| block.to_string())
            .collect()
    }

    #[test]
    fn blocks_are_smaller_in_small_subnets() {
        for (subnet, length) in [
            ("10.0.0.0/8", 26),
            ("10.7.0.0/22", 26),
            ("10.7.0.0/23", 27),
            ("10.7.0.0/24", 28),
            ("10.7.0.0/26", 30),
            ("10.7.0.0/29", 30),
            ("10.7.0.0/30", 30),
            ("10.7.0.0/31", 31),
            ("fd00::/64", 122),
            ("fd00::/120", 124),
            ("fd00::/126", 126),
            ("fd00::/127", 127),
        ] {
            assert_eq!(block_length(&subnet.parse().unwrap()), length, "{subnet}");
        }
    }

    #[test]
    fn the_first_free_block_is_found() {
        let info = subnet("10.7.0.0/16", None);
        assert_eq!(first_free(&info, &[], 2), ["10.7.0.0/26", "10.7.0.64/26"]);
        let taken = ["10.7.0.0/26", "10.7.0.128/26"];
        assert_eq!(first_free(&info, &taken, 1), ["10.7.0.64/26"]);
        // Of another size.
        assert_eq!(first_free(&info, &["10.7.0.0/25"], 1), ["10.7.0.128/26"]);
        assert_eq!(first_free(&info, &["10.7.0.32/28"], 1), ["10.7.0.64/26"]);
        assert!(first_free(&info, &["10.7.0.0/16"], 1).is_empty());
        let info = subnet("fd00:7::/64", None);
        assert_eq!(first_free(&info, &["fd00:7::/122"], 1), ["fd00:7::40/122"]);
    }

    #[test]
    fn blocks_come_from_the_range_of_addresses() {
        let info = subnet("10.7.0.0/16", Some("10.7.1.32/27"));
        assert_eq!(first_free(&info, &[], 9), ["10.7.1.0/26"]);
        let info = subnet("255.255.255.0/24", None);
        assert_eq!(first_free(&info, &[], 99).len(), 16);
        let info = subnet("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120", None);
        assert_eq!(first_free(&info, &[], 99).len(), 16);
    }

    proptest::proptest! {
        #[test]
        fn free_blocks_lie_in_the_subnet_and_overlap_nothing(
            taken in proptest::collection::vec((0_u8..=255, 24_u8..=30), 0..20),
        ) {
            let info = subnet("10.7.0.0/22", None);
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(at, length)| {
                    let ip = Ipv4Addr::new(10, 7, at % 4, at.wrapping_mul(16)).into();
                    IpNet::new(ip, length).unwrap().trunc()
                })
                .collect();
            // Blocks do not overlap: the shorter ones first.
            let mut apart: Vec<IpNet> = Vec::new();
            for block in taken {
                if !apart.iter().any(|b| b.contains(&block) || block.contains(b)) {
                    apart.push(block);
                }
            }
            let free: Vec<IpNet> = apart.iter().collect::<Taken>().free(&info).collect();
            for block in &free {
                proptest::prop_assert!(info.subnet.contains(block));
                let overlaps = apart.iter().any(|b| b.contains(block) || block.contains(b));
                proptest::prop_assert!(!overlaps);
            }
            let covered = info.subnet.subnets(26).unwrap().filter(|block| {
                !free.contains(block) && !apart.iter().any(|b| b.contains(block) || block.contains(b))
            });
            proptest::prop_assert_eq!(covered.count(), 0);
        }
    }
}
