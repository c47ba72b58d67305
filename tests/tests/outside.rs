//! From containers to the outside, and what is answered when there is no way.
//!
//! ```text
//!   web 10.10.1.x ── host 192.0.2.1 ──── 192.0.2.2 client
//! ```

use std::time::Duration;

use netbpf_tests::{
    lab::{
        Family, Http, SOON, UdpEcho, Wiretap, answer_of, has_tools,
        names::{CLIENT, FRONT, HOST, NOBODY, NOWHERE},
        street_with, street_with_networks,
    },
    packets::addresses,
    scenes,
};

#[test]
fn containers_reach_the_outside_under_the_hosts_address() {
    scenes::masquerade("masquerade", &[]);
}

#[test]
fn echo_leaves_under_the_hosts_address() {
    let street = street_with_networks("echo_leaves", &[]);
    let web = street.front("web", &[]);
    let tap = Wiretap::open(&street.client, "eth0");
    for family in Family::BOTH {
        web.ping(family.ip(CLIENT));
        let wanted = Some((family.ip(HOST), family.ip(CLIENT)));
        let found = tap.find(SOON, |frame| addresses(frame) == wanted);
        assert!(found.is_some(), "{family:?}");
    }
    let inside = [web.addr(Family::V4), web.addr(Family::V6)];
    let leaked = |frame: &Vec<u8>| addresses(frame).is_some_and(|(from, _)| inside.contains(&from));
    assert!(!tap.seen().iter().any(leaked));
}

#[test]
fn many_connections_at_a_time_do_not_mix() {
    let street = street_with_networks("many_connections", &[]);
    let containers = ["one", "two", "three"].map(|name| street.front(name, &[]));
    let _udp = UdpEcho::start(&street.client, 53);
    for family in Family::BOTH {
        let to = std::net::SocketAddr::new(family.ip(CLIENT), 53);
        let sockets: Vec<_> = (0..40)
            .flat_map(|_| containers.iter().map(|container| container.udp(to)))
            .collect();
        let mut outside = std::collections::HashSet::new();
        for socket in &sockets {
            let seen = answer_of(socket);
            assert_eq!(seen.ip(), family.ip(HOST));
            assert!(outside.insert(seen), "{seen} twice");
        }
    }
}

#[test]
fn a_mapping_is_the_same_towards_all_remotes() {
    let street = street_with_networks("a_mapping_is_the_same", &[]);
    let web = street.front("web", &[]);
    let _one = UdpEcho::start(&street.client, 53);
    let _other = UdpEcho::start(&street.client, 54);
    for family in Family::BOTH {
        let socket = web.udp(std::net::SocketAddr::new(family.ip(CLIENT), 53));
        let first = answer_of(&socket);
        socket.connect((family.ip(CLIENT), 54)).expect("connect");
        let second = answer_of(&socket);
        assert_eq!(first, second);
    }
}

#[test]
fn a_routed_network_is_left_and_reached_under_its_own_addresses() {
    let street = street_with("a_routed_network", &[]);
    street.host.network(&FRONT, &["--no-masquerade"]);
    let web = street.front("web", &[]);
    let _inside = Http::start(&web, 80);
    let _outside = Http::start(&street.client, 80);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let via = format!("via {}", family.ip(HOST));
        street.client.route(family.of(FRONT.subnets), &via);
        let (inside, outside) = (web.addr(family), family.ip(CLIENT));
        street.client.ping(inside);
        web.ping(outside);
        assert_eq!(web.fetch(outside, 80).peer, inside);
        assert_eq!(street.client.fetch(inside, 80).peer, outside);
        street.client.fetch_big(inside, 80);
    }
    drops.none();
}

#[test]
fn an_absent_address_is_answered_host_unreachable() {
    let street = street_with_networks("an_absent_address", &[]);
    // Nothing for an absent address leaves by the default route.
    for family in Family::BOTH {
        let via = format!("via {}", family.ip(CLIENT));
        let default = family.of(["0.0.0.0/0", "::/0"]);
        street.host.route(default, &via);
    }
    let web = street.front("web", &[]);
    let tap = Wiretap::open(&street.client, "eth0");
    for family in Family::BOTH {
        let absent = family.ip(FRONT.absent);
        let drops = street.host.drops();
        let output = web.cannot_ping(absent);
        let wanted = family.of(["Destination Host Unreachable", "Address unreachable"]);
        assert!(output.stdout.contains(wanted), "{output}");
        let from = format!("From {} ", web.gateway(family));
        assert!(output.stdout.contains(&from), "{output}");
        drops.only(&["host_unreachable"]);
        street.host.cannot_ping(absent);
        let leaked = |frame: &Vec<u8>| addresses(frame).is_some_and(|(_, to)| to == absent);
        assert!(!tap.seen().iter().any(leaked), "left by the default route");
    }
}

#[test]
fn without_a_route_it_is_net_unreachable() {
    let street = street_with_networks("net_unreachable", &[]);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        let drops = street.host.drops();
        let output = web.cannot_ping(family.ip(NOWHERE));
        let wanted = family.of(["Destination Net Unreachable", "No route"]);
        assert!(output.stdout.contains(wanted), "{output}");
        drops.only(&["net_unreachable"]);
    }
}

#[test]
fn a_spent_hop_limit_is_answered_by_the_gateway() {
    let street = street_with_networks("hop_limit", &[]);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        let drops = street.host.drops();
        let output = web.ping_with(family.ip(CLIENT), &["-t", "1"]);
        assert!(!output.status.success(), "{output}");
        let wanted = family.of(["Time to live exceeded", "Time exceeded: Hop limit"]);
        assert!(output.stdout.contains(wanted), "{output}");
        let from = format!("From {} ", web.gateway(family));
        assert!(output.stdout.contains(&from), "{output}");
        drops.only(&["hop_limit"]);
        // With one hop more it arrives.
        let output = web.ping_with(family.ip(CLIENT), &["-t", "2"]);
        assert!(output.status.success(), "{output}");
    }
}

#[test]
fn a_neighbour_that_does_not_answer_does_no_harm() {
    let street = street_with_networks("no_neighbour", &[]);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        web.cannot_ping(family.ip(NOBODY));
        web.ping(family.ip(CLIENT));
    }
}

#[test]
fn refused_connections_end_at_once() {
    let street = street_with_networks("refused_connections", &[]);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        web.is_refused(family.ip(CLIENT), 81);
    }
}

#[test]
fn iperf3_runs_through_masquerade() {
    let test = "iperf3_runs_through_masquerade";
    if !has_tools(test, &["iperf3"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &[]);
    let _server = street
        .client
        .run(&["iperf3", "-s"])
        .timeout(Duration::from_secs(60))
        .spawn();
    for family in Family::BOTH {
        let client = family.ip(CLIENT).to_string();
        let mut rate = None;
        // The server needs a moment until it listens, or is done with the last.
        let ran = netbpf_tests::lab::until(Duration::from_secs(10), || {
            let output = web
                .run(&["iperf3", "-J", "-t", "1", "-c", &client])
                .timeout(Duration::from_secs(15))
                .output();
            let result: serde_json::Value =
                serde_json::from_str(&output.stdout).unwrap_or_default();
            rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
            rate.is_some()
        });
        assert!(ran, "iperf3 does not reach its server");
        assert!(rate.is_some_and(|rate| rate > 1e8), "{rate:?} bit/s");
    }
}
