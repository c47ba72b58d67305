//! Published ports in the maps: `published`, `ports`, `shares`, `backends`, `allows`
//! and `generations`.
//!
//! A service is what is published at one protocol, host address and range of ports:
//! mostly one endpoint, several where they share. Its maps are changed in such an
//! order that a packet sees the service of before or that of after.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use netbpf_common::{
    addr::ANY,
    maps::{
        Backend, BackendKey, Port, PortData, PortKey, Share,
        ports::{PORT_AFFINITY, PORT_ALLOW, PORT_UNHELD},
    },
    names,
};

use super::{
    Datapath, Result, blocks,
    load::chain,
    marks::{Hold, Marks},
    places,
    tables::{self, Tables, Written, removed},
    types::{DatapathError, Ports, Service, ServiceAt, ServiceBackend},
};

/// What was not this daemon's.
pub struct Retained {
    /// Entries of `ports` that were removed.
    pub entries: usize,
    /// Slots that were ended.
    pub ended: HashSet<u32>,
}

/// Backends that one port has at most: a place names them in eight bits.
pub const MAX_BACKENDS: usize = 256;

const FAMILIES: [u8; 2] = [4, 6];

/// What is in the maps, so that no change has to read all of them.
pub(super) struct Known {
    marks: Marks,
    /// By slot and family.
    backends: HashMap<(u32, u8), Backend>,
    /// What this daemon has published.
    heads: HashMap<(ServiceAt, u8), Head>,
    /// Slots of backends by share and number, lists of clients by their number: what
    /// an earlier daemon left.
    found_shares: HashMap<u32, BTreeMap<u8, u32>>,
    found_lists: HashMap<u32, HashSet<IpNet>>,
    /// Entries of ports as an earlier daemon left them, by prefix length and key: what is
    /// right already is not written.
    found_ports: HashMap<(u32, PortData), Port>,
}

/// What the entries of a service in one family say besides the backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Head {
    /// 0 while it has one backend.
    share: u32,
    /// Slots of the backends by their number in the share.
    numbers: BTreeMap<u8, u32>,
    /// 0 while everybody is allowed.
    allow: u32,
    allowed: HashSet<IpNet>,
}

impl Datapath {
    /// Makes what is published at a place just this; whether a port is published that
    /// was not before. Endpoints that have it already keep their connections.
    pub fn publish(&self, service: &Service) -> Result<bool> {
        let inner = &mut *self.inner();
        let (tables, known) = (&mut inner.tables, &mut inner.known);
        // The ports are held before they lead anywhere.
        let is_new = known.mark(tables, service, service.hold())?;
        known.renew(tables, service)?;
        for family in FAMILIES {
            known.set(tables, service, family)?;
        }
        Ok(is_new)
    }

    /// Takes back what is published at a place; the connections of its endpoints go
    /// on until [`Self::end_slot`]. Idempotent.
    pub fn unpublish(&self, service: &Service) -> Result<()> {
        let inner = &mut *self.inner();
        let (tables, known) = (&mut inner.tables, &mut inner.known);
        for family in FAMILIES {
            known.unset(tables, &service.at, family)?;
        }
        // Marked as long as connections go on, but nobody's: programs may bind it.
        known.mark(tables, service, Hold::Free).map(drop)
    }

    /// Notes what goes on though it is published no more; at the start of the daemon.
    pub fn drain(&self, service: &Service) -> Result<()> {
        let inner = &mut *self.inner();
        let known = &mut inner.known;
        known.mark(&mut inner.tables, service, Hold::Free).map(drop)
    }

    /// Ends the connections of a published range: its flows are followed no more.
    /// Idempotent.
    pub fn end_slot(&self, slot: u32) -> Result<()> {
        let inner = &mut *self.inner();
        let (tables, known) = (&mut inner.tables, &mut inner.known);
        raise_generation(tables, slot)?;
        for family in FAMILIES {
            known.backends.remove(&(slot, family));
            known.marks.remove(tables, slot, family)?;
        }
        Ok(())
    }

