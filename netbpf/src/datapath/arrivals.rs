//! `arrivals`: at which ports of the host packets of flows may arrive by an uplink. Programs
//! mark the port of each flow that they begin; those of flows that are there already, begun by
//! a version that knew nothing of it, are marked here.

use aya::maps::{Array, MapData, MapError};
use netbpf_common::{
    maps::{
        FlowKey, Pool,
        flows::ARRIVAL_UPLINK,
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
    /// Lets the programs go by `arrivals`. To be called once each program that begins flows
    /// is of this version, on all devices.
    pub fn trust_arrivals(&self) -> Result<()> {
        if load::is_trusted(&mut self.inner().ebpf)? {
            return Ok(());
        }
        let mut marks = [IPPROTO_TCP, IPPROTO_UDP].map(|protocol| (protocol, Pool::EMPTY));
        {
            let tables = self.flow_tables();
            tables.v4.mark(&mut marks)?;
            tables.v6.mark(&mut marks)?;
        }
        let ebpf = &mut self.inner().ebpf;
        let wrong = |e: MapError| DatapathError::other("open map arrivals", load::chain(&e));
        // Not taken out: programs that are loaded at need refer to it by its descriptor.
        let map = ebpf.map_mut(names::ARRIVALS);
        let map = map.ok_or_else(|| DatapathError::other("open maps", "no map arrivals"))?;
        let mut map: Array<&mut MapData, Pool> = Array::try_from(map).map_err(wrong)?;
        for (protocol, pool) in marks {
            map.set(arrivals_index(protocol, true), pool, 0)
                .written(names::ARRIVALS, ARRIVALS)?;
        }
        load::change_config(&mut load::config(ebpf)?, |config| config.arrivals = 1)
    }
}

impl<A: Address> FlowTables<A> {
    /// Marks where packets of flows arrive by an uplink.
    fn mark(&self, marks: &mut [(u8, Pool); 2]) -> Result<()> {
        let mut page = Page::new();
        while page.read(&self.flows)? {
            for (key, _) in page.entries() {
                mark(&key, marks);
            }
        }
        Ok(())
    }
}

fn mark<A>(key: &FlowKey<A>, marks: &mut [(u8, Pool); 2]) {
    if key.arrival != ARRIVAL_UPLINK {
        return;
    }
    let mut marks = marks.iter_mut();
    if let Some((_, pool)) = marks.find(|(protocol, _)| *protocol == key.protocol) {
        pool.put(key.dport, true);
    }
}
