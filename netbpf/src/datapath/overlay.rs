//! The tables of the overlay: where this node takes in VXLAN, the other nodes, and what
//! lives on which.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use aya::maps::{Array, HashMap as Table, MapData};
use ipnet::IpNet;
use netbpf_common::{
    addr::Addr,
    maps::{
        Node, Tunnel, TunnelKey, Vni,
        config::{VXLAN_PORTS, VXLAN_SHARED, VXLAN_UNKNOWN},
        overlay::{NODES, TUNNELS},
    },
    names,
};

use super::{
    Datapath, DatapathError, NetworkFlags, Result,
    load::{self, chain},
    tables::{Written, addr, flags, removed, take},
    ways,
};

/// Entries of `vnis`, as the programs have them.
const MAX_VNIS: u32 = 4096;

/// All that the programs know of other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Where this node takes in VXLAN; `None`: nowhere.
    pub vtep: Option<IpAddr>,
    /// UDP port of it.
    pub port: u16,
    /// Others take in VXLAN at that port, too.
    pub shared: bool,
    pub nodes: Vec<NodeEntry>,
    pub networks: Vec<OverlayNetwork>,
    pub tunnels: Vec<TunnelEntry>,
}

/// Another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// Where it takes in VXLAN; no other's.
    pub vtep: IpAddr,
    /// Destination of the frames inside.
    pub mac: [u8; 6],
    pub port: u16,
}

/// An overlay network that is on this node; `flags.overlay` says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverlayNetwork {
    pub network: u32,
    pub flags: NetworkFlags,
}

/// A block of a network's addresses and the node where they live; of several the longest
/// prefix counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunnelEntry {
    pub network: u32,
    pub block: IpNet,
    /// The VTEP of one of the nodes; `None`, or that of none of them: here, or nowhere.
    pub node: Option<IpAddr>,
}

pub(super) struct Tables {
    nodes: Array<MapData, Node>,
    /// The number of each in `nodes`, not another's while anything may lead there.
    numbers: HashMap<Addr, u32>,
    vteps: Table<MapData, Addr, u32>,
    vnis: Table<MapData, u32, Vni>,
    tunnels: Table<MapData, TunnelKey, Tunnel>,
    /// What is in `tunnels`: reading it back takes long.
    known: HashMap<TunnelKey, u32>,
}

impl Tables {
    pub(super) fn open(ebpf: &mut aya::Ebpf) -> Result<Tables> {
        let mut tables = Tables {
            numbers: HashMap::new(),
            known: HashMap::new(),
            nodes: take(ebpf, names::NODES)?,
            vteps: take(ebpf, names::VTEPS)?,
            vnis: take(ebpf, names::VNIS)?,
            tunnels: take(ebpf, names::TUNNELS)?,
        };
        tables.read()?;
        Ok(tables)
    }

    /// Reads back what is there; in how many entries that is not what was known.
    fn read(&mut self) -> Result<usize> {
        let mut numbers = HashMap::new();
        for (number, node) in (0..).zip(self.nodes.iter()) {
            let node = node.map_err(|e| DatapathError::other("read nodes", chain(&e)))?;
            if node.vtep != NOBODY.vtep {
                numbers.insert(node.vtep, number);
            }
        }
        let tunnels = self.tunnels.iter().flatten();
        let known: HashMap<_, _> = tunnels.map(|(key, tunnel)| (key, tunnel.node)).collect();
        let differ = differences(&self.numbers, &numbers) + differences(&self.known, &known);
        (self.numbers, self.known) = (numbers, known);
        Ok(differ)
    }

