//! `pools`: which outside ports of the host's addresses are in use. The programs mark
//! what they take; what was given back is marked free here, from what `outside4/6` say.

use std::collections::{BTreeSet, HashMap};

use aya::maps::{Array, HashMap as Table, MapData};
use netbpf_common::{
    addr::Addr,
    maps::{
        Local, LocalKey, Pool,
        pools::{POOL_ADDRESSES, POOL_KINDS, POOLS, pool_index},
    },
    names,
    packet::IPPROTO_TCP,
};

use super::{Result, collect::InUse, load::chain, tables::Written, types::DatapathError};

pub(super) struct Pools {
    table: Array<MapData, Pool>,
    idle: Array<MapData, Pool>,
    /// Numbers of addresses, from 1 on, as in `locals`.
    numbers: HashMap<Addr, u32>,
}

impl Pools {
    /// With the numbers that an earlier daemon gave.
    pub fn read(
        table: Array<MapData, Pool>,
        idle: Array<MapData, Pool>,
        locals: &Table<MapData, LocalKey, Local>,
    ) -> Pools {
        let held = locals.iter().flatten().filter(|(_, local)| local.pool != 0);
        Pools {
            table,
            idle,
            numbers: held.map(|(key, local)| (key.addr, local.pool)).collect(),
        }
    }

    /// Gives these addresses numbers, as far as there are pools, and takes back those of
    /// all others.
    pub fn assign(&mut self, addresses: &BTreeSet<Addr>) -> Result<()> {
        self.numbers.retain(|addr, _| addresses.contains(addr));
        let used: BTreeSet<u32> = self.numbers.values().copied().collect();
        let mut free = (1..=POOL_ADDRESSES).filter(|number| !used.contains(number));
        for addr in addresses {
            if self.numbers.contains_key(addr) {
                continue;
            }
            let Some(number) = free.next() else { break };
            // What was another address's is not this one's.
            self.write(number, &mut HashMap::new())?;
            for index in entries(number) {
                self.idle
                    .set(index, Pool::EMPTY, 0)
                    .written(names::IDLE, POOLS)?;
            }
            self.numbers.insert(*addr, number);
        }
        Ok(())
    }

    /// The number of an address; 0 without.
    pub fn number(&self, addr: &Addr) -> u32 {
        self.numbers.get(addr).copied().unwrap_or(0)
    }

    /// Marks just these ports as in use. A port that is taken meanwhile may be marked
    /// free: whoever tries it then finds out, and marks it.
    pub fn set(&mut self, in_use: InUse) -> Result<()> {
        let numbered = in_use.into_iter().filter_map(|((addr, kind), pool)| {
            let number = self.number(&addr);
            (number != 0).then(|| (entries(number).start + kind, pool))
        });
        let mut pools: HashMap<u32, Box<Pool>> = numbered.collect();
        let numbers: Vec<u32> = self.numbers.values().copied().collect();
        for number in numbers {
            self.write(number, &mut pools)?;
        }
        Ok(())
    }

    /// Writes the pools of a number; those that are not there are empty.
    fn write(&mut self, number: u32, pools: &mut HashMap<u32, Box<Pool>>) -> Result<()> {
        for index in entries(number) {
            let wanted = pools.remove(&index);
            let wanted = wanted.as_deref().unwrap_or(&Pool::EMPTY);
            let held = self
                .table
                .get(&index, 0)
                .map_err(|e| DatapathError::other("read map pools", chain(&e)))?;
            if held != *wanted {
                self.table
                    .set(index, wanted, 0)
                    .written(names::POOLS, POOLS)?;
            }
        }
        Ok(())
    }
}

/// The entries of a number.
fn entries(number: u32) -> std::ops::Range<u32> {
    let first = pool_index(number, IPPROTO_TCP);
    first..first + POOL_KINDS
}
