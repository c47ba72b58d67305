//! Published ports: which are free, who has them, and holding them against the
//! kernel's own choice.

use std::{net::IpAddr, ops::RangeInclusive};

use super::{
    portset::PortSet,
    portspec::{self, HostPorts, PortRange, PortSpec, Terms, protocol_name},
    programs::{Programs, message_ip},
    reserved,
    services::{SLOTS, place},
    state::State,
};
use crate::{
    datapath::MAX_BACKENDS,
    error::{Code, Error, Result},
    model::Protocol,
    store::{EndpointRecord, PortRecord},
    sys::sysctl::Sysctls,
};

/// IP protocol number.
pub fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// How a host address is shown; `*` for all.
pub fn shown(host_ip: Option<IpAddr>) -> String {
    host_ip.map_or_else(|| "*".into(), |ip| ip.to_string())
}

/// Whether two published ranges meet, and at which host port.
pub fn meet(a: &PortRecord, b: &PortRecord) -> Option<u16> {
    let first = a.host_port.max(b.host_port);
    let shared = a.protocol == b.protocol
        && first <= a.host_port_end.min(b.host_port_end)
        && addresses_meet(a.host_ip, b.host_ip);
    shared.then_some(first)
}

pub fn addresses_meet(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => {
            a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())
        }
    }
}

/// Whether a port that another endpoint has published may be published beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Shared,
    Alone,
}

impl From<bool> for Sharing {
    fn from(share: bool) -> Sharing {
        match share {
            true => Sharing::Shared,
            false => Sharing::Alone,
        }
    }
}

/// Ports that were chosen, and where the next search begins.
pub struct Chosen {
    pub ports: Vec<PortRecord>,
    last_port: u16,
    last_slot: u32,
}

impl Chosen {
    /// Nothing, so far.
    pub fn none(state: &State) -> Chosen {
        Chosen {
            ports: Vec::new(),
            last_port: state.last_port,
            last_slot: state.last_slot,
        }
    }

    /// Notes where the next search begins.
    pub fn note(&self, state: &mut State) {
        (state.last_port, state.last_slot) = (self.last_port, self.last_slot);
    }
}

/// Finds ports for the specs of one request.
pub struct Chooser<'a> {
    state: &'a State,
    publish_ip: Option<IpAddr>,
    /// For whom: name, network, families.
    endpoint: &'a EndpointRecord,
    internal: bool,
    sharing: Sharing,
    /// The engine listens on the ports: programs of the host are not looked for.
    unheld: bool,
    /// Chosen in this request already.
    chosen: Vec<PortRecord>,
    last_slot: u32,
    /// Ports that the user keeps for other purposes, once they were asked for.
    users: Option<PortSet>,
    programs: Programs,
    last_port: u16,
}

