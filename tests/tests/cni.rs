//! netbpf-cni, called as a runtime calls it. Real runtimes are in `engines.rs`.
//!
//! ```text
//!   c1 (eth0, by ADD) ── front ── host :8080 ──── client
//! ```

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use netbpf::model::{EndpointInfo, Engine};
use netbpf_tests::lab::{
    Family, Http, Lab, Namespace, Runtime, SOON, Street,
    names::{CLIENT, HOST},
    street, within,
};
use serde_json::{Value, json};

/// Error codes of the specification and of docs/engines.md.
const UNSUPPORTED_FIELD: u64 = 2;
const UNKNOWN_CONTAINER: u64 = 3;
const INVALID_ENVIRONMENT: u64 = 4;
const INVALID_CONFIGURATION: u64 = 7;
const TRY_AGAIN_LATER: u64 = 11;
const NOT_AVAILABLE: u64 = 50;
const ADDRESS_IN_USE: u64 = 102;
const PORT_IN_USE: u64 = 104;
const INTERFACE_EXISTS: u64 = 105;
const CONFLICT: u64 = 106;
const NOT_AS_MADE: u64 = 107;

const SUBNETS: [&str; 2] = ["10.10.1.0/24", "fd10:1::/64"];

fn runtime(street: &Street) -> Runtime {
    let runtime = Runtime::new(&street.lab, &street.host, "1.1.0");
    runtime.with("subnets", json!(SUBNETS))
}

/// A namespace as a runtime makes it.
fn space(lab: &Lab, role: &str) -> Namespace {
    let space = lab.space(role);
    space.ip("link set lo up");
    space
}

fn web_port() -> Value {
    json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
}

/// Of the result, by family.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().expect("ips");
    let address = |ip: &Value| {
        let net: ipnet::IpNet = ip["address"].as_str()?.parse().ok()?;
        Some(net.addr())
    };
    ips.iter().filter_map(address).collect()
}

#[track_caller]
fn one_endpoint(street: &Street) -> EndpointInfo {
    let mut all = street.host.endpoints();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// No endpoint and no device of one.
#[track_caller]
fn nothing_is_left(street: &Street) {
    assert_eq!(street.host.endpoints(), []);
    within(Duration::from_secs(5), "no veth is left", || {
        let links = street.host.ip_json("link show type veth");
        let ours = |l: &Value| l["ifname"].as_str().is_some_and(|n| n.starts_with("nb"));
        !links.as_array().expect("a list").iter().any(ours)
    });
}

/// The whole life of a container, in each version of the specification.
#[test]
fn a_container_is_added_checked_reached_and_deleted() {
    for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let street = street(&format!("cni_{version}"));
        let runtime = Runtime::new(&street.lab, &street.host, version)
            .with("subnets", json!(SUBNETS))
            .asking("portMappings", web_port());
        let container = space(&street.lab, "c1");
        let result = runtime.add("c1-id", &container);

        assert_eq!(result["cniVersion"], version);
        let [host_end, eth0] = &result["interfaces"].as_array().unwrap()[..] else {
            panic!("{result}");
        };
        assert_eq!(eth0["name"], "eth0");
        assert_eq!(eth0["sandbox"], container.path().display().to_string());
        let endpoint = one_endpoint(&street);
        assert_eq!(host_end["name"], endpoint.host_ifname);
        assert!(host_end.get("sandbox").is_none());
        assert_eq!(eth0["mac"], endpoint.mac);
        assert_eq!(endpoint.container_id.as_deref(), Some("c1-id"));
        assert_eq!(endpoint.engine, Some(Engine::Cni));
        let shown: Vec<EndpointInfo> = street.host.json(&["ps", "--container", "c1-id"]);
        assert_eq!(shown.len(), 1);
        for (ip, family) in result["ips"].as_array().unwrap().iter().zip(["4", "6"]) {
            assert_eq!(ip["interface"], 1);
            let is_old = ["0.3.1", "0.4.0"].contains(&version);
            assert_eq!(ip.get("version"), is_old.then(|| json!(family)).as_ref());
        }
        assert_eq!(
            result["routes"],
            json!([{"dst": "0.0.0.0/0", "gw": "10.10.1.1"}, {"dst": "::/0", "gw": "fd10:1::1"}])
        );

        let _server = Http::start(&container, 80);
        let _outside = Http::start(&street.client, 80);
        for (family, address) in Family::BOTH.into_iter().zip(addresses(&result)) {
            let seen = street.client.fetch(family.ip(HOST), 8080);
            assert_eq!(seen.peer, family.ip(CLIENT));
            assert_eq!(seen.local.ip(), address);
            let seen = container.fetch(family.ip(CLIENT), 80);
            assert_eq!(seen.peer, family.ip(HOST), "masqueraded");
        }

        let checked = runtime.check("c1-id", &container, &result);
        match version {
            "0.3.1" => assert_eq!(checked.refused().0, 1),
            _ => assert_eq!(checked.done(), Value::Null),
        }
        for verb in ["GC", "STATUS"] {
            let with = runtime.with(
                "cni.dev/valid-attachments",
                json!([{"containerID": "c1-id", "ifname": "eth0"}]),
            );
            let told = with.call(verb, "", "", None);
            match version {
                "1.1.0" => assert_eq!(told.done(), Value::Null),
                _ => assert_eq!(told.refused().0, 1),
            }
        }
        assert_eq!(street.host.endpoints().len(), 1);

        // With the namespace, without it, and once more.
        runtime.del("c1-id", Some(&container));
        nothing_is_left(&street);
        runtime.del("c1-id", None);
        runtime.del("never-there", None);
        assert!(
            container.ip_json("link").as_array().unwrap().len() == 1,
            "lo alone"
        );
    }
}

