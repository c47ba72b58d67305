//! TCP connections of a namespace's programs, and how they are ended (sock_diag(7),
//! `SOCK_DESTROY` as by `ss -K`).

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use rtnetlink::sys::protocols::NETLINK_SOCK_DIAG;

use super::{Result, SysError, netlink};

/// A TCP socket with a peer.
#[derive(Clone, Debug)]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// `SO_COOKIE`.
    pub cookie: u64,
    family: u8,
    id: SocketId,
}

/// A socket for requests about sockets.
pub struct SockDiag {
    connection: netlink::Connection,
}

impl SockDiag {
    /// A socket in the calling thread's network namespace.
    pub fn open() -> Result<SockDiag> {
        let connection = netlink::Connection::open(NETLINK_SOCK_DIAG)
            .map_err(|e| SysError::io("open a socket for sock_diag", e))?;
        Ok(SockDiag { connection })
    }

    /// All sockets with a peer, of both families; of IPv6 sockets that talk IPv4
    /// the addresses are IPv4.
    pub fn connections(&mut self, local_port: Option<u16>) -> Result<Vec<Connection>> {
        let none = StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::TIME_WAIT;
        let families = FAMILIES.into_iter().filter(|family| is_in_use(*family));
        self.list(families, StateFlags::all() - none, local_port)
    }

    /// Addresses and ports that TCP sockets are bound to which neither listen nor are
    /// connected. A kernel older than 6.8 names none.
    pub fn bound_only(&mut self) -> Result<Vec<(IpAddr, u16)>> {
        // `TCPF_BOUND_INACTIVE` of `net/tcp_states.h`.
        let states = StateFlags::from_bits_retain(1 << 13);
        let sockets = self.list(FAMILIES, states, None)?;
        let named = sockets.iter().map(|s| (s.local.ip(), s.local.port()));
        Ok(named.collect())
    }

    fn list(
        &mut self,
        families: impl IntoIterator<Item = u8>,
        states: StateFlags,
        local_port: Option<u16>,
    ) -> Result<Vec<Connection>> {
        let mut found = Vec::new();
        for family in families {
            let mut id = match family {
                AF_INET => SocketId::new_v4(),
                _ => SocketId::new_v6(),
            };
            id.source_port = local_port.unwrap_or(0);
            let request = request(family, states.clone(), id);
            let request = SockDiagMessage::InetRequest(request);
            let wanted = |answer| match answer {
                SockDiagMessage::InetResponse(r) => Some(connection(*r)),
                _ => None,
            };
            let flags = NLM_F_REQUEST | NLM_F_DUMP;
            match self.connection.dump(&request, flags, wanted) {
                // A kernel without IPv6, or without the module.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                answers => found.extend(answers.map_err(|e| SysError::io("list sockets", e))?),
            }
        }
        Ok(found)
    }

    /// The connection goes on.
    pub fn is_there(&mut self, connection: &Connection) -> Result<bool> {
        let message = SockDiagMessage::InetRequest(this(connection));
        let answer = self
            .connection
            .send(message, NLM_F_REQUEST | NLM_F_ACK)
            .and_then(|()| self.connection.receive(|_: SockDiagMessage| ()));
        match answer {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(SysError::io("look for a connection", e)),
        }
    }

    /// Ends a connection: the peer gets a reset, the program an error. `false`: it is gone,
    /// or the kernel cannot.
    pub fn destroy(&mut self, connection: &Connection) -> Result<bool> {
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(this(connection)));
        let done = self
            .connection
            .send(message, NLM_F_REQUEST | NLM_F_ACK)
            .and_then(|()| self.connection.receive(|_: SockDiagMessage| ()));
        match done {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                tracing::debug!("this kernel ends no sockets (CONFIG_INET_DIAG_DESTROY)");
                Ok(false)
            }
            other => other.map(|()| true).map_err(|e: io::Error| {
                let (local, remote) = (connection.local, connection.remote);
                SysError::io(format!("end the connection {local} – {remote}"), e)
            }),
        }
    }
}

const FAMILIES: [u8; 2] = [AF_INET, AF_INET6];

/// Whether the calling thread's namespace has any TCP socket of that family that listens or
/// has a peer: a list of them costs milliseconds, as the kernel looks for it through the
/// sockets of all namespaces.
fn is_in_use(family: u8) -> bool {
    let (name, row) = match family {
        AF_INET => ("sockstat", "TCP: inuse "),
        _ => ("sockstat6", "TCP6: inuse "),
    };
    let Ok(text) = fs::read_to_string(format!("/proc/thread-self/net/{name}")) else {
        return true;
    };
    let rest = text.lines().find_map(|line| line.strip_prefix(row));
    let count = rest.and_then(|rest| rest.split(' ').next());
    count != Some("0")
}

/// A request about one connection.
fn this(connection: &Connection) -> InetRequest {
    let (id, states) = (connection.id.clone(), StateFlags::all());
    request(connection.family, states, id)
}

fn request(family: u8, states: StateFlags, id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: libc::IPPROTO_TCP as u8,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: id,
    }
}

fn connection(response: InetResponse) -> Connection {
    let header = response.header;
    let id = header.socket_id;
    let [a, b, c, d, e, f, g, h] = id.cookie;
    Connection {
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        // Two words, the low one first.
        cookie: u64::from(u32::from_ne_bytes([a, b, c, d]))
            | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32,
        family: header.family,
        id,
    }
}
