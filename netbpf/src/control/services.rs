//! What is published where: an index of the endpoints' ports by place, so that no
//! look at one port goes through all of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{plan, ports::meet, portset::PortSet, state::State};
use crate::{
    model::Protocol,
    store::{EndpointRecord, PortRecord},
};

/// Slots that published ranges can have: one number each.
pub const SLOTS: u32 = 1 << 16;

/// Protocol, host address, first and last port.
pub type Place = (Protocol, Option<IpAddr>, u16, u16);

pub fn place(port: &PortRecord) -> Place {
    (
        port.protocol,
        port.host_ip,
        port.host_port,
        port.host_port_end,
    )
}

/// Slot of a published range and index of its endpoint.
type Entry = (u32, u32);

#[derive(Default)]
pub struct Services {
    by_place: HashMap<Place, BTreeSet<Entry>>,
    by_first: BTreeMap<(Protocol, u16), BTreeSet<Entry>>,
    /// Ports less one of the longest range that there ever was.
    longest: u16,
    slots: BTreeMap<u32, u32>,
    counts: Counts,
}

/// How many published ranges each port is in.
struct Counts {
    of: Box<[u32]>,
    /// Those that are in any.
    ports: PortSet,
}

impl Default for Counts {
    fn default() -> Counts {
        Counts {
            of: vec![0; 1 << 16].into(),
            ports: PortSet::default(),
        }
    }
}

impl Counts {
    fn add(&mut self, range: &PortRecord) {
        for port in range.host_port..=range.host_port_end {
            let count = &mut self.of[usize::from(port)];
            *count += 1;
            if *count == 1 {
                self.ports.insert(port..=port);
            }
        }
    }

    fn remove(&mut self, range: &PortRecord) {
        for port in range.host_port..=range.host_port_end {
            let count = &mut self.of[usize::from(port)];
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.ports.remove(port);
            }
        }
    }
}

impl Services {
    /// Takes in what an endpoint has published, and what it drains.
    pub fn add(&mut self, record: &EndpointRecord) {
        for port in &record.ports {
            let entry = (port.slot, record.index);
            self.by_place.entry(place(port)).or_default().insert(entry);
            let first = (port.protocol, port.host_port);
            self.by_first.entry(first).or_default().insert(entry);
            self.longest = self.longest.max(port.host_port_end - port.host_port);
            self.counts.add(port);
        }
        for slot in slots(record) {
            self.slots.insert(slot, record.index);
        }
    }

    pub fn remove(&mut self, record: &EndpointRecord) {
        for port in &record.ports {
            self.counts.remove(port);
            let entry = (port.slot, record.index);
            take_out(&mut self.by_place, &place(port), entry);
            let first = (port.protocol, port.host_port);
            if let Some(entries) = self.by_first.get_mut(&first) {
                entries.remove(&entry);
                if entries.is_empty() {
                    self.by_first.remove(&first);
                }
            }
        }
        for slot in slots(record) {
            if self.slots.get(&slot) == Some(&record.index) {
                self.slots.remove(&slot);
            }
        }
    }

    /// A slot that no range has, the first behind `last`: not one that was given back
    /// lately.
    pub fn free_slot(&self, last: u32) -> Option<u32> {
        let candidates = (1..=SLOTS).map(|step| (last + step) % SLOTS);
        let is_free = |slot: &u32| !self.slots.contains_key(slot);
        candidates.into_iter().find(is_free)
    }

    /// Host ports at which anything is published, of any protocol and at any address.
    pub fn ports(&self) -> &PortSet {
        &self.counts.ports
    }

    /// All slots in use.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.keys().copied()
    }
}

fn slots(record: &EndpointRecord) -> impl Iterator<Item = u32> {
    let draining = record.draining.iter().map(|d| &d.port);
    record.ports.iter().chain(draining).map(|p| p.slot)
}

fn take_out(index: &mut HashMap<Place, BTreeSet<Entry>>, key: &Place, entry: Entry) {
    if let Some(entries) = index.get_mut(key) {
        entries.remove(&entry);
        if entries.is_empty() {
            index.remove(key);
        }
    }
}

