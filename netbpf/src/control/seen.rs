//! What can be seen of the state: a copy for those who look, made after each change.
//! Whoever looks waits for no change, and sees none half-done.
//!
//! The records are shared, and the tables of endpoints are persistent: a copy costs
//! nothing that grows with the number of endpoints.

use std::sync::Arc;

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use super::{
    errors::{no_endpoint, no_network},
    host::Hooks,
    uplinks::Uplink,
};
use crate::{
    error::Result,
    store::{EndpointRecord, NetworkRecord},
};

/// The endpoints, by index and by name.
#[derive(Clone, Default)]
pub struct Endpoints {
    by_index: RedBlackTreeMapSync<u32, Arc<EndpointRecord>>,
    by_name: RedBlackTreeMapSync<(String, String), u32>,
}

impl Endpoints {
    pub fn get(&self, index: &u32) -> Option<&Arc<EndpointRecord>> {
        self.by_index.get(index)
    }

    pub fn contains_key(&self, index: &u32) -> bool {
        self.by_index.contains_key(index)
    }

    /// By index.
    pub fn values(&self) -> impl Iterator<Item = &Arc<EndpointRecord>> {
        self.by_index.values()
    }

    pub fn keys(&self) -> impl Iterator<Item = &u32> {
        self.by_index.keys()
    }

    pub fn len(&self) -> usize {
        self.by_index.size()
    }

    /// In the order in which they were attached.
    pub fn in_order(&self) -> Vec<&Arc<EndpointRecord>> {
        let mut all: Vec<_> = self.values().collect();
        all.sort_by_key(|r| r.serial);
        all
    }

    pub fn put(&mut self, record: Arc<EndpointRecord>) {
        let key = (record.name.clone(), record.network.clone());
        self.by_name.insert_mut(key, record.index);
        self.by_index.insert_mut(record.index, record);
    }

    pub fn remove(&mut self, index: u32) -> Option<Arc<EndpointRecord>> {
        let record = self.by_index.get(&index).cloned()?;
        self.by_index.remove_mut(&index);
        let key = (record.name.clone(), record.network.clone());
        self.by_name.remove_mut(&key);
        Some(record)
    }

    pub fn on(&self, name: &str, network: &str) -> Option<&Arc<EndpointRecord>> {
        let index = self.by_name.get(&(name.to_owned(), network.to_owned()))?;
        self.by_index.get(index)
    }

    /// Endpoints of that name, in the order in which they were attached.
    pub fn named(&self, name: &str, network: Option<&str>) -> Vec<&Arc<EndpointRecord>> {
        let from = (name.to_owned(), String::new());
        let mut found: Vec<_> = self
            .by_name
            .range(from..)
            .take_while(|((n, _), _)| n == name)
            .filter(|((_, on), _)| network.is_none_or(|network| network == on))
            .filter_map(|(_, index)| self.by_index.get(index))
            .collect();
        found.sort_by_key(|r| r.serial);
        found
    }

    /// The endpoint that a command without `--network` means: the one with the
    /// default route, else the first.
    pub fn meant(&self, name: &str, network: Option<&str>) -> Result<&Arc<EndpointRecord>> {
        let found = self.named(name, network);
        found
            .iter()
            .find(|r| r.has_default_route())
            .or(found.first())
            .copied()
            .ok_or_else(|| no_endpoint(name, network))
    }
}

/// A network and the indexes of its endpoints.
#[derive(Clone)]
pub struct SeenNetwork {
    pub record: Arc<NetworkRecord>,
    pub endpoints: RedBlackTreeSetSync<u32>,
}

/// The state as it was after the last change.
#[derive(Default)]
pub struct Seen {
    pub endpoints: Endpoints,
    /// By name.
    pub networks: Vec<SeenNetwork>,
    pub uplinks: Vec<Uplink>,
    pub hooks: Option<Hooks>,
    pub notes: Vec<String>,
    pub closed: bool,
}

impl Seen {
    pub fn network(&self, name: &str) -> Result<&SeenNetwork> {
        let place = |n: &SeenNetwork| n.record.name.as_str().cmp(name);
        match self.networks.binary_search_by(place) {
            Ok(index) => Ok(&self.networks[index]),
            Err(_) => Err(no_network(name)),
        }
    }

    /// Endpoints of a name, of a network, or of both; at least one, where a name is
    /// said.
    pub fn found(
        &self,
        name: Option<&str>,
        network: Option<&str>,
    ) -> Result<Vec<&Arc<EndpointRecord>>> {
        let of_network = network.map(|network| self.network(network)).transpose()?;
        match (name, of_network) {
            (Some(name), _) => {
                let found = self.endpoints.named(name, network);
                match found.is_empty() {
                    true => Err(no_endpoint(name, network)),
                    false => Ok(found),
                }
            }
            (None, Some(of_network)) => Ok(self.members(of_network)),
            (None, None) => Ok(self.endpoints.in_order()),
        }
    }

    /// In the order in which they were attached.
    pub fn members(&self, network: &SeenNetwork) -> Vec<&Arc<EndpointRecord>> {
        let indexes = network.endpoints.iter();
        let mut members: Vec<_> = indexes.filter_map(|i| self.endpoints.get(i)).collect();
        members.sort_by_key(|r| r.serial);
        members
    }
}
