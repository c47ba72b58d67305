//! Whether an endpoint is in the kernel as it was made: what an engine asks from time to
//! time. It only looks; repairing is the daemon's, at its start and periodically.

use std::{net::IpAddr, path::Path};

use super::{request::open_of, seen::Seen};
use crate::{
    datapath::GATEWAY_MAC,
    error::Result,
    model::{CheckSpec, Difference, DifferenceKind},
    store::EndpointRecord,
    sys::{
        netlink::{Address, Link, Netlink, Route, RouteKind},
        netns::{self, Namespace},
    },
};

/// Looks at the endpoints of a name, on all networks or one; what is not as it should be.
pub fn check(seen: &Seen, name: &str, spec: &CheckSpec) -> Result<Vec<Difference>> {
    let open = spec.netns.as_ref().map(open_of).transpose()?;
    let mut host = Netlink::open()?;
    let mut found = Vec::new();
    for record in seen.found(Some(name), spec.network.as_deref())? {
        let mut differs = Differs(Vec::new());
        look(&mut host, record, open.as_ref(), &mut differs)?;
        let network = &record.network;
        found.extend(differs.0.into_iter().map(|(what, message)| Difference {
            network: network.clone(),
            what,
            message,
        }));
    }
    Ok(found)
}

/// Looks at one endpoint, which is at whatever path it was attached by.
pub fn check_one(host: &mut Netlink, record: &EndpointRecord) -> Result<Vec<String>> {
    let mut differs = Differs(Vec::new());
    look(host, record, None, &mut differs)?;
    Ok(differs.0.into_iter().map(|(_, message)| message).collect())
}

struct Differs(Vec<(DifferenceKind, String)>);

impl Differs {
    fn add(&mut self, what: DifferenceKind, message: String) {
        self.0.push((what, message));
    }
}

fn look(
    host: &mut Netlink,
    record: &EndpointRecord,
    open: Option<&Namespace>,
    differs: &mut Differs,
) -> Result<()> {
    let device = host.link_by_index(record.host_ifindex)?;
    let name = &record.host_ifname;
    match device.filter(|link| link.name == *name) {
        None => differs.add(
            DifferenceKind::Interface,
            format!("interface {name} is gone"),
        ),
        Some(link) if !link.up => {
            differs.add(
                DifferenceKind::Interface,
                format!("interface {name} is down"),
            );
        }
        // What the container sends goes to the gateways' MAC, which is this one's.
        Some(link) if link.mac != GATEWAY_MAC => {
            let (found, wanted) = (shown(&link.mac), shown(&GATEWAY_MAC));
            let message = format!("the MAC address of {name} is {found}, not {wanted}");
            differs.add(DifferenceKind::Mac, message);
        }
        Some(_) => {}
    }
    if let Some(open) = open {
        if open.id() == record.namespace {
            return look_inside(&mut open.run(Netlink::open)??, record, differs);
        }
        let message = format!(
            "{} is not the namespace that it was attached to",
            open.path().display()
        );
        differs.add(DifferenceKind::Namespace, message);
        return Ok(());
    }
    let namespace = Namespace::open(Path::new(&record.netns)).ok();
    let namespace = namespace
        .filter(|n| n.id() == record.namespace)
        .or_else(|| netns::find(record.namespace));
    match namespace {
        Some(namespace) => look_inside(&mut namespace.run(Netlink::open)??, record, differs),
        // Its mount may be none of ours: as long as our device's other end lives, so does it.
        None if host.other_end_lives(record.host_ifindex, &record.host_ifname)? => Ok(()),
        None => {
            let message = format!("namespace {} is gone", record.netns);
            differs.add(DifferenceKind::Namespace, message);
            Ok(())
        }
    }
}

fn look_inside(
    container: &mut Netlink,
    record: &EndpointRecord,
    differs: &mut Differs,
) -> Result<()> {
    let place = format!("{} in {}", record.ifname, record.netns);
    let is_ours = |l: &Link| l.peer == Some(record.host_ifindex);
    let Some(link) = container.link(&record.ifname)?.filter(is_ours) else {
        differs.add(
            DifferenceKind::Interface,
            format!("interface {place} is gone"),
        );
        return Ok(());
    };
    if !link.up {
        differs.add(
            DifferenceKind::Interface,
            format!("interface {place} is down"),
        );
    }
    if link.mac != record.mac {
        let (found, wanted) = (shown(&link.mac), shown(&record.mac));
        let message = format!("the MAC address of {place} is {found}, not {wanted}");
        differs.add(DifferenceKind::Mac, message);
    }
    let addresses = container.addresses()?;
    let routes = container.routes()?;
    for (address, gateway) in record.addresses() {
        let is_there = |a: &Address| a.ifindex == link.ifindex && a.subnet() == Some(address);
        if !addresses.iter().any(is_there) {
            let message = format!("address {address} is not on {place}");
            differs.add(DifferenceKind::Address, message);
        }
        let is_default = match gateway {
            IpAddr::V4(_) => record.default4,
            IpAddr::V6(_) => record.default6,
        };
        let leads_there = |route: &Route| {
            let RouteKind::Unicast(target) = &route.kind else {
                return false;
            };
            route.destination.prefix_len() == 0
                && route.table.is_none()
                && target.ifindex == link.ifindex
                && target.gateway == Some(gateway)
        };
        if is_default && !routes.iter().any(leads_there) {
            let message = format!("the default route by {gateway} is not on {place}");
            differs.add(DifferenceKind::Route, message);
        }
    }
    Ok(())
}

fn shown(mac: &[u8]) -> String {
    let octets: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    octets.join(":")
}
