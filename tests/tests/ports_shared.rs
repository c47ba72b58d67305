//! Published ports that several endpoints share, that are limited to some clients, or
//! that are many.
//!
//! ```text
//!   a, b, c :80 :53 ── front ── host :8080 :5300 ──── client
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netbpf::model::{Affinity, EndpointInfo, PortOf, StatusInfo};
use netbpf_tests::lab::{
    Container, Family, Http, SOON, Street, UdpEcho, answer_of,
    names::{CLIENT, FAR, HOST},
    street_with, street_with_networks, within,
};

const SHARED: &str = "published=8080,target=80";

/// Endpoints that share port 8080 by these weights, and their servers.
struct Shared {
    street: Street,
    members: Vec<(Container, Http)>,
}

fn shared(test: &str, weights: &[(&str, u32)]) -> Shared {
    let street = street_with_networks(test, &[]);
    let members = weights.iter().map(|(name, weight)| {
        let spec = format!("{SHARED},weight={weight}");
        let container = street.front(name, &["--share", "-p", &spec]);
        let http = Http::start(&container, 80);
        (container, http)
    });
    let members = members.collect();
    Shared { street, members }
}

impl Shared {
    /// Connections by name of the server that had them, from the client or the host.
    fn spread(&self, family: Family, count: u32) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for _ in 0..count {
            let server = self.street.client.fetch(family.ip(HOST), 8080).server;
            *counts.entry(server).or_default() += 1;
        }
        counts
    }
}

#[test]
fn new_connections_are_spread_by_weight() {
    let shared = shared("spread_by_weight", &[("a", 1), ("b", 3)]);
    for family in Family::BOTH {
        let counts = shared.spread(family, 80);
        assert_eq!(counts["a"] + counts["b"], 80);
        assert!(counts["a"].abs_diff(20) <= 3, "{counts:?}");
        // The host's own programs are spread, too.
        let mut of_host = BTreeMap::new();
        for _ in 0..16 {
            let server = shared.street.host.fetch(family.ip(HOST), 8080).server;
            *of_host.entry(server).or_insert(0) += 1;
        }
        assert!(of_host["a"] >= 2 && of_host["b"] >= 9, "{of_host:?}");
    }
    // Weights change live, and what is shared is shown with each that shares it.
    let update = ["update", "a", "-p", &format!("{SHARED},weight=3")];
    shared.street.host.netbpf(&update).ok();
    let counts = shared.spread(Family::V4, 80);
    assert!(counts["a"].abs_diff(40) <= 3, "{counts:?}");
    let ports: Vec<PortOf> = shared.street.host.json(&["port"]);
    let shown: Vec<(&str, u32)> = ports
        .iter()
        .map(|p| (p.endpoint.as_str(), p.port.weight))
        .collect();
    assert_eq!(shown, [("a", 3), ("b", 3)]);
}

#[test]
fn established_connections_stay_when_others_come_and_go() {
    let shared = shared("stay", &[("a", 1), ("b", 1)]);
    let host = &shared.street.host;
    for family in Family::BOTH {
        let sockets: Vec<_> = (0..8)
            .map(|_| {
                shared
                    .street
                    .client
                    .udp(SocketAddr::new(family.ip(HOST), 5300))
            })
            .collect();
        let echoes: Vec<UdpEcho> = shared
            .members
            .iter()
            .map(|(container, _)| {
                host.netbpf(&[
                    "publish",
                    container.endpoint(),
                    "--share",
                    "-p",
                    "5300:53/udp",
                ])
                .ok();
                UdpEcho::start(container, 53)
            })
            .collect();
        let peers = || echoes.iter().map(|e| e.peers().len()).collect::<Vec<_>>();
        let asked = || {
            for socket in &sockets {
                answer_of(socket);
            }
        };
        asked();
        let first = peers();
        assert!(first.iter().all(|n| *n > 0), "{first:?}");
        let late = shared
            .street
            .front("late", &["--share", "-p", "5300:53/udp"]);
        let _late = UdpEcho::start(&late, 53);
        asked();
        let second: Vec<usize> = first.iter().map(|n| n * 2).collect();
        assert_eq!(peers(), second);
        late.detach();
        asked();
        let third: Vec<usize> = first.iter().map(|n| n * 3).collect();
        assert_eq!(peers(), third);
        for (container, _) in &shared.members {
            container.unpublish("5300:53/udp");
        }
    }
}

