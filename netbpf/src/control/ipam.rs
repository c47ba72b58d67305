//! Which subnets and addresses are free. Pure: what is taken is handed in.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{model::SubnetInfo, settings::Pool};

/// Two networks that share an address.
pub fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first subnet of the pools, in their order, that overlaps nothing taken.
pub fn free_subnet(pools: &[Pool], taken: &[IpNet]) -> Option<IpNet> {
    pools.iter().find_map(|pool| {
        if taken.iter().any(|t| t.contains(&pool.net)) {
            return None;
        }
        let near: Vec<&IpNet> = taken.iter().filter(|t| overlaps(t, &pool.net)).collect();
        let mut subnets = pool.net.subnets(pool.size).ok()?;
        subnets.find(|s| !near.iter().any(|t| overlaps(t, s)))
    })
}

/// The same from the end.
pub fn last_free_subnet(pools: &[Pool], taken: &[IpNet]) -> Option<IpNet> {
    pools.iter().rev().find_map(|pool| {
        let subnets: Vec<IpNet> = pool.net.subnets(pool.size).ok()?.collect();
        let mut subnets = subnets.into_iter().rev();
        subnets.find(|s| !taken.iter().any(|t| overlaps(t, s)))
    })
}

/// The first address that a device of the subnet may have.
pub fn first_usable(subnet: &IpNet) -> IpAddr {
    at(subnet, to_bits(subnet.network()) + 1)
}

/// Network, broadcast and (IPv6) the routers' anycast address are nobody's.
pub fn is_usable(subnet: &IpNet, address: IpAddr) -> bool {
    if !subnet.contains(&address) || address == subnet.network() {
        return false;
    }
    subnet.addr().is_ipv6() || address != subnet.broadcast()
}

/// Why an address cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    NotInSubnet,
    /// Network or broadcast address.
    Reserved,
    Gateway,
    /// By the endpoint with that index.
    InUse(u32),
}

/// The addresses of one subnet.
#[derive(Clone, Debug)]
pub struct Ipam {
    subnet: IpNet,
    gateway: IpAddr,
    range: IpNet,
    used: HashMap<IpAddr, u32>,
    /// Last one given out automatically: the search begins behind it, so that a
    /// released address rests as long as there are others.
    last: Option<u128>,
}

impl Ipam {
    pub fn new(info: &SubnetInfo) -> Ipam {
        Ipam {
            subnet: info.subnet,
            gateway: info.gateway,
            range: info.ip_range.unwrap_or(info.subnet),
            used: HashMap::new(),
            last: None,
        }
    }

