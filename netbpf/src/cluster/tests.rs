//! The picture, and what unit tests of several files share.

use proptest::prelude::*;

use super::{
    keys::{Key, Keys},
    records::{Unreadable, encode},
    *,
};
use crate::model::{Labels, SubnetInfo};

pub fn network(name: &str, subnet: &str) -> Network {
    let subnet: ipnet::IpNet = subnet.parse().unwrap();
    Network {
        name: name.into(),
        vni: 1,
        subnets: vec![SubnetInfo {
            subnet,
            gateway: subnet.hosts().next().unwrap(),
            ip_range: None,
        }],
        mtu: None,
        internal: false,
        icc: true,
        masquerade: true,
        labels: Labels::new(),
        created_at: "2026-01-01T00:00:00Z".into(),
        created_by: "n1".into(),
    }
}

fn node(name: &str) -> Vec<u8> {
    let me = Me {
        name: name.into(),
        mac: [2, 0, 0, 0, 0, 0xff],
        ..Me::default()
    };
    encode(&me).unwrap()
}

fn parse(key: &str) -> Key {
    Keys::new("/netbpf/v1")
        .parse(format!("/netbpf/v1/{key}").as_bytes())
        .unwrap()
}

/// What the documentation shows is what is written and read.
#[test]
fn values_are_as_documented() {
    let page = include_str!("../../../docs/cluster.md");
    let mut view = View::new("n1");
    let mut shown = 0;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(key) = line
            .strip_prefix("<!-- value of ")
            .and_then(|l| l.strip_suffix(" -->"))
        else {
            continue;
        };
        assert_eq!(lines.next(), Some("```json"), "{key}");
        let value: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let value = value.join("\n");
        let documented: serde_json::Value = serde_json::from_str(&value).unwrap();
        let key = parse(key);
        view.put(&key, value.as_bytes(), 1)
            .unwrap_or_else(|e| panic!("{key:?}: {e}"));
        // All of it is read, and nothing else is written.
        let written = written(&view, &key);
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written, documented, "{key:?}");
        shown += 1;
    }
    assert_eq!(shown, 8);
}

fn written(view: &View, key: &Key) -> Vec<u8> {
    let value = match key {
        Key::Network(name) => encode(&view.networks[name].record),
        Key::Vni(vni) => encode(&view.vnis[vni].record),
        Key::Node(name) => encode(&view.nodes[name].registration.record),
        Key::Alive(name) => encode(&view.alive(name).unwrap().record),
        Key::Drained(name) => encode(&view.drained(name).unwrap().record),
        Key::Block { network, block } => encode(&view.block(network, block).unwrap().record),
        Key::Address { network, ip } => encode(&view.address(network, *ip).unwrap().record),
        Key::Endpoint { network, name } => encode(&view.endpoint(network, name).unwrap().record),
    };
    value.unwrap()
}