/// What a runtime can ask for is what the endpoint is; the conventions' places and
/// `CNI_ARGS`.
#[test]
fn what_is_asked_for_is_what_is_made() {
    let street = street("cni_wishes");
    let runtime = runtime(&street);
    let all = runtime
        .with(
            "dns",
            json!({"nameservers": ["10.10.1.1"], "search": ["example.org"]}),
        )
        .with(
            "args",
            json!({"cni": {"labels": [{"key": "app", "value": "shop"}]}}),
        )
        .asking("ips", json!(["10.10.1.77/24", "fd10:1::77"]))
        .asking("mac", json!("02:11:22:33:44:55"))
        .asking(
            "aliases",
            json!({"front": ["db", "store"], "other": ["no"]}),
        )
        .args("IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID=u;FOO=bar");
    let container = space(&street.lab, "c1");
    let result = all.add("c1-id", &container);
    let endpoint = one_endpoint(&street);
    assert_eq!(endpoint.name, "web.prod");
    assert_eq!(endpoint.ipv4.as_deref(), Some("10.10.1.77/24"));
    assert_eq!(endpoint.ipv6.as_deref(), Some("fd10:1::77/64"));
    assert_eq!(endpoint.mac, "02:11:22:33:44:55");
    assert_eq!(endpoint.aliases, ["db", "store"]);
    assert_eq!(endpoint.labels["app"], "shop");
    assert_eq!(endpoint.labels["io.kubernetes.pod.namespace"], "prod");
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.10.1.1"], "search": ["example.org"]})
    );
    assert_eq!(container.mac("eth0"), [0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);

    // Podman's way of saying it.
    let other = runtime
        .asking(
            "dns",
            json!({"servers": ["10.10.1.9"], "searches": ["a.b"]}),
        )
        .args("IgnoreUnknown=1;K8S_POD_NAME=cache;IP=10.10.1.78;MAC=02:11:22:33:44:56");
    let result = other.add(&"f".repeat(64), &space(&street.lab, "c2"));
    let cache: EndpointInfo = street.host.json(&["inspect", "cache"]);
    assert_eq!(cache.ipv4.as_deref(), Some("10.10.1.78/24"));
    assert_eq!(cache.mac, "02:11:22:33:44:56");
    assert_eq!(cache.container_id, Some("f".repeat(64)));
    assert_eq!(cache.aliases, ["cache"]);
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.10.1.9"], "search": ["a.b"]})
    );

    // Nothing is said of names where nobody answers them.
    let result = runtime.add("c3-id", &space(&street.lab, "c3"));
    assert_eq!(result.get("dns"), None);
}

