//! Nodes are removed and drained from any other node.

use super::{
    Cluster, Refusal, View, etcd,
    keys::Key,
    records::{Drained, encode},
    shared::Live,
};

/// The node may be coming back meanwhile.
const TRIES: usize = 10;

/// Keys that one transaction removes; etcd takes 128 operations.
const TOGETHER: usize = 50;

impl Cluster {
    /// Forgets a node that is away, with its blocks, addresses and endpoints. Routes to it
    /// end with that; a node that is only cut off registers again when it is back, and
    /// puts back what nobody has taken.
    pub async fn remove_node(&self, name: &str) -> Result<(), Refusal> {
        let live = self.shared.live()?;
        let keys = &self.shared.keys;
        let alive_key = keys.of(&Key::Alive(name.into()));
        let node_key = keys.of(&Key::Node(name.into()));
        let drained_key = keys.of(&Key::Drained(name.into()));
        for _ in 0..TRIES {
            if live.etcd.get(alive_key.clone()).await?.is_some() {
                return Err(Refusal::NodeAlive(name.into()));
            }
            let of_node = self.all_of(&live, name).await?;
            let registered = live.etcd.get(node_key.clone()).await?.is_some();
            if !registered && of_node.is_empty() {
                return Err(Refusal::NoNode(name.into()));
            }
            let mut done = true;
            for some in of_node.chunks(TOGETHER) {
                let mut when = vec![etcd::absent(&alive_key)];
                when.extend(
                    some.iter()
                        .map(|(key, revision)| etcd::unchanged(key, *revision)),
                );
                let then = some.iter().map(|(key, _)| etcd::delete(key)).collect();
                done &= live.etcd.transact(when, then, Vec::new()).await?.done;
            }
            // Last, so that a removal that was broken off can be begun anew.
            let when = vec![etcd::absent(&alive_key)];
            let then = vec![etcd::delete(&node_key), etcd::delete(&drained_key)];
            if done && live.etcd.transact(when, then, Vec::new()).await?.done {
                return Ok(());
            }
        }
        Err(Refusal::Busy(format!("node {name:?}")))
    }

    /// Blocks, addresses and endpoints of a node, with the revisions of their writes.
    async fn all_of(&self, live: &Live, name: &str) -> Result<Vec<(String, i64)>, Refusal> {
        let keys = &self.shared.keys;
        let listing = live.etcd.list(&keys.all(), None).await?;
        let mut view = View::new(name);
        let mut found = Vec::new();
        for entry in listing.entries {
            let Some(key) = keys.parse(entry.key()) else {
                continue;
            };
            // What cannot be read is left to who can.
            if view.put(&key, entry.value(), entry.mod_revision()).is_ok() && view.is_own(&key) {
                found.push((keys.of(&key), entry.mod_revision()));
            }
        }
        Ok(found)
    }

    /// Marks a node, or takes the mark away: a drained node claims no block and no endpoint;
    /// what it has, it keeps.
    pub async fn drain_node(&self, name: &str, drained: bool) -> Result<(), Refusal> {
        let live = self.shared.live()?;
        let node_key = self.shared.keys.of(&Key::Node(name.into()));
        let key = self.shared.keys.of(&Key::Drained(name.into()));
        let mark = Drained {
            by: self.shared.name.clone(),
        };
        let then = match drained {
            true => etcd::put(&key, encode(&mark)?),
            false => etcd::delete(&key),
        };
        let when = vec![etcd::present(&node_key)];
        match live.etcd.transact(when, vec![then], Vec::new()).await?.done {
            true => Ok(()),
            false => Err(Refusal::NoNode(name.into())),
        }
    }
}
