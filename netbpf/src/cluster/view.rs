//! The last picture of what the nodes agree on. Pure: values and events are handed in.
//!
//! A clone shares all with the original, and a change copies a few entries, however
//! many there are.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use ipnet::IpNet;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::de::DeserializeOwned;

use super::{
    keys::Key,
    records::{
        AddressOf, Alive, BlockOf, Drained, Endpoint, Kept, Me, Network, Unreadable, VniOf, decode,
    },
};

pub type Map<K, V> = RedBlackTreeMapSync<K, V>;

/// Things of networks, by the network's name.
pub type OfNetworks<K, V> = Map<String, Map<K, V>>;

/// A node that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub registration: Arc<Kept<Me>>,
    /// Its lease has ended: its endpoints leave listings, its routes stay.
    pub away: bool,
    /// It is to get no new block or endpoint.
    pub drained: bool,
}

impl Deref for Node {
    type Target = Me;

    fn deref(&self) -> &Me {
        &self.registration
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Of etcd; all up to here is in it.
    pub revision: i64,
    pub networks: Map<String, Arc<Kept<Network>>>,
    pub nodes: Map<String, Arc<Node>>,
    pub blocks: OfNetworks<IpNet, Arc<Kept<BlockOf>>>,
    pub addresses: OfNetworks<IpAddr, Arc<Kept<AddressOf>>>,
    pub endpoints: OfNetworks<String, Arc<Kept<Endpoint>>>,
    pub vnis: Map<u32, Arc<Kept<VniOf>>>,
    /// Nodes whose lease lives, registered or not.
    alive: Map<String, Arc<Kept<Alive>>>,
    drained: Map<String, Arc<Kept<Drained>>>,
    registrations: Map<String, Arc<Kept<Me>>>,
    /// Whose keys are found by `own`.
    me: Arc<str>,
    /// Endpoints, addresses and blocks of this node.
    own: RedBlackTreeSetSync<Key>,
    /// Keys, as they are in etcd, whose value is passed over; with its revision.
    unreadable: Map<String, i64>,
}

impl View {
    pub fn new(me: &str) -> View {
        View {
            me: me.into(),
            ..View::default()
        }
    }

    /// What a key's value comes to. One that cannot be read leaves what is known.
    pub fn put(&mut self, key: &Key, value: &[u8], revision: i64) -> Result<(), Unreadable> {
        match key {
            Key::Network(name) => {
                let network: Arc<Kept<Network>> = read(value, revision)?;
                same("network", name, &network.name)?;
                self.networks.insert_mut(name.clone(), network);
            }
            Key::Vni(vni) => {
                self.vnis.insert_mut(*vni, read(value, revision)?);
            }
            Key::Node(name) => {
                let node: Arc<Kept<Me>> = read(value, revision)?;
                same("node", name, &node.name)?;
                self.registrations.insert_mut(name.clone(), node);
                self.refresh_node(name);
            }
            Key::Alive(name) => {
                self.alive.insert_mut(name.clone(), read(value, revision)?);
                self.refresh_node(name);
            }
            Key::Drained(name) => {
                self.drained
                    .insert_mut(name.clone(), read(value, revision)?);
                self.refresh_node(name);
            }
            Key::Block { network, block } => {
                let of: Arc<Kept<BlockOf>> = read(value, revision)?;
                self.mark(key, &of.node);
                insert(&mut self.blocks, network, *block, of);
            }
            Key::Address { network, ip } => {
                let of: Arc<Kept<AddressOf>> = read(value, revision)?;
                self.mark(key, &of.node);
                insert(&mut self.addresses, network, *ip, of);
            }
            Key::Endpoint { network, name } => {
                let endpoint: Arc<Kept<Endpoint>> = read(value, revision)?;
                same("endpoint", name, &endpoint.name)?;
                same("network", network, &endpoint.network)?;
                self.mark(key, &endpoint.node);
                insert(&mut self.endpoints, network, name.clone(), endpoint);
            }
        }
        Ok(())
    }