/// containerd's spelling; a range that is listed port by port is one range again.
#[test]
fn ports_in_both_spellings_and_in_ranges() {
    let street = street("cni_ports");
    let ports: Vec<Value> = (0..300)
        .map(|i| json!({"HostPort": 7000 + i, "ContainerPort": 9000 + i, "Protocol": "udp", "HostIP": ""}))
        .chain([json!({"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "192.0.2.1"})])
        .collect();
    let runtime = runtime(&street).asking("portMappings", json!(ports));
    runtime.add("c1-id", &space(&street.lab, "c1"));
    let ports = one_endpoint(&street).ports;
    let mut shown: Vec<_> = ports
        .iter()
        .map(|p| {
            (
                p.host_ip.as_str(),
                p.host_port,
                p.host_port_end,
                p.container_port,
            )
        })
        .collect();
    shown.sort();
    assert_eq!(
        shown,
        [("*", 7000, Some(7299), 9000), ("192.0.2.1", 8080, None, 80)]
    );
}

/// The first container makes the network; one that exists otherwise is said.
#[test]
fn a_network_is_made_once_and_a_conflict_is_said() {
    let street = street("cni_network");
    let runtime = runtime(&street)
        .with("mtu", json!(1400))
        .with("icc", json!(false));
    let container = space(&street.lab, "c1");
    runtime.add("c1-id", &container);
    let network: Value = street.host.json(&["network", "inspect", "front"]);
    assert_eq!(
        (&network["mtu"], &network["icc"]),
        (&json!(1400), &json!(false))
    );
    assert_eq!(container.ip_json("link show eth0")[0]["mtu"], 1400);

    let other = space(&street.lab, "c2");
    let add = |runtime: &Runtime| runtime.call("ADD", "c2-id", "eth0", Some(&other)).refused();
    let (code, message) = add(&runtime.with("mtu", json!(1300)));
    assert_eq!(code, CONFLICT);
    assert!(
        message.contains("\"front\"") && message.contains("1300"),
        "{message}"
    );
    let (code, message) = add(&runtime.with("subnets", json!(["10.99.0.0/16"])));
    assert_eq!(code, CONFLICT);
    assert!(message.contains("10.99.0.0/16"), "{message}");
    let (code, _) = add(&runtime
        .with("driver", json!("overlay"))
        .with("subnets", json!(["10.98.0.0/16"]))
        .with("name", json!("wide")));
    // Of a daemon without etcd; one that has it makes it on all nodes.
    assert_eq!(code, TRY_AGAIN_LATER);
    assert_eq!(street.host.endpoints().len(), 1);

    // Twenty at once for a network that is not there: one makes it.
    let fresh = runtime
        .with("name", json!("fresh"))
        .with("subnets", json!(["10.10.9.0/24"]));
    thread::scope(|scope| {
        for i in 0..20 {
            let (fresh, lab) = (&fresh, &street.lab);
            scope.spawn(move || fresh.add(&format!("f{i}"), &space(lab, &format!("f{i}"))));
        }
    });
    let network: Value = street.host.json(&["network", "inspect", "fresh"]);
    assert_eq!(network["endpoints"].as_array().unwrap().len(), 20);
}

/// Bad input names what is wrong, by the specification's code, and leaves nothing.
#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let street = street("cni_bad_input");
    let runtime = runtime(&street);
    let first = space(&street.lab, "first");
    let taken = runtime.asking("portMappings", web_port());
    let taken = taken.asking("ips", json!(["10.10.1.50"]));
    taken.add("first-id", &first);
    let before = street.host.endpoints();

    let container = space(&street.lab, "c1");
    let refused = |runtime: &Runtime| {
        let told = runtime
            .call("ADD", "c1-id", "eth0", Some(&container))
            .refused();
        assert_eq!(street.host.endpoints().len(), before.len());
        let links = container.ip_json("link");
        assert_eq!(links.as_array().unwrap().len(), 1, "lo alone");
        told
    };
    for (asking, code, shown) in [
        (
            runtime.asking("portMappings", web_port()),
            PORT_IN_USE,
            "8080",
        ),
        (
            runtime.asking("ips", json!(["10.10.1.50"])),
            ADDRESS_IN_USE,
            "10.10.1.50",
        ),
        (
            runtime.asking("ips", json!(["10.77.0.1"])),
            INVALID_CONFIGURATION,
            "10.77.0.1",
        ),
        (
            runtime.asking("mac", json!("nonsense")),
            INVALID_CONFIGURATION,
            "nonsense",
        ),
        (
            runtime.asking("bandwidth", json!({"ingressRate": 1000})),
            UNSUPPORTED_FIELD,
            "bandwidth.ingressRate: 1000",
        ),
        (
            runtime.with("ipam", json!({"type": "host-local"})),
            UNSUPPORTED_FIELD,
            "host-local",
        ),
        (
            runtime.with("subnet", json!("10.0.0.0/8")),
            UNSUPPORTED_FIELD,
            "subnet",
        ),
        (
            runtime.with("name", json!("no/name")),
            INVALID_CONFIGURATION,
            "no/name",
        ),
        (
            runtime.asking(
                "portMappings",
                json!([{"hostPort": 0, "containerPort": 80}]),
            ),
            INVALID_CONFIGURATION,
            "hostPort 0",
        ),
    ] {
        let (found, message) = refused(&asking);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(shown), "{message}");
    }

    let long = runtime.call("ADD", "c1-id", "a-name-that-is-too-long", Some(&container));
    let (code, message) = long.refused();
    assert_eq!(code, INVALID_ENVIRONMENT);
    assert!(message.contains("a-name-that-is-too-long"), "{message}");
    let twice = runtime.call("ADD", "first-id", "eth0", Some(&first));
    assert_eq!(twice.refused().0, INTERFACE_EXISTS);
    container.delete();
    let (code, message) = runtime
        .call("ADD", "c1-id", "eth0", Some(&container))
        .refused();
    assert_eq!(code, UNKNOWN_CONTAINER);
    assert!(
        message.contains(&container.path().display().to_string()),
        "{message}"
    );
    let after = street.host.endpoints();
    assert_eq!((after.len(), &after[0].ports), (1, &before[0].ports));
}

/// A network that an ADD has made goes with it when it fails; one that was there stays.
#[test]
fn an_add_that_fails_takes_its_network_back() {
    let street = street("cni_takes_back");
    let runtime = runtime(&street);
    let container = space(&street.lab, "c1");
    let bad = runtime.asking("ips", json!(["10.77.0.1"]));
    bad.call("ADD", "c1-id", "eth0", Some(&container)).refused();
    let names = || -> Vec<String> {
        let all: Vec<Value> = street.host.json(&["network", "ls"]);
        let names = all.iter().filter_map(|n| n["name"].as_str());
        names.map(str::to_owned).collect()
    };
    assert_eq!(names(), ["default"]);
    runtime.add("c1-id", &container);
    let other = space(&street.lab, "c2");
    bad.call("ADD", "c2-id", "eth0", Some(&other)).refused();
    assert_eq!(names(), ["default", "front"]);

    // Of many at once, those that succeed have their network.
    runtime.del("c1-id", None);
    street.host.netbpf(&["network", "rm", "front"]).ok();
    thread::scope(|scope| {
        for i in 0..10 {
            let (runtime, bad, lab) = (&runtime, &bad, &street.lab);
            scope.spawn(move || {
                let space = space(lab, &format!("f{i}"));
                match i % 2 {
                    0 => drop(runtime.add(&format!("f{i}"), &space)),
                    _ => drop(
                        bad.call("ADD", &format!("f{i}"), "eth0", Some(&space))
                            .refused(),
                    ),
                }
            });
        }
    });
    assert_eq!(street.host.endpoints().len(), 5);
}

/// A container that comes back in another namespace under its id, before the old one was
/// reported gone, takes its place.
#[test]
fn a_container_that_comes_back_takes_its_own_place() {
    let street = street("cni_comes_back");
    let runtime = runtime(&street).asking("ips", json!(["10.10.1.50"]));
    let [old, new] = ["old", "new"].map(|role| space(&street.lab, role));
    let before = runtime.add("c1-id", &old);
    let after = runtime.add("c1-id", &new);
    assert_eq!(addresses(&before)[0], addresses(&after)[0]);
    let endpoint = one_endpoint(&street);
    assert_eq!(endpoint.netns, new.path().display().to_string());
    // The kernel takes it away a little after the answer.
    within(SOON, "the old one has lo alone", || {
        old.ip_json("link").as_array().unwrap().len() == 1
    });
    runtime.check("c1-id", &new, &after).done();
    let (code, message) = runtime.check("c1-id", &old, &after).refused();
    assert_eq!(code, NOT_AS_MADE);
    assert!(
        message.contains(&old.path().display().to_string()),
        "{message}"
    );
    runtime.del("c1-id", Some(&new));
    nothing_is_left(&street);
}

/// Interfaces of one container on one network and on two; the second one has no default
/// route, and DEL takes what it names.
#[test]
fn several_interfaces_of_one_container() {
    let street = street("cni_several");
    let front = runtime(&street);
    let back = front
        .with("name", json!("back"))
        .with("subnets", json!(["10.10.2.0/24"]));
    let container = space(&street.lab, "c1");
    front.add("c1-id", &container);
    let second = front.call("ADD", "c1-id", "eth1", Some(&container)).done();
    let third = back.call("ADD", "c1-id", "eth2", Some(&container)).done();
    assert_eq!(second["routes"], json!([]));
    assert_eq!(third["routes"], json!([]));
    let endpoints = street.host.endpoints();
    let of_container = |e: &EndpointInfo| e.container_id.as_deref() == Some("c1-id");
    assert!(
        endpoints.len() == 3 && endpoints.iter().all(of_container),
        "{endpoints:?}"
    );

    // What is on another network is another attachment.
    back.call("DEL", "c1-id", "eth0", Some(&container)).done();
    assert_eq!(street.host.endpoints().len(), 3);
    front.call("DEL", "c1-id", "eth1", Some(&container)).done();
    let left = street.host.endpoints();
    let left: Vec<_> = left.iter().map(|e| e.ifname.as_str()).collect();
    assert_eq!(left, ["eth0", "eth2"]);
    front.del("c1-id", Some(&container));
    back.call("DEL", "c1-id", "eth2", None).done();
    nothing_is_left(&street);
}

/// A result from before in the chain goes on, with ours behind.
#[test]
fn a_chain_is_gone_on_with() {
    let street = street("cni_chain");
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "dummy0", "sandbox": "/elsewhere"}],
        "ips": [{"address": "10.55.0.2/24", "interface": 0}],
        "dns": {"nameservers": ["10.55.0.1"]},
    });
    let runtime = runtime(&street).with("prevResult", before);
    let container = space(&street.lab, "c1");
    let result = runtime.add("c1-id", &container);
    assert_eq!(result["interfaces"][0]["name"], "dummy0");
    assert_eq!(result["interfaces"][2]["name"], "eth0");
    assert_eq!(result["ips"][0]["address"], "10.55.0.2/24");
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"]["nameservers"][0], "10.55.0.1");
    runtime.check("c1-id", &container, &result).done();

    // One that cannot be gone on with leaves nothing attached.
    let bad = runtime.with("prevResult", json!({"ips": "none"}));
    let other = space(&street.lab, "c2");
    let (code, message) = bad.call("ADD", "c2-id", "eth0", Some(&other)).refused();
    assert_eq!(code, INVALID_CONFIGURATION);
    assert!(message.contains("prevResult.ips"), "{message}");
    assert_eq!(street.host.endpoints().len(), 1);
}

