//! Steps within a container's namespace.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    path::Path,
};

use ipnet::IpNet;

use super::{Apply, LOOPBACK, READY_TIMEOUT};
use crate::{
    control::plan::{self, ContainerFound, Endpoint, Heirs},
    datapath::GATEWAY_MAC,
    error::{Code, Error, Result},
    store::EndpointRecord,
    sys::{
        netlink::{Address, AddressKind, Link, Netlink, Route, RouteKind, RouteTarget, Rule},
        netns::{self, Namespace, NamespaceId},
        sysctl::Family,
    },
};

/// Before the rules for the main table (32766), after those for the local one.
const RULE_PRIORITY: u32 = 28_000;

/// Of the endpoint with the default route, in containers where others have rules: what leaves
/// from its address would go by their interfaces to their subnets else, and not be let in.
const FIRST_TABLE: u32 = plan::table_of(0);

/// Open namespaces of containers.
pub struct Open(HashMap<NamespaceId, Container>);

/// A container's namespace and a socket in it.
pub(super) struct Container {
    pub(super) namespace: Namespace,
    netlink: Netlink,
}

impl Container {
    fn open(namespace: Namespace) -> Result<Container> {
        // The socket stays in the namespace, the thread that made it ends.
        let netlink = namespace.run(Netlink::open)??;
        Ok(Container { namespace, netlink })
    }
}

impl Apply<'_> {
    /// Looks around in a container's namespace and keeps it open for the steps.
    pub fn look_into(&mut self, namespace: Namespace) -> Result<ContainerFound> {
        let id = namespace.id();
        let mut container = Container::open(namespace)?;
        let mut found = ContainerFound::default();
        let links = container.netlink.links()?;
        found.devices = links.into_iter().map(|l| l.name).collect();
        for route in container.netlink.routes()? {
            if route.is_default() && matches!(route.kind, RouteKind::Unicast(_)) {
                match route.destination {
                    IpNet::V4(_) => found.default4 = true,
                    IpNet::V6(_) => found.default6 = true,
                }
            }
        }
        self.containers.insert(id, container);
        Ok(found)
    }

    /// The containers' namespaces that were opened, for another run of steps.
    pub fn into_open(self) -> Open {
        Open(self.containers)
    }

    /// Keeps namespaces open that were opened for another run.
    pub fn keep_open(&mut self, open: Open) {
        self.containers = open.0;
    }

    pub(super) fn set_up_container(&mut self, record: &EndpointRecord) -> Result<()> {
        let container = open(&mut self.containers, record, self.trust_paths)?;
        if record.ipv6.is_some()
            && let Some(ipv6) = container.namespace.run(|| Family::open("ipv6"))??
        {
            ipv6.enable_ipv6(&record.ifname)?;
            // Nobody else can have the addresses, and a tentative one cannot be used
            // for a second.
            ipv6.write(&["conf", &record.ifname, "accept_dad"], "0")?;
        }
        let netlink = &mut container.netlink;
        let ifindex = ifindex(netlink, record)?;
        netlink.set_up(LOOPBACK)?;
        netlink.set_up(ifindex)?;
        for (address, gateway) in record.addresses() {
            netlink.add_address(ifindex, address, AddressKind::Container)?;
            netlink.set_neighbour(ifindex, gateway, GATEWAY_MAC)?;
            let has_default = match gateway {
                IpAddr::V4(_) => record.default4,
                IpAddr::V6(_) => record.default6,
            };
            if has_default {
                netlink.set_route(&Route::default_via(gateway, ifindex))?;
            } else if record.rules {
                let table = plan::table_of(record.network_index);
                route_by_source(netlink, table, address, gateway, ifindex)?;
            }
            if let IpAddr::V6(address) = address.addr() {
                netlink.wait_local(address, READY_TIMEOUT)?;
            }
        }
        match record.rules {
            true => add_first_rules(netlink, ifindex),
            false => Ok(()),
        }
    }

    pub(super) fn set_mtu(&mut self, record: &EndpointRecord) -> Result<()> {
        let device = self.host_device(record)?;
        self.host.set_mtu(device.ifindex, record.mtu)?;
        let container = open(&mut self.containers, record, self.trust_paths)?;
        match own_device(&mut container.netlink, record, device.ifindex)? {
            Some(ifindex) => Ok(container.netlink.set_mtu(ifindex, record.mtu)?),
            None => Ok(()),
        }
    }

    pub(super) fn leave_container(&mut self, record: &EndpointRecord, heirs: &Heirs) -> Result<()> {
        // Its number is not in the record of an attach that was cut short; its name is.
        let device = match self.host_device(record) {
            Ok(device) => Some(device.ifindex),
            Err(_) => self.host.link(&record.host_ifname)?.map(|l| l.ifindex),
        };
        let device = device.unwrap_or(0);
        // A namespace that is gone took rules and routes along.
        let Ok(container) = open(&mut self.containers, record, self.trust_paths) else {
            return Ok(());
        };
        let netlink = &mut container.netlink;
        let mut is_the_container = own_device(netlink, record, device)?.is_some();
        let mut failed = None;
        let gateway4 = |e: &Endpoint| e.record.gateway.map(IpAddr::V4);
        let gateway6 = |e: &Endpoint| e.record.gateway6.map(IpAddr::V6);
        for (heir, gateway, handed) in [
            (
                &heirs.ipv4,
                heirs.ipv4.as_deref().and_then(gateway4),
                &mut self.handed.ipv4,
            ),
            (
                &heirs.ipv6,
                heirs.ipv6.as_deref().and_then(gateway6),
                &mut self.handed.ipv6,
            ),
        ] {
            let (Some(endpoint), Some(gateway)) = (heir, gateway) else {
                continue;
            };
            let heir = &endpoint.record;
            let Some(ifindex) = own_device(netlink, heir, heir.host_ifindex)? else {
                continue;
            };
            is_the_container = true;
            match netlink.set_route(&Route::default_via(gateway, ifindex)) {
                Ok(()) => *handed = Some(endpoint.clone()),
                Err(e) => failed = Some(e),
            }
        }
        // Numbers of namespaces are used again: in another one is nothing of ours.
        if record.rules && is_the_container {
            let table = plan::table_of(record.network_index);
            for (address, _) in record.addresses() {
                if let Err(e) = netlink.delete_rule(&rule(address.addr(), table)) {
                    failed = Some(e);
                }
            }
        }
        if is_the_container && let Err(e) = remove_first_rules(netlink, record) {
            failed = Some(e);
        }
        failed.map_or(Ok(()), |e| Err(e.into()))
    }
}

