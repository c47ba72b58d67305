//! Devices by which packets leave and come, and the host's own addresses,
//! followed as they change.

use std::{collections::HashMap, net::IpAddr};

use super::{Inner, overlay, plan, portspec, sources, state::State};
use crate::{
    datapath::{Device, EarlyDrop, LocalEntry, SubnetEntry, UplinkEntry},
    error::Result,
    sys::netlink::{Address, Link},
};

/// An uplink with what `status` shows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub entry: UplinkEntry,
    pub addresses: Vec<IpAddr>,
    pub early: EarlyDrop,
    /// Why the programs do not hang on it.
    pub failed: Option<String>,
}

/// Looks at devices and addresses and brings the datapath to what they are.
pub fn refresh(inner: &Inner, state: &mut State) -> Result<()> {
    let links = state.host.links()?;
    let addresses = state.host.addresses()?;
    note_addresses(inner, state, &addresses);
    set_locals(inner, state)?;

    let ours = |link: &Link| {
        let alias = link.alias.as_deref().unwrap_or_default();
        state.is_our_device(link.ifindex)
            || overlay::is_our_device(link)
            || plan::is_host_ifname(&link.name) && alias.starts_with("netbpf ")
    };
    let links: Vec<&Link> = links.iter().filter(|l| !ours(l)).collect();
    let wanted = find(&links, &addresses, &inner.settings().uplinks);
    let before: HashMap<u32, Uplink> = state
        .uplinks
        .drain(..)
        .map(|u| (u.entry.device.ifindex, u))
        .collect();
    for (ifindex, old) in &before {
        if !wanted.iter().any(|w| w.entry.device.ifindex == *ifindex) {
            tracing::info!(device = old.entry.device.name, "no longer an uplink");
            if let Err(error) = inner.datapath.detach(&old.entry.device) {
                tracing::warn!(%error, device = old.entry.device.name, "programs stay on it");
            }
        }
    }
    let mut fresh = Vec::new();
    for mut uplink in wanted {
        uplink.entry.xdp = inner.settings().xdp && uplink.entry.ethernet;
        let old = before.get(&uplink.entry.device.ifindex);
        match old.filter(|old| old.entry == uplink.entry && old.failed.is_none()) {
            Some(old) => uplink.early = old.early.clone(),
            None => {
                attach(inner, old, &mut uplink);
                fresh.push(uplink.entry.device.ifindex);
            }
        }
        state.uplinks.push(uplink);
    }
    // After the way in of all, see `Datapath::attach_way_out`.
    let fresh = |uplink: &&mut Uplink| fresh.contains(&uplink.entry.device.ifindex);
    for uplink in state.uplinks.iter_mut().filter(fresh) {
        if uplink.failed.is_none()
            && let Err(error) = inner.datapath.attach_way_out(&uplink.entry)
        {
            let old = before.get(&uplink.entry.device.ifindex);
            failed(old, uplink, error.to_string());
        }
    }
    overlay::uplinks_changed(inner, state)?;
    sources::refresh(inner, state)
}

/// Looks anew where ports are to be published at an address that the host may have got
/// just now, before it was heard of. Whether it has is for the ports to say.
pub fn look_for(inner: &Inner, state: &mut State, specs: &[String]) {
    let publish_ip = inner.settings().publish_ip;
    let parsed = specs.iter().filter_map(|text| portspec::parse(text).ok());
    let mut asked = parsed.filter_map(|spec| spec.host_ip.or(publish_ip));
    let is_new =
        |ip: IpAddr| !ip.is_unspecified() && !ip.is_loopback() && !state.addresses.contains(&ip);
    if asked.any(is_new)
        && let Err(error) = refresh(inner, state)
    {
        tracing::warn!(%error, "addresses of the host not looked at anew");
    }
}

fn attach(inner: &Inner, old: Option<&Uplink>, uplink: &mut Uplink) {
    let device = &uplink.entry.device.name;
    match inner.datapath.attach_uplink(&uplink.entry) {
        Ok(early) => {
            tracing::info!(device, ?early, "uplink");
            uplink.early = early;
        }
        Err(error) => failed(old, uplink, error.to_string()),
    }
}

/// Notes why, and says it once.
fn failed(old: Option<&Uplink>, uplink: &mut Uplink, why: String) {
    let device = &uplink.entry.device.name;
    if old.and_then(|old| old.failed.as_ref()) != Some(&why) {
        tracing::warn!(error = why, device, "cannot be an uplink");
    }
    uplink.failed = Some(why);
}

/// After a network came or went: its subnets and gateway addresses.
pub fn refresh_networks(inner: &Inner, state: &mut State) -> Result<()> {
    inner.datapath.set_subnets(&subnets(state))?;
    let addresses = state.host.addresses()?;
    note_addresses(inner, state, &addresses);
    set_locals(inner, state)
}

/// The host has these addresses now.
fn note_addresses(inner: &Inner, state: &mut State, addresses: &[Address]) {
    let now: Vec<IpAddr> = addresses.iter().map(|a| a.address).collect();
    inner.lost.note(&state.addresses, &now);
    state.addresses = now;
}

/// The subnets as the programs know them.
pub fn subnets(state: &State) -> Vec<SubnetEntry> {
    state
        .networks
        .values()
        .flat_map(|network| {
            network.record.subnets.iter().map(|s| SubnetEntry {
                subnet: s.subnet,
                network: network.record.index,
                flags: network.flags(),
            })
        })
        .collect()
}

