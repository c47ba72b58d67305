//! Ends the sockets of connections by a published port: the container's own, which has
//! the kernel send resets to the clients (`SOCK_DESTROY`, as `ss -K`), and those of the
//! host's programs that were translated when they connected and that no reset gets to.

use std::{
    collections::{HashMap, HashSet},
    mem,
    net::SocketAddr,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};

use super::{Apply, open};
use crate::{
    control::{plan::Ports, ports},
    datapath::{Datapath, HostConnection},
    error::Result,
    model::Protocol,
    store::{EndpointRecord, PortRecord},
    sys::{
        self,
        sock_diag::{Connection, SockDiag},
    },
};

/// How long a reset by the container may take to get to a program of the host, through
/// nothing but the kernel.
const RESET_TIMEOUT: Duration = Duration::from_millis(100);
const RESET_POLL: Duration = Duration::from_millis(2);

impl Apply<'_> {
    /// To be called while the ports' flows are still followed, so that what the
    /// kernel has to say gets there. [`Self::end_hearing`] is to follow.
    pub(super) fn end_sockets(&mut self, ports: &[Ports]) -> Result<()> {
        let Some(datapath) = self.datapath else {
            return Ok(());
        };
        // Sockets for datagrams have no peer in the container, mostly, and are not
        // translated when they connect: they hear of it with their next packet.
        let tcp = |ports: &[PortRecord]| {
            let tcp = ports.iter().filter(|p| p.protocol == Protocol::Tcp);
            tcp.cloned().collect::<Vec<PortRecord>>()
        };
        let ports = ports.iter().map(|(endpoint, ports)| (endpoint, tcp(ports)));
        let ports: Vec<_> = ports.filter(|(_, ports)| !ports.is_empty()).collect();
        if ports.is_empty() {
            return Ok(());
        }
        let slots = ports.iter().flat_map(|(_, ports)| ports).map(|p| p.slot);
        let of_host = datapath.host_connections(&slots.collect());
        let of_host = of_host.map_err(Into::into).and_then(|c| sockets_of(&c));
        let (clients, mut done) = match of_host {
            Ok(clients) => (clients, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let of_host: HashSet<Ends> = clients.iter().map(|c| (c.remote, c.local)).collect();
        let mut heard = HashSet::new();
        let keep_open = ports.len() == 1;
        for (endpoint, ports) in ports {
            // Either side's, whatever became of the other's: nothing else would end them.
            match self.end_in_container(datapath, &endpoint.record, &ports, &of_host) {
                Ok(ended) => heard.extend(ended),
                Err(error) => done = done.and(Err(error)),
            }
            if !keep_open {
                self.containers.clear();
            }
        }
        // A reset by the container says to a program what it says to any client.
        let (hearing, left): (Vec<_>, Vec<_>) = clients
            .into_iter()
            .partition(|client| heard.contains(&(client.remote, client.local)));
        self.hearing.extend(hearing);
        done.and(destroy_all(&left))
    }

    /// Ends a container's sockets of connections by these ports, those of `of_host` among
    /// them; which ones.
    fn end_in_container(
        &mut self,
        datapath: &Datapath,
        record: &EndpointRecord,
        ports: &[PortRecord],
        of_host: &HashSet<Ends>,
    ) -> Result<HashSet<Ends>> {
        // A namespace that is gone took its sockets along.
        let Ok(container) = open(&mut self.containers, record, self.trust_paths) else {
            return Ok(HashSet::new());
        };
        let number = ports::number(Protocol::Tcp);
        let is_one = |local: SocketAddr, remote| {
            let mut serving = ports.iter().filter(|p| serves(p).contains(&local.port()));
            of_host.contains(&(local, remote))
                || serving.any(|port| datapath.is_of_slot(port.slot, number, local, remote))
        };
        let only = match ports {
            [port] if port.host_port == port.host_port_end => Some(port.container_port),
            _ => None,
        };
        let ended = container.namespace.run(|| end_where(only, is_one));
        Ok(ended??)
    }

    /// Ends those that no reset got to, because a filter drops it. All have the same
    /// time, however many ports they are of.
    pub(super) fn end_hearing(&mut self) -> Result<()> {
        let mut hearing = mem::take(&mut self.hearing);
        if hearing.is_empty() {
            return Ok(());
        }
        let mut diag = SockDiag::open()?;
        let end = Instant::now() + RESET_TIMEOUT;
        loop {
            // Of whom the kernel says nothing is taken to be there.
            hearing.retain(|client| diag.is_there(client).unwrap_or(true));
            if hearing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                return destroy_all(&hearing);
            }
            thread::sleep(RESET_POLL);
        }
    }
}

/// The container's ports of a published range.
fn serves(port: &PortRecord) -> RangeInclusive<u16> {
    let last = port.container_port + (port.host_port_end - port.host_port);
    port.container_port..=last
}

/// Both ends of a connection, ours first.
type Ends = (SocketAddr, SocketAddr);

/// Ends connections of the calling thread's namespace; which ones.
fn end_where(
    local_port: Option<u16>,
    is_one: impl Fn(SocketAddr, SocketAddr) -> bool,
) -> sys::Result<HashSet<Ends>> {
    let mut diag = SockDiag::open()?;
    let mut ended = HashSet::new();
    for connection in diag.connections(local_port)? {
        let ends = (connection.local, connection.remote);
        if is_one(ends.0, ends.1) && diag.destroy(&connection)? {
            ended.insert(ends);
        }
    }
    Ok(ended)
}

/// Ends connections of the host's programs.
pub fn end_of_host(connections: &[HostConnection]) -> Result<()> {
    destroy_all(&sockets_of(connections)?)
}

/// The host's sockets of these connections.
fn sockets_of(connections: &[HostConnection]) -> Result<Vec<Connection>> {
    if connections.is_empty() {
        return Ok(Vec::new());
    }
    let cookies: HashMap<u64, &HostConnection> =
        connections.iter().map(|c| (c.cookie, c)).collect();
    let mut sockets = SockDiag::open()?.connections(None)?;
    sockets.retain(|found| {
        // A cookie is never used again, a socket may be.
        let known = cookies.get(&found.cookie);
        known.is_some_and(|known| known.backend == found.remote)
    });
    Ok(sockets)
}

/// All of them, whatever becomes of the others.
fn destroy_all(sockets: &[Connection]) -> Result<()> {
    if sockets.is_empty() {
        return Ok(());
    }
    let mut diag = SockDiag::open()?;
    let mut done = Ok(());
    for socket in sockets {
        let ended = diag.destroy(socket).map_err(Into::into);
        done = done.and(ended.map(drop));
    }
    done
}
