//! What the daemon knows: the store's records, indexed, and what goes with them
//! only while it runs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use rpds::RedBlackTreeSetSync;

use super::{
    errors::no_network,
    host::Hooks,
    ipam::Ipam,
    overlay::OverlayState,
    plan::{self, Heirs},
    portset::PortSet,
    seen::{Endpoints, Seen, SeenNetwork},
    services::Services,
    uplinks::Uplink,
};
use crate::{
    datapath::NetworkFlags,
    error::{Code, Error, Result},
    store::{EndpointRecord, NetworkRecord},
    sys::{netlink::Netlink, sysctl::Sysctls},
};

/// A network with its addresses and members.
pub struct Network {
    pub record: Arc<NetworkRecord>,
    pub ipams: Vec<Ipam>,
    /// By index.
    pub endpoints: RedBlackTreeSetSync<u32>,
}

impl Network {
    pub fn new(record: NetworkRecord) -> Network {
        Network {
            ipams: record.subnets.iter().map(Ipam::new).collect(),
            record: Arc::new(record),
            endpoints: RedBlackTreeSetSync::new_sync(),
        }
    }

    pub fn flags(&self) -> NetworkFlags {
        plan::flags(&self.record)
    }

    pub fn ipam_of(&mut self, v6: bool) -> Option<&mut Ipam> {
        self.ipams
            .iter_mut()
            .find(|i| i.subnet().addr().is_ipv6() == v6)
    }
}

pub struct State {
    pub networks: BTreeMap<String, Network>,
    pub endpoints: Endpoints,
    by_device: HashMap<u32, u32>,
    pub services: Services,
    /// A socket in the daemon's own namespace.
    pub host: Netlink,
    /// The settings there.
    pub sysctls: Arc<Sysctls>,
    pub last_serial: u64,
    last_index: u32,
    last_network: u32,
    pub uplinks: Vec<Uplink>,
    /// Addresses of the host, those of loopback and gateways too.
    pub addresses: Vec<IpAddr>,
    /// Host ports are chosen from behind this one on.
    pub last_port: u16,
    /// Slots of published ranges are chosen from behind this one on.
    pub last_slot: u32,
    /// Ports in `ip_local_reserved_ports` that are ours.
    pub reserved: PortSet,
    /// How the host's own programs reach published ports; `None` before the start.
    pub hooks: Option<Hooks>,
    pub overlay: OverlayState,
    /// What `status` is to say beside what it sees.
    pub notes: Vec<String>,
    /// The daemon is about to end, or a teardown has begun: nothing is to change
    /// any more, but by another teardown.
    pub closed: bool,
}

impl State {
    pub fn new(host: Netlink, sysctls: Arc<Sysctls>, last_network: u32) -> State {
        State {
            networks: BTreeMap::new(),
            endpoints: Endpoints::default(),
            by_device: HashMap::new(),
            services: Services::default(),
            host,
            sysctls,
            last_serial: 0,
            last_index: 0,
            last_network,
            uplinks: Vec::new(),
            addresses: Vec::new(),
            last_port: 0,
            last_slot: 0,
            reserved: PortSet::default(),
            hooks: None,
            overlay: OverlayState::default(),
            notes: Vec::new(),
            closed: false,
        }
    }

    pub fn network(&self, name: &str) -> Result<&Network> {
        self.networks.get(name).ok_or_else(|| no_network(name))
    }

    pub fn network_of(&self, record: &EndpointRecord) -> Result<&Network> {
        self.network(&record.network)
    }

    /// A number that no network has had; kept by the caller.
    pub fn next_network(&self) -> Result<u32> {
        let used = self.networks.values().map(|n| n.record.index).max();
        let last = self.last_network.max(used.unwrap_or(0));
        last.checked_add(1).ok_or_else(|| {
            let message = format!("{last} networks were made: there is no number for one more");
            Error::new(Code::PoolExhausted, message)
        })
    }

    pub fn add_network(&mut self, record: NetworkRecord) {
        self.last_network = self.last_network.max(record.index);
        self.networks
            .insert(record.name.clone(), Network::new(record));
    }

    /// A number for a new endpoint, away from those that were used last.
    pub fn next_index(&mut self, max: u32, busy: impl Fn(u32) -> bool) -> Result<u32> {
        let all = 1..max;
        let found = all
            .clone()
            .map(|step| (self.last_index + step - 1) % (max - 1) + 1)
            .find(|index| !self.endpoints.contains_key(index) && !busy(*index));
        let index = found.ok_or_else(|| {
            Error::new(
                Code::PoolExhausted,
                format!("{} endpoints are the most that there can be", max - 1),
            )
        })?;
        self.last_index = index;
        Ok(index)
    }

