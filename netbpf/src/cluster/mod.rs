//! What nodes agree on, in etcd (docs/cluster.md): networks, nodes, address blocks,
//! addresses and endpoints.
//!
//! One task connects to etcd, keeps this node's lease and registration, follows all
//! changes and puts right what etcd has of this node. Others look at the last picture,
//! [`Cluster::view`], which stays when etcd goes away, and claim things by
//! transactions, of which exactly one wins.
//!
//! What a node does with that – routes, names, addresses of its own – is left to
//! `control`, and so is the truth about this node, which its store has.

mod blocks;
mod check;
mod endpoints;
mod etcd;
mod follow;
mod keys;
mod log;
mod mine;
mod networks;
mod nodes;
mod options;
mod reconcile;
mod records;
mod refusal;
mod register;
mod session;
mod shared;
mod spare;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, task::JoinHandle};

use self::shared::{Shared, lock};
pub use self::{
    blocks::block_length,
    keys::Key,
    log::Changed,
    networks::{Overlap, Vni},
    options::Options,
    records::{AddressOf, Alive, Block, BlockOf, Endpoint, Kept, Me, Network, VniOf},
    refusal::Refusal,
    state::{Clash, ClusterState, Link, Member},
    view::{Map, Node, OfNetworks, View},
};
use crate::error::{Error, Result};

/// All that this node holds; what etcd has of it is made so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mine {
    /// Those that etcd has of this node besides are removed, with their addresses.
    pub endpoints: Vec<Endpoint>,
    /// Put back where they are missing. Those that etcd has besides stay: a node that
    /// has forgotten them may use them again, or release them.
    pub blocks: Vec<Block>,
}

/// A node's part in the cluster. It ends when the last clone is dropped; then the lease
/// runs out by itself, as it does when the daemon is killed: a daemon that comes back in
/// time was never away.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
    task: Arc<Task>,
}

/// `None` once it was ended.
struct Task(Mutex<Option<JoinHandle<()>>>);

impl Task {
    /// Ends it; nothing of it runs any more then.
    async fn end(&self) {
        let running = lock(&self.0).take();
        if let Some(running) = running {
            running.abort();
            let _ = running.await;
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(running) = lock(&self.0).take() {
            running.abort();
        }
    }
}

impl Cluster {
    /// Whether the options can work: whether certificates can be read, say. It asks nobody.
    pub fn check(runtime: &Handle, options: &Options) -> Result<()> {
        if options.endpoints.is_empty() {
            return Err(Error::invalid("etcd: no URL is given"));
        }
        if let Some((_, reason)) = options.misfit() {
            return Err(Error::invalid(reason));
        }
        let _entered = runtime.enter();
        etcd::Etcd::check(options).map_err(Error::invalid)
    }

    /// Fails for options that cannot work, as [`Cluster::check`] says, not for an etcd that
    /// is not there.
    pub fn start(runtime: &Handle, options: Options, me: Me) -> Result<Cluster> {
        Cluster::check(runtime, &options)?;
        let shared = Arc::new(Shared::new(options, me));
        let task = runtime.spawn(session::run(shared.clone()));
        Ok(Cluster {
            shared,
            task: Arc::new(Task(Mutex::new(Some(task)))),
        })
    }

    /// The last picture; empty until etcd has answered once.
    pub fn view(&self) -> Arc<View> {
        self.shared.view()
    }

    /// Counts up with every new picture and every change of the state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes()
    }

    /// This node, as it was told last.
    pub fn me(&self) -> Me {
        self.shared.me()
    }

    /// The last picture, and which keys have changed since `seen`, a number that this has
    /// told before; 0 at first. Also tells of keys that were changed back.
    pub fn changed_since(&self, seen: u64) -> Changed {
        self.shared.changed_since(seen)
    }

    pub fn state(&self) -> ClusterState {
        self.shared.state()
    }

    /// Waits until there is a picture; whether there is.
    pub async fn wait_first(&self, at_most: Duration) -> bool {
        let mut changes = self.changes();
        let first = changes.wait_for(|_| self.shared.has_picture());
        tokio::time::timeout(at_most, first)
            .await
            .is_ok_and(|first| first.is_ok())
    }

    /// Waits until it is known whether etcd answers, and if it does, until things can be
    /// claimed.
    pub async fn wait_settled(&self, at_most: Duration) {
        let mut changes = self.changes();
        let settled = changes.wait_for(|_| {
            let state = self.shared.state();
            state.last_error.is_some() || !matches!(state.link, Link::Starting)
        });
        // What has not settled by then is as if it were away.
        let _ = tokio::time::timeout(at_most, settled).await;
    }

    /// Registers anew what has changed of this node; name and id stay.
    pub fn set_me(&self, me: Me) {
        self.shared.set_me(me);
    }

    /// Tells what this node holds: at once, or when etcd is back, etcd has just that. To be
    /// called while nothing else changes what the node holds, or an older list may win
    /// over a newer one.
    pub fn set_mine(&self, mine: Mine) {
        self.shared.set_mine(mine);
    }
}