/// What leaves from the address goes by its own interface, to wherever.
fn route_by_source(
    netlink: &mut Netlink,
    table: u32,
    address: IpNet,
    gateway: IpAddr,
    ifindex: u32,
) -> crate::sys::Result<()> {
    let target = RouteTarget {
        ifindex,
        ..Default::default()
    };
    let subnet = Route::via_device(address.trunc(), target);
    netlink.set_route(&subnet.in_table(table))?;
    netlink.set_route(&Route::default_via(gateway, ifindex).in_table(table))?;
    netlink.add_rule(&rule(address.addr(), table))
}

/// Rules for the endpoint with the default route, which had none as long as it was the only
/// one: they cost every packet a look-up. `newcomer`: the interface that is the next one.
fn add_first_rules(netlink: &mut Netlink, newcomer: u32) -> Result<()> {
    let routes = netlink.routes()?;
    let addresses = netlink.addresses()?;
    let rules = netlink.rules()?;
    let defaults = routes.iter().filter_map(|route| match route.kind {
        RouteKind::Unicast(target) if route.ours && route.is_default() => {
            Some((target.ifindex, target.gateway?))
        }
        _ => None,
    });
    for (ifindex, gateway) in defaults.filter(|(ifindex, _)| *ifindex != newcomer) {
        // One that was not the first has rules already.
        let is_new = |a: &&Address| rules.iter().all(|rule| rule.source != a.address);
        let on_device = addresses.iter().filter(|a| a.ifindex == ifindex);
        for address in on_device.filter(is_new).filter_map(Address::subnet) {
            if address.contains(&gateway) {
                route_by_source(netlink, FIRST_TABLE, address, gateway, ifindex)?;
            }
        }
    }
    Ok(())
}

/// Takes the rules away that the one with the default route had, of the one that leaves, and
/// of whoever is left alone.
fn remove_first_rules(netlink: &mut Netlink, record: &EndpointRecord) -> crate::sys::Result<()> {
    for (address, _) in record.addresses() {
        netlink.delete_rule(&rule(address.addr(), FIRST_TABLE))?;
    }
    let rules = netlink.rules()?;
    if rules.iter().any(|rule| rule.table != FIRST_TABLE) {
        return Ok(());
    }
    for rule in &rules {
        netlink.delete_rule(rule)?;
    }
    for route in netlink.routes()? {
        if route.table == Some(FIRST_TABLE) {
            netlink.delete_route(&route)?;
        }
    }
    Ok(())
}

fn rule(source: IpAddr, table: u32) -> Rule {
    Rule {
        source,
        table,
        priority: RULE_PRIORITY,
    }
}

fn ifindex(netlink: &mut Netlink, record: &EndpointRecord) -> Result<u32> {
    match netlink.link(&record.ifname)? {
        Some(link) => Ok(link.ifindex),
        None => Err(Error::new(
            Code::NotFound,
            format!("interface {} is not in {}", record.ifname, record.netns),
        )),
    }
}

/// The container's end of an endpoint, whose host's end has that number: by name,
/// and by what no other device has.
fn own_device(
    netlink: &mut Netlink,
    record: &EndpointRecord,
    host_ifindex: u32,
) -> Result<Option<u32>> {
    let link = netlink.link(&record.ifname)?;
    let is_ours = |l: &Link| l.mac == record.mac && l.peer == Some(host_ifindex);
    Ok(link.filter(is_ours).map(|l| l.ifindex))
}

/// The container's namespace by its path, or, where that leads elsewhere by now,
/// and unless paths are trusted, by a process that is still in it.
pub(super) fn open<'c>(
    containers: &'c mut HashMap<NamespaceId, Container>,
    record: &EndpointRecord,
    trust_paths: bool,
) -> Result<&'c mut Container> {
    match containers.entry(record.namespace) {
        Entry::Occupied(entry) => Ok(entry.into_mut()),
        Entry::Vacant(entry) => {
            let namespace = Namespace::open(Path::new(&record.netns))
                .ok()
                .filter(|n| n.id() == record.namespace)
                .or_else(|| match trust_paths {
                    true => None,
                    false => netns::find(record.namespace),
                })
                .ok_or_else(|| {
                    Error::new(
                        Code::NotFound,
                        format!(
                            "namespace {} of endpoint {:?} is gone",
                            record.netns, record.name
                        ),
                    )
                })?;
            Ok(entry.insert(Container::open(namespace)?))
        }
    }
}