impl<'a> Chooser<'a> {
    pub fn new(
        state: &'a State,
        publish_ip: Option<IpAddr>,
        endpoint: &'a EndpointRecord,
        sharing: Sharing,
    ) -> Result<Chooser<'a>> {
        Ok(Chooser {
            state,
            publish_ip,
            endpoint,
            internal: state.network_of(endpoint)?.record.internal,
            sharing,
            unheld: false,
            chosen: Vec::new(),
            last_slot: state.last_slot,
            users: None,
            programs: Programs::default(),
            last_port: state.last_port,
        })
    }

    /// From now on ports are neither checked nor held against programs of the host: the
    /// engine listens on them itself.
    pub fn leave_to_engine(&mut self) {
        self.unheld = true;
    }

    pub fn finish(self) -> Chosen {
        Chosen {
            ports: self.chosen,
            last_port: self.last_port,
            last_slot: self.last_slot,
        }
    }

    /// Chooses host ports for one spec, or says who has them.
    pub fn choose(&mut self, text: &str) -> Result<()> {
        let spec = portspec::parse(text)?;
        self.choose_spec(text, &spec)
    }

    /// A free host port for each exposed port that no spec has named.
    pub fn choose_exposed(&mut self, exposed: &[String]) -> Result<()> {
        for text in exposed {
            let (ports, protocol) = portspec::parse_expose(text)?;
            check_span(text, ports, &local_port_range(&self.state.sysctls))?;
            for port in ports.first..=ports.last {
                let named = self.chosen.iter().any(|p| {
                    let last = p.container_port + (p.host_port_end - p.host_port);
                    p.protocol == protocol && (p.container_port..=last).contains(&port)
                });
                if named {
                    continue;
                }
                let spec = PortSpec {
                    protocol,
                    host_ip: None,
                    host: HostPorts::Free,
                    container: PortRange {
                        first: port,
                        last: port,
                    },
                    terms: Terms::default(),
                };
                self.choose_spec(text, &spec)?;
            }
        }
        Ok(())
    }

    fn choose_spec(&mut self, text: &str, spec: &PortSpec) -> Result<()> {
        if self.internal {
            return Err(Error::invalid(format!(
                "port {text:?}: network {:?} is internal, no port can be published on it",
                self.endpoint.network
            )));
        }
        let host_ip = spec.host_ip.or(self.publish_ip);
        self.check_address(text, host_ip)?;
        let slot = self.free_slot()?;
        let (protocol, container, terms) = (spec.protocol, spec.container, spec.terms.clone());
        let unheld = self.unheld;
        let record = move |first: u16| PortRecord {
            slot,
            protocol,
            host_ip,
            host_port: first,
            host_port_end: first + container.span(),
            container_port: container.first,
            allow: terms.allow.clone().unwrap_or_default(),
            weight: terms.weight.unwrap_or(1),
            affinity: terms.affinity.unwrap_or(false),
            unheld,
        };
        let port = match spec.host {
            HostPorts::Exactly(host) => {
                let port = record(host.first);
                match self.to_share(text, &port, &spec.terms)? {
                    Some(shared) => shared,
                    None => {
                        self.check_free(&port)?;
                        port
                    }
                }
            }
            HostPorts::OneOf(host) => self
                .first_free(&[host.first..=host.last], &PortSet::default(), record)?
                .ok_or_else(|| {
                    Error::new(
                        Code::PortInUse,
                        format!(
                            "all of the ports {host}/{} on {} are in use",
                            protocol_name(spec.protocol),
                            message_ip(self.endpoint, host_ip)
                        ),
                    )
                })?,
            HostPorts::Free => {
                let range = local_port_range(&self.state.sysctls);
                let span = spec.container.span();
                check_span(text, container, &range)?;
                let (low, high) = (*range.start(), range.end() - span);
                let start = match self.last_port {
                    last if (low..high).contains(&last) => last + 1,
                    _ => low,
                };
                let places = [start..=high, low..=start.saturating_sub(1)];
                let users = match self.users.take() {
                    Some(users) => users,
                    None => self.users_reserved()?,
                };
                let found = self.first_free(&places, &users, record)?;
                self.users = Some(users);
                let port = found.ok_or_else(|| {
                    Error::new(
                        Code::PortInUse,
                        format!(
                            "port {text:?}: no host port between {low} and {} is free",
                            range.end()
                        ),
                    )
                })?;
                self.last_port = port.host_port_end;
                port
            }
        };
        self.last_slot = port.slot;
        self.chosen.push(port);
        Ok(())
    }

    /// The port as one of several that share it, where others have it and that was
    /// asked for. What is said of the port as a whole is the same for all of them.
    fn to_share(&self, text: &str, port: &PortRecord, terms: &Terms) -> Result<Option<PortRecord>> {
        if self.sharing == Sharing::Alone || self.chosen.iter().any(|c| meet(c, port).is_some()) {
            return Ok(None);
        }
        let Some(service) = self.state.service(&place(port)) else {
            return Ok(None);
        };
        if service
            .members
            .iter()
            .any(|(e, _)| e.record.index == self.endpoint.index)
        {
            return Ok(None);
        }
        if service.members.len() >= MAX_BACKENDS {
            return Err(Error::new(
                Code::PoolExhausted,
                format!("port {text:?}: {MAX_BACKENDS} endpoints share it, which are all that can"),
            ));
        }
        let (first, held) = &service.members[0];
        let differs = |what: &str, theirs: String| {
            let name = &first.record.name;
            Err(Error::invalid(format!(
                "port {text:?}: it is shared with endpoint {name:?}, whose {what} is {theirs}: a port has one for all"
            )))
        };
        if terms
            .allow
            .as_ref()
            .is_some_and(|allow| *allow != held.allow)
        {
            let list: Vec<String> = held.allow.iter().map(ToString::to_string).collect();
            let theirs = match list.is_empty() {
                true => "empty, for everybody".to_owned(),
                false => format!("[{}]", list.join(", ")),
            };
            return differs("allow list", theirs);
        }
        if terms
            .affinity
            .is_some_and(|affinity| affinity != held.affinity)
        {
            let theirs = if held.affinity { "client" } else { "none" };
            return differs("affinity", theirs.into());
        }
        Ok(Some(PortRecord {
            allow: held.allow.clone(),
            affinity: held.affinity,
            unheld: held.unheld,
            ..port.clone()
        }))
    }

    /// A host address must be the host's, and of a family that the endpoint has.
    fn check_address(&self, text: &str, host_ip: Option<IpAddr>) -> Result<()> {
        let Some(ip) = host_ip else { return Ok(()) };
        let ours = ip.is_unspecified() || ip.is_loopback() || self.state.addresses.contains(&ip);
        if !ours {
            return Err(Error::invalid(format!(
                "port {text:?}: {ip} is not an address of this host"
            )));
        }
        let has_family = match ip {
            IpAddr::V4(_) => self.endpoint.ipv4.is_some(),
            IpAddr::V6(_) => self.endpoint.ipv6.is_some(),
        };
        match has_family {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "port {text:?}: endpoint {:?} on network {:?} has no address of the family of {ip}",
                self.endpoint.name, self.endpoint.network
            ))),
        }
    }

    fn free_slot(&self) -> Result<u32> {
        let found = self.state.services.free_slot(self.last_slot);
        found.ok_or_else(|| {
            Error::new(
                Code::PoolExhausted,
                format!("{SLOTS} published ports and ranges are the most that there can be"),
            )
        })
    }

    /// The first range, of those that begin in `places`, that is free and has
    /// nothing of `avoid` in it.
    fn first_free(
        &mut self,
        places: &[RangeInclusive<u16>],
        avoid: &PortSet,
        record: impl Fn(u16) -> PortRecord,
    ) -> Result<Option<PortRecord>> {
        for place in places {
            let mut first = u32::from(*place.start());
            while let Some(start) = u16::try_from(first).ok().filter(|f| f <= place.end()) {
                let port = record(start);
                let mut avoided = port.host_port..=port.host_port_end;
                let in_the_way = match avoided.rfind(|&port| avoid.contains(port)) {
                    Some(port) => Some(port),
                    None => self.conflict(&port)?.map(|(port, _)| port),
                };
                match in_the_way {
                    None => return Ok(Some(port)),
                    // On behind it: whatever begins before has it, too.
                    Some(port) => first = u32::from(port.max(start)) + 1,
                }
            }
        }
        Ok(None)
    }

    fn check_free(&mut self, port: &PortRecord) -> Result<()> {
        match self.conflict(port)? {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// What is in the way of a range: one of its ports, and who has it.
    fn conflict(&mut self, port: &PortRecord) -> Result<Option<(u16, Error)>> {
        let twice = self.chosen.iter().find_map(|c| Some((meet(c, port)?, c)));
        if let Some((at, chosen)) = twice {
            let error = Error::new(
                Code::PortInUse,
                format!(
                    "port {at}/{} on {} is asked for twice for endpoint {:?} on network {:?}",
                    protocol_name(port.protocol),
                    message_ip(self.endpoint, port.host_ip),
                    self.endpoint.name,
                    self.endpoint.network
                ),
            );
            return Ok(Some((chosen.host_port_end.min(port.host_port_end), error)));
        }
        let is_own = |e: &EndpointRecord| e.index == self.endpoint.index;
        // Its own first: it says most to who asks for it again.
        let held = self
            .state
            .published_at(port)
            .filter_map(|(e, p)| meet(p, port).map(|at| (at, p, e)))
            .max_by_key(|(_, _, e)| is_own(e));
        if let Some((at, taken, holder)) = held {
            let last = taken.host_port_end;
            let mut message = format!(
                "port {at}/{} on {} is already published by endpoint {:?} on network {:?}",
                protocol_name(port.protocol),
                message_ip(self.endpoint, port.host_ip),
                holder.name,
                holder.network
            );
            if let Some(ip) = taken.host_ip
                && taken.host_ip != port.host_ip
            {
                message += &format!(", on {ip}");
            }
            if self.sharing == Sharing::Shared && place(taken) != place(port) {
                message += "; what is shared has the same host address and ports everywhere";
            }
            let error = Error::new(Code::PortInUse, message);
            return Ok(Some((last.min(port.host_port_end), error)));
        }
        match port.unheld {
            true => Ok(None),
            false => self.programs.in_the_way(self.endpoint, port),
        }
    }

    /// Ports that the user keeps for other purposes.
    fn users_reserved(&self) -> Result<PortSet> {
        Ok(reserved::read(&self.state.sysctls)?.difference(&self.state.reserved))
    }
}

/// Refuses more ports than the host has to give.
fn check_span(text: &str, ports: PortRange, host: &RangeInclusive<u16>) -> Result<()> {
    match ports.span() <= host.end() - host.start() {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "port {text:?}: {} free host ports are more than there are between {} and {}",
            u32::from(ports.span()) + 1,
            host.start(),
            host.end()
        ))),
    }
}