#[test]
fn a_node_is_away_without_its_lease_and_nothing_without_its_registration() {
    let mut view = View::new("n1");
    view.put(&parse("alive/n2"), br#"{"v":1,"id":"a"}"#, 1)
        .unwrap();
    assert!(view.nodes.is_empty());
    view.put(&parse("nodes/n2"), &node("n2"), 2).unwrap();
    assert!(!view.nodes["n2"].away && !view.nodes["n2"].drained);
    view.put(&parse("drained/n2"), br#"{"v":1,"by":"n1"}"#, 3)
        .unwrap();
    view.delete(&parse("alive/n2"));
    assert!(view.nodes["n2"].away && view.nodes["n2"].drained);
    view.delete(&parse("drained/n2"));
    assert!(!view.nodes["n2"].drained);
    assert_eq!(view.nodes["n2"].mac, [2, 0, 0, 0, 0, 0xff]);
    view.delete(&parse("nodes/n2"));
    assert!(view.nodes.is_empty());
}

#[test]
fn values_of_other_versions_kinds_and_things_are_refused() {
    let mut view = View::new("n1");
    let mut put = |key: &str, value: &str| view.put(&parse(key), value.as_bytes(), 1).unwrap_err();
    let of = r#"{"v":1,"node":"n1"}"#;
    assert_eq!(
        put("vnis/1", r#"{"v":2,"network":"a"}"#),
        Unreadable::Version(2)
    );
    assert!(matches!(
        put("vnis/1", r#"{"network":"a"}"#),
        Unreadable::Json(_)
    ));
    assert!(matches!(put("vnis/1", of), Unreadable::Json(_)));
    assert!(matches!(put("vnis/1", "[]"), Unreadable::Json(_)));
    let other = String::from_utf8(node("n3")).unwrap();
    assert!(matches!(put("nodes/n2", &other), Unreadable::OfAnother(_)));
    for mac in [
        "",
        "02:00",
        "02:00:00:00:00:0",
        "02:00:00:00:00:00:00",
        "+2:00:00:00:00:00",
    ] {
        let bad = other.replace("n3", "n2").replace("02:00:00:00:00:ff", mac);
        assert!(
            matches!(put("nodes/n2", &bad), Unreadable::Json(_)),
            "{mac}"
        );
    }
    assert_eq!(view, View::new("n1"));
}

#[test]
fn pictures_are_compared_entry_by_entry() {
    let of = |node: &str| format!(r#"{{"v":1,"node":"{node}"}}"#).into_bytes();
    let mut one = View::new("n1");
    for (key, revision) in [("blocks/a/10.0.0.0-26", 1), ("blocks/b/10.0.0.0-26", 2)] {
        one.put(&parse(key), &of("n1"), revision).unwrap();
    }
    one.revision = 5;
    let mut other = one.clone();
    assert_eq!((one.differences(&other), other.not_in(&one)), (0, 0));
    other
        .put(&parse("blocks/a/10.0.0.0-26"), &of("n2"), 4)
        .unwrap();
    other
        .put(&parse("blocks/c/10.0.0.0-26"), &of("n2"), 6)
        .unwrap();
    other.delete(&parse("blocks/b/10.0.0.0-26"));
    assert_eq!((one.differences(&other), other.differences(&one)), (3, 3));
    // What was written later, and what is gone, need not be there.
    assert_eq!(other.not_in(&one), 1);
    assert_eq!((one.own().count(), other.own().count()), (2, 0));
}

#[test]
fn what_cannot_be_read_any_more_is_kept_from_the_picture_before() {
    let mut old = View::new("n1");
    for (key, value) in [
        ("nodes/n2", node("n2")),
        ("alive/n2", br#"{"v":1,"id":"a"}"#.to_vec()),
        ("blocks/a/10.0.0.0-26", br#"{"v":1,"node":"n1"}"#.to_vec()),
    ] {
        old.put(&parse(key), &value, 1).unwrap();
    }
    let mut new = View::new("n1");
    for key in ["nodes/n2", "alive/n2", "blocks/a/10.0.0.0-26", "vnis/7"] {
        new.keep_from(&old, &parse(key));
    }
    assert_eq!(new, old);
}

proptest! {
    /// The order and number of changes leave no trace: only what is there counts.
    #[test]
    fn a_picture_is_what_its_entries_are(
        changes in proptest::collection::vec((0_usize..8, any::<bool>(), 0_u8..2), 0..40),
    ) {
        let keys = [
            "nodes/n1", "alive/n1", "drained/n1", "nodes/n2", "blocks/a/10.0.0.0-26",
            "blocks/a/10.0.0.64-26", "addresses/a/10.0.0.1", "addresses/b/fd00::1",
        ];
        let mut view = View::new("n1");
        let mut last = std::collections::BTreeMap::new();
        for (revision, (at, put, node_number)) in changes.into_iter().enumerate() {
            let (key, revision) = (parse(keys[at]), revision as i64 + 1);
            let owner = format!("n{}", node_number + 1);
            let value = match &key {
                Key::Node(name) => node(name),
                Key::Alive(_) => br#"{"v":1,"id":"a"}"#.to_vec(),
                Key::Drained(_) => br#"{"v":1,"by":"n1"}"#.to_vec(),
                Key::Block { .. } => format!(r#"{{"v":1,"node":"{owner}"}}"#).into_bytes(),
                _ => format!(r#"{{"v":1,"node":"{owner}","endpoint":"e"}}"#).into_bytes(),
            };
            if put {
                view.put(&key, &value, revision).unwrap();
                last.insert(key, (value, revision));
            } else {
                view.delete(&key);
                last.remove(&key);
            }
        }
        let mut fresh = View::new("n1");
        for (key, (value, revision)) in &last {
            fresh.put(key, value, *revision).unwrap();
        }
        prop_assert_eq!(view.differences(&fresh), 0);
        prop_assert_eq!(view, fresh);
    }
}
