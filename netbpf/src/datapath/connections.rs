//! Connections of the host's own programs that were translated when they connected
//! (map `host_conns`).

use std::{collections::HashSet, net::SocketAddr};

use netbpf_common::{
    names,
    time::{TICKS_PER_SECOND, since, ticks},
};

use super::{
    Datapath, HostConnection, Result,
    attach::monotonic,
    pages::Page,
    tables::{self, removed},
};

/// A socket that connects is noted some microseconds before the kernel lists it.
const SETTLED_TICKS: u32 = 5 * TICKS_PER_SECOND;

impl Datapath {
    /// Those by these published ranges. Goes through all that there are.
    pub fn host_connections(&self, slots: &HashSet<u32>) -> Result<Vec<HostConnection>> {
        let table = &self.inner().tables.host_conns;
        let (mut page, mut found) = (Page::new(), Vec::new());
        while page.read(table)? {
            let of_slots = page.entries().filter(|(_, c)| slots.contains(&c.slot));
            found.extend(of_slots.map(|(cookie, conn)| HostConnection {
                cookie,
                backend: SocketAddr::new(tables::ip(conn.backend), conn.backend_port),
            }));
        }
        Ok(found)
    }

    /// Those that are not of a moment ago, by the cookies of their sockets.
    pub fn settled_host_connections(&self) -> Result<HashSet<u64>> {
        let now = ticks(monotonic()?);
        let table = &self.inner().tables.host_conns;
        let (mut page, mut found) = (Page::new(), HashSet::new());
        while page.read(table)? {
            let settled = page
                .entries()
                .filter(|(_, c)| since(now, c.created) > SETTLED_TICKS);
            found.extend(settled.map(|(cookie, _)| cookie));
        }
        Ok(found)
    }

    /// Removes what is known of sockets that are no more.
    pub fn forget_host_connections(&self, cookies: &HashSet<u64>) -> Result<()> {
        let table = &mut self.inner().tables.host_conns;
        for cookie in cookies {
            removed(names::HOST_CONNS, table.remove(cookie))?;
        }
        Ok(())
    }
}