/// CHECK says what of a container is not as ADD made it.
#[test]
fn check_says_what_was_undone() {
    let street = street("cni_check");
    let runtime = runtime(&street);
    let container = space(&street.lab, "c1");
    let result = runtime.add("c1-id", &container);
    let check = || runtime.check("c1-id", &container, &result);
    check().done();
    for (undo, shown, redo) in [
        (
            "addr del 10.10.1.2/24 dev eth0",
            "address 10.10.1.2/24",
            &[
                "addr add 10.10.1.2/24 dev eth0",
                "route replace default via 10.10.1.1 dev eth0",
            ][..],
        ),
        (
            "route replace unreachable default",
            "default route by 10.10.1.1",
            &["route replace default via 10.10.1.1 dev eth0"],
        ),
        (
            "link set eth0 address 02:00:00:00:00:99",
            "MAC address",
            &["link set eth0 address 02:42:0a:0a:01:02"],
        ),
        ("link set eth0 down", "is down", &[]),
    ] {
        container.ip(undo);
        let (code, message) = check().refused();
        assert_eq!(code, NOT_AS_MADE, "{undo}: {message}");
        assert!(message.contains(shown), "{undo}: {message}");
        for line in redo {
            container.ip(line);
        }
        if !redo.is_empty() {
            check().done();
        }
    }
    container.ip("link del eth0");
    // A device that vanishes is a detach, and is noticed as one.
    within(Duration::from_secs(5), "its end is noticed", || {
        street.host.endpoints().is_empty()
    });
    let (code, message) = check().refused();
    assert_eq!(code, UNKNOWN_CONTAINER);
    assert!(message.contains("\"c1-id\""), "{message}");
    let (code, _) = runtime
        .call("CHECK", "c1-id", "eth0", Some(&container))
        .refused();
    assert_eq!(code, INVALID_CONFIGURATION, "without prevResult");
}

