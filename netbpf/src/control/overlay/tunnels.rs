//! From the cluster's picture to what the programs are to know. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::{
    cluster::View,
    datapath::{NodeEntry, TunnelEntry},
    store::NetworkRecord,
};

/// The other nodes that this one can reach: those with a VTEP of its own family.
pub fn nodes(view: &View, me: &str, vtep: IpAddr) -> Vec<NodeEntry> {
    let others = view.nodes.iter().filter(|(name, _)| name.as_str() != me);
    let reachable =
        others.filter(|(_, node)| node.address.is_ipv6() == vtep.is_ipv6() && node.address != vtep);
    let entry = reachable.map(|(_, node)| NodeEntry {
        vtep: node.address,
        mac: node.mac,
        port: node.port,
    });
    let mut entries: Vec<NodeEntry> = entry.collect();
    // Two registrations of one address are one node that has another name by now.
    entries.sort_by_key(|node| node.vtep);
    entries.dedup_by_key(|node| node.vtep);
    entries
}

/// What leads where on one network: each block to the node that has it, and single
/// addresses that do not live where their block is.
pub fn tunnels(view: &View, me: &str, record: &NetworkRecord) -> Vec<TunnelEntry> {
    let network = record.index;
    let ways = Ways::new(view, me, record);
    // Each node has the gateway, in whosever block it is.
    let gateways = record.subnets.iter().map(|subnet| TunnelEntry {
        network,
        block: IpNet::from(subnet.gateway),
        node: None,
    });
    let mut entries: Vec<TunnelEntry> = gateways.collect();
    if let Some(blocks) = view.blocks.get(&record.name) {
        let others = blocks.iter().filter(|(_, of)| of.node != me);
        entries.extend(others.map(|(block, of)| TunnelEntry {
            network,
            block: *block,
            node: ways.vtep(&of.node),
        }));
    }
    if let Some(addresses) = view.addresses.get(&record.name) {
        entries.extend(addresses.keys().filter_map(|ip| ways.to(*ip)));
    }
    entries
}

/// The ways to single addresses of a network.
pub struct Ways<'a> {
    view: &'a View,
    me: &'a str,
    network: (&'a str, u32),
    /// Of the blocks, by family.
    lengths: BTreeSet<(bool, u8)>,
}

impl<'a> Ways<'a> {
    pub fn new(view: &'a View, me: &'a str, record: &'a NetworkRecord) -> Ways<'a> {
        let blocks = view.blocks.get(&record.name);
        let blocks = blocks.into_iter().flat_map(|blocks| blocks.keys());
        Ways {
            view,
            me,
            network: (&record.name, record.index),
            lengths: blocks
                .map(|block| (block.addr().is_ipv6(), block.prefix_len()))
                .collect(),
        }
    }

    /// The way to an address that does not live where its block is.
    pub fn to(&self, ip: IpAddr) -> Option<TunnelEntry> {
        let of = self.view.address(self.network.0, ip)?;
        let owner = self.owner(ip);
        if owner == Some(of.node.as_str()) || owner.is_none() && of.node == self.me {
            return None;
        }
        Some(TunnelEntry {
            network: self.network.1,
            block: IpNet::from(ip),
            node: self.vtep(&of.node),
        })
    }

    /// The node of the block that an address is in.
    fn owner(&self, ip: IpAddr) -> Option<&'a str> {
        let lengths = self.lengths.iter();
        let mut lengths = lengths.filter(|(v6, _)| *v6 == ip.is_ipv6());
        lengths.find_map(|(_, length)| {
            let block = IpNet::new(ip, *length).ok()?.trunc();
            let of = self.view.block(self.network.0, &block)?;
            Some(of.node.as_str())
        })
    }

    fn vtep(&self, node: &str) -> Option<IpAddr> {
        match node == self.me {
            true => None,
            false => self.view.nodes.get(node).map(|node| node.address),
        }
    }
}
