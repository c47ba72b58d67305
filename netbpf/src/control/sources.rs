//! Which address the host sends from, by device and destination, read from its
//! routes: what `bpf_fib_lookup` tells only from Linux 6.7 on.
//!
//! As the kernel chooses (`fib_result_prefsrc`, `ipv6_dev_get_saddr`): the route's
//! `src`; else for IPv4 the device's address in the gateway's subnet, or its first;
//! for IPv6 by label and longest prefix (RFC 6724 section 5). Routes of several
//! tables to one destination by one device count as the main table's.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv6Net};

use super::{Inner, state::State, uplinks::Uplink};
use crate::{
    datapath::SourceEntry,
    error::Result,
    sys::netlink::{Address, Route, RouteKind, RouteTarget},
};

/// Unique local addresses (RFC 4193), which have a label of their own.
const ULA: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// Entries that the table has room for.
const MOST: usize = 4096;

/// Brings the table of sources to what the host's routes are; nothing to do where
/// the kernel tells them itself.
pub fn refresh(inner: &Inner, state: &mut State) -> Result<()> {
    if !inner.datapath.wants_sources() {
        return Ok(());
    }
    let addresses = state.host.addresses()?;
    let routes = state.host.routes()?;
    let mut sources = sources(&state.uplinks, &addresses, routes);
    if sources.len() > MOST {
        tracing::warn!(
            routes = sources.len(),
            "only the {MOST} widest routes that name a source address are heeded"
        );
        sources.truncate(MOST);
    }
    Ok(inner.datapath.set_sources(&sources)?)
}

/// The sources that are not the uplink's first address, the widest routes first.
fn sources(uplinks: &[Uplink], addresses: &[Address], mut routes: Vec<Route>) -> Vec<SourceEntry> {
    routes.extend(
        uplinks
            .iter()
            .filter_map(|uplink| ula_route(uplink, addresses)),
    );
    routes.sort_by_key(|r| (r.destination.prefix_len(), r.table, r.metric));
    let mut found = Found::default();
    for route in routes {
        let RouteKind::Unicast(target) = route.kind else {
            continue;
        };
        // A route of several ways names no device: it may be any.
        let by = |u: &&Uplink| target.ifindex == 0 || u.entry.device.ifindex == target.ifindex;
        for uplink in uplinks.iter().filter(by) {
            if let Some(source) = source(uplink, addresses, route.destination, &target) {
                found.add(uplink, route.destination, source);
            }
        }
    }
    found.entries
}

#[derive(Default)]
struct Found {
    entries: Vec<SourceEntry>,
    by_destination: HashMap<(u32, IpNet), IpAddr>,
    seen: HashSet<(u32, IpNet)>,
}

impl Found {
    /// Notes a source, unless the next wider route says the same.
    fn add(&mut self, uplink: &Uplink, destination: IpNet, source: IpAddr) {
        let ifindex = uplink.entry.device.ifindex;
        if !self.seen.insert((ifindex, destination)) {
            return;
        }
        let wider = std::iter::successors(destination.supernet(), IpNet::supernet)
            .find_map(|net| self.by_destination.get(&(ifindex, net)).copied());
        let first = match destination {
            IpNet::V4(_) => uplink.entry.ipv4.map(IpAddr::V4),
            IpNet::V6(_) => uplink.entry.ipv6.map(IpAddr::V6),
        };
        if wider.or(first) == Some(source) {
            return;
        }
        self.by_destination.insert((ifindex, destination), source);
        self.entries.push(SourceEntry {
            ifindex,
            destination,
            source,
        });
    }
}

/// Destinations among unique local addresses have no route of their own mostly, but
/// another source than the rest.
fn ula_route(uplink: &Uplink, addresses: &[Address]) -> Option<Route> {
    let ifindex = uplink.entry.device.ifindex;
    let has_one = addresses
        .iter()
        .any(|a| a.ifindex == ifindex && is_ula(a.address));
    let target = RouteTarget {
        ifindex,
        ..RouteTarget::default()
    };
    has_one.then(|| Route::via_device(ULA.into(), target))
}

fn source(
    uplink: &Uplink,
    addresses: &[Address],
    destination: IpNet,
    target: &RouteTarget,
) -> Option<IpAddr> {
    if target.source.is_some() {
        return target.source;
    }
    let ifindex = uplink.entry.device.ifindex;
    let usable = addresses.iter().filter(|a| {
        a.ifindex == ifindex
            && a.global
            && !a.tentative
            && a.address.is_ipv4() == destination.addr().is_ipv4()
    });
    match destination {
        IpNet::V4(_) => {
            let usable: Vec<&Address> = usable.collect();
            let beside_gateway = usable.iter().find(|a| {
                let gateway = target.gateway;
                gateway.is_some_and(|g| a.subnet().is_some_and(|net| net.contains(&g)))
            });
            beside_gateway.or(usable.first()).map(|a| a.address)
        }
        // Of equals the first one, as the kernel keeps it.
        IpNet::V6(net) => usable
            .first_by_rank(|a| {
                let IpAddr::V6(address) = a.address else {
                    return (false, false, 0);
                };
                let same_label = is_ula(a.address) == is_ula(net.addr().into());
                let shared = (address.to_bits() ^ net.addr().to_bits()).leading_zeros();
                (
                    !a.deprecated,
                    same_label,
                    shared.min(u32::from(net.prefix_len())),
                )
            })
            .map(|a| a.address),
    }
}

