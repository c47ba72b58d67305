//! What of the maps is not as the daemon has written it: entries that others removed,
//! added or changed. It only looks.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

use netbpf_common::{
    abi::ABI,
    flow::Timeouts,
    maps::{Local, PortKey, SubnetData, VethSlot, ports::PORT_PREFIX},
    names,
};

use super::{
    Datapath, GATEWAY_MAC, Result, load,
    load::chain,
    tables,
    types::{
        DatapathError, EarlyDrop, EndpointEntry, LocalEntry, Service, SubnetEntry, UplinkEntry,
    },
};

/// What the maps should have.
#[derive(Clone, Debug)]
pub struct Entries {
    pub endpoints: Vec<EndpointEntry>,
    pub uplinks: Vec<(UplinkEntry, EarlyDrop)>,
    pub locals: Vec<LocalEntry>,
    pub subnets: Vec<SubnetEntry>,
    pub services: Vec<Service>,
    pub timeouts: Timeouts,
    pub netns_cookie: u64,
}

/// An entry that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    pub map: &'static str,
    /// For people.
    pub entry: String,
    pub kind: DriftKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriftKind {
    Missing,
    /// It belongs to nothing.
    Stale,
    Different,
}

impl DriftKind {
    pub const fn label(self) -> &'static str {
        match self {
            DriftKind::Missing => "missing",
            DriftKind::Stale => "of nothing that is there",
            DriftKind::Different => "not what it should be",
        }
    }
}

impl Datapath {
    /// Compares the maps with what they should have. To be asked while nothing changes.
    pub fn drift(&self, wanted: &Entries) -> Result<Vec<Drift>> {
        let mut found = self.drift_of_config(wanted)?;
        let inner = self.inner();
        let (tables, known) = (&inner.tables, &inner.known);

        let endpoints = wanted.endpoints.iter();
        let addresses = endpoints.flat_map(|e| {
            let value = tables::endpoint(e);
            tables::endpoint_keys(e).map(move |key| (key, value))
        });
        found.extend(compare(
            names::ENDPOINTS,
            addresses,
            tables.endpoints.iter().flatten(),
            |key| format!("of {}", tables::ip(key.addr)),
        ));
        let endpoints = wanted.endpoints.iter();
        found.extend(compare(
            names::VETHS,
            endpoints.map(|e| (e.device.ifindex, tables::veth(e))),
            tables.veths.iter().flatten(),
            of_device,
        ));
        // Not all need one.
        let placed: HashMap<u32, VethSlot> = tables
            .veth_slots
            .taken()
            .map(|slot| (slot.ifindex, slot))
            .collect();
        let endpoints = wanted.endpoints.iter().map(tables::veth_slot);
        found.extend(compare(
            names::VETH_SLOTS,
            endpoints
                .filter(|slot| placed.contains_key(&slot.ifindex))
                .map(|slot| (slot.ifindex, slot)),
            placed.clone(),
            of_device,
        ));
        let uplinks = wanted.uplinks.iter();
        found.extend(compare(
            names::UPLINKS,
            uplinks.map(|(u, early)| (u.device.ifindex, tables::uplink(u, early))),
            tables.uplinks.iter().flatten(),
            of_device,
        ));
        // Which pool of ports an address has is the datapath's own affair.
        let without_pool = |local: Local| Local { pool: 0, ..local };
        found.extend(compare(
            names::LOCALS,
            wanted.locals.iter().map(tables::local),
            tables
                .locals
                .iter()
                .flatten()
                .map(|(key, local)| (key, without_pool(local))),
            |key| format!("of {}", tables::ip(key.addr)),
        ));
        let subnets = wanted.subnets.iter().map(tables::subnet);
        found.extend(compare(
            names::SUBNETS,
            subnets.map(|(key, value)| ((key.prefix_len(), key.data().addr), value)),
            tables
                .subnets
                .iter()
                .flatten()
                .map(|(key, value)| ((key.prefix_len(), key.data().addr), value)),
            |&(prefix_len, addr)| of_subnet(prefix_len, SubnetData { addr }),
        ));
        if let Some(subnet) = tables.areas.unmarked(&wanted.subnets)? {
            found.push(different(names::AREAS, format!("of {}", subnet.subnet)));
        }
        found.extend(compare(
            names::PORTS,
            known.ports(&wanted.services),
            tables
                .ports
                .iter()
                .flatten()
                .map(|(key, value)| (tables::port_key(&key), value)),
            of_port,
        ));
        let backends = tables.backends.iter().flatten();
        found.extend(compare(
            names::BACKENDS,
            known.shared(),
            backends.map(|(key, backend)| (key, backend.slot)),
            |key| format!("{} of share {}", key.number, key.share),
        ));
        let lists = known.lists().into_iter().map(|key| (key, ()));
        found.extend(compare(
            names::ALLOWS,
            lists,
            tables
                .allows
                .keys()
                .flatten()
                .map(|key| (tables::allowed(&key), ())),
            |(list, net)| format!("{net} of list {list}"),
        ));
        for (slot, generation) in known.generations() {
            let held = tables.generations.get(&slot, 0);
            if held.ok() != Some(generation) {
                found.push(different(names::GENERATIONS, format!("slot {slot}")));
            }
        }
        let unmarked = known.unmarked(tables)?.into_iter();
        found.extend(unmarked.map(|port| different(names::PUBLISHED, format!("of port {port}"))));
        Ok(found)
    }