/// The ports that the kernel chooses from.
pub fn local_port_range(sysctls: &Sysctls) -> RangeInclusive<u16> {
    let text = sysctls.ipv4.read(&["ip_local_port_range"]).ok().flatten();
    let mut ports = text
        .iter()
        .flat_map(|t| t.split_ascii_whitespace())
        .map_while(|p| p.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(low), Some(high)) if low <= high => low..=high,
        _ => 32_768..=60_999,
    }
}

/// The outside ports that masquerade gives out: those that the kernel does not choose
/// from, and its own too where they are too few.
pub fn masquerade_ports(local: &RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
    const FIRST: u16 = 1024;
    const ENOUGH: usize = 30_000;
    let mut ranges = Vec::new();
    if *local.start() > FIRST {
        ranges.push(FIRST..=local.start() - 1);
    }
    if *local.end() < u16::MAX {
        ranges.push(FIRST.max(local.end() + 1)..=u16::MAX);
    }
    match ranges.iter().map(|range| range.len()).sum::<usize>() {
        ENOUGH.. => ranges,
        _ => std::iter::once(FIRST..=u16::MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: Option<&str>, first: u16, last: u16) -> PortRecord {
        PortRecord {
            slot: 0,
            protocol: Protocol::Tcp,
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            host_port: first,
            host_port_end: last,
            container_port: 80,
            allow: Vec::new(),
            weight: 1,
            affinity: false,
            unheld: false,
        }
    }

    #[test]
    fn ranges_meet_on_wildcards_of_their_family() {
        let all = port(None, 80, 90);
        let v4 = port(Some("0.0.0.0"), 85, 95);
        let v6 = port(Some("::"), 85, 95);
        let one = port(Some("10.0.0.1"), 90, 90);
        assert_eq!(meet(&all, &v4), Some(85));
        assert_eq!(meet(&all, &v6), Some(85));
        assert_eq!(meet(&v4, &v6), None);
        assert_eq!(meet(&v4, &one), Some(90));
        assert_eq!(meet(&v6, &one), None);
        assert_eq!(meet(&one, &port(Some("10.0.0.2"), 90, 90)), None);
        assert_eq!(meet(&all, &port(None, 91, 92)), None);
        let udp = PortRecord {
            protocol: Protocol::Udp,
            ..all.clone()
        };
        assert_eq!(meet(&all, &udp), None);
    }

    #[test]
    fn masquerade_leaves_the_kernels_ports_alone_where_it_can() {
        let of = |local| masquerade_ports(&local);
        assert_eq!(of(32_768..=60_999), [1024..=32_767, 61_000..=65_535]);
        assert_eq!(of(1024..=30_000), [30_001..=65_535]);
        assert_eq!(of(10_000..=60_000), [1024..=65_535]);
        assert_eq!(of(1024..=65_535), [1024..=65_535]);
        assert_eq!(of(1..=500), [1024..=65_535]);
    }
}