/// A socket of the host that is not connected keeps whom it has asked first, also while
/// others begin.
#[test]
fn datagrams_of_the_hosts_own_programs_keep_their_backend() {
    let street = street_with_networks("host_udp_keeps", &[]);
    let host = &street.host;
    let share = ["--share", "-p", "5300:53/udp"];
    let members = ["a", "b"].map(|name| street.front(name, &share));
    for family in Family::BOTH {
        let echoes = members.each_ref().map(|member| UdpEcho::start(member, 53));
        let counts = || echoes.each_ref().map(|echo| echo.peers().len());
        let mut first = Vec::new();
        for ip in [family.ip(HOST), family.loopback(), family.ip(HOST)] {
            let to = SocketAddr::new(ip, 5300);
            let before = counts();
            let stream = host.probe(&["udp-stream", &to.to_string()]);
            let stream = stream.timeout(Duration::from_secs(40)).spawn();
            let answer = format!("answered by {to}");
            within(Duration::from_secs(8), &format!("answers of {to}"), || {
                let said = stream.stdout();
                said.lines().filter(|line| *line == answer).count() >= 8
            });
            drop(stream);
            let after = counts();
            let had = [after[0] - before[0], after[1] - before[1]];
            assert!(had.contains(&0), "{to}: one socket, two backends: {had:?}");
            first.push(had[0] > 0);
        }
        assert!(first.contains(&true) && first.contains(&false), "{first:?}");
    }
}

#[test]
fn a_backend_that_leaves_or_dies_has_no_new_connections() {
    let mut shared = shared("leaves_at_once", &[("a", 1), ("b", 1), ("c", 1)]);
    let (a, _) = &shared.members[0];
    a.detach();
    assert!(!shared.spread(Family::V4, 12).contains_key("a"));
    let (b, server) = shared.members.remove(1);
    // The namespace lives as long as a socket does.
    drop(server);
    b.delete();
    within(Duration::from_secs(5), "the dead one is out", || {
        let ports: Vec<PortOf> = shared.street.host.json(&["port"]);
        ports.iter().all(|p| p.endpoint != "b")
    });
    assert_eq!(
        shared.spread(Family::V6, 12),
        BTreeMap::from([("c".into(), 12)])
    );
}

#[test]
fn what_is_shared_outlives_the_daemon() {
    let shared = shared("share_restart", &[("a", 1), ("b", 1)]);
    shared.street.host.kill();
    assert_eq!(shared.spread(Family::V4, 16).len(), 2);
    shared.street.host.restart();
    assert_eq!(shared.spread(Family::V4, 16).len(), 2);
    shared.members[0].0.unpublish("8080:80");
    assert_eq!(
        shared.spread(Family::V4, 8),
        BTreeMap::from([("b".into(), 8)])
    );
    // Nothing of the share is left in the maps.
    let status: StatusInfo = shared.street.host.json(&["status"]);
    for name in ["shares", "backends"] {
        let map = status.maps.iter().find(|map| map.name == name);
        assert_eq!(map.and_then(|map| map.entries), Some(0), "{name}");
    }
}

#[test]
fn what_is_said_of_a_port_as_a_whole_is_the_same_for_all() {
    let shared = shared("same_terms", &[("a", 1)]);
    let host = &shared.street.host;
    let b = shared.street.front("b", &[]);
    let publish = |flags: &[&str]| {
        let mut arguments = vec!["publish", "b"];
        arguments.extend(flags);
        host.refused(&arguments)
    };
    // Nobody shares without having asked for it, nor with itself.
    assert_eq!(publish(&["-p", SHARED]).0, "port_in_use");
    let itself = ["publish", "a", "--share", "-p", "published=8080,target=81"];
    assert_eq!(host.refused(&itself).0, "port_in_use");
    let part = ["--share", "-p", "published=8080-8081,target=80-81"];
    assert_eq!(publish(&part).0, "port_in_use");
    let other = format!("{SHARED},allow=10.0.0.0/8");
    let (code, message) = publish(&["--share", "-p", &other]);
    assert_eq!(code, "invalid_argument");
    assert!(
        message.contains("\"a\"") && message.contains("allow"),
        "{message}"
    );
    let other = format!("{SHARED},affinity=client");
    assert_eq!(publish(&["--share", "-p", &other]).0, "invalid_argument");
    host.netbpf(&["publish", "b", "--share", "-p", SHARED]).ok();
    // Changed by one, changed for all.
    let change = format!("{SHARED},allow=192.0.2.0/24,allow=2001:db8:1::/64,affinity=client");
    host.netbpf(&["update", "b", "-p", &change]).ok();
    for name in ["a", "b"] {
        let info: EndpointInfo = host.json(&["inspect", name]);
        assert_eq!(info.ports[0].allow.len(), 2, "{info:?}");
        assert_eq!(info.ports[0].affinity, Some(Affinity::Client));
    }
    let counts = shared.spread(Family::V4, 3);
    assert_eq!(counts.len(), 1, "a client keeps its backend: {counts:?}");
    drop(b);
}