fn set_locals(inner: &Inner, state: &State) -> Result<()> {
    Ok(inner.datapath.set_locals(&locals_of(state))?)
}

/// The host's addresses as the programs know them.
pub fn locals_of(state: &State) -> Vec<LocalEntry> {
    let gateways = state.networks.values().flat_map(|n| {
        let subnets = n.record.subnets.iter();
        subnets.map(move |s| (s.gateway, n.record.index))
    });
    locals(&state.addresses, &gateways.collect())
}

/// The host's addresses, each once; those of loopback never come by a wire.
fn locals(addresses: &[IpAddr], gateways: &HashMap<IpAddr, u32>) -> Vec<LocalEntry> {
    let mut sorted: Vec<IpAddr> = addresses.to_vec();
    sorted.sort();
    sorted.dedup();
    sorted
        .into_iter()
        .filter(|a| !a.is_loopback())
        .map(|addr| LocalEntry {
            addr,
            gateway_of: gateways.get(&addr).copied(),
        })
        .collect()
}

/// The devices that are uplinks: up, with an address, not `lo`, and among
/// `limit` unless that is empty. A port of a bridge or bond with nothing but a
/// link-local address has no traffic of its own.
fn find(links: &[&Link], addresses: &[Address], limit: &[String]) -> Vec<Uplink> {
    let mut uplinks: Vec<Uplink> =
        links
            .iter()
            .filter(|l| l.up && !l.loopback)
            .filter(|l| limit.is_empty() || limit.contains(&l.name))
            .filter_map(|link| {
                let on_link = addresses.iter().filter(|a| a.ifindex == link.ifindex);
                let on_link: Vec<&Address> = on_link.collect();
                let routable = |a: &&Address| !is_link_local(a.address);
                let has_traffic =
                    !on_link.is_empty() && (!link.enslaved || on_link.iter().any(routable));
                has_traffic.then(|| Uplink {
                    entry: UplinkEntry {
                        device: Device {
                            name: link.name.clone(),
                            ifindex: link.ifindex,
                        },
                        mtu: link.mtu,
                        ethernet: link.ethernet,
                        xdp: false,
                        ipv4: on_link.iter().filter(|a| routable(a)).find_map(|a| {
                            match a.address {
                                IpAddr::V4(ip) if a.global => Some(ip),
                                _ => None,
                            }
                        }),
                        ipv6: on_link.iter().filter(|a| routable(a)).find_map(|a| {
                            match a.address {
                                IpAddr::V6(ip) if a.global && !a.tentative => Some(ip),
                                _ => None,
                            }
                        }),
                    },
                    addresses: on_link.iter().map(|a| a.address).collect(),
                    early: EarlyDrop::Tc(None),
                    failed: None,
                })
            })
            .collect();
    uplinks.sort_by_key(|u| u.entry.device.ifindex);
    uplinks
}

pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(ifindex: u32, name: &str) -> Link {
        Link {
            ifindex,
            name: name.into(),
            alias: None,
            mtu: 1500,
            mac: vec![],
            up: true,
            running: true,
            loopback: name == "lo",
            peer: None,
            peer_namespace: None,
            enslaved: false,
            ethernet: !name.starts_with("wg"),
            forwards4: false,
            forwards6: false,
        }
    }

    fn address(ifindex: u32, ip: &str) -> Address {
        let address: IpAddr = ip.parse().unwrap();
        Address {
            ifindex,
            address,
            prefix: 24,
            tentative: false,
            deprecated: false,
            ours: false,
            global: !is_link_local(address) && !address.is_loopback(),
        }
    }

    #[test]
    fn uplinks_are_up_with_an_address_and_not_lo() {
        let mut down = link(3, "eth1");
        down.up = false;
        let mut port = link(5, "eth2");
        port.enslaved = true;
        let links = [
            &link(1, "lo"),
            &link(2, "eth0"),
            &down,
            &link(4, "bare"),
            &port,
            &link(6, "wg0"),
        ];
        let addresses = [
            address(1, "127.0.0.1"),
            address(2, "fe80::1"),
            address(2, "192.0.2.2"),
            address(2, "2001:db8::2"),
            address(3, "192.0.2.3"),
            address(5, "fe80::5"),
            address(6, "10.6.0.1"),
        ];
        let found = find(&links, &addresses, &[]);
        let names: Vec<&str> = found.iter().map(|u| u.entry.device.name.as_str()).collect();
        assert_eq!(names, ["eth0", "wg0"]);
        assert_eq!(found[0].entry.ipv4, Some("192.0.2.2".parse().unwrap()));
        assert_eq!(found[0].entry.ipv6, Some("2001:db8::2".parse().unwrap()));
        assert!(found[0].entry.ethernet && !found[1].entry.ethernet);
        let limited = find(&links, &addresses, &["wg0".into(), "absent0".into()]);
        assert_eq!(limited.len(), 1);
    }

    #[test]
    fn loopback_is_not_among_the_locals_and_gateways_are_marked() {
        let addresses = [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "192.0.2.2",
            "10.0.0.1",
            "fe80::1",
        ];
        let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let found = locals(&addresses, &HashMap::from([(addresses[2], 7)]));
        let shown: Vec<_> = found
            .iter()
            .map(|l| (l.addr.to_string(), l.gateway_of))
            .collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.1".into(), Some(7)),
                ("192.0.2.2".into(), None),
                ("fe80::1".into(), None)
            ]
        );
    }
}