    fn drift_of_config(&self, wanted: &Entries) -> Result<Vec<Drift>> {
        let mut inner = self.inner();
        let held = load::config(&mut inner.ebpf)?.get(&0, 0);
        let held = held.map_err(|e| DatapathError::other("read map config", chain(&e)))?;
        Ok([
            ("layout", held.abi == ABI),
            ("MAC of the gateways", held.gateway_mac == GATEWAY_MAC),
            (
                "network namespace",
                held.netns_cookie == wanted.netns_cookie,
            ),
            ("time-outs", held.timeouts == wanted.timeouts),
        ]
        .into_iter()
        .filter(|(_, is_right)| !is_right)
        .map(|(what, _)| different(names::CONFIG, what.into()))
        .collect())
    }
}

fn different(map: &'static str, entry: String) -> Drift {
    Drift {
        map,
        entry,
        kind: DriftKind::Different,
    }
}

/// What differs between what a map should have and what it has.
fn compare<K: Eq + Hash, V: PartialEq>(
    map: &'static str,
    wanted: impl IntoIterator<Item = (K, V)>,
    held: impl IntoIterator<Item = (K, V)>,
    shown: impl Fn(&K) -> String,
) -> Vec<Drift> {
    let mut held: HashMap<K, V> = held.into_iter().collect();
    let mut found = Vec::new();
    let mut add = |key: &K, kind| {
        let entry = shown(key);
        found.push(Drift { map, entry, kind });
    };
    for (key, value) in wanted {
        match held.remove(&key) {
            None => add(&key, DriftKind::Missing),
            Some(held) if held != value => add(&key, DriftKind::Different),
            Some(_) => {}
        }
    }
    held.keys().for_each(|key| add(key, DriftKind::Stale));
    found.sort_by(|a, b| a.entry.cmp(&b.entry));
    found
}

fn of_device(ifindex: &u32) -> String {
    match super::device_name(*ifindex) {
        Some(name) => format!("of {name}"),
        None => format!("of device {ifindex}"),
    }
}

fn of_subnet(prefix_len: u32, data: SubnetData) -> String {
    let ip = tables::ip(data.addr);
    let prefix_len = match ip {
        IpAddr::V4(_) => prefix_len.saturating_sub(96),
        IpAddr::V6(_) => prefix_len,
    };
    format!("of {ip}/{prefix_len}")
}

fn of_port(key: &PortKey) -> String {
    let data = key.data;
    let port = u16::from_be_bytes(data.port_be);
    let free_bits = PORT_PREFIX.saturating_sub(key.prefix_len).min(16);
    let last = port | ((1_u32 << free_bits) - 1) as u16;
    let ports = match port == last {
        true => port.to_string(),
        false => format!("{port}-{last}"),
    };
    let protocol = match data.protocol {
        6 => "tcp".into(),
        17 => "udp".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    };
    match tables::ip(data.addr) {
        ip if ip.is_unspecified() => format!("of IPv{} port {ports}/{protocol}", data.family),
        ip => format!("of {} {ports}/{protocol}", SocketAddr::new(ip, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_missing_stale_or_different() {
        let found = compare(
            "m",
            [(1, 'a'), (2, 'b'), (3, 'c')],
            [(2, 'b'), (3, 'x'), (4, 'd')],
            |key| key.to_string(),
        );
        let found: Vec<_> = found.iter().map(|d| (d.entry.as_str(), d.kind)).collect();
        let expected = [
            ("1", DriftKind::Missing),
            ("3", DriftKind::Different),
            ("4", DriftKind::Stale),
        ];
        assert_eq!(found, expected);
        assert_eq!(compare("m", [(1, 1)], [(1, 1)], |key| key.to_string()), []);
    }
}
