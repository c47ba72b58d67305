//! Floods of packets from sources that are nobody's, on published ports, with tables
//! that are full at once.
//!
//! ```text
//!   web :80 :53 :7 :5201 ── front ── host :8080 :5300 :7000 :5201 ──── client ─ flood
//! ```

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use netbpf::model::{FlowInfo, StatusInfo};
use netbpf_tests::{
    lab::{
        Container, Family, Flood, Http, SOON, Street, TcpEcho, UdpEcho, answer_of, ask, has_tools,
        names::{CLIENT, FRONT, HOST},
        street_with, within,
    },
    packets::Way,
};

/// Flows that may be opening or over, and as many that are established: more
/// than come while a program answers. Each has two halves.
const FLOWS: u64 = 4096;

struct Shop {
    street: Street,
    web: Container,
    _http: Http,
    _tcp: TcpEcho,
    _udp: UdpEcho,
}

fn shop(test: &str) -> Shop {
    let street = street_with(test, &["--max-flows", &FLOWS.to_string()]);
    street.host.network(&FRONT, &[]);
    for family in Family::BOTH {
        // What answers the flood goes back where it came from.
        let all = family.of(["0.0.0.0/0", "::/0"]);
        street
            .host
            .route(all, &format!("via {}", family.ip(CLIENT)));
    }
    let specs = ["8080:80", "5300:53/udp", "7000:7", "5201:5201"];
    let flags: Vec<&str> = specs.iter().flat_map(|spec| ["-p", spec]).collect();
    let web = street.front("web", &flags);
    let (_http, _tcp, _udp) = (
        Http::start(&web, 80),
        TcpEcho::start(&web, 7),
        UdpEcho::start(&web, 53),
    );
    Shop {
        street,
        web,
        _http,
        _tcp,
        _udp,
    }
}

/// Frames from thousands of sources: SYNs to 8080 or datagrams to 5300.
fn frames(shop: &Shop, family: Family, tcp: bool) -> Vec<Vec<u8>> {
    let (client, host) = (&shop.street.client, &shop.street.host);
    let source = |n: u16| -> IpAddr {
        let [high, low] = n.to_be_bytes();
        match family {
            Family::V4 => [198, 18, high, low].into(),
            Family::V6 => format!("2001:db8:f100::{n:x}").parse().expect("an address"),
        }
    };
    let (from_mac, to_mac) = (client.mac("eth0"), host.mac("up0"));
    (0..10_000)
        .map(|n| {
            let way = Way::new(from_mac, to_mac, source(n), family.ip(HOST));
            match tcp {
                true => way.tcp(1024 + n, 8080, "S", b""),
                false => way.udp(1024 + n, 5300, b"flood"),
            }
        })
        .collect()
}

fn entries(shop: &Shop, map: &str) -> u64 {
    let status: StatusInfo = shop.street.host.json(&["status"]);
    let found = status.maps.iter().find(|m| m.name == map);
    found.and_then(|m| m.entries).expect("counted entries")
}

/// Under a flood queues on the way may be full for a moment: then one datagram is lost.
#[track_caller]
fn is_answered(socket: &UdpSocket, what: &str) {
    within(SOON, what, || {
        ask(socket, Duration::from_millis(500)).is_ok()
    });
}

/// What was there goes on, and who comes is served, while `flood` goes on.
fn serves_all_under(shop: &Shop, family: Family, flood: impl FnOnce() -> Flood) {
    let host = family.ip(HOST);
    let mut held = shop.street.client.hold(SocketAddr::new(host, 7000));
    let udp = shop.street.client.udp(SocketAddr::new(host, 5300));
    // Twice: with the first packet after an answer it counts as established.
    for _ in 0..2 {
        answer_of(&udp);
    }
    let limit = Duration::from_secs(30);
    let server = shop.web.run(&["iperf3", "-s", "-1"]);
    let _server = server.timeout(limit).spawn();
    within(SOON, "iperf3 listens", || {
        shop.web.run(&["ss", "-Htln"]).ok().contains(":5201")
    });
    let address = host.to_string();
    let iperf = ["iperf3", "-c", &address, "-p", "5201", "-t", "3", "-J"];
    let iperf = shop.street.client.run(&iperf).timeout(limit).spawn();
    within(SOON, "iperf3 runs", || {
        let flows: Vec<FlowInfo> = shop.street.host.json(&["flows"]);
        flows
            .iter()
            .any(|f| f.dst.ends_with(":5201") && f.state == "established")
    });

    let flood = flood();
    within(SOON, "the table of new flows is full", || {
        let map = family.of(["flows4", "flows6"]);
        flood.sent() > FLOWS && entries(shop, map) >= 2 * FLOWS * 3 / 4
    });
    for _ in 0..15 {
        assert_eq!(shop.street.client.fetch(host, 8080).peer, family.ip(CLIENT));
        let new = shop.street.client.udp(SocketAddr::new(host, 5300));
        is_answered(&new, "who comes is answered");
    }
    let output = iperf.wait();
    assert!(output.status.success(), "iperf3 under the flood: {output}");
    assert!(flood.sent() > 2 * FLOWS, "{} frames", flood.sent());
    is_answered(&udp, "the old flow goes on");
    assert!(held.is_open());
    drop(flood);

    let flows: Vec<FlowInfo> = shop.street.host.json(&["flows"]);
    for port in [":7000", ":5300"] {
        let kept = flows.iter().any(|flow| {
            flow.state == "established"
                && flow.dst.ends_with(port)
                && flow.src.contains(family.of(CLIENT))
        });
        assert!(kept, "{port}: {flows:?}");
    }
}

