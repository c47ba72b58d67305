//! Nodes are removed and drained from any other node, and leave by themselves.

use std::iter;

use etcd_client::Compare;

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
            let last = [&node_key, &drained_key];
            if remove(&live, &etcd::absent(&alive_key), &of_node, &last).await? {
                return Ok(());
            }
        }
        Err(Refusal::Busy(format!("node {name:?}")))
    }

    /// Takes this node out of the cluster, as [`Cluster::remove_node`] does from another
    /// one, and ends its part in it: nothing registers it again. To be called when nothing
    /// on this node needs its blocks and addresses any more.
    pub async fn leave(&self) -> Result<(), Refusal> {
        let live = self.shared.live()?;
        self.task.end().await;
        let (keys, name) = (&self.shared.keys, &self.shared.name);
        let alive_key = keys.of(&Key::Alive(name.clone()));
        let node_key = keys.of(&Key::Node(name.clone()));
        let drained_key = keys.of(&Key::Drained(name.clone()));
        let own = etcd::under_lease(&alive_key, live.lease);
        for _ in 0..TRIES {
            // The task does not renew it any more.
            let _ = live.etcd.keep_lease(live.lease).await;
            let of_node = self.all_of(&live, name).await?;
            let last = [&node_key, &drained_key, &alive_key];
            if remove(&live, &own, &of_node, &last).await? {
                // Nothing is under it any more; it would end by itself.
                let _ = live.etcd.revoke_lease(live.lease).await;
                return Ok(());
            }
            let alive = live.etcd.get(alive_key.clone()).await?;
            if alive.is_none_or(|alive| alive.lease() != live.lease) {
                let registered = live.etcd.get(node_key.clone()).await?.is_some();
                return match registered {
                    true => Err(Refusal::Unregistered),
                    // It has left before.
                    false => Ok(()),
                };
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

/// Removes keys that are unchanged since, and at last what names the node, so that a
/// removal that was broken off can be begun anew. `false`: the condition does not hold, or
/// one of them has changed.
async fn remove(
    live: &Live,
    condition: &Compare,
    keys: &[(String, i64)],
    last: &[&String],
) -> Result<bool, Refusal> {
    for some in keys.chunks(TOGETHER) {
        let unchanged = some.iter();
        let unchanged = unchanged.map(|(key, revision)| etcd::unchanged(key, *revision));
        let when = iter::once(condition.clone()).chain(unchanged).collect();
        let then = some.iter().map(|(key, _)| etcd::delete(key)).collect();
        if !live.etcd.transact(when, then, Vec::new()).await?.done {
            return Ok(false);
        }
    }
    let then = last.iter().map(|key| etcd::delete(key)).collect();
    let removed = live
        .etcd
        .transact(vec![condition.clone()], then, Vec::new());
    Ok(removed.await?.done)
}