    pub fn delete(&mut self, key: &Key) {
        self.own.remove_mut(key);
        match key {
            Key::Network(name) => _ = self.networks.remove_mut(name),
            Key::Vni(vni) => _ = self.vnis.remove_mut(vni),
            Key::Node(name) => {
                self.registrations.remove_mut(name);
                self.refresh_node(name);
            }
            Key::Alive(name) => {
                self.alive.remove_mut(name);
                self.refresh_node(name);
            }
            Key::Drained(name) => {
                self.drained.remove_mut(name);
                self.refresh_node(name);
            }
            Key::Block { network, block } => remove(&mut self.blocks, network, block),
            Key::Address { network, ip } => remove(&mut self.addresses, network, ip),
            Key::Endpoint { network, name } => remove(&mut self.endpoints, network, name),
        }
    }

    /// Whether a key is known and this node's.
    pub fn is_own(&self, key: &Key) -> bool {
        self.own.contains(key)
    }

    /// Endpoints, addresses and blocks of this node.
    pub fn own(&self) -> impl Iterator<Item = &Key> {
        self.own.iter()
    }

    pub fn alive(&self, node: &str) -> Option<&Kept<Alive>> {
        self.alive.get(node).map(Arc::as_ref)
    }

    pub fn drained(&self, node: &str) -> Option<&Kept<Drained>> {
        self.drained.get(node).map(Arc::as_ref)
    }

    pub fn endpoint(&self, network: &str, name: &str) -> Option<&Kept<Endpoint>> {
        let endpoints = self.endpoints.get(network)?;
        endpoints.get(name).map(Arc::as_ref)
    }

    pub fn address(&self, network: &str, ip: IpAddr) -> Option<&Kept<AddressOf>> {
        let addresses = self.addresses.get(network)?;
        addresses.get(&ip).map(Arc::as_ref)
    }

    pub fn block(&self, network: &str, block: &IpNet) -> Option<&Kept<BlockOf>> {
        let blocks = self.blocks.get(network)?;
        blocks.get(block).map(Arc::as_ref)
    }

    /// Whether that write of a key is known to be unreadable.
    pub fn is_passed_over(&self, raw: &str, revision: i64) -> bool {
        self.unreadable.get(raw) == Some(&revision)
    }

    pub fn pass_over(&mut self, raw: &str, revision: i64) {
        self.unreadable.insert_mut(raw.into(), revision);
    }

    pub fn no_longer_passed_over(&mut self, raw: &str) {
        self.unreadable.remove_mut(raw);
    }

    /// Keys whose value is passed over.
    pub fn unreadable(&self) -> usize {
        self.unreadable.size()
    }

    /// What another picture knows of a key that cannot be read in this one.
    pub fn keep_from(&mut self, other: &View, key: &Key) {
        match key {
            Key::Network(name) => copy(&mut self.networks, &other.networks, name),
            Key::Vni(vni) => copy(&mut self.vnis, &other.vnis, vni),
            Key::Node(name) => copy(&mut self.registrations, &other.registrations, name),
            Key::Alive(name) => copy(&mut self.alive, &other.alive, name),
            Key::Drained(name) => copy(&mut self.drained, &other.drained, name),
            Key::Block { network, block } => {
                if let Some(found) = other.blocks.get(network).and_then(|of| of.get(block)) {
                    insert(&mut self.blocks, network, *block, found.clone());
                }
            }
            Key::Address { network, ip } => {
                if let Some(found) = other.addresses.get(network).and_then(|of| of.get(ip)) {
                    insert(&mut self.addresses, network, *ip, found.clone());
                }
            }
            Key::Endpoint { network, name } => {
                if let Some(found) = other.endpoints.get(network).and_then(|of| of.get(name)) {
                    insert(&mut self.endpoints, network, name.clone(), found.clone());
                }
            }
        }
        if other.is_own(key) {
            self.own.insert_mut(key.clone());
        }
        if let Key::Node(name) | Key::Alive(name) | Key::Drained(name) = key {
            self.refresh_node(name);
        }
    }

    /// Entries in which two pictures differ.
    pub fn differences(&self, other: &View) -> usize {
        differences(&self.networks, &other.networks)
            + differences(&self.vnis, &other.vnis)
            + differences(&self.registrations, &other.registrations)
            + differences(&self.alive, &other.alive)
            + differences(&self.drained, &other.drained)
            + of_networks(&self.blocks, &other.blocks)
            + of_networks(&self.addresses, &other.addresses)
            + of_networks(&self.endpoints, &other.endpoints)
    }

