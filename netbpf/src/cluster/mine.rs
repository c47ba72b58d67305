//! What this node holds, and what it takes to make etcd have just that.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Endpoint, Mine, View,
    keys::Key,
    records::{AddressOf, Block},
};

/// Network and name.
pub type Name = (String, String);

fn name_of(endpoint: &Endpoint) -> Name {
    (endpoint.network.clone(), endpoint.name.clone())
}

/// Told by the daemon, and claimed since.
#[derive(Debug, Default)]
pub struct Held {
    /// Before it, nothing is known to be wrong in etcd.
    told: bool,
    endpoints: BTreeMap<Name, Endpoint>,
    blocks: BTreeSet<Block>,
    /// Claimed, and not yet in what the daemon tells: it is told later, and a list that was
    /// made before must not take them away.
    claimed: BTreeMap<Name, Endpoint>,
    claimed_blocks: BTreeSet<Block>,
    /// Being claimed: whether etcd has them is not known.
    pending: BTreeMap<Name, usize>,
}

impl Held {
    pub fn tell(&mut self, mine: Mine) {
        self.told = true;
        self.endpoints = mine
            .endpoints
            .into_iter()
            .map(|e| (name_of(&e), e))
            .collect();
        self.blocks = mine.blocks.into_iter().collect();
        self.claimed
            .retain(|name, _| !self.endpoints.contains_key(name));
        self.claimed_blocks
            .retain(|block| !self.blocks.contains(block));
    }

    pub fn begin(&mut self, endpoint: &Endpoint) {
        *self.pending.entry(name_of(endpoint)).or_default() += 1;
    }

    pub fn end(&mut self, endpoint: &Endpoint) {
        let name = name_of(endpoint);
        if let Some(count) = self.pending.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(&name);
            }
        }
    }

    pub fn claimed(&mut self, endpoint: &Endpoint) {
        self.claimed.insert(name_of(endpoint), endpoint.clone());
    }

    pub fn released(&mut self, network: &str, name: &str) {
        let name = (network.to_owned(), name.to_owned());
        self.claimed.remove(&name);
        self.endpoints.remove(&name);
    }

    pub fn claimed_block(&mut self, block: Block) {
        self.claimed_blocks.insert(block);
    }

    /// Whether it was held.
    pub fn released_block(&mut self, block: &Block) -> bool {
        self.claimed_blocks.remove(block) | self.blocks.remove(block)
    }

    fn endpoint(&self, name: &Name) -> Option<&Endpoint> {
        self.claimed.get(name).or_else(|| self.endpoints.get(name))
    }

    /// One that is claimed anew stands for the one that was told.
    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let told = self.endpoints.iter();
        let told = told.filter(|(name, _)| !self.claimed.contains_key(*name));
        told.chain(&self.claimed).map(|(_, endpoint)| endpoint)
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Missing in etcd, in whole or in part, or not as they are.
    pub settle: Vec<Endpoint>,
    pub settle_blocks: Vec<Block>,
    /// Of this node, and no longer held; with the revision of the write that is meant.
    pub remove: Vec<(Key, i64)>,
}

/// Compares what is held with the picture.
pub fn plan(view: &View, node: &str, held: &Held) -> Plan {
    if !held.told {
        return Plan::default();
    }
    let settle = held.endpoints().filter(|endpoint| {
        !held.pending.contains_key(&name_of(endpoint)) && !stands(view, node, endpoint)
    });
    let blocks = held.blocks.iter().chain(&held.claimed_blocks);
    let blocks = blocks.filter(|of| {
        let missing = view
            .block(&of.network, &of.block)
            .is_none_or(|of| of.node != node);
        missing && view.networks.contains_key(&of.network)
    });
    Plan {
        settle: settle.cloned().collect(),
        settle_blocks: blocks.cloned().collect(),
        remove: view
            .own()
            .filter_map(|key| left_over(view, held, key))
            .collect(),
    }
}

fn stands(view: &View, node: &str, endpoint: &Endpoint) -> bool {
    let known = view.endpoint(&endpoint.network, &endpoint.name);
    let of = AddressOf {
        node: node.into(),
        endpoint: endpoint.name.clone(),
    };
    known.is_some_and(|known| known.record == *endpoint)
        && endpoint.addresses.iter().all(|ip| {
            let known = view.address(&endpoint.network, *ip);
            known.is_some_and(|known| known.record == of)
        })
}