#[test]
fn a_port_is_for_those_that_it_allows() {
    let street = street_with_networks("allow_list", &[]);
    let spec = "published=8080,target=80,allow=203.0.113.0/24,allow=2001:db8:3::/64";
    let web = street.front("web", &["-p", spec]);
    let app = street.front("app", &[]);
    let _http = Http::start(&web, 80);
    street
        .client
        .address("eth0", &["203.0.113.2/24", "2001:db8:3::2/64"]);
    for family in Family::BOTH {
        street
            .host
            .route(family.of(netbpf_tests::lab::names::FAR_NET), "dev up0");
        let fetch = |from: IpAddr| {
            let to = SocketAddr::new(family.ip(HOST), 8080).to_string();
            let bind = SocketAddr::new(from, 0).to_string();
            street.client.probe(&["tcp", &to, "--bind", &bind])
        };
        fetch(family.ip(FAR)).exits(0);
        let drops = street.host.drops();
        let page = netbpf_tests::lab::url(family.ip(HOST), 8080, "");
        let curl = ["curl", "-sS", "-g", "--max-time", "1", &page];
        street.client.run(&curl).fails();
        app.run(&curl).fails();
        drops.only(&["not_allowed"]);
        // The host itself always may.
        assert_eq!(street.host.fetch(family.ip(HOST), 8080).server, "web");
        assert_eq!(street.host.fetch(family.loopback(), 8080).server, "web");
    }
    let everybody = ["update", "web", "-p", "published=8080,target=80,allow="];
    street.host.netbpf(&everybody).ok();
    for family in Family::BOTH {
        assert_eq!(
            street.client.fetch(family.ip(HOST), 8080).peer,
            family.ip(CLIENT)
        );
    }
    for (spec, code) in [
        ("published=8080,target=80", "invalid_argument"),
        ("8080:80", "invalid_argument"),
        ("published=8081,target=80,weight=2", "not_found"),
    ] {
        assert_eq!(
            street.host.refused(&["update", "web", "-p", spec]).0,
            code,
            "{spec}"
        );
    }
}

#[test]
fn ten_thousand_ports_cost_few_entries_and_no_descriptors() {
    let street = street_with_networks("ten_thousand", &[]);
    let web = street.front("web", &[]);
    let descriptors = || {
        let path = format!("/proc/{}/fd", street.host.pid().expect("a daemon"));
        std::fs::read_dir(path).expect("descriptors").count()
    };
    let entries = || -> u64 {
        let status: StatusInfo = street.host.json(&["status"]);
        let map = status.maps.iter().find(|map| map.name == "ports");
        map.and_then(|map| map.entries).expect("entries of ports")
    };
    let before = descriptors();
    web.publish("20000-29999:20000-29999");
    web.publish("20000-29999:20000-29999/udp");
    // At most 30 aligned blocks for each family and protocol.
    assert!(entries() <= 4 * 30, "{}", entries());
    // The connection of a command that has just ended may have one still.
    within(SOON, "no descriptor is left", || {
        descriptors() <= before + 1
    });
    let _first = Http::start(&web, 20_000);
    let _last = Http::start(&web, 29_999);
    for family in Family::BOTH {
        for port in [20_000, 29_999] {
            assert_eq!(street.client.fetch(family.ip(HOST), port).server, "web");
            assert_eq!(street.host.fetch(family.ip(HOST), port).server, "web");
        }
    }
    let held = ["bind", "tcp", "0.0.0.0:25000"];
    assert_eq!(
        street.host.probe(&held).exits(1).stderr.trim(),
        "EADDRINUSE"
    );
    web.unpublish("20000-29999:20000-29999");
    web.unpublish("20000-29999:20000-29999/udp");
    assert_eq!(entries(), 0);
    street.host.probe(&held).exits(0);
}

