//! A blocking rtnetlink socket of one network namespace.
//!
//! Blocking on purpose: wiring a container is some twenty requests of 20 µs each,
//! in a thread that had to change its namespace anyway. A socket stays in the
//! namespace that it was made in.

mod address;
mod connection;
mod events;
mod link;
mod neighbour;
mod qdisc;
mod route;

pub use address::{Address, AddressKind};
pub use events::{Event, Events, Hear};
pub use link::{FoundVxlan, Link, VethPair, Vxlan};
pub use neighbour::Neighbour;
pub use qdisc::{Filter, Side};
pub use route::{Route, RouteKind, RouteTarget, Rule};

use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;

pub(super) use self::connection::Connection;
use super::{Result, SysError, fault};

/// Protocol number of our routes and addresses, by which they are known as ours
/// (`ip route show proto 142`).
pub const RTM_PROTOCOL: u8 = 142;

/// A socket for requests about devices, addresses and routes.
pub struct Netlink {
    connection: Connection,
}

impl Netlink {
    /// A socket in the calling thread's network namespace.
    pub fn open() -> Result<Netlink> {
        let connection = Connection::open(NETLINK_ROUTE);
        Ok(Netlink {
            connection: connection.map_err(|e| SysError::io("open a netlink socket", e))?,
        })
    }

    /// Sends a request and waits for its acknowledgement.
    fn request(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        fault::point("before", &what);
        self.connection
            .send(message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .and_then(|()| self.connection.receive(|_: RouteNetlinkMessage| ()))
            .map_err(|e| SysError::io(what(), e))?;
        fault::point("after", &what);
        Ok(())
    }

    /// Sends a dump request and gathers what is wanted of the answers.
    fn dump<A: NetlinkDeserializable, T>(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
        wanted: impl Fn(A) -> Option<T>,
    ) -> Result<Vec<T>> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.connection
            .dump(&message, flags, wanted)
            .map_err(|e| SysError::io(what(), e))
    }

    /// Sends a request for one object and returns the answer.
    fn get(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>> {
        let mut found = None;
        self.connection
            .send(message, NLM_F_REQUEST | NLM_F_ACK)
            .and_then(|()| self.connection.receive(|m| found = Some(m)))
            .map_err(|e| SysError::io(what(), e))?;
        Ok(found)
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.connection.as_raw_fd()
    }
}