    /// Removes what this daemon has not published, and ends slots other than these.
    pub fn retain_ports(&self, slots: &HashSet<u32>) -> Result<Retained> {
        let inner = &mut *self.inner();
        inner.known.retain(&mut inner.tables, slots)
    }
}

impl Known {
    /// Reads what an earlier daemon left.
    pub(super) fn read(tables: &mut Tables, masquerade: &[Ports]) -> Result<Known> {
        let mut known = Known {
            marks: Marks::read(tables, masquerade)?,
            backends: HashMap::new(),
            heads: HashMap::new(),
            found_shares: HashMap::new(),
            found_lists: HashMap::new(),
            found_ports: HashMap::new(),
        };
        for (key, port) in tables.ports.iter().flatten() {
            let data = key.data();
            known.found_ports.insert((key.prefix_len(), data), port);
            let family = data.family;
            known
                .backends
                .insert((port.backend.slot, family), port.backend);
        }
        for (key, backend) in tables.backends.iter().flatten() {
            let family = tables::family_of(backend.container_addr);
            known.backends.insert((backend.slot, family), backend);
            let numbers = known.found_shares.entry(key.share).or_default();
            numbers.insert(key.number as u8, backend.slot);
        }
        for key in tables.allows.keys().flatten() {
            let (allow, net) = tables::allowed(&key);
            known.found_lists.entry(allow).or_default().insert(net);
        }
        Ok(known)
    }

    /// Gives slots whose backend is new or another than before a new generation.
    fn renew(&mut self, tables: &mut Tables, service: &Service) -> Result<()> {
        for backend in &service.backends {
            let held = generation(tables, backend.slot)?;
            let same = families(&service.at, backend).into_iter().all(|family| {
                let wanted = entry(service, backend, family, held);
                wanted.is_some() && self.backends.get(&(backend.slot, family)).copied() == wanted
            });
            let current = match same {
                true => held,
                false => raise_generation(tables, backend.slot)?,
            };
            for family in families(&service.at, backend) {
                if let Some(entry) = entry(service, backend, family, current) {
                    self.backends.insert((backend.slot, family), entry);
                }
            }
        }
        Ok(())
    }

    /// The entries of a service in one family.
    fn set(&mut self, tables: &mut Tables, service: &Service, family: u8) -> Result<()> {
        let members: Vec<(Backend, u32)> = service
            .backends
            .iter()
            .filter(|backend| families(&service.at, backend).contains(&family))
            .filter_map(|b| Some((*self.backends.get(&(b.slot, family))?, b.weight)))
            .collect();
        let Some(&(first, _)) = members.first() else {
            return self.unset(tables, &service.at, family);
        };
        let before = self.head(tables, &service.at, family);
        let mut head = before.clone();

        // An IPv6 net may cover the form in which IPv4 clients are looked up.
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == (family == 4);
        head.allowed = service.allow.iter().filter(of_family).copied().collect();
        // Where only clients of the other family are allowed, of this one nobody is.
        head.allow = match (service.allow.is_empty(), before.allow) {
            (true, _) => 0,
            (false, 0) => self.free_number(|head| head.allow),
            (false, held) => held,
        };
        // Known before it is written: what a failure leaves behind is taken away by
        // whoever puts the service of before back.
        let mut writing = head.clone();
        if head.allow == before.allow {
            writing.allowed.extend(&before.allowed);
        }
        let at = (service.at.clone(), family);
        self.heads.insert(at.clone(), writing);
        for net in head.allowed.difference(&before.allowed) {
            tables
                .allows
                .insert(&tables::allow(head.allow, *net), 1, 0)
                .written(names::ALLOWS, 65_536)?;
        }
        head.numbers.clear();
        head.share = match (members.len(), before.share) {
            (1, _) => 0,
            (_, 0) => self.free_number(|head| head.share),
            (_, held) => held,
        };
        if head.share != 0 {
            head.numbers = share(tables, head.share, &before.numbers, &members)?;
        }
        let port = port(service, first, &head);
        for key in keys(&service.at, family) {
            if self.found_ports.remove(&index(&key)) == Some(port) {
                continue;
            }
            tables
                .ports
                .insert(&key, port, 0)
                .written(names::PORTS, 65_536)?;
        }
        self.heads.insert(at, head.clone());
        tidy(tables, &before, &head)
    }

