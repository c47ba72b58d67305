//! `arrivals`: at which ports of the host packets of flows may arrive by an uplink; `siblings`:
//! between which containers. Programs mark what the flows need that they begin; what those need
//! that are there already, begun by a version that knew nothing of it, is marked here.

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use netbpf_common::{
    maps::{
        Flow, FlowKey, Pool,
        endpoints::{SIBLINGS, SIBLINGS_OF_DAEMON, sibling_bit},
        flows::{ARRIVAL_UPLINK, FLOW_ORIGINAL, FLOW_TO_CONTAINER},
        pools::{ARRIVALS, arrivals_index},
    },
    names,
    packet::{IPPROTO_TCP, IPPROTO_UDP},
};

use super::{
    Datapath, Result,
    flows::Address,
    load,
    pages::Page,
    tables::{FlowTables, Written},
    types::DatapathError,
};

impl Datapath {
    /// Lets the programs go by `arrivals`, `siblings` and `areas`, of which this one is right
    /// already. To be called once each program that begins flows is of this version, on all
    /// devices.
    pub fn trust_marks(&self) -> Result<()> {
        if load::is_trusted(&mut self.inner().ebpf)? {
            return Ok(());
        }
        let mut marks = Marks::default();
        {
            let tables = self.flow_tables();
            tables.v4.mark(&mut marks)?;
            tables.v6.mark(&mut marks)?;
        }
        let ebpf = &mut self.inner().ebpf;
        let mut arrivals = bit_maps(ebpf, names::ARRIVALS)?;
        for (protocol, pool) in [(IPPROTO_TCP, marks.tcp), (IPPROTO_UDP, marks.udp)] {
            arrivals
                .set(arrivals_index(protocol, true), pool, 0)
                .written(names::ARRIVALS, ARRIVALS)?;
        }
        bit_maps(ebpf, names::SIBLINGS)?
            .set(SIBLINGS_OF_DAEMON, marks.siblings, 0)
            .written(names::SIBLINGS, SIBLINGS)?;
        load::change_config(&mut load::config(ebpf)?, |config| config.marked = 1)
    }
}

/// Not taken out: programs that are loaded at need refer to it by its descriptor.
fn bit_maps<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, Pool>> {
    let map = ebpf.map_mut(name);
    let map = map.ok_or_else(|| DatapathError::other("open maps", format!("no map {name}")))?;
    Array::try_from(map)
        .map_err(|e| DatapathError::other(format!("open map {name}"), load::chain(&e)))
}

/// What flows that are there need.
struct Marks {
    tcp: Pool,
    udp: Pool,
    siblings: Pool,
}

impl Default for Marks {
    fn default() -> Self {
        Marks {
            tcp: Pool::EMPTY,
            udp: Pool::EMPTY,
            siblings: Pool::EMPTY,
        }
    }
}

impl Marks {
    fn add<A>(&mut self, key: &FlowKey<A>, half: &Flow<A>) {
        if key.arrival == ARRIVAL_UPLINK {
            match key.protocol {
                IPPROTO_TCP => self.tcp.put(key.dport, true),
                IPPROTO_UDP => self.udp.put(key.dport, true),
                _ => {}
            }
        } else if half.sender != 0
            && half.flags & (FLOW_TO_CONTAINER | FLOW_ORIGINAL) == FLOW_TO_CONTAINER
        {
            let bit = sibling_bit(half.sender, half.endpoint);
            self.siblings.put(bit, true);
        }
    }
}

impl<A: Address> FlowTables<A> {
    /// Marks what the flows that are there need.
    fn mark(&self, marks: &mut Marks) -> Result<()> {
        let mut page = Page::new();
        while page.read(&self.flows)? {
            for (key, half) in page.entries() {
                marks.add(&key, &half);
            }
        }
        Ok(())
    }
}
