//! Records that were mutated: what the store takes for records is taken in, planned and
//! forgotten again, whatever it says. Nothing of it reaches the kernel here.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use super::{plan, recover::wanted, state::State};
use crate::{
    model::Protocol,
    store::{Draining, EndpointRecord, NetworkRecord, PortRecord, Record, tests::endpoint},
    sys::{netlink::Netlink, sysctl::Sysctls, tests::isolated},
};

/// Values at the edges of what the fields are.
const NUMBERS: [u64; 9] = [
    0,
    1,
    7,
    255,
    65535,
    65536,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    u64::MAX,
];
const TEXTS: [&str; 14] = [
    "",
    "web",
    "front",
    "../x",
    "attached",
    "detaching",
    "udp",
    "overlay",
    "0.0.0.0/0",
    "255.255.255.255/32",
    "10.0.0.0/31",
    "::/0",
    "fd00::ffff",
    "10.0.0.1",
];

fn network() -> Value {
    json!({
        "index": 7, "name": "front", "driver": "bridge",
        "subnets": [
            {"subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "ip_range": "10.0.0.128/25"},
            {"subnet": "fd00::/64", "gateway": "fd00::1", "ip_range": null},
        ],
        "mtu": null, "internal": false, "icc": true, "masquerade": true,
        "overlay": {"vni": 9, "scope": 3, "shadowed": false, "blocks": ["10.0.0.0/26"]},
        "labels": {}, "created_at": "",
    })
}

fn of_endpoint(index: u32) -> Value {
    let port = |slot, host_port| PortRecord {
        slot,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port,
        host_port_end: host_port + 9,
        container_port: 80,
        allow: vec!["192.0.2.0/24".parse().unwrap()],
        weight: 1,
        affinity: true,
        unheld: false,
    };
    let record = EndpointRecord {
        host_ifindex: 10,
        ipv6: Some("fd00::2/64".parse().unwrap()),
        gateway6: Some("fd00::1".parse().unwrap()),
        default4: true,
        default6: true,
        rules: true,
        ports: vec![port(2 * index, 8000), port(2 * index + 1, 9000)],
        draining: vec![Draining {
            port: port(100 + index, 9900),
            until: 5,
        }],
        ..endpoint(index)
    };
    serde_json::to_value(record).unwrap()
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(NUMBERS.to_vec()).prop_map(Value::from),
        prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
    ]
}

/// The values of a record, as RFC 6901 pointers.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, value)| places(value, format!("{at}/{name}"), found)),
        Value::Array(items) if !items.is_empty() => (0..)
            .zip(items)
            .for_each(|(n, value): (usize, _)| places(value, format!("{at}/{n}"), found)),
        _ => found.push(at),
    }
}

/// The record with some values replaced, as far as the store takes it then: a value that the
/// field cannot have is left as it was.
fn mutated<T: Record>(mut record: Value, changes: &[(usize, Value)]) -> T {
    for (at, new) in changes {
        let mut all = Vec::new();
        places(&record, String::new(), &mut all);
        let mut changed = record.clone();
        if let Some(value) = changed.pointer_mut(&all[at % all.len()]) {
            *value = new.clone();
        }
        let read = serde_json::from_value::<T>(changed.clone());
        if read.is_ok_and(|read| read.flaw().is_none()) {
            record = changed;
        }
    }
    serde_json::from_value(record).expect("as it was found to be")
}

type Changes = Vec<(usize, Value)>;

fn changes() -> impl Strategy<Value = Changes> {
    prop::collection::vec((any::<usize>(), values()), 0..12)
}

/// Does with records what a start, an end and those who look do.
fn live_with(networks: Vec<NetworkRecord>, endpoints: Vec<EndpointRecord>) {
    let host = Netlink::open().expect("a netlink socket");
    let sysctls = Arc::new(Sysctls::open().expect("settings"));
    let mut state = State::new(host, sysctls, 0);
    networks.into_iter().for_each(|n| state.add_network(n));
    let indexes: Vec<u32> = endpoints.iter().map(|e| e.index).collect();
    endpoints.into_iter().for_each(|e| state.put_endpoint(e));

    let wanted = wanted(&state, true);
    let found = plan::Found::default();
    plan::recover(&wanted, &found);
    plan::repairs(&wanted, &found);
    let _ = state.next_network();
    let _ = state.next_index(100, |_| false);
    let seen = state.seen();
    let all = seen.found(None, None).map(|all| all.len());
    assert_eq!(all.ok(), Some(state.endpoints.len()));
    let _ = super::view::ports(&seen, None);
    for endpoint in wanted.endpoints {
        let heirs = state.heirs(&endpoint.record, &BTreeSet::new());
        plan::detach(&endpoint, heirs);
        plan::remove_device(&endpoint);
        super::detach::last_words(&state, std::slice::from_ref(&endpoint));
    }
    for index in indexes {
        state.remove_endpoint(index);
    }
    assert_eq!(state.endpoints.len(), 0);
    assert_eq!(state.services.slots().count(), 0, "slots of nobody");
}

#[test]
fn whatever_records_say_is_lived_with() {
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let records = (
        prop::collection::vec(changes(), 2),
        prop::collection::vec(changes(), 3),
    );
    isolated("records that were mutated", || {
        let run = TestRunner::new(config).run(&records, |(networks, endpoints)| {
            let networks = networks.iter();
            let networks = networks.map(|changes| mutated(network(), changes));
            let endpoints = (1..).zip(&endpoints);
            let endpoints = endpoints.map(|(n, changes)| mutated(of_endpoint(n), changes));
            live_with(networks.collect(), endpoints.collect());
            Ok(())
        });
        run.unwrap_or_else(|error| panic!("{error}"));
    });
}