    fn unset(&mut self, tables: &mut Tables, at: &ServiceAt, family: u8) -> Result<()> {
        let before = self.head(tables, at, family);
        for key in keys(at, family) {
            self.found_ports.remove(&index(&key));
            removed(names::PORTS, tables.ports.remove(&key))?;
        }
        self.heads.remove(&(at.clone(), family));
        tidy(tables, &before, &Head::default())
    }

    /// What is there of a service: what this daemon made of it, or found.
    fn head(&self, tables: &Tables, at: &ServiceAt, family: u8) -> Head {
        if let Some(head) = self.heads.get(&(at.clone(), family)) {
            return head.clone();
        }
        let Some(port) = keys(at, family)
            .first()
            .and_then(|key| match self.found_ports.get(&index(key)) {
                Some(found) => Some(*found),
                None => tables.ports.get(key, 0).ok(),
            })
            // The longest prefix may be another service's.
            .filter(|port| port.backend.host_port == at.first)
        else {
            return Head::default();
        };
        let found = |share| self.found_shares.get(share).cloned().unwrap_or_default();
        let list = |allow| self.found_lists.get(allow).cloned().unwrap_or_default();
        Head {
            share: port.share,
            numbers: found(&port.share),
            allow: port.allow,
            allowed: list(&port.allow),
        }
    }

    /// A number that no service has, nor had when the daemon started.
    fn free_number(&self, of: impl Fn(&Head) -> u32) -> u32 {
        let used: HashSet<u32> = self.heads.values().map(of).collect();
        let is_free = |n: &u32| {
            !used.contains(n)
                && !self.found_shares.contains_key(n)
                && !self.found_lists.contains_key(n)
        };
        (1..).find(is_free).unwrap_or(u32::MAX)
    }

    /// The entries of `ports` as this daemon has written them.
    pub(super) fn ports(&self, services: &[Service]) -> Vec<(PortKey, Port)> {
        let of = |service: &Service, family: u8| {
            let reached = |b: &&ServiceBackend| families(&service.at, b).contains(&family);
            let first = service.backends.iter().find(reached)?;
            let first = self.backends.get(&(first.slot, family))?;
            let head = self.heads.get(&(service.at.clone(), family))?;
            let value = port(service, *first, head);
            let keys = keys(&service.at, family).into_iter();
            Some(keys.map(move |key| (tables::port_key(&key), value)))
        };
        let each = services.iter().flat_map(|s| FAMILIES.map(|f| of(s, f)));
        each.flatten().flatten().collect()
    }

    /// The entries of `backends`: the slot of each.
    pub(super) fn shared(&self) -> Vec<(BackendKey, u32)> {
        let of = |head: &Head| {
            let key = |number: u8| BackendKey {
                share: head.share,
                number: number.into(),
            };
            let numbers = head.numbers.iter();
            numbers
                .map(|(n, slot)| (key(*n), *slot))
                .collect::<Vec<_>>()
        };
        self.heads.values().flat_map(of).collect()
    }

    /// The clients in `allows`, by the number of their list.
    pub(super) fn lists(&self) -> Vec<(u32, IpNet)> {
        let of = |head: &Head| {
            let nets = head.allowed.iter();
            nets.map(|net| (head.allow, *net)).collect::<Vec<_>>()
        };
        self.heads.values().flat_map(of).collect()
    }

    /// Slots of what is published, and the generation that each has.
    pub(super) fn generations(&self) -> HashMap<u32, u32> {
        let backends = self.backends.values();
        backends.map(|b| (b.slot, b.generation)).collect()
    }

    /// Ports that are not marked as this daemon has marked them.
    pub(super) fn unmarked(&self, tables: &Tables) -> Result<Vec<u16>> {
        self.marks.differing(tables)
    }

    fn mark(&mut self, tables: &mut Tables, service: &Service, hold: Hold) -> Result<bool> {
        let mut changed = false;
        for backend in &service.backends {
            for family in families(&service.at, backend) {
                let place = (backend.slot, family);
                changed |= self.marks.set(tables, place, &service.at, hold)?;
            }
        }
        Ok(changed)
    }

