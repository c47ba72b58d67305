//! What changes in the namespace: devices, addresses, routes.

use std::{io, os::fd::AsRawFd, time::Duration};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkAttribute,
    route::{RouteMessage, RouteProtocol, RouteType},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rtnetlink::{
    MulticastGroup,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::{RTM_PROTOCOL, messages};
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
    /// The kernel had more to say than the socket could hold: list anew.
    Overrun,
}

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
            // A thousand devices that go at once fit in.
            let _ = socket.set_rx_buf_sz(4 * 1024 * 1024_u32);
            let mut groups = vec![
                MulticastGroup::Link,
                MulticastGroup::Ipv4Ifaddr,
                MulticastGroup::Ipv6Ifaddr,
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
        // SAFETY: the descriptor is the socket's, which outlives the call.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
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
                Ok(_) => events.extend(messages(&self.buffer).flatten().filter_map(parse)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => events.push(Event::Overrun),
                Err(e) => return Err(SysError::io(what, e)),
            }
        }
    }
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
