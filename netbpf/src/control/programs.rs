//! Programs of the host that are in the way of a published port.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{ports::addresses_meet, portspec::protocol_name};
use crate::{
    error::{Code, Error, Result},
    model::Protocol,
    store::{EndpointRecord, PortRecord},
    sys::{
        sock_diag::SockDiag,
        sockets::{self, Transport},
    },
};

/// Up to that many ports are tried one by one, for more the list of sockets is
/// read, which takes the kernel milliseconds.
const MOST_BINDS: u16 = 64;

/// Looks for them; the list of sockets is read once.
#[derive(Default)]
pub struct Programs {
    bound: HashMap<Protocol, Vec<(IpAddr, u16)>>,
    /// TCP sockets that do not listen yet, but may; the kernel takes milliseconds.
    silent: Option<Vec<(IpAddr, u16)>>,
}

impl Programs {
    /// A program of the host that has one of the ports, as what it makes of a request
    /// to publish them: the port, and the refusal.
    pub fn in_the_way(
        &mut self,
        endpoint: &EndpointRecord,
        port: &PortRecord,
    ) -> Result<Option<(u16, Error)>> {
        let transport = match port.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => return Ok(None),
        };
        let (has4, has6) = (endpoint.ipv4.is_some(), endpoint.ipv6.is_some());
        let any4 = (has4 && port.host_ip.is_none()).then_some(Ipv4Addr::UNSPECIFIED.into());
        let any6 = (has6 && port.host_ip.is_none()).then_some(Ipv6Addr::UNSPECIFIED.into());
        let is_here = |number: &u16| (port.host_port..=port.host_port_end).contains(number);
        let few = port.host_port_end - port.host_port < MOST_BINDS;
        let addresses = [any4, any6, port.host_ip].into_iter().flatten();
        let all = |is_free: fn(Transport, IpAddr, u16) -> bool| {
            addresses.clone().all(|ip| {
                let mut ports = port.host_port..=port.host_port_end;
                ports.all(|number| is_free(transport, ip, number))
            })
        };
        if few && all(sockets::is_unused) {
            return Ok(None);
        }
        let silent: Vec<_> = match transport {
            Transport::Tcp => self
                .silent()?
                .iter()
                .filter(|s| is_here(&s.1))
                .copied()
                .collect(),
            Transport::Udp => Vec::new(),
        };
        if few && silent.is_empty() && all(sockets::is_free) {
            return Ok(None);
        }
        let shown_ip = message_ip(endpoint, port.host_ip);
        let bound = match self.bound.entry(port.protocol) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => e.insert(sockets::bound(transport)?),
        };
        let mut all = bound
            .iter()
            .chain(&silent)
            .filter(|(_, number)| is_here(number));
        let in_the_way = all.find(|(ip, number)| {
            let same_family = match ip {
                IpAddr::V4(_) => has4 && port.host_ip.is_none_or(|h| h.is_ipv4()),
                IpAddr::V6(_) => has6 && port.host_ip.is_none_or(|h| h.is_ipv6()),
            };
            if same_family {
                let any = Some(*ip).filter(|ip| !ip.is_unspecified());
                return any.is_none() || addresses_meet(any, port.host_ip);
            }
            // `::` has IPv4 too, unless the program said otherwise: only the
            // kernel knows.
            let wants4 = has4 && port.host_ip.is_none_or(|h| h.is_ipv4());
            let on4 = match port.host_ip {
                Some(IpAddr::V4(host)) => host,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            // Two that do not listen are in each other's way only where neither reuses.
            let is_free = match silent.contains(&(*ip, *number)) {
                true => sockets::is_unused,
                false => sockets::is_free,
            };
            *ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && wants4
                && !is_free(transport, on4.into(), *number)
        });
        match in_the_way {
            None => Ok(None),
            Some((ip, number)) => {
                let mut message = format!(
                    "port {number}/{} on {shown_ip} is in use by a program of this host",
                    protocol_name(port.protocol)
                );
                if port.host_ip != Some(*ip) && !ip.is_unspecified() {
                    message += &format!(", on {ip}");
                }
                Ok(Some((*number, Error::new(Code::PortInUse, message))))
            }
        }
    }

    fn silent(&mut self) -> Result<&[(IpAddr, u16)]> {
        if self.silent.is_none() {
            self.silent = Some(SockDiag::open()?.bound_only()?);
        }
        Ok(self.silent.as_deref().unwrap_or_default())
    }
}

/// All addresses are named by the wildcard of the endpoint's first family.
pub fn message_ip(endpoint: &EndpointRecord, host_ip: Option<IpAddr>) -> IpAddr {
    host_ip.unwrap_or(match endpoint.ipv4 {
        Some(_) => Ipv4Addr::UNSPECIFIED.into(),
        None => Ipv6Addr::UNSPECIFIED.into(),
    })
}