#[test]
fn addresses_that_the_host_gains_or_loses_are_followed() {
    let street = street_with_networks("addresses_followed", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let rows = [
        (Family::V4, "192.0.2.77/24", "192.0.2.77"),
        (Family::V6, "2001:db8:1::77/64", "2001:db8:1::77"),
    ];
    for (family, with_prefix, address) in rows {
        let ip: IpAddr = address.parse().expect("an address");
        let page = netbpf_tests::lab::url(ip, 8080, "");
        let curl = ["curl", "-sS", "-g", "--max-time", "1", &page];
        street.host.address("up0", &[with_prefix]);
        within(SOON, "the new address answers", || {
            street.client.run(&curl).output().status.success()
        });
        assert_eq!(street.host.fetch(ip, 8080).peer, ip);
        // On that address alone, by itself, and gone with it.
        let (v4, v6) = (family == Family::V4, address);
        let host_ip = if v4 {
            address.to_owned()
        } else {
            format!("[{v6}]")
        };
        web.publish(&format!("{host_ip}:9090:80"));
        assert_eq!(street.client.fetch(ip, 9090).peer, family.ip(CLIENT));
        street.host.ip(&format!("addr del {with_prefix} dev up0"));
        within(SOON, "the lost address answers no more", || {
            !street.client.run(&curl).output().status.success()
        });
        web.unpublish(&format!("{host_ip}:9090:80"));
        assert_eq!(street.client.fetch(family.ip(HOST), 8080).server, "web");
    }
}

#[test]
fn the_same_port_on_two_addresses_is_two_containers() {
    let street = street_with_networks("two_addresses", &[]);
    let others = ["192.0.2.77/24", "2001:db8:1::77/64"];
    street.host.gain("up0", &others);
    let second = ["192.0.2.77", "2001:db8:1::77"];
    let on = |name: &str, [v4, v6]: [&str; 2]| {
        let container = street.front(name, &[]);
        for address in [v4.to_owned(), format!("[{v6}]")] {
            container.publish(&format!("{address}:8080:80"));
            container.publish(&format!("{address}:5300:53/udp"));
        }
        container
    };
    let (a, b) = (on("a", HOST), on("b", second));
    let (_a, _b) = (Http::start(&a, 80), Http::start(&b, 80));
    let echoes = [UdpEcho::start(&a, 53), UdpEcho::start(&b, 53)];
    let asked = || echoes.each_ref().map(|echo| echo.peers().len());
    for family in Family::BOTH {
        for (address, name) in [(family.ip(HOST), "a"), (family.ip(second), "b")] {
            for client in [&street.client, &*street.host] {
                assert_eq!(client.fetch(address, 8080).server, name);
                let [of_a, of_b] = asked();
                client.ask_udp(address, 5300);
                let wanted = match name {
                    "a" => [of_a + 1, of_b],
                    _ => [of_a, of_b + 1],
                };
                assert_eq!(asked(), wanted, "{address} from {}", client.role());
            }
            assert_eq!(a.fetch(address, 8080).server, name);
        }
    }
}

#[test]
fn the_daemons_own_address_for_ports_is_where_specs_name_none() {
    let street = street_with("publish_ip", &["--publish-ip", "127.0.0.1"]);
    street.host.network(&netbpf_tests::lab::names::FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "0.0.0.0:8081:80"]);
    let _http = Http::start(&web, 80);
    let v4 = Family::V4;
    street.client.is_refused(v4.ip(HOST), 8080);
    assert_eq!(street.host.fetch(v4.loopback(), 8080).server, "web");
    assert_eq!(street.client.fetch(v4.ip(HOST), 8081).server, "web");

    let street = street_with("publish_ip6", &["--publish-ip", "2001:db8:1::1"]);
    street.host.network(&netbpf_tests::lab::names::FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let [v4, v6] = Family::BOTH;
    assert_eq!(street.client.fetch(v6.ip(HOST), 8080).server, "web");
    street.host.is_refused(v6.loopback(), 8080);
    street.client.is_refused(v4.ip(HOST), 8080);
    // An address of one family is for endpoints that have it.
    let only4 = ["--subnet", "10.66.0.0/24"];
    let create = [&["network", "create", "four"][..], &only4].concat();
    street.host.netbpf(&create).ok();
    let other = street.lab.space("other");
    let attach = ["attach", "--name", "o", "--network", "four", "--netns"];
    let attach = [&attach[..], &[other.name(), "-p", "8082:80"]].concat();
    let (code, message) = street.host.refused(&attach);
    assert_eq!(code, "invalid_argument");
    assert!(message.contains("2001:db8:1::1"), "{message}");
}
