//! A netlink socket of any protocol: requests, and what the kernel answers.

use std::{convert::Infallible, io, os::fd::AsRawFd};

use netlink_packet_core::{
    NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rtnetlink::sys::{Socket, SocketAddr};

/// A dump message of the kernel is at most this long (`NLMSG_GOODSIZE` and the
/// 32 KiB that libnl and iproute2 count on).
pub const BUFFER: usize = 64 * 1024;

/// An open socket.
pub struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// A socket in the calling thread's network namespace.
    pub fn open(protocol: isize) -> io::Result<Connection> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        // Filters in dump requests are honoured only so (4.20).
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Connection {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Sends a dump request and gathers what is wanted of the answers, which are some
    /// kilobytes each once they are read. Asks anew when the kernel says that the table
    /// changed meanwhile.
    pub fn dump<M, A, T>(
        &mut self,
        message: &M,
        flags: u16,
        wanted: impl Fn(A) -> Option<T>,
    ) -> io::Result<Vec<T>>
    where
        M: Clone + NetlinkSerializable + Into<NetlinkPayload<M>>,
        A: NetlinkDeserializable,
    {
        // Twice interrupted, the third answer is taken as it is: events follow.
        for attempt in 0.. {
            let mut found = Vec::new();
            let done = self
                .send(message.clone(), flags)
                .and_then(|()| self.receive(|m| found.extend(wanted(m))));
            match done {
                Ok(()) => return Ok(found),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) && attempt < 2 => {}
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => return Ok(found),
                Err(e) => return Err(e),
            }
        }
        unreachable!("the loop ends by return")
    }

    pub fn send<M>(&mut self, message: M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
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
    pub fn receive<M: NetlinkDeserializable>(&mut self, mut each: impl FnMut(M)) -> io::Result<()> {
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

/// An answer that may say whatever it likes, also what cannot be read: there is one.
pub struct Anything;

impl NetlinkDeserializable for Anything {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, _: &[u8]) -> Result<Self, Self::Error> {
        Ok(Anything)
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// The messages of a datagram; `None` for one that cannot be read: the kernel may
/// know attributes that this crate does not, and one odd device must not hide
/// the others.
pub fn messages<M: NetlinkDeserializable>(
    bytes: &[u8],
) -> impl Iterator<Item = Option<NetlinkMessage<M>>> {
    parts(bytes).map(read)
}

/// A message of a datagram, where it can be read.
pub fn read<M: NetlinkDeserializable>(message: &[u8]) -> Option<NetlinkMessage<M>> {
    NetlinkMessage::deserialize(message)
        .inspect_err(|e| tracing::debug!(error = %e, "netlink message passed over"))
        .ok()
}

/// The messages of a datagram as they came, each with its header.
pub fn parts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = NetlinkBuffer::new_checked(bytes).ok()?.length() as usize;
        let (message, rest) = bytes.split_at_checked(length)?;
        // Messages are aligned to four bytes, the last one need not be filled up.
        bytes = &rest[rest.len().min(length.next_multiple_of(4) - length)..];
        Some(message)
    })
}
