//! Endpoints are claimed with their name and their addresses, or not at all.

use std::net::IpAddr;

use etcd_client::KeyValue;

use super::{
    Cluster, Endpoint, Refusal,
    etcd::{self, Outcome},
    keys::Key,
    records::{AddressOf, decode, encode},
    shared::{Live, Shared, lock},
};

/// Others may be quicker that often.
const TRIES: usize = 10;

/// How much of what etcd has of this node an endpoint may stand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Of the same container alone.
    New,
    /// The node holds it: whatever else etcd has under its keys of this node is old.
    Held,
}

impl Cluster {
    /// Takes the name and all addresses of an endpoint of this node; nobody else gets them
    /// until it is released, or told to be held no more. An endpoint that this node has
    /// already, of the same container, is claimed again.
    pub async fn claim_endpoint(&self, endpoint: &Endpoint) -> Result<(), Refusal> {
        let endpoint = &Endpoint {
            node: self.shared.name.clone(),
            ..endpoint.clone()
        };
        let live = self.shared.live()?;
        let _pending = Pending::begin(&self.shared, endpoint);
        settle(&self.shared, &live, endpoint, Claim::New).await?;
        lock(&self.shared.held).claimed(endpoint);
        Ok(())
    }

    /// Gives back the name and the addresses of an endpoint. One that is not this node's
    /// stays, and is no error. Without etcd it is forgotten here, and removed there later.
    pub async fn release_endpoint(&self, network: &str, name: &str) -> Result<(), Refusal> {
        lock(&self.shared.held).released(network, name);
        let live = self.shared.live()?;
        let shared = &self.shared;
        let key = Key::Endpoint {
            network: network.into(),
            name: name.into(),
        };
        let key = shared.keys.of(&key);
        let view = shared.view();
        let mut known = match view.endpoint(network, name) {
            Some(known) => Some((known.record.clone(), known.revision)),
            None => read_endpoint(live.etcd.get(key.clone()).await?.as_ref())?,
        };
        for attempt in 0..TRIES {
            let Some((endpoint, revision)) = known else {
                return Ok(());
            };
            if endpoint.node != shared.name {
                return Ok(());
            }
            let is_its = |of: &AddressOf| of.node == shared.name && of.endpoint == name;
            let mut when = vec![etcd::unchanged(&key, revision)];
            let mut then = vec![etcd::delete(&key)];
            for ip in &endpoint.addresses {
                let address = address_key(shared, network, *ip);
                // The picture will do, unless it has proved wrong.
                let seen = view.address(network, *ip).filter(|_| attempt == 0);
                let revision = match seen {
                    Some(of) => is_its(&of.record).then_some(of.revision),
                    None => {
                        let entry = live.etcd.get(address.clone()).await?;
                        let its = |e: &KeyValue| decode(e.value()).is_ok_and(|of| is_its(&of));
                        entry.filter(its).map(|entry| entry.mod_revision())
                    }
                };
                if let Some(revision) = revision {
                    when.push(etcd::unchanged(&address, revision));
                    then.push(etcd::delete(&address));
                }
            }
            let outcome = live.etcd.transact(when, then, vec![key.clone()]).await?;
            if outcome.done {
                return Ok(());
            }
            known = read_endpoint(outcome.found.first().and_then(Option::as_ref))?;
        }
        Err(Refusal::Busy(format!(
            "endpoint {name:?} on network {network:?}"
        )))
    }
}

fn read_endpoint(entry: Option<&KeyValue>) -> Result<Option<(Endpoint, i64)>, Refusal> {
    let Some(entry) = entry else { return Ok(None) };
    let endpoint = decode(entry.value()).map_err(|_| unreadable(entry))?;
    Ok(Some((endpoint, entry.mod_revision())))
}

fn unreadable(entry: &KeyValue) -> Refusal {
    Refusal::Unreadable(String::from_utf8_lossy(entry.key()).into_owned())
}

fn address_key(shared: &Shared, network: &str, ip: IpAddr) -> String {
    shared.keys.of(&Key::Address {
        network: network.into(),
        ip,
    })
}

/// Between the first attempt to claim an endpoint and the last word about it, also where
/// whoever claims has stopped waiting.
struct Pending<'a> {
    shared: &'a Shared,
    endpoint: &'a Endpoint,
}

impl<'a> Pending<'a> {
    fn begin(shared: &'a Shared, endpoint: &'a Endpoint) -> Self {
        lock(&shared.held).begin(endpoint);
        Pending { shared, endpoint }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        lock(&self.shared.held).end(self.endpoint);
        // It may have been done without our knowledge.
        self.shared.wake.notify_one();
    }
}

