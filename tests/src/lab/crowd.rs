//! Nodes that are in etcd alone: a large cluster without two hundred daemons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use ipnet::IpNet;
use netbpf::{cluster::block_length, model::NetworkInfo};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::Etcd;

/// Operations of one transaction, of which etcd takes 128.
const AT_ONCE: usize = 120;

/// Of the lease of all nodes, in seconds: longer than anything takes.
const LEASE: i64 = 3600;

/// Blocks that are left to real nodes, which take the first ones.
const LEFT: usize = 16;

/// Nodes with endpoints on one overlay network. Of each node the last endpoint has an
/// address of the next node's block.
pub struct Crowd {
    runtime: Runtime,
    client: Client,
    lease: i64,
    network: NetworkInfo,
    nodes: usize,
    endpoints: usize,
}

/// A key below the prefix, what is under it, and whether it goes with the nodes' lease.
type Entry = (String, Value, bool);

impl Crowd {
    /// Puts nodes with so many endpoints each.
    #[track_caller]
    pub fn put(etcd: &Etcd, network: &NetworkInfo, nodes: usize, endpoints: usize) -> Crowd {
        let runtime = etcd.space().runtime();
        let (client, lease) = runtime.block_on(async {
            let mut client = Client::connect([etcd.url()], None).await.expect("etcd");
            let lease = client.lease_grant(LEASE, None).await.expect("a lease");
            (client, lease.id())
        });
        let mut crowd = Crowd {
            runtime,
            client,
            lease,
            network: network.clone(),
            nodes,
            endpoints,
        };
        let entries: Vec<Entry> = (0..nodes).flat_map(|node| crowd.node(node)).collect();
        crowd.write(entries);
        crowd
    }

    pub fn name(node: usize) -> String {
        format!("crowd{node}")
    }

    /// Entries that a node needs to reach all of them: blocks, and single addresses.
    pub fn ways(&self) -> usize {
        let subnets = self.network.subnets.iter();
        let each = subnets.map(|subnet| self.blocks(&subnet.subnet) + 1);
        self.nodes * each.sum::<usize>()
    }

    /// Puts endpoints once more, with other MACs, as containers that were started anew.
    #[track_caller]
    pub fn restart(&mut self, endpoints: impl Iterator<Item = (usize, usize)>) {
        let entries = endpoints.flat_map(|(node, number)| self.endpoint(node, number, true));
        let entries = entries.collect();
        self.write(entries);
    }

    /// Their lease ends: all of them are away.
    #[track_caller]
    pub fn end(&mut self) {
        let end = self.client.lease_revoke(self.lease);
        self.runtime.block_on(end).expect("revoke the lease");
    }

    fn node(&self, node: usize) -> Vec<Entry> {
        let name = Crowd::name(node);
        let vtep = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + node as u32);
        let me = json!({
            "v": 1, "name": name, "id": name, "address": vtep, "mtu": 1500, "port": 4789,
            "mac": mac(1, node), "version": "0.1.0",
        });
        let alive = json!({"v": 1, "id": name});
        let mut entries = vec![
            (format!("nodes/{name}"), me, false),
            (format!("alive/{name}"), alive, true),
        ];
        for subnet in &self.network.subnets {
            for block in 0..self.blocks(&subnet.subnet) {
                let first = self.at(&subnet.subnet, node, block * size(&subnet.subnet));
                let length = block_length(&subnet.subnet);
                let key = format!("blocks/{}/{first}-{length}", self.network.name);
                entries.push((key, json!({"v": 1, "node": name}), false));
            }
        }
        entries.extend((0..self.endpoints).flat_map(|number| self.endpoint(node, number, false)));
        entries
    }

    fn endpoint(&self, node: usize, number: usize, again: bool) -> Vec<Entry> {
        let (network, owner) = (&self.network.name, Crowd::name(node));
        let name = format!("e{node}-{number}");
        let subnets = self.network.subnets.iter().map(|subnet| &subnet.subnet);
        let addresses = subnets.map(|subnet| match number + 1 == self.endpoints {
            true => {
                let last = self.blocks(subnet) * size(subnet) - 1;
                self.at(subnet, (node + 1) % self.nodes, last)
            }
            false => self.at(subnet, node, number),
        });
        let addresses: Vec<IpAddr> = addresses.collect();
        let of_address = json!({"v": 1, "node": owner, "endpoint": name});
        let mut entries: Vec<Entry> = addresses
            .iter()
            .map(|ip| {
                let key = format!("addresses/{network}/{ip}");
                (key, of_address.clone(), false)
            })
            .collect();
        let value = json!({
            "v": 1, "network": network, "name": name, "node": owner,
            "container": format!("{node:032x}{number:032x}"), "addresses": addresses,
            "mac": mac(2 + u8::from(again), node * self.endpoints + number),
            "aliases": [], "created_at": "2026-01-01T00:00:00Z",
        });
        entries.push((format!("endpoints/{network}/{name}"), value, false));
        entries
    }

    /// Blocks of each node: for its endpoints, and an address more.
    fn blocks(&self, subnet: &IpNet) -> usize {
        (self.endpoints + 1).div_ceil(size(subnet))
    }

    /// An address of a node's blocks.
    fn at(&self, subnet: &IpNet, node: usize, place: usize) -> IpAddr {
        let blocks = LEFT + node * self.blocks(subnet);
        let place = (blocks * size(subnet) + place) as u128;
        match subnet.network() {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + place as u32).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + place).into(),
        }
    }

    #[track_caller]
    fn write(&mut self, entries: Vec<Entry>) {
        let (client, lease) = (&mut self.client, self.lease);
        let write = async {
            for some in entries.chunks(AT_ONCE) {
                let puts = some.iter().map(|(key, value, leased)| {
                    let options = leased.then(|| PutOptions::new().with_lease(lease));
                    TxnOp::put(format!("/netbpf/v1/{key}"), value.to_string(), options)
                });
                let puts = Txn::new().and_then(puts.collect::<Vec<_>>());
                client.txn(puts).await?;
            }
            Ok::<(), etcd_client::Error>(())
        };
        self.runtime.block_on(write).expect("put the crowd");
    }
}

/// Addresses of a block.
fn size(subnet: &IpNet) -> usize {
    1 << (subnet.max_prefix_len() - block_length(subnet))
}

fn mac(kind: u8, number: usize) -> String {
    let [.., a, b, c] = (number as u32).to_be_bytes();
    format!("02:{kind:02x}:00:{a:02x}:{b:02x}:{c:02x}")
}
