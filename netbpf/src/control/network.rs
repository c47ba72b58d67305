//! Networks: made, removed, and their subnets chosen.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use netbpf_common::packet::vxlan::MAX_VNI;

use super::{
    Inner,
    errors::{check_name, not_implemented},
    ipam, now, overlay, plan,
    state::State,
    uplinks, view,
};
use crate::{
    error::{Code, Error, Result},
    model::{Driver, NetworkInfo, NetworkSpec, SubnetInfo},
    settings::{self, Pool},
    store::{Meta, NetworkRecord},
    sys::process,
};

/// The network that is used where none is named.
pub const DEFAULT: &str = "default";

pub fn create(inner: &Inner, state: &mut State, spec: NetworkSpec) -> Result<NetworkInfo> {
    check_spec(&spec, inner.ipv6)?;
    if state.networks.contains_key(&spec.name) {
        return Err(Error::new(
            Code::AlreadyExists,
            format!("network {:?} exists already", spec.name),
        ));
    }
    let subnets = choose_subnets(inner, state, &spec)?;
    let name = spec.name.clone();
    if spec.driver == Driver::Overlay {
        overlay::create(inner, state, spec, subnets)?;
        return shown(inner, state, &name);
    }
    let record = NetworkRecord {
        index: state.next_network()?,
        name: spec.name,
        driver: spec.driver,
        subnets,
        mtu: spec.mtu,
        internal: spec.internal,
        icc: spec.icc,
        masquerade: spec.masquerade,
        overlay: None,
        labels: spec.labels,
        created_at: now(),
    };
    install(inner, state, record)?;
    shown(inner, state, &name)
}

fn shown(inner: &Inner, state: &State, name: &str) -> Result<NetworkInfo> {
    let seen = state.seen();
    Ok(view::network(inner, &seen, seen.network(name)?))
}

/// Makes a network on this host.
pub fn install(inner: &Inner, state: &mut State, record: NetworkRecord) -> Result<()> {
    if let Some(flaw) = record.outside_gateway() {
        return Err(Error::invalid(flaw));
    }
    // First the kernel: what a crash leaves of a network that is not in the store
    // is swept away at the next start.
    let steps = plan::network_up(&record, inner.ipv6);
    inner.apply(&mut state.host).run(&steps)?;
    let name = record.name.clone();
    state.add_network(record.clone());
    let stored = uplinks::refresh_networks(inner, state).and_then(|()| {
        inner.store.put_meta(Meta::LastNetwork, &record.index)?;
        Ok(inner.store.put_network(&record)?)
    });
    if let Err(e) = stored {
        state.networks.remove(&name);
        take_down(inner, state, &record);
        return Err(e);
    }
    tracing::info!(network = name, "network made");
    Ok(())
}

/// Takes a network that is no more out of maps and host, as far as it goes: what
/// stays is swept away at the next start.
fn take_down(inner: &Inner, state: &mut State, record: &NetworkRecord) {
    let steps = plan::network_down(record);
    let mut apply = inner.apply(&mut state.host);
    let mut errors = apply.run_to_end(&steps);
    errors.extend(uplinks::refresh_networks(inner, state).err());
    for error in errors {
        tracing::warn!(%error, network = record.name, "not removed cleanly");
    }
}

pub fn remove(inner: &Inner, state: &mut State, name: &str) -> Result<()> {
    let network = state.network(name)?;
    if name == DEFAULT {
        return Err(Error::invalid(format!(
            "network {name:?} cannot be removed: it is used where no network is named"
        )));
    }
    if !network.endpoints.is_empty() {
        let seen = state.seen();
        let names = view::network(inner, &seen, seen.network(name)?).endpoints;
        return Err(Error::new(
            Code::NetworkInUse,
            format!("network {name:?} has endpoints: {}", names.join(", ")),
        ));
    }
    if network.record.overlay.is_some() {
        return overlay::remove(inner, state, name);
    }
    forget(inner, state, name)
}

/// Takes a network without endpoints off this host.
pub fn forget(inner: &Inner, state: &mut State, name: &str) -> Result<()> {
    let record = state.network(name)?.record.clone();
    // The store first: what a crash leaves in the kernel then is swept away.
    inner.store.remove_network(name)?;
    state.networks.remove(name);
    take_down(inner, state, &record);
    tracing::info!(network = name, "network removed");
    Ok(())
}