/// The first of the highest rank.
trait ByRank: Iterator + Sized {
    fn first_by_rank<K: Ord>(self, mut rank: impl FnMut(&Self::Item) -> K) -> Option<Self::Item> {
        self.reduce(|best, next| match rank(&next) > rank(&best) {
            true => next,
            false => best,
        })
    }
}

impl<I: Iterator> ByRank for I {}

fn is_ula(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if ULA.contains(&a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{Device, EarlyDrop, UplinkEntry};

    fn uplink(ifindex: u32, ipv4: &str, ipv6: &str) -> Uplink {
        let device = Device {
            name: format!("up{ifindex}"),
            ifindex,
        };
        Uplink {
            entry: UplinkEntry {
                device,
                mtu: 1500,
                ethernet: true,
                xdp: false,
                ipv4: ipv4.parse().ok(),
                ipv6: ipv6.parse().ok(),
            },
            addresses: Vec::new(),
            early: EarlyDrop::Tc(None),
            failed: None,
        }
    }

    fn address(ifindex: u32, text: &str) -> Address {
        let net: IpNet = text.parse().unwrap();
        Address {
            ifindex,
            address: net.addr(),
            prefix: net.prefix_len(),
            tentative: false,
            deprecated: false,
            ours: false,
            global: true,
        }
    }

    fn route(ifindex: u32, to: &str, via: Option<&str>, src: Option<&str>) -> Route {
        let parse = |a: &str| a.parse().unwrap();
        let target = RouteTarget {
            ifindex,
            gateway: via.map(parse),
            source: src.map(parse),
        };
        Route::via_device(to.parse().unwrap(), target)
    }

    fn shown(entries: &[SourceEntry]) -> Vec<String> {
        let show =
            |e: &SourceEntry| format!("{} dev {} src {}", e.destination, e.ifindex, e.source);
        entries.iter().map(show).collect()
    }

    #[test]
    fn ipv4_by_src_then_by_the_gateways_subnet_then_the_first() {
        let uplinks = [uplink(2, "192.0.2.1", "")];
        let addresses = [
            address(2, "192.0.2.1/24"),
            address(2, "198.51.100.1/24"),
            address(3, "203.0.113.1/24"),
        ];
        let routes = vec![
            route(2, "0.0.0.0/0", Some("192.0.2.254"), None),
            route(2, "10.0.0.0/8", Some("198.51.100.254"), None),
            route(2, "10.1.0.0/16", Some("192.0.2.254"), None),
            route(2, "10.2.0.0/16", Some("198.51.100.254"), None),
            route(2, "198.51.100.0/24", None, Some("198.51.100.1")),
            route(3, "203.0.113.0/24", None, Some("203.0.113.1")),
        ];
        assert_eq!(
            shown(&sources(&uplinks, &addresses, routes)),
            [
                "10.0.0.0/8 dev 2 src 198.51.100.1",
                "10.1.0.0/16 dev 2 src 192.0.2.1",
                "198.51.100.0/24 dev 2 src 198.51.100.1",
            ]
        );
    }

    #[test]
    fn ipv6_by_label_and_longest_prefix() {
        let uplinks = [uplink(2, "", "2001:db8:1::1")];
        let mut old = address(2, "2001:db8:9::1/64");
        old.deprecated = true;
        let addresses = [
            address(2, "2001:db8:1::1/64"),
            address(2, "fd00:1::1/64"),
            address(2, "2001:db8:2::1/64"),
            old,
        ];
        let routes = vec![
            route(2, "::/0", Some("fe80::1"), None),
            route(2, "2001:db8:2::/64", None, None),
            route(2, "2001:db8:9::/64", None, None),
        ];
        assert_eq!(
            shown(&sources(&uplinks, &addresses, routes)),
            [
                "fc00::/7 dev 2 src fd00:1::1",
                "2001:db8:2::/64 dev 2 src 2001:db8:2::1",
            ]
        );
    }

    #[test]
    fn the_main_table_wins_and_a_route_of_several_ways_counts_for_all() {
        let uplinks = [uplink(2, "192.0.2.1", ""), uplink(3, "198.51.100.1", "")];
        let addresses = [address(2, "192.0.2.1/24"), address(3, "198.51.100.1/24")];
        let other = route(2, "10.0.0.0/8", None, Some("192.0.2.9")).in_table(100);
        let routes = vec![
            other,
            route(2, "10.0.0.0/8", None, Some("192.0.2.1")),
            route(0, "11.0.0.0/8", None, Some("192.0.2.1")),
        ];
        assert_eq!(
            shown(&sources(&uplinks, &addresses, routes)),
            ["11.0.0.0/8 dev 3 src 192.0.2.1"]
        );
    }
}