/// GC detaches what the runtime does not know, and nothing else.
#[test]
fn gc_keeps_what_the_runtime_knows() {
    let street = street("cni_gc");
    let runtime = runtime(&street);
    let back = runtime
        .with("name", json!("back"))
        .with("subnets", json!(["10.10.2.0/24"]));
    for name in ["c1", "c2", "c3"] {
        runtime.add(name, &space(&street.lab, name));
    }
    back.add("c4", &space(&street.lab, "c4"));
    let by_hand = space(&street.lab, "by-hand");
    street
        .host
        .attach(&by_hand, "by-hand", &["--network", "front"]);

    let gc = |valid: Value| {
        let with = runtime.with("cni.dev/valid-attachments", valid);
        with.call("GC", "", "", None).done();
        let mut names: Vec<_> = street
            .host
            .endpoints()
            .into_iter()
            .map(|e| e.name)
            .collect();
        names.sort();
        names
    };
    let (code, message) = runtime.call("GC", "", "", None).refused();
    assert_eq!(code, INVALID_CONFIGURATION);
    assert!(message.contains("cni.dev/valid-attachments"), "{message}");
    assert_eq!(
        street.host.endpoints().len(),
        5,
        "nothing said is not nothing valid"
    );
    let valid = json!([
        {"containerID": "c1", "ifname": "eth0"},
        {"containerID": "c2", "ifname": "eth7"},
        {"containerID": "c4", "ifname": "eth0"},
    ]);
    assert_eq!(gc(valid), ["by-hand", "c1", "c4"]);
    assert_eq!(
        gc(Value::Null),
        ["by-hand", "c4"],
        "a list of Go without entries"
    );

    // Another runtime has its containers on the network, too, and does not know of ours.
    runtime.add("c5", &space(&street.lab, "c5"));
    let other = runtime.by("other-runtime");
    other.add("c6", &space(&street.lab, "c6"));
    let other = other.with("cni.dev/valid-attachments", json!([]));
    other.call("GC", "", "", None).done();
    let left = street.host.endpoints();
    let ids: Vec<_> = left
        .iter()
        .filter_map(|e| e.container_id.as_deref())
        .collect();
    assert_eq!(ids, ["c4", "c5"]);
    let gone = runtime.with("name", json!("never-made"));
    let gone = gone.with("cni.dev/valid-attachments", json!([]));
    gone.call("GC", "", "", None).done();
}