    fn retain(&mut self, tables: &mut Tables, slots: &HashSet<u32>) -> Result<Retained> {
        let heads = self.heads.keys();
        let wanted: HashSet<PortKey> = heads
            .flat_map(|(at, family)| keys(at, *family))
            .map(|key| tables::port_key(&key))
            .collect();
        let held: Vec<_> = tables.ports.keys().flatten().collect();
        let gone: Vec<_> = held
            .into_iter()
            .filter(|key| !wanted.contains(&tables::port_key(key)))
            .collect();
        for key in &gone {
            removed(names::PORTS, tables.ports.remove(key))?;
        }
        let shares: HashSet<u32> = self.heads.values().map(|h| h.share).collect();
        self.found_ports = HashMap::new();
        for (share, numbers) in std::mem::take(&mut self.found_shares) {
            if !shares.contains(&share) {
                remove_share(tables, share, numbers.keys())?;
            }
        }
        let lists: HashSet<u32> = self.heads.values().map(|h| h.allow).collect();
        for (allow, nets) in std::mem::take(&mut self.found_lists) {
            if !lists.contains(&allow) {
                remove_list(tables, allow, nets.iter())?;
            }
        }
        let ended: HashSet<u32> = self
            .backends
            .keys()
            .map(|(slot, _)| *slot)
            .filter(|slot| !slots.contains(slot))
            .collect();
        for slot in &ended {
            raise_generation(tables, *slot)?;
        }
        self.backends.retain(|(slot, _), _| !ended.contains(slot));
        self.marks.forget_found(tables)?;
        Ok(Retained {
            entries: gone.len(),
            ended,
        })
    }
}

impl Service {
    fn hold(&self) -> Hold {
        match self.held {
            true => Hold::Held,
            false => Hold::Free,
        }
    }
}

/// Writes the backends of a share and their places; the numbers that they have.
fn share(
    tables: &mut Tables,
    share: u32,
    before: &BTreeMap<u8, u32>,
    members: &[(Backend, u32)],
) -> Result<BTreeMap<u8, u32>> {
    let had = |slot: u32| before.iter().find(|(_, s)| **s == slot).map(|(n, _)| *n);
    let mut free = (0..=u8::MAX).filter(|n| !before.contains_key(n));
    let mut numbers = BTreeMap::new();
    let mut weights = Vec::new();
    for (backend, weight) in members {
        let number = had(backend.slot).or_else(|| free.next());
        // Numbers of backends that leave are free with the next change.
        let number = number.ok_or(DatapathError::Full {
            map: names::BACKENDS,
            max_entries: MAX_BACKENDS as u32,
        })?;
        let key = BackendKey {
            share,
            number: number.into(),
        };
        tables
            .backends
            .insert(key, backend, 0)
            .written(names::BACKENDS, 16_384)?;
        numbers.insert(number, backend.slot);
        weights.push((number, *weight));
    }
    let held = tables.shares.get(&share, 0).ok();
    let places = places::assign(&weights, held.as_ref().map(|s| &s.places));
    if held.is_none_or(|held| held.places != places) {
        tables
            .shares
            .insert(share, Share { places }, 0)
            .written(names::SHARES, 4096)?;
    }
    Ok(numbers)
}

/// Removes what a service had and has no more; no entry leads there any longer.
fn tidy(tables: &mut Tables, before: &Head, after: &Head) -> Result<()> {
    if before.share != 0 && before.share != after.share {
        remove_share(tables, before.share, before.numbers.keys())?;
    } else {
        let left = before
            .numbers
            .keys()
            .filter(|n| !after.numbers.contains_key(n));
        remove_backends(tables, before.share, left)?;
    }
    let left: Vec<&IpNet> = match before.allow == after.allow {
        true => before.allowed.difference(&after.allowed).collect(),
        false => before.allowed.iter().collect(),
    };
    remove_list(tables, before.allow, left)
}

