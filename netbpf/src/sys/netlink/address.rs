//! Addresses of devices.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol,
        AddressScope, CacheInfo,
    },
};

use super::{Netlink, RTM_PROTOCOL};
use crate::sys::{Result, SysError};

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix: u8,
    pub tentative: bool,
    /// Still valid, but not for new connections.
    pub deprecated: bool,
    /// Bears our protocol number (5.18 and newer keep it).
    pub ours: bool,
    pub global: bool,
}

impl Address {
    /// The subnet that it is in.
    pub fn subnet(&self) -> Option<IpNet> {
        IpNet::new(self.address, self.prefix).ok()
    }
}

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// The ordinary address of a container's device.
    Container,
    /// A gateway on `lo`: never chosen as the source of the host's own packets
    /// (scope link, deprecated), and at once usable.
    Gateway,
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

impl Netlink {
    /// Adds an address, or leaves it as it is where it is already.
    pub fn add_address(&mut self, ifindex: u32, address: IpNet, kind: AddressKind) -> Result<()> {
        let mut message = address_message(ifindex, address);
        let mut flags = AddressFlags::empty();
        if address.addr().is_ipv6() {
            flags |= AddressFlags::Nodad;
        }
        match (kind, address) {
            (AddressKind::Container, IpNet::V4(net)) => {
                if net.prefix_len() < 31 {
                    let broadcast = AddressAttribute::Broadcast(net.broadcast());
                    message.attributes.push(broadcast);
                }
            }
            (AddressKind::Container, IpNet::V6(_)) => {}
            (AddressKind::Gateway, IpNet::V4(_)) => message.header.scope = AddressScope::Link,
            (AddressKind::Gateway, IpNet::V6(_)) => {
                let mut lifetime = CacheInfo::default();
                lifetime.ifa_preferred = 0;
                lifetime.ifa_valid = u32::MAX;
                message
                    .attributes
                    .push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        message.header.flags = AddressHeaderFlags::from_bits_truncate(flags.bits() as u8);
        message.attributes.push(AddressAttribute::Flags(flags));
        let protocol = AddressProtocol::Other(RTM_PROTOCOL);
        message
            .attributes
            .push(AddressAttribute::Protocol(protocol));
        self.request(
            || format!("add address {address} to device {ifindex}"),
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Waits until packets to an IPv6 address of this namespace are its own. The
    /// kernel's work queue enters the address among the local routes some time
    /// after the request is acknowledged (`addrconf_dad_start`), and tells of it
    /// before it does, so there is no event to wait for.
    pub fn wait_local(&mut self, address: Ipv6Addr, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.is_local(address.into())? {
            if Instant::now() > deadline {
                let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(SysError::io(
                    format!("wait for address {address}"),
                    timed_out,
                ));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Removes an address; one that is gone is success.
    pub fn delete_address(&mut self, ifindex: u32, address: IpNet) -> Result<()> {
        let done = self.request(
            || format!("remove address {address} from device {ifindex}"),
            RouteNetlinkMessage::DelAddress(address_message(ifindex, address)),
            0,
        );
        match done {
            Err(e) if e.is_gone() => Ok(()),
            other => other,
        }
    }

    /// All addresses of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        self.dump(
            || "list addresses".into(),
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            |answer| match answer {
                RouteNetlinkMessage::NewAddress(m) => parse(&m),
                _ => None,
            },
        )
    }
}

fn address_message(ifindex: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    message
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut remote = None;
    let mut ours = false;
    let mut tentative = message.header.flags.contains(AddressHeaderFlags::Tentative);
    let mut deprecated = message
        .header
        .flags
        .contains(AddressHeaderFlags::Deprecated);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => remote = Some(*a),
            AddressAttribute::Flags(f) => {
                tentative |= f.contains(AddressFlags::Tentative);
                deprecated |= f.contains(AddressFlags::Deprecated);
            }
            AddressAttribute::Protocol(p) => ours = *p == AddressProtocol::Other(RTM_PROTOCOL),
            _ => {}
        }
    }
    Some(Address {
        ifindex: message.header.index,
        // IFA_ADDRESS is the other end's on point-to-point devices.
        address: local.or(remote)?,
        prefix: message.header.prefix_len,
        tentative,
        deprecated,
        ours,
        global: message.header.scope == AddressScope::Universe,
    })
}
