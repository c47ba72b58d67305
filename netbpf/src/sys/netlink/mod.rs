//! A blocking rtnetlink socket of one network namespace.
//!
//! Blocking on purpose: wiring a container is some twenty requests of 20 µs each,
//! in a thread that had to change its namespace anyway. A socket stays in the
//! namespace that it was made in.

mod address;
mod events;
mod link;
mod qdisc;
mod route;

pub use address::{Address, AddressKind};
pub use events::{Event, Events, Hear};
pub use link::{Link, VethPair};
pub use route::{Route, RouteKind, RouteTarget, Rule};

use std::{io, os::fd::AsRawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Result, SysError};

/// Protocol number of our routes and addresses, by which they are known as ours
/// (`ip route show proto 142`).
pub const RTM_PROTOCOL: u8 = 142;

/// A dump message of the kernel is at most this long (`NLMSG_GOODSIZE` and the
/// 32 KiB that libnl and iproute2 count on).
const BUFFER: usize = 64 * 1024;

/// A netlink socket for requests.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// A socket in the calling thread's network namespace.
    pub fn open() -> Result<Netlink> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            // Filters in dump requests are honoured only so (4.20).
            let _ = socket.set_netlink_get_strict_chk(true);
            Ok(socket)
        };
        Ok(Netlink {
            socket: open().map_err(|e| SysError::io("open a netlink socket", e))?,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Sends a request and waits for its acknowledgement.
    fn request(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .and_then(|()| self.receive(|_| ()))
            .map_err(|e| SysError::io(what(), e))
    }

    /// Sends a dump request and hands every answer to `each`. Starts anew, with
    /// `reset`, when the kernel says that the table changed meanwhile.
    fn dump(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        // Twice interrupted, the third answer is taken as it is: events follow.
        for attempt in 0.. {
            let mut found = Vec::new();
            let done = self
                .send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)
                .and_then(|()| self.receive(|m| found.push(m)));
            match done {
                Ok(()) => return Ok(found),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) && attempt < 2 => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => return Ok(found),
                Err(e) => return Err(SysError::io(what(), e)),
            }
        }
        unreachable!("the loop ends by return")
    }

    /// Sends a request for one object and returns the answer.
    fn get(
        &mut self,
        what: impl Fn() -> String,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>> {
        let mut found = None;
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)
            .and_then(|()| self.receive(|m| found = Some(m)))
            .map_err(|e| SysError::io(what(), e))?;
        Ok(found)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads until the acknowledgement or the end of the dump. `EINTR` stands
    /// for a dump that the kernel calls inconsistent.
    fn receive(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        const NLM_F_DUMP_INTR: u16 = netlink_packet_core::NLM_F_DUMP_INTR;
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            for message in messages(&self.buffer) {
                let Some(message) = message else { continue };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                    NetlinkPayload::Error(_) => return Ok(()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::Error::from_raw_os_error(libc::EINTR));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(m) => each(m),
                    _ => {}
                }
            }
        }
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// The messages of a datagram; `None` for one that cannot be read: the kernel may
/// know attributes that this crate does not, and one odd device must not hide
/// the others.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Option<NetlinkMessage<RouteNetlinkMessage>>> {
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(bytes).ok()?.length() as usize;
        let (message, rest) = bytes.split_at_checked(length)?;
        // Messages are aligned to four bytes, the last one need not be filled up.
        bytes = &rest[rest.len().min(length.next_multiple_of(4) - length)..];
        let message = NetlinkMessage::deserialize(message)
            .inspect_err(|e| tracing::debug!(error = %e, "netlink message passed over"))
            .ok();
        Some(message)
    })
}