    /// Where automatic addresses come from, for people.
    pub fn place(&self) -> String {
        match self.range == self.subnet {
            true => format!("subnet {}", self.subnet),
            false => format!("the ip-range {} of subnet {}", self.range, self.subnet),
        }
    }

    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// Whether that address could be given to an endpoint.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        if !self.subnet.contains(&address) {
            Err(Refused::NotInSubnet)
        } else if !is_usable(&self.subnet, address) {
            Err(Refused::Reserved)
        } else if address == self.gateway {
            Err(Refused::Gateway)
        } else if let Some(&owner) = self.used.get(&address) {
            Err(Refused::InUse(owner))
        } else {
            Ok(())
        }
    }

    /// The address that an endpoint without a wish gets.
    pub fn next(&self) -> Option<IpAddr> {
        let first = to_bits(self.range.network());
        let last = to_bits(self.range.broadcast());
        let start = match self.last {
            Some(given) if (first..last).contains(&given) => given + 1,
            _ => first,
        };
        // Of any `used + 4` addresses at least one is free, if any is: network,
        // broadcast and gateway are all that is not in `used`.
        let tries = self.used.len() as u128 + 4;
        let ahead = start..=last.min(start.saturating_add(tries));
        let wrapped = first..=start.saturating_sub(1).min(first.saturating_add(tries));
        ahead
            .chain(wrapped)
            .filter(|&bits| bits >= first && bits <= last)
            .map(|bits| at(&self.subnet, bits))
            .find(|&address| self.check(address).is_ok())
    }

    /// The same out of these blocks alone, of what is free elsewhere, too.
    pub fn next_of(&self, blocks: &[IpNet], is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let usable = |block: &IpNet| {
            let within = match self.range.contains(block) {
                true => *block,
                false if block.contains(&self.range) => self.range,
                false => return None,
            };
            Some((to_bits(within.network()), to_bits(within.broadcast())))
        };
        let mut ranges: Vec<(u128, u128)> = blocks.iter().filter_map(usable).collect();
        ranges.sort_unstable();
        // Behind the last one given out, then from the beginning.
        let start = self.last.map_or(0, |last| last + 1);
        let ahead = ranges.iter().map(|&(first, last)| first.max(start)..=last);
        let behind = ranges.iter().map(|&(first, last)| first..=last.min(start));
        ahead
            .chain(behind)
            .flatten()
            .map(|bits| at(&self.subnet, bits))
            .find(|&address| self.check(address).is_ok() && is_free(address))
    }

    /// Marks an address as an endpoint's, and as given out last if it was chosen
    /// by [`Ipam::next`].
    pub fn take(&mut self, address: IpAddr, owner: u32, automatic: bool) {
        self.used.insert(address, owner);
        if automatic {
            self.last = Some(to_bits(address));
        }
    }

    pub fn release(&mut self, address: IpAddr) {
        self.used.remove(&address);
    }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn at(subnet: &IpNet, bits: u128) -> IpAddr {
    match subnet {
        // The high bits are 0: they come from an IPv4 address.
        IpNet::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipam(subnet: &str, gateway: &str, range: Option<&str>) -> Ipam {
        Ipam::new(&SubnetInfo {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            ip_range: range.map(|r| r.parse().unwrap()),
        })
    }

    fn take_next(ipam: &mut Ipam) -> Option<String> {
        let address = ipam.next()?;
        ipam.take(address, 1, true);
        Some(address.to_string())
    }

    #[test]
    fn a_released_address_rests_until_the_others_had_their_turn() {
        let mut ipam = ipam("10.0.0.0/29", "10.0.0.1", None);
        let taken: Vec<_> = std::iter::from_fn(|| take_next(&mut ipam)).collect();
        assert_eq!(
            taken,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        ipam.release("10.0.0.3".parse().unwrap());
        ipam.release("10.0.0.5".parse().unwrap());
        assert_eq!(take_next(&mut ipam).unwrap(), "10.0.0.3");
        ipam.release("10.0.0.3".parse().unwrap());
        assert_eq!(take_next(&mut ipam).unwrap(), "10.0.0.5");
        assert_eq!(take_next(&mut ipam).unwrap(), "10.0.0.3");
        assert_eq!(take_next(&mut ipam), None);
    }

    #[test]
    fn ip_range_limits_automatic_addresses_only() {
        let mut ipam = ipam("10.0.0.0/24", "10.0.0.1", Some("10.0.0.128/30"));
        let taken: Vec<_> = std::iter::from_fn(|| take_next(&mut ipam)).collect();
        assert_eq!(
            taken,
            ["10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"]
        );
        assert_eq!(ipam.check("10.0.0.7".parse().unwrap()), Ok(()));
    }

    #[test]
    fn blocks_limit_automatic_addresses_to_what_is_free_in_them() {
        let mut ipam = ipam("10.0.0.0/24", "10.0.0.1", None);
        let blocks: Vec<IpNet> = ["10.0.0.128/30", "10.0.0.0/30"]
            .map(|b| b.parse().unwrap())
            .into();
        let taken: IpAddr = "10.0.0.130".parse().unwrap();
        let given: Vec<String> = std::iter::from_fn(|| {
            let address = ipam.next_of(&blocks, |ip| ip != taken)?;
            ipam.take(address, 1, true);
            Some(address.to_string())
        })
        .collect();
        // Neither network address, gateway nor what another has.
        assert_eq!(
            given,
            [
                "10.0.0.2",
                "10.0.0.3",
                "10.0.0.128",
                "10.0.0.129",
                "10.0.0.131"
            ]
        );
        ipam.release("10.0.0.2".parse().unwrap());
        let again = ipam.next_of(&blocks, |_| true).unwrap();
        assert_eq!(again.to_string(), "10.0.0.2");
        assert_eq!(ipam.next_of(&[], |_| true), None);
    }

    #[test]
    fn addresses_that_are_nobodys_are_refused_with_the_reason() {
        let mut ipam = ipam("10.0.0.0/24", "10.0.0.1", None);
        ipam.take("10.0.0.9".parse().unwrap(), 4, false);
        let check = |a: &str| ipam.check(a.parse().unwrap());
        assert_eq!(check("10.0.1.1"), Err(Refused::NotInSubnet));
        assert_eq!(check("10.0.0.0"), Err(Refused::Reserved));
        assert_eq!(check("10.0.0.255"), Err(Refused::Reserved));
        assert_eq!(check("10.0.0.1"), Err(Refused::Gateway));
        assert_eq!(check("10.0.0.9"), Err(Refused::InUse(4)));
    }

    #[test]
    fn ipv6_has_no_broadcast_and_plenty_of_room() {
        let mut ipam = ipam("fd00::/64", "fd00::1", None);
        assert_eq!(take_next(&mut ipam).unwrap(), "fd00::2");
        assert_eq!(take_next(&mut ipam).unwrap(), "fd00::3");
        assert_eq!(
            ipam.check("fd00::ffff:ffff:ffff:ffff".parse().unwrap()),
            Ok(())
        );
    }

    #[test]
    fn subnets_avoid_what_is_taken_whatever_its_size() {
        let pools = [Pool {
            net: "172.20.0.0/14".parse().unwrap(),
            size: 20,
        }];
        let taken: Vec<IpNet> = ["172.20.0.0/16", "172.21.3.0/24", "172.21.16.0/20"]
            .map(|t| t.parse().unwrap())
            .into();
        assert_eq!(
            free_subnet(&pools, &taken),
            Some("172.21.32.0/20".parse().unwrap())
        );
        assert_eq!(
            last_free_subnet(&pools, &["172.23.248.0/24".parse().unwrap()]),
            Some("172.23.224.0/20".parse().unwrap())
        );
        let all = ["172.16.0.0/12".parse().unwrap()];
        assert_eq!(free_subnet(&pools, &all), None);
    }

    proptest! {
        #[test]
        fn never_twice_never_outside_never_the_gateway(
            prefix in 24_u8..=30,
            steps in proptest::collection::vec(any::<bool>(), 1..200),
        ) {
            let subnet: IpNet = format!("10.9.8.0/{prefix}").parse().unwrap();
            let gateway = first_usable(&subnet);
            let mut ipam = Ipam::new(&SubnetInfo { subnet, gateway, ip_range: None });
            let room = (1_usize << (32 - prefix)) - 3;
            let mut held = Vec::new();
            for take in steps {
                if take {
                    match ipam.next() {
                        Some(address) => {
                            prop_assert!(is_usable(&subnet, address) && address != gateway);
                            prop_assert!(!held.contains(&address));
                            ipam.take(address, 1, true);
                            held.push(address);
                        }
                        None => prop_assert_eq!(held.len(), room),
                    }
                } else if !held.is_empty() {
                    ipam.release(held.swap_remove(held.len() / 2));
                }
            }
        }

        #[test]
        fn overlap_is_symmetric_and_means_a_shared_address(
            a in any::<u32>(), b in any::<u32>(), p in 0_u8..=32, q in 0_u8..=32,
        ) {
            let net = |a: u32, p| IpNet::new(Ipv4Addr::from_bits(a).into(), p).unwrap().trunc();
            let (a, b) = (net(a, p), net(b, q));
            let shared = to_bits(a.network()) <= to_bits(b.broadcast())
                && to_bits(b.network()) <= to_bits(a.broadcast());
            prop_assert_eq!(overlaps(&a, &b), shared);
            prop_assert_eq!(overlaps(&b, &a), shared);
        }
    }
}
