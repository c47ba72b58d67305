//! Ends the sockets of connections by a published port: the container's own, and those
//! of the host's programs that were translated when they connected. The kernel says
//! so to both sides (`SOCK_DESTROY`, as `ss -K`).

use std::collections::HashMap;

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

impl Apply<'_> {
    /// To be called while the port's flows are still followed, so that what the
    /// kernel has to say gets there.
    pub(super) fn end_sockets(
        &mut self,
        datapath: &Datapath,
        record: &EndpointRecord,
        port: &PortRecord,
    ) -> Result<()> {
        end_of_host(&datapath.host_connections(&[port.slot].into())?)?;
        // A container's sockets for datagrams have no peer, mostly.
        if port.protocol != Protocol::Tcp {
            return Ok(());
        }
        // A namespace that is gone took its sockets along.
        let Ok(container) = open(&mut self.containers, record, self.trust_paths) else {
            return Ok(());
        };
        let number = ports::number(port.protocol);
        let single = (port.host_port == port.host_port_end).then_some(port.container_port);
        container.namespace.run(|| -> sys::Result<()> {
            let mut diag = SockDiag::open()?;
            for connection in diag.connections(Transport::Tcp, single)? {
                let (local, remote) = (connection.local, connection.remote);
                if datapath.is_of_slot(port.slot, number, local, remote) {
                    diag.destroy(&connection)?;
                }
            }
            Ok(())
        })??;
        Ok(())
    }
}

/// Ends connections of the host's programs.
pub fn end_of_host(connections: &[HostConnection]) -> Result<()> {
    if connections.is_empty() {
        return Ok(());
    }
    let cookies: HashMap<u64, &HostConnection> =
        connections.iter().map(|c| (c.cookie, c)).collect();
    let is_one = |found: &Connection| {
        // A cookie is never used again, a socket may be.
        let known = cookies.get(&found.cookie);
        known.is_some_and(|known| known.backend == found.remote)
    };
    let mut diag = SockDiag::open()?;
    for transport in [Transport::Tcp, Transport::Udp] {
        for connection in diag.connections(transport, None)? {
            if is_one(&connection) {
                diag.destroy(&connection)?;
            }
        }
    }
    Ok(())
}