    /// How many there are of each.
    pub(super) fn usage(&self) -> [(&'static str, usize); 3] {
        [
            (names::VTEPS, self.vteps.keys().flatten().count()),
            (names::VNIS, self.vnis.keys().flatten().count()),
            (names::TUNNELS, self.known.len()),
        ]
    }

    /// Writes nodes that are new or changed. Of one that stays the way is kept.
    fn put_nodes(&mut self, nodes: &[NodeEntry]) -> Result<()> {
        for node in nodes {
            let failed = |e| DatapathError::other(format!("write node {}", node.vtep), chain(&e));
            let vtep = addr(node.vtep);
            let number = match self.numbers.get(&vtep) {
                Some(&number) => number,
                None => match self.free_number() {
                    Some(number) => number,
                    None => {
                        // The others are reached all the same.
                        tracing::warn!(%node.vtep, "more nodes than there is room for");
                        continue;
                    }
                },
            };
            let held = self.nodes.get(&number, 0).map_err(failed)?;
            if (held.vtep, held.mac, held.port) == (vtep, node.mac, node.port) {
                continue;
            }
            let fresh = Node {
                vtep,
                mac: node.mac,
                port: node.port,
                ..NOBODY
            };
            self.nodes.set(number, fresh, 0).map_err(failed)?;
            self.numbers.insert(vtep, number);
        }
        Ok(())
    }

    fn free_number(&self) -> Option<u32> {
        let taken: HashSet<u32> = self.numbers.values().copied().collect();
        (1..NODES).find(|number| !taken.contains(number))
    }

    /// Forgets all other nodes.
    fn drop_nodes(&mut self, nodes: &[NodeEntry]) -> Result<()> {
        let kept: HashSet<Addr> = nodes.iter().map(|node| addr(node.vtep)).collect();
        let gone: Vec<(Addr, u32)> = self
            .numbers
            .iter()
            .filter(|(vtep, _)| !kept.contains(*vtep))
            .map(|(vtep, number)| (*vtep, *number))
            .collect();
        for (vtep, number) in gone {
            self.nodes
                .set(number, NOBODY, 0)
                .map_err(|e| DatapathError::other(format!("forget node {number}"), chain(&e)))?;
            self.numbers.remove(&vtep);
        }
        Ok(())
    }

    /// The number of the node that an address lives on.
    fn number(&self, vtep: Option<IpAddr>) -> u32 {
        let number = vtep.and_then(|vtep| self.numbers.get(&addr(vtep)));
        number.copied().unwrap_or(0)
    }

    /// Makes the table of tunnels just this, leading to these nodes alone. What lives
    /// elsewhere than its area is there before the area says so, and goes after it. Where
    /// there is no room for all that is new, the rest is done all the same; the error then.
    fn set_tunnels(
        &mut self,
        nodes: &[NodeEntry],
        entries: &[TunnelEntry],
    ) -> Result<Option<DatapathError>> {
        let nodes: HashSet<IpAddr> = nodes.iter().map(|node| node.vtep).collect();
        let wanted = ways::of(entries.iter().map(|t| {
            let node = t.node.filter(|vtep| nodes.contains(vtep));
            (t.network, t.block, self.number(node))
        }));
        let mut put: Vec<(TunnelKey, u32)> = wanted
            .iter()
            .filter(|(key, node)| self.known.get(key) != Some(node))
            .map(|(key, node)| (*key, *node))
            .collect();
        put.sort_by_key(|(key, _)| Reverse(key.prefix_len));
        let mut full = None;
        for (key, node) in put {
            let inserted = self.tunnels.insert(key, Tunnel { node }, 0);
            match inserted.written(names::TUNNELS, TUNNELS) {
                Ok(()) => _ = self.known.insert(key, node),
                Err(error @ DatapathError::Full { .. }) => full = Some(error),
                Err(error) => return Err(error),
            }
        }
        let known = self.known.keys().copied();
        let mut gone: Vec<TunnelKey> = known.filter(|key| !wanted.contains_key(key)).collect();
        gone.sort_by_key(|key| key.prefix_len);
        for key in gone {
            removed(names::TUNNELS, self.tunnels.remove(&key))?;
            self.known.remove(&key);
        }
        Ok(full)
    }
}

/// No node.
const NOBODY: Node = Node {
    vtep: [0; 16],
    mac: [0; 6],
    port: 0,
    next_hop: [0; 16],
    ifindex: 0,
    mtu: 0,
    checked: 0,
    path_mtu: 0,
    path_mtu_at: 0,
    way: 0,
};

/// Makes a table just this; what is right already is not written again.
fn replace<K: aya::Pod + std::hash::Hash + Eq, V: aya::Pod + PartialEq>(
    (name, max_entries): (&'static str, u32),
    table: &mut Table<MapData, K, V>,
    wanted: &HashMap<K, V>,
) -> Result<usize> {
    let held: HashMap<K, V> = table.iter().flatten().collect();
    for (key, value) in wanted {
        if held.get(key) != Some(value) {
            table.insert(key, value, 0).written(name, max_entries)?;
        }
    }
    for key in held.keys().filter(|key| !wanted.contains_key(key)) {
        removed(name, table.remove(key))?;
    }
    Ok(differences(&held, wanted))
}

/// Entries in which two tables differ.
fn differences<K: std::hash::Hash + Eq, V: PartialEq>(
    one: &HashMap<K, V>,
    other: &HashMap<K, V>,
) -> usize {
    let differ = one
        .iter()
        .filter(|(key, value)| other.get(key) != Some(value));
    let missing = other.keys().filter(|key| !one.contains_key(key));
    differ.count() + missing.count()
}

impl Datapath {
    /// This node is one of several; who the others are is not known yet. Where an earlier
    /// daemon knew, that goes on.
    pub fn begin_overlay(&self, vtep: IpAddr, port: u16) -> Result<()> {
        let inner = &mut *self.inner();
        load::change_config(&mut load::config(&mut inner.ebpf)?, |config| {
            if config.vtep == [0; 16] {
                config.vtep = addr(vtep);
                config.vxlan_port = port;
                config.vxlan_flags = VXLAN_SHARED | VXLAN_UNKNOWN;
            }
        })
    }

    /// Looks whether the tables are as they were written last, and puts right what is
    /// not; how many entries that was.
    pub fn repair_overlay(&self, overlay: &Overlay) -> Result<usize> {
        let differ = self.inner().overlay.read()?;
        Ok(differ + self.set_overlay(overlay)?)
    }

    /// Makes all that the programs know of other nodes just this; how many entries of
    /// `vteps` and `vnis` were not. In an order in which nothing leads to a node that is
    /// not there, and nothing is taken in that has no place to go.
    pub fn set_overlay(&self, overlay: &Overlay) -> Result<usize> {
        let inner = &mut *self.inner();
        let tables = &mut inner.overlay;
        let vnis = overlay.networks.iter().filter_map(|network| {
            let at = network.flags.overlay?;
            let vni = Vni {
                network: network.network,
                scope: at.scope,
                flags: flags(network.flags),
            };
            Some((at.vni, vni))
        });
        tables.put_nodes(&overlay.nodes)?;
        let mut vteps: HashMap<Addr, u32> = overlay
            .nodes
            .iter()
            .map(|node| (addr(node.vtep), tables.number(Some(node.vtep))))
            .filter(|(_, number)| *number != 0)
            .collect();
        // What a container sends there is not to be taken for a node's.
        vteps.extend(overlay.vtep.map(|own| (addr(own), 0)));
        let mut changed = replace((names::VTEPS, NODES), &mut tables.vteps, &vteps)?;
        let full = tables.set_tunnels(&overlay.nodes, &overlay.tunnels)?;
        changed += replace((names::VNIS, MAX_VNIS), &mut tables.vnis, &vnis.collect())?;
        let (vtep, port) = (overlay.vtep.map_or([0; 16], addr), overlay.port);
        let bit = |set: bool, flag: u16| if set { flag } else { 0 };
        let other_ports = overlay.nodes.iter().any(|node| node.port != port);
        let vxlan_flags = bit(overlay.shared, VXLAN_SHARED) | bit(other_ports, VXLAN_PORTS);
        load::change_config(&mut load::config(&mut inner.ebpf)?, |config| {
            config.vtep = vtep;
            config.vxlan_port = port;
            config.vxlan_flags = vxlan_flags;
        })?;
        tables.drop_nodes(&overlay.nodes)?;
        full.map_or(Ok(changed), Err)
    }
}