    /// Adds an endpoint or what has changed of it; its addresses are taken.
    pub fn put_endpoint(&mut self, record: EndpointRecord) {
        let is_new = !self.endpoints.contains_key(&record.index);
        self.last_serial = self.last_serial.max(record.serial);
        if let Some(network) = self.networks.get_mut(&record.network) {
            network.endpoints.insert_mut(record.index);
            for (address, _) in record.addresses() {
                let automatic = match address.addr().is_ipv6() {
                    false => record.automatic4,
                    true => record.automatic6,
                };
                if let Some(ipam) = network.ipam_of(address.addr().is_ipv6()) {
                    ipam.take(address.addr(), record.index, is_new && automatic);
                }
            }
        }
        if record.host_ifindex != 0 {
            self.by_device.insert(record.host_ifindex, record.index);
        }
        if let Some(before) = self.endpoints.get(&record.index) {
            self.services.remove(before);
        }
        self.services.add(&record);
        self.endpoints.put(Arc::new(record));
    }

    /// Forgets an endpoint; its name and addresses are free.
    pub fn remove_endpoint(&mut self, index: u32) {
        let Some(record) = self.endpoints.remove(index) else {
            return;
        };
        if let Some(network) = self.networks.get_mut(&record.network) {
            network.endpoints.remove_mut(&index);
            for (address, _) in record.addresses() {
                if let Some(ipam) = network.ipam_of(address.addr().is_ipv6()) {
                    ipam.release(address.addr());
                }
            }
        }
        self.by_device.remove(&record.host_ifindex);
        self.services.remove(&record);
    }

    pub fn endpoint_on(&self, name: &str, network: &str) -> Option<&EndpointRecord> {
        self.endpoints.on(name, network).map(|r| &**r)
    }

    pub fn endpoint_of_device(&self, ifindex: u32) -> Option<u32> {
        self.by_device.get(&ifindex).copied()
    }

    pub fn is_our_device(&self, ifindex: u32) -> bool {
        self.by_device.contains_key(&ifindex)
    }

    /// Endpoints of that name, in the order in which they were attached.
    pub fn endpoints_named(&self, name: &str, network: Option<&str>) -> Vec<&EndpointRecord> {
        let found = self.endpoints.named(name, network).into_iter();
        found.map(|r| &**r).collect()
    }

    /// The endpoint that a command without `--network` means.
    pub fn endpoint_meant(&self, name: &str, network: Option<&str>) -> Result<&EndpointRecord> {
        if let Some(network) = network {
            self.network(network)?;
        }
        Ok(self.endpoints.meant(name, network)?)
    }

    /// What those who look get to see.
    pub fn seen(&self) -> Seen {
        let networks = self.networks.values().map(|n| SeenNetwork {
            record: n.record.clone(),
            endpoints: n.endpoints.clone(),
        });
        Seen {
            endpoints: self.endpoints.clone(),
            networks: networks.collect(),
            uplinks: self.uplinks.clone(),
            hooks: self.hooks.clone(),
            notes: self
                .notes
                .iter()
                .chain(&self.overlay.notes)
                .cloned()
                .collect(),
            closed: self.closed,
        }
    }

    /// An endpoint as the plan takes it.
    pub fn planned(&self, record: &EndpointRecord) -> Arc<plan::Endpoint> {
        // An endpoint outlives its network only in a torn store.
        let flags = self.networks.get(&record.network).map(Network::flags);
        let known = self.endpoints.get(&record.index);
        let known = known.filter(|known| std::ptr::eq(&***known, record));
        Arc::new(plan::Endpoint {
            // Each of its thousand ports may ask for it.
            record: known.map_or_else(|| Arc::new(record.clone()), Arc::clone),
            flags: flags.unwrap_or(NetworkFlags {
                icc: false,
                internal: true,
                masquerade: false,
                overlay: None,
            }),
        })
    }

    /// Who takes over the default routes of an endpoint that leaves, while the
    /// others in `leaving` do too.
    pub fn heirs(&self, record: &EndpointRecord, leaving: &BTreeSet<u32>) -> Heirs {
        if !record.has_default_route() {
            return Heirs::default();
        }
        let mut siblings: Vec<&EndpointRecord> = self
            .endpoints
            .values()
            .map(|r| &**r)
            .filter(|r| r.namespace == record.namespace && r.index != record.index)
            .filter(|r| !leaving.contains(&r.index))
            .filter(|r| self.network_of(r).is_ok_and(|n| !n.record.internal))
            .collect();
        siblings.sort_by_key(|r| r.serial);
        let first = |wanted: bool, has: fn(&EndpointRecord) -> bool| {
            let heir = siblings.iter().find(|r| has(r)).filter(|_| wanted);
            heir.map(|r| self.planned(r))
        };
        Heirs {
            ipv4: first(record.default4, |r| r.ipv4.is_some()),
            ipv6: first(record.default6, |r| r.ipv6.is_some()),
        }
    }
}
