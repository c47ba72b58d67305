//! Routes and rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{Netlink, RTM_PROTOCOL, address::family};
use crate::sys::Result;

const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// A route. What we make bears our protocol number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub kind: RouteKind,
    /// Table number, main where `None`.
    pub table: Option<u32>,
    /// `None`: the kernel's default.
    pub metric: Option<u32>,
    /// Bears our protocol number; set on what is read.
    pub ours: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    Unreachable,
    Unicast(RouteTarget),
    /// Of another type; only read.
    Other,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTarget {
    pub ifindex: u32,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
}

impl Route {
    pub fn unreachable(destination: IpNet, metric: u32) -> Route {
        Route {
            destination,
            kind: RouteKind::Unreachable,
            table: None,
            metric: Some(metric),
            ours: true,
        }
    }

    pub fn via_device(destination: IpNet, target: RouteTarget) -> Route {
        Route {
            destination,
            kind: RouteKind::Unicast(target),
            table: None,
            metric: None,
            ours: true,
        }
    }

    pub fn default_via(gateway: IpAddr, ifindex: u32) -> Route {
        let destination = match gateway {
            IpAddr::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            IpAddr::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let target = RouteTarget {
            ifindex,
            gateway: Some(gateway),
            source: None,
        };
        Route::via_device(destination, target)
    }

    /// To everywhere, in the main table.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0 && self.table.is_none()
    }

    pub fn in_table(self, table: u32) -> Route {
        Route {
            table: Some(table),
            ..self
        }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.destination.addr());
        header.destination_prefix_length = self.destination.prefix_len();
        header.protocol = RouteProtocol::Other(RTM_PROTOCOL);
        let table = self.table.unwrap_or(TABLE_MAIN);
        header.table = u8::try_from(table).unwrap_or(0);
        header.scope = RouteScope::Universe;
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(table));
        if self.destination.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.addr().into()));
        }
        if let Some(metric) = self.metric {
            attributes.push(RouteAttribute::Priority(metric));
        }
        match self.kind {
            RouteKind::Unicast(target) => {
                header.kind = RouteType::Unicast;
                attributes.push(RouteAttribute::Oif(target.ifindex));
                if let Some(gateway) = target.gateway {
                    attributes.push(RouteAttribute::Gateway(gateway.into()));
                } else if self.destination.addr().is_ipv4() {
                    header.scope = RouteScope::Link;
                }
                if let Some(source) = target.source {
                    attributes.push(RouteAttribute::PrefSource(source.into()));
                }
            }
            RouteKind::Unreachable | RouteKind::Other => header.kind = RouteType::Unreachable,
        }
        message
    }
}

/// `from ADDRESS lookup TABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub source: IpAddr,
    pub table: u32,
    pub priority: u32,
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(self.source);
        message.header.src_len = if self.source.is_ipv4() { 32 } else { 128 };
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Source(self.source),
            RuleAttribute::Table(self.table),
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Protocol(RouteProtocol::Other(RTM_PROTOCOL)),
        ];
        message
    }
}