/// Puts an endpoint and its addresses where nothing is, or what is this node's already.
pub async fn settle(
    shared: &Shared,
    live: &Live,
    endpoint: &Endpoint,
    claim: Claim,
) -> Result<(), Refusal> {
    let network = &endpoint.network;
    let network_key = shared.keys.of(&Key::Network(network.clone()));
    let alive_key = shared.keys.of(&Key::Alive(shared.name.clone()));
    let drained_key = shared.keys.of(&Key::Drained(shared.name.clone()));
    let endpoint_key = shared.keys.of(&Key::Endpoint {
        network: network.clone(),
        name: endpoint.name.clone(),
    });
    let of = AddressOf {
        node: endpoint.node.clone(),
        endpoint: endpoint.name.clone(),
    };
    let (value, address_value) = (encode(endpoint)?, encode(&of)?);
    let ips = endpoint.addresses.iter();
    let address_keys: Vec<String> = ips.map(|ip| address_key(shared, network, *ip)).collect();

    // Absent, as far as is known; a failure says better.
    let mut revision = 0;
    let mut revisions = vec![0; address_keys.len()];
    for _ in 0..TRIES {
        let mut when = vec![
            etcd::present(&network_key),
            etcd::under_lease(&alive_key, live.lease),
            etcd::unchanged(&endpoint_key, revision),
        ];
        if claim == Claim::New {
            when.push(etcd::absent(&drained_key));
        }
        let mut then = vec![etcd::put(&endpoint_key, value.clone())];
        for (key, revision) in address_keys.iter().zip(&revisions) {
            when.push(etcd::unchanged(key, *revision));
            then.push(etcd::put(key, address_value.clone()));
        }
        let mut reads = vec![network_key.clone(), alive_key.clone(), drained_key.clone()];
        reads.push(endpoint_key.clone());
        reads.extend(address_keys.iter().cloned());
        let Outcome { done, found } = live.etcd.transact(when, then, reads).await?;
        if done {
            return Ok(());
        }
        let mut found = found.into_iter();
        let (network_entry, alive, drained) =
            (next(&mut found), next(&mut found), next(&mut found));
        if network_entry.is_none() {
            return Err(Refusal::NoNetwork(network.clone()));
        }
        if alive.is_none_or(|entry| entry.lease() != live.lease) {
            return Err(Refusal::Unregistered);
        }
        if claim == Claim::New && drained.is_some() {
            return Err(Refusal::Drained(shared.name.clone()));
        }
        let entry = next(&mut found);
        revision = may_stand_over(endpoint, entry.as_ref(), claim)?;
        let mut stands = entry.is_some_and(|entry| entry.value() == value);
        for (ip, revision) in endpoint.addresses.iter().zip(&mut revisions) {
            let entry = next(&mut found);
            *revision = may_take(endpoint, *ip, entry.as_ref(), claim)?;
            stands &= entry.is_some_and(|entry| entry.value() == address_value);
        }
        if stands {
            return Ok(());
        }
    }
    Err(Refusal::Busy(format!(
        "endpoint {:?} on network {network:?}",
        endpoint.name
    )))
}

fn next(found: &mut impl Iterator<Item = Option<KeyValue>>) -> Option<KeyValue> {
    found.next().flatten()
}

/// The revision of the entry that an endpoint takes the place of.
fn may_stand_over(
    endpoint: &Endpoint,
    entry: Option<&KeyValue>,
    claim: Claim,
) -> Result<i64, Refusal> {
    let Some((known, revision)) = read_endpoint(entry)? else {
        return Ok(0);
    };
    let same = known.container == endpoint.container || claim == Claim::Held;
    match known.node == endpoint.node && same {
        true => Ok(revision),
        false => Err(Refusal::Name {
            network: endpoint.network.clone(),
            endpoint: endpoint.name.clone(),
            node: known.node,
        }),
    }
}

/// The same of an address.
fn may_take(
    endpoint: &Endpoint,
    ip: IpAddr,
    entry: Option<&KeyValue>,
    claim: Claim,
) -> Result<i64, Refusal> {
    let Some(entry) = entry else { return Ok(0) };
    let known: AddressOf = decode(entry.value()).map_err(|_| unreadable(entry))?;
    let same = known.endpoint == endpoint.name || claim == Claim::Held;
    match known.node == endpoint.node && same {
        true => Ok(entry.mod_revision()),
        false => Err(Refusal::Address {
            network: endpoint.network.clone(),
            ip,
            node: known.node,
            endpoint: known.endpoint,
        }),
    }
}