impl State {
    /// Published ranges that meet this one, with their endpoints.
    pub fn published_at<'a>(
        &'a self,
        port: &PortRecord,
    ) -> impl Iterator<Item = (&'a EndpointRecord, &'a PortRecord)> + use<'a> {
        let from = port.host_port.saturating_sub(self.services.longest);
        let range = (port.protocol, from)..=(port.protocol, port.host_port_end);
        let port = port.clone();
        self.services
            .by_first
            .range(range)
            .flat_map(|(_, entries)| entries)
            .filter_map(|entry| self.published(*entry))
            .filter(move |(_, published)| meet(published, &port).is_some())
    }

    fn published(&self, (slot, endpoint): Entry) -> Option<(&EndpointRecord, &PortRecord)> {
        let record = self.endpoints.get(&endpoint)?;
        Some((record, record.ports.iter().find(|p| p.slot == slot)?))
    }

    /// What is published at a place; `None` when nothing is.
    pub fn service(&self, place: &Place) -> Option<Arc<plan::Service>> {
        let entries = self.services.by_place.get(place)?;
        let members = entries.iter().filter_map(|entry| self.published(*entry));
        plan::Service::new(members.map(|(r, port)| (self.planned(r), port.clone())))
    }

    /// Everything that is published.
    pub fn all_services(&self) -> Vec<Arc<plan::Service>> {
        let places = self.services.by_place.keys();
        let mut services: Vec<_> = places.filter_map(|place| self.service(place)).collect();
        services.sort_by_key(|s| s.members.first().map(|(_, port)| port.slot));
        services
    }

    /// Everything that is published no more, while its connections may go on.
    pub fn all_draining(&self) -> Vec<Arc<plan::Service>> {
        let of = |record: &Arc<EndpointRecord>| {
            let endpoint = self.planned(record);
            let draining = record.draining.iter().map(|d| d.port.clone());
            let services: Vec<_> = draining
                .filter_map(|port| plan::Service::new([(endpoint.clone(), port)]))
                .collect();
            services
        };
        let draining = self.endpoints.values().filter(|r| !r.draining.is_empty());
        draining.flat_map(of).collect()
    }

    /// The step that publishes a port of an endpoint, beside those that have it.
    pub fn publishing(&self, endpoint: &Arc<plan::Endpoint>, port: &PortRecord) -> plan::Step {
        let before = self.service(&place(port));
        let members = before.iter().flat_map(|s| s.members.iter().cloned());
        let others = members.filter(|(_, p)| p.slot != port.slot);
        let after = others.chain([(endpoint.clone(), port.clone())]);
        plan::Step::SetService {
            after: plan::Service::new(after),
            before,
            leave: plan::Leave::AtOnce,
        }
    }

    /// The steps that take back all of these ports; their connections go on.
    pub fn closing(&self, ports: &[plan::Ports]) -> Vec<plan::Step> {
        let each = || {
            ports
                .iter()
                .flat_map(|(e, ports)| ports.iter().map(move |p| (e, p)))
        };
        let slots: HashSet<u32> = each().map(|(_, port)| port.slot).collect();
        let mut places: Vec<Place> = Vec::new();
        let mut leaving: HashMap<Place, Vec<plan::Member>> = HashMap::new();
        for (endpoint, port) in each() {
            let place = place(port);
            let here = leaving.entry(place).or_insert_with(|| {
                places.push(place);
                Vec::new()
            });
            here.push((endpoint.clone(), port.clone()));
        }
        let of = |place: &Place| {
            let service = self.service(place);
            let members = service.iter().flat_map(|s| s.members.iter().cloned());
            let others: Vec<_> = members.filter(|(_, p)| !slots.contains(&p.slot)).collect();
            let these = leaving.get(place).into_iter().flatten().cloned();
            plan::Step::SetService {
                before: plan::Service::new(others.iter().cloned().chain(these)),
                after: plan::Service::new(others),
                leave: plan::Leave::Later,
            }
        };
        places.iter().map(of).collect()
    }
}