#[test]
fn a_syn_flood_evicts_nobody_who_is_connected() {
    let test = "syn_flood";
    if !has_tools(test, &["iperf3"]) {
        return;
    }
    let shop = shop(test);
    for family in Family::BOTH {
        serves_all_under(&shop, family, || {
            Flood::start(&shop.street.client, "eth0", frames(&shop, family, true))
        });
    }
}

#[test]
fn datagrams_from_random_sources_evict_nobody_who_is_connected() {
    let test = "udp_flood";
    if !has_tools(test, &["iperf3"]) {
        return;
    }
    let shop = shop(test);
    for family in Family::BOTH {
        serves_all_under(&shop, family, || {
            Flood::start(&shop.street.client, "eth0", frames(&shop, family, false))
        });
    }
}

#[test]
fn a_full_table_evicts_none_of_those_that_are_established() {
    // Each flow has two halves.
    const MOST: usize = 64;
    let flows = MOST.to_string();
    let street = street_with("full_table", &["--max-flows", &flows]);
    street.host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let _udp = UdpEcho::start(&web, 53);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(HOST), 5300);
        let sockets: Vec<_> = (0..MOST).map(|_| street.client.udp(to)).collect();
        let ask_all = || {
            for socket in &sockets {
                answer_of(socket);
            }
        };
        // One after the other: those that open have less room.
        for socket in &sockets {
            for _ in 0..2 {
                answer_of(socket);
            }
        }
        let established = || -> Vec<String> {
            let flows: Vec<FlowInfo> = street.host.json(&["flows"]);
            let of_port = |f: &&FlowInfo| f.state == "established" && f.dst == to.to_string();
            let mut sources: Vec<String> = flows
                .iter()
                .filter(of_port)
                .map(|f| f.src.clone())
                .collect();
            sources.sort();
            sources
        };
        let before = established();
        assert_eq!(before.len(), MOST);
        // More than there is room for: they are served, but may be evicted.
        for _ in 0..3 * MOST {
            let late = street.client.udp(to);
            for _ in 0..2 {
                answer_of(&late);
            }
        }
        ask_all();
        let after = established();
        assert!(
            before.iter().all(|source| after.contains(source)),
            "{before:?} {after:?}"
        );
    }
}

/// What a client may, and that others may all the same, where XDP and TC decide.
fn a_client_is_limited(test: &str, flags: &[&str], early_drop: &str) {
    let mut all = vec!["--client-rate", "20"];
    all.extend(flags);
    let street = street_with(test, &all);
    street.host.network(&FRONT, &[]);
    let status: StatusInfo = street.host.json(&["status"]);
    assert_eq!(status.uplinks[0].early_drop, early_drop, "{status:?}");
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let app = street.front("app", &[]);
    let (_http, _udp) = (Http::start(&web, 80), UdpEcho::start(&web, 53));
    for family in Family::BOTH {
        let host = family.ip(HOST);
        street.client.fetch_big(host, 8080);
        let drops = street.host.drops();
        // What goes on is not counted, what begins is.
        let socket = street.client.udp(SocketAddr::new(host, 5300));
        for _ in 0..100 {
            answer_of(&socket);
        }
        drops.none();
        let asked = (0..200).map(|_| street.client.udp(SocketAddr::new(host, 5300)));
        let asked: Vec<_> = asked.collect();
        for socket in &asked {
            socket.send(b"hello").expect("sent");
        }
        within(SOON, "some are refused", || {
            drops
                .since()
                .get("client_rate")
                .is_some_and(|count| *count >= 100)
        });
        drops.only(&["client_rate"]);
        // Others, the host itself and a little later the client, are served.
        assert_eq!(app.fetch(host, 8080).peer, app.addr(family));
        assert_eq!(street.host.fetch(host, 8080).peer, host);
        within(SOON, "the client is served again", || {
            let to = SocketAddr::new(host, 5300);
            ask(&street.client.udp(to), Duration::from_millis(200)).is_ok()
        });
    }
}

#[test]
fn a_client_that_begins_too_many_connections_is_limited() {
    a_client_is_limited("client_rate", &[], "tc");
}

#[test]
fn a_client_is_limited_by_xdp_where_the_driver_runs_it() {
    a_client_is_limited("client_rate_xdp", &["--xdp"], "xdp");
}

#[test]
fn an_uplink_without_xdp_drops_with_all_else() {
    let test = "no_xdp";
    let street = netbpf_tests::lab::street_without_daemon(test);
    // A driver that runs no XDP.
    street.host.ip("link add br9 type bridge");
    street.host.address("br9", &["198.18.0.1/24"]);
    street.host.start(&["--xdp"]);
    let status: StatusInfo = street.host.json(&["status"]);
    let of = |name: &str| {
        let uplink = status.uplinks.iter().find(|u| u.name == name);
        uplink.map(|u| u.early_drop.clone()).unwrap_or_default()
    };
    assert_eq!(of("up0"), "xdp");
    assert!(of("br9").starts_with("tc: "), "{}", of("br9"));
    // Without the flag the next daemon takes it off, and a teardown all.
    let links = || street.host.ip("-d link show dev up0");
    assert!(links().contains("xdp"), "{}", links());
    street.host.stop();
    street.host.start(&[]);
    assert!(!links().contains("xdp"), "{}", links());
    street.host.stop();
    street.host.start(&["--xdp"]);
    street.host.netbpf(&["teardown"]).ok();
    street.host.wait_ended();
    assert!(!links().contains("xdp"), "{}", links());
}
