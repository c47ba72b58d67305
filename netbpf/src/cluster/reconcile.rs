//! Makes etcd have what this node holds, and nothing else of it.

use etcd_client::{Compare, TxnOp};
use futures_util::{StreamExt as _, stream};

use super::{
    Clash, Endpoint, Refusal, View,
    endpoints::{Claim, settle},
    etcd::{self, Failure},
    keys::Key,
    mine::{Plan, plan},
    records::{Block, BlockOf, decode, encode},
    shared::{Live, Shared, lock},
};

/// Transactions that are under way at a time.
const AT_A_TIME: usize = 16;

/// Keys that one transaction removes; etcd takes 128 operations.
const TOGETHER: usize = 32;

/// What came of a pass.
#[derive(Debug, Default)]
pub struct Pass {
    pub clashes: Vec<Clash>,
    /// Others were in between: the picture shows it soon, and then there is another pass.
    pub again: bool,
}

impl Pass {
    fn note(&mut self, put: Result<Option<Clash>, Refusal>) -> Result<(), Refusal> {
        match put {
            Ok(clash) => self.clashes.extend(clash),
            Err(Refusal::Busy(_) | Refusal::Unregistered) => self.again = true,
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }
}

pub async fn reconcile(shared: &Shared, live: &Live) -> Result<Pass, Refusal> {
    let view = shared.view();
    let Plan {
        settle,
        settle_blocks,
        remove,
    } = plan(&view, &shared.name, &lock(&shared.held));
    let mut pass = Pass::default();

    let mut removals = Vec::new();
    for keys in remove.chunks(TOGETHER) {
        removals.push(take_away(shared, live, keys));
    }
    let mut removals = stream::iter(removals).buffer_unordered(AT_A_TIME);
    while let Some(gone) = removals.next().await {
        pass.again |= !gone?;
    }
    let mut endpoints = Vec::new();
    for endpoint in &settle {
        endpoints.push(put_back(shared, live, &view, endpoint));
    }
    let mut endpoints = stream::iter(endpoints).buffer_unordered(AT_A_TIME);
    while let Some(put) = endpoints.next().await {
        pass.note(put)?;
    }
    let mut blocks = Vec::new();
    for of in &settle_blocks {
        blocks.push(put_block(shared, live, &view, of));
    }
    let mut blocks = stream::iter(blocks).buffer_unordered(AT_A_TIME);
    while let Some(put) = blocks.next().await {
        pass.note(put)?;
    }
    pass.clashes.sort();
    Ok(pass)
}

/// Whether all of them are gone as they were meant.
async fn take_away(shared: &Shared, live: &Live, keys: &[(Key, i64)]) -> Result<bool, Failure> {
    let alive = shared.keys.of(&Key::Alive(shared.name.clone()));
    let mut when: Vec<Compare> = vec![etcd::under_lease(&alive, live.lease)];
    let mut then: Vec<TxnOp> = Vec::new();
    for (key, revision) in keys {
        let key = shared.keys.of(key);
        when.push(etcd::unchanged(&key, *revision));
        then.push(etcd::delete(&key));
    }
    Ok(live.etcd.transact(when, then, Vec::new()).await?.done)
}

async fn put_back(
    shared: &Shared,
    live: &Live,
    view: &View,
    endpoint: &Endpoint,
) -> Result<Option<Clash>, Refusal> {
    // etcd need not be asked again for what it has told.
    if let Some(clash) = in_the_way(shared, view, endpoint) {
        return Ok(Some(clash));
    }
    match settle(shared, live, endpoint, Claim::Held).await {
        Ok(()) => Ok(None),
        Err(refusal) => match clash_of(&refusal, endpoint) {
            Some(clash) => Ok(Some(clash)),
            None => Err(refusal),
        },
    }
}

fn in_the_way(shared: &Shared, view: &View, endpoint: &Endpoint) -> Option<Clash> {
    let network = &endpoint.network;
    if !view.networks.contains_key(network) {
        return Some(Clash::NoNetwork {
            network: network.clone(),
            endpoint: endpoint.name.clone(),
        });
    }
    if let Some(other) = view.endpoint(network, &endpoint.name)
        && other.node != shared.name
    {
        return Some(Clash::Name {
            network: network.clone(),
            endpoint: endpoint.name.clone(),
            node: other.node.clone(),
        });
    }
    endpoint.addresses.iter().find_map(|ip| {
        let other = view.address(network, *ip)?;
        (other.node != shared.name).then(|| Clash::Address {
            network: network.clone(),
            endpoint: endpoint.name.clone(),
            ip: *ip,
            node: other.node.clone(),
            other: other.endpoint.clone(),
        })
    })
}

fn clash_of(refusal: &Refusal, endpoint: &Endpoint) -> Option<Clash> {
    let network = endpoint.network.clone();
    let endpoint = endpoint.name.clone();
    match refusal {
        Refusal::NoNetwork(_) => Some(Clash::NoNetwork { network, endpoint }),
        Refusal::Name { node, .. } => Some(Clash::Name {
            network,
            endpoint,
            node: node.clone(),
        }),
        Refusal::Address {
            ip,
            node,
            endpoint: other,
            ..
        } => Some(Clash::Address {
            network,
            endpoint,
            ip: *ip,
            node: node.clone(),
            other: other.clone(),
        }),
        Refusal::Unreadable(key) => Some(Clash::Unreadable {
            network,
            endpoint,
            key: key.clone(),
        }),
        _ => None,
    }
}

async fn put_block(
    shared: &Shared,
    live: &Live,
    view: &View,
    of: &Block,
) -> Result<Option<Clash>, Refusal> {
    let clash = |node: &str| {
        Some(Clash::Block {
            network: of.network.clone(),
            block: of.block,
            node: node.into(),
        })
    };
    if let Some(other) = view.block(&of.network, &of.block) {
        return Ok(clash(&other.node));
    }
    let network_key = shared.keys.of(&Key::Network(of.network.clone()));
    let alive_key = shared.keys.of(&Key::Alive(shared.name.clone()));
    let key = shared.keys.of(&Key::Block {
        network: of.network.clone(),
        block: of.block,
    });
    let own = BlockOf {
        node: shared.name.clone(),
    };
    let when = vec![
        etcd::present(&network_key),
        etcd::under_lease(&alive_key, live.lease),
        etcd::absent(&key),
    ];
    let then = vec![etcd::put(&key, encode(&own)?)];
    let outcome = live.etcd.transact(when, then, vec![key.clone()]).await?;
    if outcome.done {
        return Ok(None);
    }
    let Some(entry) = outcome.found.into_iter().next().flatten() else {
        return Err(Refusal::Busy(key));
    };
    let node = decode::<BlockOf>(entry.value()).map_or_else(|_| "?".into(), |of| of.node);
    Ok(clash(&node).filter(|_| node != shared.name))
}
