//! Networks are made and removed for all nodes at once.

use std::collections::BTreeSet;

use etcd_client::KeyValue;
use ipnet::IpNet;
use netbpf_common::packet::vxlan::MAX_VNI;

use super::{
    Cluster, Endpoint, Network, Refusal,
    etcd::{self, Failure, Listing},
    keys::Key,
    records::{VniOf, decode, encode},
    shared::Live,
};

/// Others may be quicker that often.
const TRIES: usize = 20;

/// Which VNI a network gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vni {
    /// The lowest that is free.
    Free,
    This(u32),
}

/// What if the subnets of two networks overlap: VNIs keep them apart all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    Refuse,
    Allow,
}

impl Cluster {
    /// Makes a network on all nodes, or on none. Its VNI is chosen here; the network comes
    /// back as it stands in etcd.
    pub async fn create_network(
        &self,
        network: &Network,
        vni: Vni,
        overlap: Overlap,
    ) -> Result<Network, Refusal> {
        match vni {
            Vni::Free | Vni::This(1..=MAX_VNI) => {}
            Vni::This(vni) => return Err(Refusal::BadVni(vni)),
        }
        let live = self.shared.live()?;
        let networks = self.shared.keys.networks();
        let network_key = self.shared.keys.of(&Key::Network(network.name.clone()));
        for _ in 0..TRIES {
            let known = live.etcd.list(&networks, None).await?;
            let number = match vni {
                Vni::This(vni) => vni,
                Vni::Free => self.free_vni(&live).await?,
            };
            if known
                .entries
                .iter()
                .any(|entry| entry.key() == network_key.as_bytes())
            {
                return Err(Refusal::NetworkExists(network.name.clone()));
            }
            let wanted = Network {
                vni: number,
                ..network.clone()
            };
            let vni_key = self.shared.keys.of(&Key::Vni(number));
            let of = VniOf {
                network: wanted.name.clone(),
            };
            let mut when = vec![etcd::absent(&network_key), etcd::absent(&vni_key)];
            if overlap == Overlap::Refuse {
                no_overlap(&wanted, &known)?;
                // Nor with one that was made since.
                when.push(etcd::none_newer(&networks, known.revision));
            }
            let then = vec![
                etcd::put(&network_key, encode(&wanted)?),
                etcd::put(&vni_key, encode(&of)?),
            ];
            let reads = vec![network_key.clone(), vni_key.clone()];
            let outcome = live.etcd.transact(when, then, reads).await?;
            if outcome.done {
                return Ok(wanted);
            }
            match (&outcome.found[..], vni) {
                ([Some(_), ..], _) => return Err(Refusal::NetworkExists(wanted.name)),
                ([None, Some(entry)], Vni::This(vni)) => {
                    let network = owner(entry);
                    return Err(Refusal::Vni { vni, network });
                }
                _ => {}
            }
        }
        Err(Refusal::Busy(format!("network {:?}", network.name)))
    }

    /// Removes a network from all nodes, with what is left of its blocks, unless an
    /// endpoint is on it anywhere. Whoever claims one compares that the network is there,
    /// so that there is no moment in between.
    pub async fn remove_network(&self, name: &str) -> Result<(), Refusal> {
        let live = self.shared.live()?;
        let keys = &self.shared.keys;
        let key = keys.of(&Key::Network(name.into()));
        let endpoints = keys.endpoints_of(name);
        for _ in 0..TRIES {
            let Some(entry) = live.etcd.get(key.clone()).await? else {
                return Err(Refusal::NoNetwork(name.into()));
            };
            let network: Network =
                decode(entry.value()).map_err(|_| Refusal::Unreadable(key.clone()))?;
            let when = vec![
                etcd::unchanged(&key, entry.mod_revision()),
                etcd::empty(&endpoints),
            ];
            let then = vec![
                etcd::delete(&key),
                etcd::delete(&keys.of(&Key::Vni(network.vni))),
                etcd::delete_all(&keys.blocks_of(name)),
                etcd::delete_all(&keys.addresses_of(name)),
            ];
            if live.etcd.transact(when, then, Vec::new()).await?.done {
                return Ok(());
            }
            let listing = live.etcd.list(&endpoints, None).await?;
            if let Some(first) = listing.entries.first() {
                let endpoint = decode::<Endpoint>(first.value());
                let (endpoint, node) = endpoint.map_or_else(
                    |_| ("?".into(), "?".into()),
                    |endpoint| (endpoint.name, endpoint.node),
                );
                return Err(Refusal::NetworkInUse {
                    network: name.into(),
                    endpoint,
                    node,
                    more: listing.entries.len() - 1,
                });
            }
        }
        Err(Refusal::Busy(format!("network {name:?}")))
    }

    async fn free_vni(&self, live: &Live) -> Result<u32, Failure> {
        let listing = live.etcd.list(&self.shared.keys.vnis(), None).await?;
        let keys = listing.entries.iter();
        let taken = keys.filter_map(|entry| match self.shared.keys.parse(entry.key()) {
            Some(Key::Vni(vni)) => Some(vni),
            _ => None,
        });
        let taken: BTreeSet<u32> = taken.collect();
        Ok(lowest_free(&taken))
    }
}

/// There are more VNIs than etcd has room for.
fn lowest_free(taken: &BTreeSet<u32>) -> u32 {
    let mut numbers = 1..=MAX_VNI;
    numbers.find(|vni| !taken.contains(vni)).unwrap_or(MAX_VNI)
}

fn owner(entry: &KeyValue) -> String {
    let of = decode::<VniOf>(entry.value());
    of.map_or_else(|_| "?".into(), |of| of.network)
}

/// Refuses a network that has addresses of another one. Of those that this release
/// cannot read it knows nothing.
fn no_overlap(wanted: &Network, known: &Listing) -> Result<(), Refusal> {
    let others = known.entries.iter();
    for other in others.filter_map(|entry| decode::<Network>(entry.value()).ok()) {
        for (subnet, other_subnet) in wanted.subnets.iter().flat_map(|subnet| {
            let others = other.subnets.iter();
            others.map(move |other| (subnet.subnet, other.subnet))
        }) {
            if overlap(&subnet, &other_subnet) {
                return Err(Refusal::Overlap {
                    subnet,
                    other: other_subnet,
                    network: other.name,
                });
            }
        }
    }
    Ok(())
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal::Away(failure.to_string())
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Refusal::Etcd(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_vni_is_found() {
        let free = |taken: &[u32]| lowest_free(&taken.iter().copied().collect());
        assert_eq!((free(&[]), free(&[2, 3]), free(&[1, 2, 4])), (1, 1, 3));
    }
}