    /// Entries that are no newer than another picture, and not in it as they are here.
    pub fn not_in(&self, other: &View) -> usize {
        let revision = other.revision;
        not_in(&self.networks, &other.networks, revision)
            + not_in(&self.vnis, &other.vnis, revision)
            + not_in(&self.registrations, &other.registrations, revision)
            + not_in(&self.alive, &other.alive, revision)
            + not_in(&self.drained, &other.drained, revision)
            + nested(&self.blocks, &other.blocks, revision)
            + nested(&self.addresses, &other.addresses, revision)
            + nested(&self.endpoints, &other.endpoints, revision)
    }

    fn mark(&mut self, key: &Key, node: &str) {
        match *node == *self.me {
            true => self.own.insert_mut(key.clone()),
            false => _ = self.own.remove_mut(key),
        }
    }

    fn refresh_node(&mut self, name: &str) {
        let Some(registration) = self.registrations.get(name) else {
            self.nodes.remove_mut(name);
            return;
        };
        let node = Node {
            registration: registration.clone(),
            away: !self.alive.contains_key(name),
            drained: self.drained.contains_key(name),
        };
        self.nodes.insert_mut(name.into(), Arc::new(node));
    }
}

fn read<T: DeserializeOwned>(value: &[u8], revision: i64) -> Result<Arc<Kept<T>>, Unreadable> {
    let record = decode(value)?;
    Ok(Arc::new(Kept { record, revision }))
}

/// A value that names itself is what its key says.
fn same(what: &str, key: &str, value: &str) -> Result<(), Unreadable> {
    match key == value {
        true => Ok(()),
        false => Err(Unreadable::OfAnother(format!("{what} {value:?}"))),
    }
}

fn insert<K: Ord + Clone, V: Clone>(all: &mut OfNetworks<K, V>, network: &str, key: K, value: V) {
    match all.get_mut(network) {
        Some(of) => of.insert_mut(key, value),
        None => {
            let mut of = Map::new_sync();
            of.insert_mut(key, value);
            all.insert_mut(network.into(), of);
        }
    }
}

fn remove<K: Ord + Clone, V: Clone>(all: &mut OfNetworks<K, V>, network: &str, key: &K) {
    let Some(of) = all.get_mut(network) else {
        return;
    };
    of.remove_mut(key);
    if of.is_empty() {
        all.remove_mut(network);
    }
}

fn copy<K: Ord + Clone, V: Clone>(to: &mut Map<K, V>, from: &Map<K, V>, key: &K) {
    if let Some(value) = from.get(key) {
        to.insert_mut(key.clone(), value.clone());
    }
}

fn differences<K: Ord, V: PartialEq>(one: &Map<K, V>, other: &Map<K, V>) -> usize {
    let differ = one
        .iter()
        .filter(|(key, value)| other.get(key) != Some(value));
    let missing = other.keys().filter(|key| !one.contains_key(key));
    differ.count() + missing.count()
}

fn of_networks<K: Ord, V: PartialEq>(one: &OfNetworks<K, V>, other: &OfNetworks<K, V>) -> usize {
    let empty = Map::new_sync();
    let here = one.iter();
    let differ = here.map(|(name, of)| differences(of, other.get(name).unwrap_or(&empty)));
    let missing = other.iter().filter(|(name, _)| !one.contains_key(*name));
    differ.sum::<usize>() + missing.map(|(_, of)| of.size()).sum::<usize>()
}

fn not_in<K: Ord, T: PartialEq>(
    one: &Map<K, Arc<Kept<T>>>,
    other: &Map<K, Arc<Kept<T>>>,
    revision: i64,
) -> usize {
    let old = one.iter().filter(|(_, value)| value.revision <= revision);
    old.filter(|(key, value)| other.get(key) != Some(value))
        .count()
}

fn nested<K: Ord, T: PartialEq>(
    one: &OfNetworks<K, Arc<Kept<T>>>,
    other: &OfNetworks<K, Arc<Kept<T>>>,
    revision: i64,
) -> usize {
    let empty = Map::new_sync();
    let all = one.iter();
    all.map(|(name, of)| not_in(of, other.get(name).unwrap_or(&empty), revision))
        .sum()
}
