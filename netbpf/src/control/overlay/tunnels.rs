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
    let (name, network) = (record.name.as_str(), record.index);
    let vtep = |node: &str| match node == me {
        true => None,
        false => view.nodes.get(node).map(|node| node.address),
    };
    // Each node has the gateway, in whosever block it is.
    let gateways = record.subnets.iter().map(|subnet| TunnelEntry {
        network,
        block: IpNet::from(subnet.gateway),
        node: None,
    });
    let mut entries: Vec<TunnelEntry> = gateways.collect();
    let mut lengths = BTreeSet::new();
    if let Some(blocks) = view.blocks.get(name) {
        for (block, of) in blocks.iter() {
            lengths.insert((block.addr().is_ipv6(), block.prefix_len()));
            if of.node != me {
                entries.push(TunnelEntry {
                    network,
                    block: *block,
                    node: vtep(&of.node),
                });
            }
        }
    }
    let owner = |ip: IpAddr| {
        let lengths = lengths.iter().filter(|(v6, _)| *v6 == ip.is_ipv6());
        let mut blocks = lengths.filter_map(|(_, length)| {
            let block = IpNet::new(ip, *length).ok()?.trunc();
            view.block(name, &block)
        });
        blocks.next().map(|of| of.node.as_str())
    };
    if let Some(addresses) = view.addresses.get(name) {
        for (ip, of) in addresses.iter() {
            let owner = owner(*ip);
            if owner == Some(of.node.as_str()) || owner.is_none() && of.node == me {
                continue;
            }
            entries.push(TunnelEntry {
                network,
                block: IpNet::from(*ip),
                node: vtep(&of.node),
            });
        }
    }
    entries
}
