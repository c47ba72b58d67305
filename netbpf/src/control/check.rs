//! Whether an endpoint is in the kernel as it was made: what an engine asks from time to
//! time. It only looks; repairing is the daemon's, at its start and periodically.

use std::{net::IpAddr, path::Path};

use super::seen::Seen;
use crate::{
    error::Result,
    model::{Difference, DifferenceKind},
    store::EndpointRecord,
    sys::{
        netlink::{Address, Link, Netlink, Route, RouteKind},
        netns::{self, Namespace},
    },
};

/// Looks at the endpoints of a name, on all networks or one; what is not as it should be.
pub fn check(seen: &Seen, name: &str, network: Option<&str>) -> Result<Vec<Difference>> {
    let mut host = Netlink::open()?;
    let mut found = Vec::new();
    for record in seen.found(Some(name), network)? {
        let mut differs = Differs(Vec::new());
        look(&mut host, record, &mut differs)?;
        let network = &record.network;
        found.extend(differs.0.into_iter().map(|(what, message)| Difference {
            network: network.clone(),
            what,
            message,
        }));
    }
    Ok(found)
}

struct Differs(Vec<(DifferenceKind, String)>);

impl Differs {
    fn add(&mut self, what: DifferenceKind, message: String) {
        self.0.push((what, message));
    }
}

fn look(host: &mut Netlink, record: &EndpointRecord, differs: &mut Differs) -> Result<()> {
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
        Some(_) => {}
    }
    let namespace = Namespace::open(Path::new(&record.netns)).ok();
    let namespace = namespace
        .filter(|n| n.id() == record.namespace)
        .or_else(|| netns::find(record.namespace));
    match namespace {
        None => {
            let message = format!("namespace {} is gone", record.netns);
            differs.add(DifferenceKind::Namespace, message);
            Ok(())
        }
        Some(namespace) => look_inside(&mut namespace.run(Netlink::open)??, record, differs),
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
        let message = format!("the MAC address of {place} is another");
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