fn left_over(view: &View, held: &Held, key: &Key) -> Option<(Key, i64)> {
    let (name, revision) = match key {
        Key::Endpoint { network, name } => {
            let known = view.endpoint(network, name)?;
            let name = (network.clone(), name.clone());
            if held.endpoint(&name).is_some() {
                return None;
            }
            (name, known.revision)
        }
        Key::Address { network, ip } => {
            let known = view.address(network, *ip)?;
            let name = (network.clone(), known.endpoint.clone());
            if held
                .endpoint(&name)
                .is_some_and(|e| e.addresses.contains(ip))
            {
                return None;
            }
            (name, known.revision)
        }
        _ => return None,
    };
    (!held.pending.contains_key(&name)).then(|| (key.clone(), revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::records::{BlockOf, encode};

    fn endpoint(name: &str, ip: &str) -> Endpoint {
        Endpoint {
            network: "front".into(),
            name: name.into(),
            node: "n1".into(),
            container: None,
            addresses: vec![ip.parse().unwrap()],
            mac: [2, 0, 0, 0, 0, 1],
            aliases: Vec::new(),
            created_at: String::new(),
        }
    }

    fn endpoint_key(name: &str) -> Key {
        Key::Endpoint {
            network: "front".into(),
            name: name.into(),
        }
    }

    fn address_key(ip: &str) -> Key {
        Key::Address {
            network: "front".into(),
            ip: ip.parse().unwrap(),
        }
    }

    fn put_endpoint(view: &mut View, endpoint: &Endpoint, revision: i64) {
        let value = encode(endpoint).unwrap();
        view.put(&endpoint_key(&endpoint.name), &value, revision)
            .unwrap();
        let of = AddressOf {
            node: endpoint.node.clone(),
            endpoint: endpoint.name.clone(),
        };
        for ip in &endpoint.addresses {
            let key = address_key(&ip.to_string());
            view.put(&key, &encode(&of).unwrap(), revision).unwrap();
        }
    }

    fn holding(endpoints: &[Endpoint]) -> Held {
        let mut held = Held::default();
        held.tell(Mine {
            endpoints: endpoints.to_vec(),
            blocks: Vec::new(),
        });
        held
    }

    #[test]
    fn nothing_is_wrong_before_the_daemon_has_told() {
        let mut view = View::new("n1");
        put_endpoint(&mut view, &endpoint("old", "10.7.0.2"), 5);
        assert_eq!(plan(&view, "n1", &Held::default()), Plan::default());
    }

    #[test]
    fn what_is_missing_is_settled_and_what_is_left_over_removed() {
        let mut view = View::new("n1");
        let (old, kept, new) = (
            endpoint("old", "10.7.0.2"),
            endpoint("kept", "10.7.0.3"),
            endpoint("new", "10.7.0.4"),
        );
        put_endpoint(&mut view, &old, 5);
        put_endpoint(&mut view, &kept, 6);
        let foreign = Endpoint {
            node: "n2".into(),
            ..endpoint("foreign", "10.7.0.5")
        };
        put_endpoint(&mut view, &foreign, 7);
        let found = plan(&view, "n1", &holding(&[kept.clone(), new.clone()]));
        assert_eq!(found.settle, [new]);
        let left_over = [(address_key("10.7.0.2"), 5), (endpoint_key("old"), 5)];
        assert_eq!(found.remove, left_over);
        assert_eq!(plan(&view, "n1", &holding(&[old, kept])), Plan::default());
    }

    #[test]
    fn an_address_that_changed_hands_is_settled() {
        let mut view = View::new("n1");
        let mut own = endpoint("web", "10.7.0.2");
        put_endpoint(&mut view, &own, 5);
        own.addresses = vec!["10.7.0.9".parse().unwrap()];
        let found = plan(&view, "n1", &holding(&[own.clone()]));
        assert_eq!(found.settle, [own]);
        assert_eq!(found.remove, [(address_key("10.7.0.2"), 5)]);
    }

    #[test]
    fn what_is_being_claimed_is_left_alone() {
        let mut view = View::new("n1");
        let own = endpoint("web", "10.7.0.2");
        let mut held = holding(&[]);
        held.begin(&own);
        held.begin(&own);
        put_endpoint(&mut view, &own, 5);
        assert_eq!(plan(&view, "n1", &held), Plan::default());
        held.end(&own);
        assert_eq!(plan(&view, "n1", &held), Plan::default());
        // Refused, or nobody knows.
        held.end(&own);
        assert_eq!(plan(&view, "n1", &held).remove.len(), 2);
    }

    #[test]
    fn what_was_claimed_stays_until_it_was_told_and_told_no_more() {
        let mut view = View::new("n1");
        let own = endpoint("web", "10.7.0.2");
        put_endpoint(&mut view, &own, 5);
        let mut held = holding(&[]);
        held.claimed(&own);
        // A list from before the claim.
        held.tell(Mine::default());
        assert_eq!(plan(&view, "n1", &held), Plan::default());
        held.tell(Mine {
            endpoints: vec![own],
            blocks: Vec::new(),
        });
        assert_eq!(plan(&view, "n1", &held), Plan::default());
        held.tell(Mine::default());
        assert_eq!(plan(&view, "n1", &held).remove.len(), 2);
        held.released("front", "web");
    }

    #[test]
    fn blocks_are_put_back_and_never_removed() {
        let mut view = View::new("n1");
        let block = |block: &str| Block {
            network: "front".into(),
            block: block.parse().unwrap(),
        };
        let key = |of: &Block| Key::Block {
            network: of.network.clone(),
            block: of.block,
        };
        let (held_one, forgotten) = (block("10.7.0.0/26"), block("10.7.0.64/26"));
        let of = BlockOf { node: "n1".into() };
        view.put(&key(&forgotten), &encode(&of).unwrap(), 5)
            .unwrap();
        let mut held = holding(&[]);
        held.claimed_block(held_one.clone());
        // Of a network that is gone.
        assert_eq!(plan(&view, "n1", &held), Plan::default());
        let network = crate::cluster::tests::network("front", "10.7.0.0/16");
        let network_key = Key::Network("front".into());
        view.put(&network_key, &encode(&network).unwrap(), 6)
            .unwrap();
        let found = plan(&view, "n1", &held);
        assert_eq!(found.settle_blocks, std::slice::from_ref(&held_one));
        assert!(found.remove.is_empty());
        assert!(held.released_block(&held_one) && !held.released_block(&held_one));
        assert_eq!(plan(&view, "n1", &held), Plan::default());
    }
}