fn remove_share<'a>(
    tables: &mut Tables,
    share: u32,
    numbers: impl IntoIterator<Item = &'a u8>,
) -> Result<()> {
    removed(names::SHARES, tables.shares.remove(&share))?;
    remove_backends(tables, share, numbers)
}

fn remove_backends<'a>(
    tables: &mut Tables,
    share: u32,
    numbers: impl IntoIterator<Item = &'a u8>,
) -> Result<()> {
    for number in numbers {
        let key = BackendKey {
            share,
            number: u32::from(*number),
        };
        removed(names::BACKENDS, tables.backends.remove(&key))?;
    }
    Ok(())
}

fn remove_list<'a>(
    tables: &mut Tables,
    allow: u32,
    nets: impl IntoIterator<Item = &'a IpNet>,
) -> Result<()> {
    for net in nets {
        removed(
            names::ALLOWS,
            tables.allows.remove(&tables::allow(allow, *net)),
        )?;
    }
    Ok(())
}

/// Families in which a backend of a service is reached.
fn families(at: &ServiceAt, backend: &ServiceBackend) -> Vec<u8> {
    let wanted = |family: u8| match at.host_ip {
        None => true,
        Some(IpAddr::V4(_)) => family == 4,
        Some(IpAddr::V6(_)) => family == 6,
    };
    let has = |family: u8| match family {
        4 => backend.endpoint.ipv4.is_some(),
        _ => backend.endpoint.ipv6.is_some(),
    };
    FAMILIES
        .into_iter()
        .filter(|f| wanted(*f) && has(*f))
        .collect()
}

fn entry(
    service: &Service,
    backend: &ServiceBackend,
    family: u8,
    generation: u32,
) -> Option<Backend> {
    let endpoint = &backend.endpoint;
    let addr = match family {
        4 => IpAddr::V4(endpoint.ipv4?.addr()),
        _ => IpAddr::V6(endpoint.ipv6?.addr()),
    };
    Some(Backend {
        slot: backend.slot,
        generation,
        endpoint: endpoint.index,
        network: endpoint.network,
        ifindex: endpoint.device.ifindex,
        host_port: service.at.first,
        container_port: backend.container_port,
        container_addr: tables::addr(addr),
        mac: endpoint.mac,
        scope: tables::scope(endpoint) as u16,
    })
}

/// The entries' value.
fn port(service: &Service, first: Backend, head: &Head) -> Port {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    Port {
        backend: first,
        share: head.share,
        flags: flag(head.allow != 0, PORT_ALLOW)
            | flag(service.affinity, PORT_AFFINITY)
            | flag(!service.held, PORT_UNHELD),
        allow: head.allow,
        reserved: 0,
    }
}

/// A key as it can be hashed.
fn index(key: &Key<PortData>) -> (u32, PortData) {
    (key.prefix_len(), key.data())
}

/// The keys of a service: one for each block of its ports.
fn keys(at: &ServiceAt, family: u8) -> Vec<Key<PortData>> {
    let addr = match at.host_ip {
        Some(ip) if !ip.is_unspecified() => tables::addr(ip),
        _ => ANY,
    };
    let key = |block: blocks::Block| {
        let data = PortData {
            protocol: at.protocol,
            family,
            addr,
            port_be: block.first.to_be_bytes(),
        };
        // Protocol, family and address whole, then the bits of the block.
        Key::new(144 + block.bits, data)
    };
    blocks::blocks(&(at.first..=at.last))
        .into_iter()
        .map(key)
        .collect()
}

fn generation(tables: &Tables, slot: u32) -> Result<u32> {
    tables
        .generations
        .get(&slot, 0)
        .map_err(|e| DatapathError::other(format!("use port slot {slot}"), chain(&e)))
}

/// The next generation of a slot; never 0, which a slot has that was never used.
fn raise_generation(tables: &mut Tables, slot: u32) -> Result<u32> {
    let next = generation(tables, slot)?.wrapping_add(1).max(1);
    tables
        .generations
        .set(slot, next, 0)
        .map_err(|e| DatapathError::other(format!("use port slot {slot}"), chain(&e)))?;
    Ok(next)
}
