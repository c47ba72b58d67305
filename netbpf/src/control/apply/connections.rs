//! Ends the sockets of connections by a published port: the container's own, which has
//! the kernel send resets to the clients (`SOCK_DESTROY`, as `ss -K`), and those of the
//! host's programs that were translated when they connected and that no reset gets to.

use std::{
    collections::{HashMap, HashSet},
    thread,
    time::{Duration, Instant},
};

use super::{Apply, open};
use crate::{
    control::ports,
    datapath::{Datapath, HostConnection},
    error::Result,
    model::Protocol,
    store::{EndpointRecord, PortRecord},
    sys::{
        self,
        sock_diag::{Connection, SockDiag},
        sockets::Transport,
    },
};

/// How long a reset by the container may take to get to a program of the host, through
/// nothing but the kernel.
const RESET_TIMEOUT: Duration = Duration::from_millis(100);
const RESET_POLL: Duration = Duration::from_millis(2);

impl Apply<'_> {
    /// To be called while the port's flows are still followed, so that what the
    /// kernel has to say gets there.
    pub(super) fn end_sockets(
        &mut self,
        datapath: &Datapath,
        record: &EndpointRecord,
        port: &PortRecord,
    ) -> Result<()> {
        // Sockets for datagrams have no peer in the container, mostly, and are not
        // translated when they connect: they hear of it with their next packet.
        if port.protocol != Protocol::Tcp {
            return Ok(());
        }
        let clients = sockets_of(&datapath.host_connections(&[port.slot].into())?)?;
        // A namespace that is gone took its sockets along.
        if let Ok(container) = open(&mut self.containers, record, self.trust_paths) {
            let of_host: HashSet<_> = clients.iter().map(|c| (c.remote, c.local)).collect();
            let number = ports::number(port.protocol);
            let single = (port.host_port == port.host_port_end).then_some(port.container_port);
            container.namespace.run(|| -> sys::Result<()> {
                let mut diag = SockDiag::open()?;
                for connection in diag.connections(Transport::Tcp, single)? {
                    let (local, remote) = (connection.local, connection.remote);
                    if of_host.contains(&(local, remote))
                        || datapath.is_of_slot(port.slot, number, local, remote)
                    {
                        diag.destroy(&connection)?;
                    }
                }
                Ok(())
            })??;
        }
        end_those_left(clients)
    }
}

/// Ends connections of the host's programs.
pub fn end_of_host(connections: &[HostConnection]) -> Result<()> {
    let mut diag = SockDiag::open()?;
    for socket in sockets_of(connections)? {
        diag.destroy(&socket)?;
    }
    Ok(())
}

/// The host's sockets of these connections.
fn sockets_of(connections: &[HostConnection]) -> Result<Vec<Connection>> {
    if connections.is_empty() {
        return Ok(Vec::new());
    }
    let cookies: HashMap<u64, &HostConnection> =
        connections.iter().map(|c| (c.cookie, c)).collect();
    let mut sockets = SockDiag::open()?.connections(Transport::Tcp, None)?;
    sockets.retain(|found| {
        // A cookie is never used again, a socket may be.
        let known = cookies.get(&found.cookie);
        known.is_some_and(|known| known.backend == found.remote)
    });
    Ok(sockets)
}

/// A reset by the container says to a program what it says to any client. Whom none
/// gets to, because there is nobody to send it or a filter drops it, is ended here.
fn end_those_left(mut clients: Vec<Connection>) -> Result<()> {
    if clients.is_empty() {
        return Ok(());
    }
    let mut diag = SockDiag::open()?;
    let end = Instant::now() + RESET_TIMEOUT;
    loop {
        let mut left = Vec::new();
        for client in clients {
            if diag.is_there(&client)? {
                left.push(client);
            }
        }
        clients = left;
        if clients.is_empty() || Instant::now() >= end {
            break;
        }
        thread::sleep(RESET_POLL);
    }
    for client in &clients {
        diag.destroy(client)?;
    }
    Ok(())
}
