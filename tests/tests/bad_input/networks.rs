//! Networks, their subnets and what is free of them.

use netbpf_tests::lab::{street_with, street_with_networks};
use serde_json::{Value, json};

use crate::frame::*;

#[test]
fn networks() {
    let street = street_with_networks("bad_networks", &[]);
    let _web = street.front("web", &[]);
    let long = "x".repeat(64);
    let none = Value::Null;
    let mut cases = vec![
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["network", "inspect", "nowhere"],
            ("GET", "/v1/networks/nowhere", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["network", "rm", "nowhere"],
            ("DELETE", "/v1/networks/nowhere", none.clone()),
        ),
        case(
            IN_USE,
            &["network \"front\"", "web"],
            &["network", "rm", "front"],
            ("DELETE", "/v1/networks/front", none.clone()),
        ),
        case(
            INVALID,
            &["network \"default\""],
            &["network", "rm", "default"],
            ("DELETE", "/v1/networks/default", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["drops", "--network", "nowhere"],
            ("GET", "/v1/drops?network=nowhere", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["flows", "flush", "--network", "nowhere"],
            ("DELETE", "/v1/flows?network=nowhere", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"web\" on network \"back\""],
            &["flows", "--endpoint", "web", "--network", "back"],
            ("GET", "/v1/flows?endpoint=web&network=back", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"nobody\""],
            &["flows", "flush", "--endpoint", "nobody"],
            ("DELETE", "/v1/flows?endpoint=nobody", none.clone()),
        ),
        case(
            INVALID,
            &["src \"web\"", "IP:PORT"],
            &["flows", "flush", "--src", "web"],
            ("DELETE", "/v1/flows?src=web", none.clone()),
        ),
        case(
            INVALID,
            &["protocol \"256\""],
            &["flows", "--protocol", "256"],
            ("GET", "/v1/flows?protocol=256", none.clone()),
        ),
        case(
            NOT_OF_THE_KIND,
            &["odd"],
            &["flows", "flush", "--state", "odd"],
            ("DELETE", "/v1/flows?state=odd", none.clone()),
        ),
        create(EXISTS, &["network \"front\""], "front", &[], json!({})),
        create(INVALID, &["\"a b\""], "a b", &[], json!({})),
        create(INVALID, &["\"../x\""], "../x", &[], json!({})),
        create(INVALID, &["\".\""], ".", &[], json!({})),
        create(INVALID, &[&long], &long, &[], json!({})),
        create(NOT_OF_THE_KIND, &[], "", &[], json!({})),
        create(
            NOT_YET,
            &["lan"],
            "n",
            &["--driver", "lan"],
            json!({"driver": "lan"}),
        ),
        create(
            NO_CLUSTER,
            &["overlay", "--etcd"],
            "n",
            &["--driver", "overlay"],
            json!({"driver": "overlay"}),
        ),
        create(
            INVALID,
            &["vni", "7"],
            "n",
            &["--vni", "7"],
            json!({"vni": 7}),
        ),
        create(
            INVALID,
            &["16777215"],
            "n",
            &["--driver", "overlay", "--vni", "16777215"],
            json!({"driver": "overlay", "vni": 16_777_215}),
        ),
        create(
            INVALID,
            &["masqueraded"],
            "n",
            &["--driver", "overlay", "--no-masquerade"],
            json!({"driver": "overlay", "masquerade": false}),
        ),
        create(
            NOT_YET,
            &["parent"],
            "n",
            &["--parent", "up0"],
            json!({"parent": "up0"}),
        ),
        create(
            NOT_OF_THE_KIND,
            &["ring"],
            "n",
            &["--driver", "ring"],
            json!({"driver": "ring"}),
        ),
        create(INVALID, &["67"], "n", &["--mtu", "67"], json!({"mtu": 67})),
        create(
            INVALID,
            &["1279", "1280"],
            "n",
            &["--mtu", "1279", "--ipv6"],
            json!({"mtu": 1279, "ipv6": true}),
        ),
        create(
            NOT_OF_THE_KIND,
            &["70000"],
            "n",
            &["--mtu", "70000"],
            json!({"mtu": 70000}),
        ),
        create(
            INVALID,
            &["10.20.0.0/24", "10.21.0.0/24"],
            "n",
            &["--subnet", "10.20.0.0/24", "--subnet", "10.21.0.0/24"],
            json!({"subnets": ["10.20.0.0/24", "10.21.0.0/24"]}),
        ),
        create(
            NOT_OF_THE_KIND,
            &["10.20.0"],
            "n",
            &["--gateway", "10.20.0"],
            json!({"gateways": ["10.20.0"]}),
        ),
    ];
    // Of a subnet alone.
    let subnets: [(Refused, &[&str], &str); 19] = [
        (
            INVALID,
            &["::ffff:192.0.2.0/120", "IPv4-mapped"],
            "::ffff:192.0.2.0/120",
        ),
        (
            OVERLAP,
            &["10.10.1.128/25", "network \"front\""],
            "10.10.1.128/25",
        ),
        (OVERLAP, &["10.0.0.0/8", "network"], "10.0.0.0/8"),
        (
            OVERLAP,
            &["fd10:1:0:0:8000::/65", "network \"front\""],
            "fd10:1:0:0:8000::/65",
        ),
        (OVERLAP, &["192.0.2.0/25", "the host's"], "192.0.2.0/25"),
        (OVERLAP, &["192.0.0.0/16", "the host's"], "192.0.0.0/16"),
        (
            OVERLAP,
            &["2001:db8:1::/64", "the host's"],
            "2001:db8:1::/64",
        ),
        (INVALID, &["10.20.0.1/24", "10.20.0.0/24"], "10.20.0.1/24"),
        (INVALID, &["10.20.0.0/31", "30"], "10.20.0.0/31"),
        (INVALID, &["10.20.0.0/32"], "10.20.0.0/32"),
        (INVALID, &["0.0.0.0/0"], "0.0.0.0/0"),
        (INVALID, &["127.8.0.0/16"], "127.8.0.0/16"),
        (INVALID, &["224.0.0.0/24"], "224.0.0.0/24"),
        (INVALID, &["169.254.0.0/24"], "169.254.0.0/24"),
        (INVALID, &["fe80::/64"], "fe80::/64"),
        (INVALID, &["fd00:20::/127"], "fd00:20::/127"),
        (NOT_OF_THE_KIND, &[], "10.20.0.0/33"),
        (NOT_OF_THE_KIND, &[], "10.20.0/24"),
        (NOT_OF_THE_KIND, &[], "everything"),
    ];
    for (refused, says, subnet) in subnets {
        cases.push(create(
            refused,
            says,
            "n",
            &["--subnet", subnet],
            json!({"subnets": [subnet]}),
        ));
    }
    // Of gateway and range in a good subnet.
    let good = "10.20.0.0/24";
    let within_it: [(Refused, &str, &str, &str); 8] = [
        (NOT_IN_SUBNET, "--gateway", "gateways", "10.21.0.1"),
        (INVALID, "--gateway", "gateways", "10.20.0.0"),
        (INVALID, "--gateway", "gateways", "10.20.0.255"),
        (NOT_IN_SUBNET, "--gateway", "gateways", "fd00::1"),
        (NOT_IN_SUBNET, "--ip-range", "ip_ranges", "10.21.0.0/25"),
        (NOT_IN_SUBNET, "--ip-range", "ip_ranges", "10.20.0.0/23"),
        (INVALID, "--ip-range", "ip_ranges", "10.20.0.1/25"),
        (
            NOT_OF_THE_KIND,
            "--ip-range",
            "ip_ranges",
            "10.20.0.0-10.20.0.9",
        ),
    ];
    for (refused, flag, field, value) in within_it {
        let flags = ["--subnet", good, flag, value];
        let says: &[&str] = if refused.exit == 1 { &[value] } else { &[] };
        cases.push(create(
            refused,
            says,
            "n",
            &flags,
            json!({"subnets": [good], field: [value]}),
        ));
    }
    all_are_refused(&street.host, &[], &cases);
}

#[test]
fn pools_and_subnets_that_have_run_out() {
    // Room for `default` and one more.
    let street = street_with("bad_pools", &["--pool", "10.50.0.0/29:30"]);
    let host = &street.host;
    host.netbpf(&["network", "create", "last"]).ok();
    let _one = host.container(&street.lab, "one", &["--network", "last"]);
    let late = street.lab.space("late");
    let cases = [
        create(EXHAUSTED, &["10.50.0.0/29"], "n", &[], json!({})),
        attach(
            EXHAUSTED,
            &["10.50.0.4/30", "network \"last\""],
            late.name(),
            &["--network", "last"],
            json!({"network": "last"}),
        ),
    ];
    all_are_refused(host, &[&late], &cases);
}
