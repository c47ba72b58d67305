//! What changes in the namespace: devices, addresses, routes.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use netlink_packet_core::{NetlinkBuffer, NetlinkPayload, NlasIterator};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkAttribute,
    route::{RouteMessage, RouteProtocol, RouteType},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, setsockopt, sockopt},
};
use rtnetlink::{
    MulticastGroup,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::{
    RTM_PROTOCOL,
    connection::{parts, read},
};
use crate::sys::{Result, SysError};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device was made or changed.
    Link { ifindex: u32, name: String },
    /// A device is gone.
    LinkGone { ifindex: u32 },
    /// An address came, changed or went.
    Address { ifindex: u32 },
    /// A route of others came, changed or went.
    Route,
    /// Somebody has switched forwarding off on a device.
    NotForwarding { ifindex: u32 },
    /// The kernel had more to say than the socket could hold: list anew.
    Overrun,
}

/// What the socket is to hold unread, in bytes: a thousand devices that go at once fit in.
const BUFFER: usize = 4 * 1024 * 1024;

/// What is heard of besides devices and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hear {
    Nothing,
    Routes,
}

/// A socket that hears of changes in the namespace that it was made in.
pub struct Events {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// A socket in the calling thread's network namespace.
    pub fn open(besides: Hear) -> Result<Events> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            grow(borrowed(&socket));
            let mut groups = vec![
                MulticastGroup::Link,
                MulticastGroup::Ipv4Ifaddr,
                MulticastGroup::Ipv6Ifaddr,
                MulticastGroup::Ipv4Netconf,
                MulticastGroup::Ipv6Netconf,
            ];
            if besides == Hear::Routes {
                groups.extend([MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route]);
            }
            let mask = groups.iter().fold(0, |m, g| m | (1 << (*g as u32 - 1)));
            socket.bind(&SocketAddr::new(0, mask))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        Ok(Events {
            socket: open().map_err(|e| SysError::io("open a netlink event socket", e))?,
            buffer: Vec::with_capacity(super::connection::BUFFER),
        })
    }

    /// Waits for the next changes; none when the time is up.
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<Event>> {
        let what = "wait for netlink events";
        let mut fds = [PollFd::new(borrowed(&self.socket), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(e) => return Err(SysError::io(what, e)),
        }
        let mut events = Vec::new();
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => events.extend(parts(&self.buffer).filter_map(event)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => events.push(Event::Overrun),
                Err(e) => return Err(SysError::io(what, e)),
            }
        }
    }
}

/// The socket's descriptor, for as long as it is borrowed.
fn borrowed(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is the socket's, which outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// Gives the socket a buffer of [`BUFFER`]: beyond `net.core.rmem_max` where we may, which
/// needs CAP_NET_ADMIN over the namespace. A smaller one is overrun sooner, and that is seen.
fn grow(socket: BorrowedFd<'_>) {
    let done = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER));
    // The kernel answers with twice of what it was asked for (socket(7)).
    match done.and_then(|()| getsockopt(&socket, sockopt::RcvBuf)) {
        Ok(got) if got >= 2 * BUFFER => {}
        Ok(got) => tracing::warn!(got, wanted = BUFFER, "small buffer for netlink events"),
        Err(error) => tracing::warn!(%error, "buffer for netlink events"),
    }
}

/// What a message of the kernel tells.
fn event(message: &[u8]) -> Option<Event> {
    /// `RTM_NEWNETCONF` and `RTM_DELNETCONF` (`linux/rtnetlink.h`); the crate knows neither.
    const RTM_NEWNETCONF: u16 = 80;
    const RTM_DELNETCONF: u16 = 81;
    let raw = NetlinkBuffer::new_checked(message).ok()?;
    match raw.message_type() {
        RTM_NEWNETCONF => not_forwarding(raw.payload()),
        RTM_DELNETCONF => None,
        _ => parse(read(message)?),
    }
}

/// The device that a message of the kind `RTM_NEWNETCONF` (`linux/netconf.h`) says not to
/// forward any more in one of the families. What changes is told alone; a new device is told
/// of with all its settings, and is set up by whoever made it.
fn not_forwarding(payload: &[u8]) -> Option<Event> {
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_FORWARDING: u16 = 2;
    /// The family, and what fills it up to four bytes.
    const HEADER: usize = 4;

    let (mut ifindex, mut forwarding) = (None, None);
    for attribute in NlasIterator::new(payload.get(HEADER..)?) {
        let attribute = attribute.ok()?;
        let value = i32::from_ne_bytes(attribute.value().try_into().ok()?);
        match attribute.kind() {
            NETCONFA_IFINDEX => ifindex = Some(value),
            NETCONFA_FORWARDING => forwarding = Some(value),
            _ => return None,
        }
    }
    // Negative for `all` and `default`, behind which each device follows.
    let ifindex = u32::try_from(ifindex?).ok()?;
    (forwarding? == 0).then_some(Event::NotForwarding { ifindex })
}

fn parse(message: netlink_packet_core::NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return None;
    };
    match message {
        RouteNetlinkMessage::NewLink(m) => {
            let name = m.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            Some(Event::Link {
                ifindex: m.header.index,
                name: name.unwrap_or_default(),
            })
        }
        RouteNetlinkMessage::DelLink(m) => Some(Event::LinkGone {
            ifindex: m.header.index,
        }),
        RouteNetlinkMessage::NewAddress(m) | RouteNetlinkMessage::DelAddress(m) => {
            Some(Event::Address {
                ifindex: m.header.index,
            })
        }
        RouteNetlinkMessage::NewRoute(m) | RouteNetlinkMessage::DelRoute(m) => {
            is_of_others(&m).then_some(Event::Route)
        }
        _ => None,
    }
}

/// Neither ours nor made of an address, of which there is an event already.
fn is_of_others(route: &RouteMessage) -> bool {
    route.header.protocol != RouteProtocol::Other(RTM_PROTOCOL)
        && route.header.kind == RouteType::Unicast
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `ip monitor netconf` would get it.
    fn netconf(kind: u16, attributes: &[(u16, i32)]) -> Vec<u8> {
        let length = 16 + 4 + 8 * attributes.len() as u32;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend([libc::AF_INET as u8, 0, 0, 0]);
        for (kind, value) in attributes {
            message.extend(8_u16.to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(value.to_ne_bytes());
        }
        message
    }

    #[test]
    fn a_device_that_does_not_forward_is_heard_of() {
        let heard = |kind, attributes: &[_]| event(&netconf(kind, attributes));
        let off = Some(Event::NotForwarding { ifindex: 7 });
        assert_eq!(heard(80, &[(1, 7), (2, 0)]), off);
        // A new device, on again, `all`, another setting, gone.
        assert_eq!(heard(80, &[(1, 7), (2, 0), (3, 1)]), None);
        assert_eq!(heard(80, &[(1, 7), (2, 1)]), None);
        assert_eq!(heard(80, &[(1, -1), (2, 0)]), None);
        assert_eq!(heard(80, &[(1, 7), (3, 0)]), None);
        assert_eq!(heard(81, &[(1, 7), (2, 0)]), None);
        assert_eq!(event(&netconf(80, &[(1, 7), (2, 0)])[..18]), None);
    }
}