impl Netlink {
    /// Adds a route, or replaces the one to the same destination, table and
    /// metric.
    pub fn set_route(&mut self, route: &Route) -> Result<()> {
        self.request(
            || format!("set route to {}", route.destination),
            RouteNetlinkMessage::NewRoute(route.message()),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Removes a route of ours; one that is gone is success.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let done = self.request(
            || format!("remove route to {}", route.destination),
            RouteNetlinkMessage::DelRoute(route.message()),
            0,
        );
        match done {
            Err(e) if e.is_gone() => Ok(()),
            other => other,
        }
    }

    /// All routes of the namespace in both families, those of the table of local
    /// addresses aside.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        self.of_both_families("list routes", |netlink, what, any| {
            let mut message = RouteMessage::default();
            message.header.address_family = family(any);
            let message = RouteNetlinkMessage::GetRoute(message);
            netlink.dump(what, message, |answer| match answer {
                RouteNetlinkMessage::NewRoute(m) => parse(&m, any),
                _ => None,
            })
        })
    }

    /// Rules of ours, in both families.
    pub fn rules(&mut self) -> Result<Vec<Rule>> {
        self.of_both_families("list rules", |netlink, what, any| {
            let mut message = RuleMessage::default();
            message.header.family = family(any);
            let message = RouteNetlinkMessage::GetRule(message);
            netlink.dump(what, message, |answer| match answer {
                RouteNetlinkMessage::NewRule(m) => parse_rule(&m),
                _ => None,
            })
        })
    }

    /// Lists by the unspecified address of each family; a kernel without IPv6 has none of it.
    fn of_both_families<T>(
        &mut self,
        what: &str,
        list: impl Fn(&mut Netlink, &dyn Fn() -> String, IpAddr) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        let what = || what.to_owned();
        let mut all = list(self, &what, Ipv4Addr::UNSPECIFIED.into())?;
        match list(self, &what, Ipv6Addr::UNSPECIFIED.into()) {
            Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => {}
            found => all.extend(found?),
        }
        Ok(all)
    }

    /// Asks for the route to an address: is it this namespace itself?
    pub(super) fn is_local(&mut self, address: IpAddr) -> Result<bool> {
        let route = self.ask_route(address)?;
        Ok(route.is_some_and(|route| route.header.kind == RouteType::Local))
    }

    /// The device by which this namespace's own packets go to an address; `None` where
    /// there is no way.
    pub fn device_towards(&mut self, address: IpAddr) -> Result<Option<u32>> {
        let route = self.ask_route(address)?;
        Ok(route.and_then(|route| {
            route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Oif(ifindex) => Some(*ifindex),
                _ => None,
            })
        }))
    }

    fn ask_route(&mut self, address: IpAddr) -> Result<Option<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        let destination = RouteAttribute::Destination(address.into());
        message.attributes.push(destination);
        let what = || format!("ask for the route to {address}");
        match self.get(what, RouteNetlinkMessage::GetRoute(message)) {
            Ok(Some(RouteNetlinkMessage::NewRoute(route))) => Ok(Some(route)),
            Ok(_) => Ok(None),
            // No route at all, or one that says so.
            Err(e) if matches!(e.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Adds a rule, or leaves it as it is where it is already.
    pub fn add_rule(&mut self, rule: &Rule) -> Result<()> {
        let done = self.request(
            || format!("add rule from {}", rule.source),
            RouteNetlinkMessage::NewRule(rule.message()),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match done {
            Err(e) if e.is_exists() => Ok(()),
            other => other,
        }
    }

    /// Removes a rule; one that is gone is success.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<()> {
        let done = self.request(
            || format!("remove rule from {}", rule.source),
            RouteNetlinkMessage::DelRule(rule.message()),
            0,
        );
        match done {
            Err(e) if e.is_gone() => Ok(()),
            other => other,
        }
    }
}

fn parse_rule(message: &RuleMessage) -> Option<Rule> {
    let (mut source, mut priority, mut ours) = (None, 0, false);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => source = Some(*address),
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Protocol(protocol) => {
                ours = *protocol == RouteProtocol::Other(RTM_PROTOCOL);
            }
            _ => {}
        }
    }
    ours.then_some(Rule {
        source: source?,
        table,
        priority,
    })
}

fn parse(message: &RouteMessage, any: IpAddr) -> Option<Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut destination = any;
    let mut metric = None;
    let mut target = RouteTarget::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(p) => metric = Some(*p),
            RouteAttribute::Oif(i) => target.ifindex = *i,
            RouteAttribute::Destination(a) => destination = ip(a)?,
            RouteAttribute::Gateway(a) => target.gateway = ip(a),
            RouteAttribute::PrefSource(a) => target.source = ip(a),
            _ => {}
        }
    }
    if table == TABLE_LOCAL {
        return None;
    }
    Some(Route {
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast(target),
            RouteType::Unreachable => RouteKind::Unreachable,
            _ => RouteKind::Other,
        },
        table: (table != TABLE_MAIN).then_some(table),
        metric,
        ours: header.protocol == RouteProtocol::Other(RTM_PROTOCOL),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some((*a).into()),
        RouteAddress::Inet6(a) => Some((*a).into()),
        _ => None,
    }
}