pub fn prune(inner: &Inner, state: &mut State) -> Result<Vec<String>> {
    let unused: Vec<(String, Driver)> = state
        .networks
        .values()
        .filter(|n| n.endpoints.is_empty() && n.record.name != DEFAULT)
        .map(|n| (n.record.name.clone(), n.record.driver))
        .collect();
    let mut removed = Vec::new();
    for (name, driver) in unused {
        match remove(inner, state, &name) {
            Ok(()) => removed.push(name),
            // In use on another node, or nobody can say.
            Err(error) if driver == Driver::Overlay => {
                tracing::info!(%error, network = name, "not pruned");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// `default`, at the first start: of both families as far as the host has them
/// and the pools have room; what is missing is said in a note.
pub fn create_default(inner: &Inner, state: &mut State) -> Result<()> {
    let spec = |ipv6| NetworkSpec {
        name: DEFAULT.into(),
        ipv6,
        icc: true,
        masquerade: true,
        ..NetworkSpec::default()
    };
    let mut made = create(inner, state, spec(inner.ipv6));
    if inner.ipv6
        && let Err(e) = &made
        && e.code == Code::PoolExhausted
    {
        made = create(inner, state, spec(false));
    }
    match made {
        Ok(_) => Ok(()),
        Err(e) if e.code == Code::PoolExhausted => {
            let note = format!("there is no network {DEFAULT:?}: {}", e.message);
            state.notes.push(note);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

fn check_spec(spec: &NetworkSpec, host_has_ipv6: bool) -> Result<()> {
    check_name("network", &spec.name)?;
    let named = |what: &str| format!("network {:?}: {what}", spec.name);
    match spec.driver {
        Driver::Bridge => {}
        Driver::Overlay if !spec.masquerade => {
            return Err(Error::invalid(named(
                "overlay networks are masqueraded: outside of the nodes nobody has a way to their addresses",
            )));
        }
        Driver::Overlay => {}
        Driver::Lan => return Err(not_implemented(&named("driver lan"))),
    }
    if let Some(vni) = spec.vni {
        if spec.driver != Driver::Overlay {
            return Err(Error::invalid(named(&format!(
                "vni {vni}: only overlay networks have one"
            ))));
        }
        if !(1..=MAX_VNI).contains(&vni) {
            return Err(Error::invalid(named(&format!(
                "vni {vni} is not between 1 and {MAX_VNI}"
            ))));
        }
    }
    if let Some(parent) = &spec.parent {
        return Err(not_implemented(&named(&format!("parent {parent:?}"))));
    }
    for v6 in [false, true] {
        let of_family: Vec<String> = spec
            .subnets
            .iter()
            .filter(|s| s.addr().is_ipv6() == v6)
            .map(ToString::to_string)
            .collect();
        if of_family.len() > 1 {
            return Err(Error::invalid(named(&format!(
                "more than one subnet of a family: {}",
                of_family.join(", ")
            ))));
        }
    }
    let has_ipv6 = spec.ipv6 || spec.subnets.iter().any(|s| s.addr().is_ipv6());
    if has_ipv6 && !host_has_ipv6 {
        return Err(Error::invalid(named("IPv6 is disabled on this host")));
    }
    if let Some(mtu) = spec.mtu {
        let least = if has_ipv6 { 1280 } else { 68 };
        if mtu < least {
            return Err(Error::invalid(named(&format!(
                "MTU {mtu} is not between {least} and 65535"
            ))));
        }
    }
    Ok(())
}

fn choose_subnets(inner: &Inner, state: &mut State, spec: &NetworkSpec) -> Result<Vec<SubnetInfo>> {
    let mut nets = spec.subnets.clone();
    for subnet in &nets {
        check_subnet(subnet)?;
    }
    let wanted: Vec<SubnetInfo> = with_gateways(&nets, &[], &[])?;
    check_overlap(inner, state, &spec.name, spec.driver, &wanted)?;
    let taken = taken(inner, state, &spec.name)?;
    let mut taken: Vec<IpNet> = taken.into_iter().map(|(net, ..)| net).collect();
    // Of IPv4 there is always one: `--ipv6`, which a subnet of IPv6 implies, adds to it.
    if !nets.iter().any(|s| s.addr().is_ipv4()) {
        let pools = pools(inner, false)?;
        // Where other nodes have their own networks, from the other end, is less likely.
        let subnet = match spec.driver {
            Driver::Overlay => ipam::last_free_subnet(&pools, &taken),
            _ => ipam::free_subnet(&pools, &taken),
        };
        let subnet = subnet.ok_or_else(|| exhausted(&pools))?;
        taken.push(subnet);
        nets.insert(0, subnet);
    }
    if spec.ipv6 && !nets.iter().any(|s| s.addr().is_ipv6()) {
        let pools = pools(inner, true)?;
        nets.push(ipam::free_subnet(&pools, &taken).ok_or_else(|| exhausted(&pools))?);
    }
    with_gateways(&nets, &spec.gateways, &spec.ip_ranges)
}

/// Refuses subnets that are another's on this host. Overlay networks are told apart by
/// their numbers and may share addresses with each other.
pub fn check_overlap(
    inner: &Inner,
    state: &mut State,
    name: &str,
    driver: Driver,
    subnets: &[SubnetInfo],
) -> Result<()> {
    for (net, whose, of) in taken(inner, state, name)? {
        let Some(wanted) = subnets.iter().find(|s| ipam::overlaps(&net, &s.subnet)) else {
            continue;
        };
        if driver == Driver::Overlay && of == Some(Driver::Overlay) {
            continue;
        }
        return Err(Error::new(
            Code::SubnetOverlap,
            format!("subnet {} overlaps {whose}", wanted.subnet),
        ));
    }
    Ok(())
}

fn exhausted(pools: &[Pool]) -> Error {
    let pools: Vec<String> = pools
        .iter()
        .map(|p| format!("{} in /{}", p.net, p.size))
        .collect();
    Error::new(
        Code::PoolExhausted,
        format!("no free subnet in the pools ({})", pools.join(", ")),
    )
}

pub fn check_subnet(subnet: &IpNet) -> Result<()> {
    if subnet.trunc() != *subnet {
        return Err(Error::invalid(format!(
            "subnet {subnet} has host bits set: {} is meant?",
            subnet.trunc()
        )));
    }
    let sizes = match subnet {
        IpNet::V4(_) => 8..=30,
        IpNet::V6(_) => 8..=126,
    };
    if !sizes.contains(&subnet.prefix_len()) {
        return Err(Error::invalid(format!(
            "subnet {subnet}: the prefix length is not between {} and {}",
            sizes.start(),
            sizes.end()
        )));
    }
    match settings::reserved(subnet) {
        Some(range) => Err(Error::invalid(format!(
            "subnet {subnet} overlaps {range}, which have a meaning of their own: choose another, \
             such as one out of 10.0.0.0/8 or fd00::/8"
        ))),
        None => Ok(()),
    }
}

/// Puts gateways and ranges to their subnets.
fn with_gateways(nets: &[IpNet], gateways: &[IpAddr], ranges: &[IpNet]) -> Result<Vec<SubnetInfo>> {
    let mut subnets: Vec<(IpNet, Option<IpAddr>, Option<IpNet>)> =
        nets.iter().map(|n| (*n, None, None)).collect();
    for gateway in gateways {
        let place = subnets.iter_mut().find(|(n, ..)| n.contains(gateway));
        let Some((subnet, place, _)) = place else {
            return Err(Error::new(
                Code::AddressNotInSubnet,
                format!("gateway {gateway} is in no subnet of the network"),
            ));
        };
        if !ipam::is_usable(subnet, *gateway) {
            return Err(Error::invalid(format!(
                "gateway {gateway} is the network or broadcast address of {subnet}"
            )));
        }
        if place.replace(*gateway).is_some() {
            return Err(Error::invalid(format!(
                "gateway {gateway}: subnet {subnet} has one already"
            )));
        }
    }
    for range in ranges {
        if range.trunc() != *range {
            return Err(Error::invalid(format!(
                "address range {range} has host bits set: {} is meant?",
                range.trunc()
            )));
        }
        let place = subnets.iter_mut().find(|(n, ..)| n.contains(range));
        let Some((subnet, _, place)) = place else {
            return Err(Error::new(
                Code::AddressNotInSubnet,
                format!("address range {range} is in no subnet of the network"),
            ));
        };
        if place.replace(*range).is_some() {
            return Err(Error::invalid(format!(
                "address range {range}: subnet {subnet} has one already"
            )));
        }
    }
    Ok(subnets
        .into_iter()
        .map(|(subnet, gateway, ip_range)| SubnetInfo {
            gateway: gateway.unwrap_or_else(|| ipam::first_usable(&subnet)),
            subnet,
            ip_range,
        })
        .collect())
}

/// What a subnet of the new network `name` may not overlap, whose it is, and of which
/// driver if of a network.
fn taken(
    inner: &Inner,
    state: &mut State,
    name: &str,
) -> Result<Vec<(IpNet, String, Option<Driver>)>> {
    let networks = state.networks.values().flat_map(|n| {
        let (name, driver) = (&n.record.name, Some(n.record.driver));
        let subnets = n.record.subnets.iter().map(|s| s.subnet);
        subnets.map(move |s| (s, format!("subnet {s} of network {name:?}"), driver))
    });
    let mut taken: Vec<(IpNet, String, Option<Driver>)> = networks.collect();
    // Those of the cluster that are not here.
    if let Some(cluster) = &inner.cluster {
        let view = cluster.view();
        let others = view.networks.values();
        let is_other = |n: &str| n != name && !state.networks.contains_key(n);
        for network in others.filter(|n| is_other(&n.name)) {
            let whose = |s: IpNet| format!("subnet {s} of overlay network {:?}", network.name);
            let subnets = network.subnets.iter().map(|s| s.subnet);
            taken.extend(subnets.map(|s| (s, whose(s), Some(Driver::Overlay))));
        }
    }
    let own: Vec<IpAddr> = state
        .networks
        .values()
        .flat_map(|n| n.record.subnets.iter().map(|s| s.gateway))
        .collect();
    for route in state.host.routes()? {
        let net = route.destination;
        if !route.ours && !is_as_good_as_default(&net) {
            taken.push((net, format!("the host's route to {net}"), None));
        }
    }
    for address in state.host.addresses()? {
        let ip = address.address;
        if !address.ours && !own.contains(&ip) {
            taken.push((IpNet::from(ip), format!("the host's address {ip}"), None));
        }
    }
    Ok(taken)
}

/// A default route, also one that a VPN has written in two halves or that names
/// all of the global IPv6 space, says nothing of where a subnet is; link-local
/// and multicast routes are of every device.
fn is_as_good_as_default(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() <= 1 || net.addr().is_multicast(),
        IpNet::V6(net) => {
            net.prefix_len() <= 3 || net.addr().is_multicast() || net.addr().is_unicast_link_local()
        }
    }
}

/// The pools of a family: the settings', or the default of which the settings
/// have none.
fn pools(inner: &Inner, v6: bool) -> Result<Vec<Pool>> {
    let settings = inner.settings();
    let set = settings.pools.iter().copied();
    let set: Vec<Pool> = set.filter(|p| p.net.addr().is_ipv6() == v6).collect();
    if !set.is_empty() {
        return Ok(set);
    }
    Ok(vec![if v6 {
        Pool {
            net: IpNet::V6(ula_prefix(inner)?),
            size: 64,
        }
    } else {
        Pool {
            net: IpNet::new_assert([172, 20, 0, 0].into(), 14),
            size: 20,
        }
    }])
}

/// This node's own /48 of fd00::/8 (RFC 4193), rolled once.
fn ula_prefix(inner: &Inner) -> Result<Ipv6Net> {
    if let Some(prefix) = inner.store.meta(Meta::UlaPrefix)? {
        return Ok(prefix);
    }
    let mut bytes = [0; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&process::random::<5>()?);
    let prefix = Ipv6Net::new_assert(bytes.into(), 48);
    inner.store.put_meta(Meta::UlaPrefix, &prefix)?;
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(nets: &[&str]) -> Vec<IpNet> {
        nets.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn gateways_and_ranges_find_their_subnets() {
        let subnets = with_gateways(
            &nets(&["10.0.0.0/24", "fd00::/64"]),
            &["fd00::fe".parse().unwrap()],
            &nets(&["10.0.0.128/25"]),
        )
        .unwrap();
        assert_eq!(subnets[0].gateway.to_string(), "10.0.0.1");
        assert_eq!(subnets[0].ip_range.unwrap().to_string(), "10.0.0.128/25");
        assert_eq!(subnets[1].gateway.to_string(), "fd00::fe");
    }

    #[test]
    fn gateways_outside_or_of_no_use_are_refused() {
        let code = |gateways: &[&str], ranges: &[&str]| {
            let gateways: Vec<IpAddr> = gateways.iter().map(|g| g.parse().unwrap()).collect();
            with_gateways(&nets(&["10.0.0.0/24"]), &gateways, &nets(ranges))
                .unwrap_err()
                .code
        };
        assert_eq!(code(&["10.0.1.1"], &[]), Code::AddressNotInSubnet);
        assert_eq!(code(&["10.0.0.255"], &[]), Code::InvalidArgument);
        assert_eq!(code(&["10.0.0.1", "10.0.0.2"], &[]), Code::InvalidArgument);
        assert_eq!(code(&[], &["10.0.0.0/23"]), Code::AddressNotInSubnet);
        assert_eq!(code(&[], &["10.0.0.1/25"]), Code::InvalidArgument);
    }

    #[test]
    fn subnets_of_no_use_are_refused_with_their_value() {
        for bad in [
            "10.0.0.1/24",
            "10.0.0.0/31",
            "10.0.0.0/32",
            "0.0.0.0/0",
            "127.0.0.0/16",
            "224.0.0.0/24",
            "169.254.0.0/16",
            "fe80::/64",
            "ff00::/16",
            "fd00::1/64",
            "fd00::/127",
            "240.0.0.0/8",
            "::ffff:192.0.2.0/120",
            "::ffff:0:0/96",
            "::fffe:0:0/95",
            "::/64",
            "::1:0/112",
            "2002::/48",
        ] {
            let error = check_subnet(&bad.parse().unwrap()).expect_err(bad);
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains(bad), "{}", error.message);
        }
        for good in [
            "10.0.0.0/30",
            "192.168.0.0/16",
            "fd00::/64",
            "2001:db8::/48",
        ] {
            assert!(check_subnet(&good.parse().unwrap()).is_ok(), "{good}");
        }
    }

    #[test]
    fn specs_are_checked_before_anything_is_touched() {
        let spec = |change: fn(&mut NetworkSpec)| {
            let mut spec = NetworkSpec {
                name: "front".into(),
                ..NetworkSpec::default()
            };
            change(&mut spec);
            check_spec(&spec, true).map_err(|e| e.code)
        };
        assert_eq!(spec(|_| {}), Ok(()));
        assert_eq!(spec(|s| s.name = "a b".into()), Err(Code::InvalidArgument));
        assert_eq!(spec(|s| s.driver = Driver::Lan), Err(Code::NotImplemented));
        assert_eq!(spec(|s| s.vni = Some(5)), Err(Code::InvalidArgument));
        let overlay = |vni| {
            let spec = NetworkSpec {
                name: "front".into(),
                driver: Driver::Overlay,
                masquerade: true,
                vni,
                ..NetworkSpec::default()
            };
            check_spec(&spec, true).map_err(|e| e.code)
        };
        assert_eq!(overlay(None), Ok(()));
        assert_eq!(overlay(Some(0x00ff_fffe)), Ok(()));
        for bad in [0, 0x00ff_ffff, 0x0100_0000] {
            assert_eq!(overlay(Some(bad)), Err(Code::InvalidArgument), "{bad}");
        }
        let routed = spec(|s| (s.driver, s.masquerade) = (Driver::Overlay, false));
        assert_eq!(routed, Err(Code::InvalidArgument));
        assert_eq!(
            spec(|s| s.parent = Some("eth0".into())),
            Err(Code::NotImplemented)
        );
        assert_eq!(spec(|s| s.mtu = Some(67)), Err(Code::InvalidArgument));
        assert_eq!(spec(|s| s.mtu = Some(1000)), Ok(()));
        let small = spec(|s| {
            s.mtu = Some(1000);
            s.ipv6 = true;
        });
        assert_eq!(small, Err(Code::InvalidArgument));
        let two = spec(|s| s.subnets = nets(&["10.0.0.0/24", "10.1.0.0/24"]));
        assert_eq!(two, Err(Code::InvalidArgument));
    }
}