/// A daemon that is away: ADD is to be tried again, DEL succeeds, and what is left goes
/// with the namespace.
#[test]
fn without_a_daemon() {
    let street = street("cni_away");
    let runtime = runtime(&street).asking("portMappings", web_port());
    let container = space(&street.lab, "c1");
    let result = runtime.add("c1-id", &container);
    runtime.call("STATUS", "", "", None).done();
    // One that hangs is as good as none.
    let pid = street.host.pid().expect("it runs").cast_signed();
    let signal = |what| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), what);
    signal(nix::sys::signal::Signal::SIGSTOP).expect("stop it");
    let hung = runtime.call("STATUS", "", "", None).refused();
    signal(nix::sys::signal::Signal::SIGCONT).expect("let it go on");
    assert_eq!(hung.0, NOT_AVAILABLE);
    assert!(hung.1.contains("did not answer within 5 s"), "{}", hung.1);
    street.host.kill();

    let (code, message) = runtime.call("STATUS", "", "", None).refused();
    assert_eq!(code, NOT_AVAILABLE);
    let socket = street.host.socket().display().to_string();
    assert!(message.contains(&socket), "{message}");
    let other = space(&street.lab, "c2");
    let (code, _) = runtime.call("ADD", "c2-id", "eth0", Some(&other)).refused();
    assert_eq!(code, TRY_AGAIN_LATER);
    assert_eq!(
        runtime.check("c1-id", &container, &result).refused().0,
        TRY_AGAIN_LATER
    );
    // The datapath goes on without it.
    let _server = Http::start(&container, 80);
    street.client.fetch(Family::V4.ip(HOST), 8080);
    drop(_server);
    runtime.del("c1-id", Some(&container));
    container.delete();

    street.host.start(&[]);
    within(Duration::from_secs(5), "it is cleaned up", || {
        street.host.endpoints().is_empty()
    });
    nothing_is_left(&street);
    runtime.add("c2-id", &other);
}

/// Fifty containers at once, all made, reached and gone.
#[test]
fn fifty_at_once() {
    let street = street("cni_fifty");
    let runtime = runtime(&street);
    let spaces: Vec<Namespace> = (0..50)
        .map(|i| space(&street.lab, &format!("c{i}")))
        .collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for (i, space) in spaces.iter().enumerate() {
            let port = json!([{"hostPort": 9000 + i, "containerPort": 80}]);
            let runtime = runtime.asking("portMappings", port);
            scope.spawn(move || runtime.add(&format!("c{i}"), space));
        }
    });
    assert_eq!(street.host.endpoints().len(), 50);
    for i in [0, 17, 49] {
        let _server = Http::start(&spaces[i], 80);
        street.client.fetch(Family::V4.ip(HOST), 9000 + i as u16);
    }
    thread::scope(|scope| {
        for (i, space) in spaces.iter().enumerate() {
            let runtime = &runtime;
            scope.spawn(move || runtime.del(&format!("c{i}"), Some(space)));
        }
    });
    nothing_is_left(&street);
    assert!(
        began.elapsed() < Duration::from_secs(180),
        "{:?}",
        began.elapsed()
    );
}
