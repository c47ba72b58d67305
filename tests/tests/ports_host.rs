//! Published ports and the host's own programs: who reaches them, as whom, and who
//! may bind them.
//!
//! ```text
//!   web :80 :53 ── front ── host :8080 :5300 ──── client
//!                            lo
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netbpf::model::{FlowInfo, StatusInfo};
use netbpf_tests::lab::{
    Cmd, Container, Family, Heard, Http, Street, UdpEcho, answer_of,
    names::{CLIENT, HOST, HOST_WIRE_B},
    street_with_networks,
};

/// A street with `web`, whose ports are published, and its servers.
struct Shop {
    street: Street,
    web: Container,
    _http: Http,
    _udp: UdpEcho,
}

fn shop(test: &str, flags: &[&str]) -> Shop {
    let street = street_with_networks(test, &[]);
    let status: StatusInfo = street.host.json(&["status"]);
    assert_eq!(status.features["host_sockets"], "cgroup", "{status:?}");
    let mut all = vec!["-p", "8080:80", "-p", "5300:53/udp"];
    all.extend(flags);
    let web = street.front("web", &all);
    let (_http, _udp) = (Http::start(&web, 80), UdpEcho::start(&web, 53));
    Shop {
        street,
        web,
        _http,
        _udp,
    }
}

/// The peer that a server saw, whatever the transport.
fn seen(heard: &Heard) -> IpAddr {
    let page = heard.page.as_ref().map(|page| page.peer);
    let datagram = || -> Option<IpAddr> {
        let seen: SocketAddr = heard.seen.as_ref()?.parse().ok()?;
        Some(seen.ip())
    };
    page.or_else(datagram)
        .unwrap_or_else(|| panic!("no answer: {heard:?}"))
}

/// Every kind of call, and the port that it asks.
const CALLS: [(&str, u16); 3] = [("tcp", 8080), ("udp", 5300), ("udp-connected", 5300)];

#[test]
fn the_host_reaches_a_port_on_each_of_its_addresses_as_itself() {
    let shop = shop("host_itself", &[]);
    let drops = shop.street.host.drops();
    for family in Family::BOTH {
        let gateway = shop.web.gateway(family);
        let rows = [
            (family.ip(HOST), family.ip(HOST)),
            (gateway, gateway),
            (family.loopback(), gateway),
        ];
        for (asked, expected) in rows {
            for (call, port) in CALLS {
                let to = SocketAddr::new(asked, port);
                let heard = shop.street.host.heard(call, to, None);
                assert_eq!(seen(&heard), expected, "{call} {to}: {heard:?}");
                // The program hears of nobody but whom it asked.
                for named in [&heard.peer, &heard.from].into_iter().flatten() {
                    assert_eq!(*named, to.to_string(), "{call}: {heard:?}");
                }
            }
        }
    }
    drops.none();
}

#[test]
fn sockets_that_are_bound_keep_their_address() {
    let shop = shop("bound_sockets", &[]);
    let host = &shop.street.host;
    host.gain("up0", &HOST_WIRE_B);
    let drops = host.drops();
    for family in Family::BOTH {
        let (own, other) = (family.ip(HOST), family.ip(netbpf_tests::lab::names::HOST_B));
        let gateway = shop.web.gateway(family);
        let rows = [
            // Bound to an address, or a port, or both.
            (own, SocketAddr::new(other, 0), other),
            (own, SocketAddr::new(own, 40_123), own),
            (own, SocketAddr::new(family.any(), 40_124), own),
            // To loopback: packet by packet.
            (
                family.loopback(),
                SocketAddr::new(family.loopback(), 0),
                gateway,
            ),
            (own, SocketAddr::new(family.loopback(), 0), gateway),
            (
                family.loopback(),
                SocketAddr::new(family.any(), 40_125),
                gateway,
            ),
        ];
        for (asked, bind, expected) in rows {
            for (call, port) in CALLS {
                let to = SocketAddr::new(asked, port);
                let heard = host.heard(call, to, Some(bind));
                assert_eq!(seen(&heard), expected, "{call} {bind} → {to}: {heard:?}");
                for named in [&heard.peer, &heard.from].into_iter().flatten() {
                    assert_eq!(*named, to.to_string(), "{call} {bind}: {heard:?}");
                }
            }
        }
    }
    drops.none();
}

#[test]
fn ipv6_sockets_that_talk_ipv4_are_served_as_ipv4() {
    let shop = shop("mapped", &[]);
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    let v4 = Family::V4;
    let gateway = shop.web.gateway(v4);
    for (asked, expected) in [(v4.ip(HOST), v4.ip(HOST)), (v4.loopback(), gateway)] {
        for (call, port) in CALLS {
            let to = SocketAddr::new(mapped(asked), port);
            let heard = shop.street.host.heard(call, to, None);
            assert_eq!(seen(&heard), expected, "{call} {to}: {heard:?}");
            for named in [&heard.peer, &heard.from].into_iter().flatten() {
                assert_eq!(*named, to.to_string(), "{call}: {heard:?}");
            }
        }
    }
    // And `0.0.0.0` or `::` is the host itself.
    for family in Family::BOTH {
        let heard = shop
            .street
            .host
            .heard("tcp", SocketAddr::new(family.any(), 8080), None);
        assert_eq!(seen(&heard), shop.web.gateway(family), "{heard:?}");
    }
}

/// The sockets of the test itself are in no cgroup of the daemon's.
#[test]
fn programs_outside_of_the_cgroup_are_served_packet_by_packet() {
    let shop = shop("outside_cgroup", &[]);
    let host = &shop.street.host;
    let drops = host.drops();
    for family in Family::BOTH {
        let gateway = shop.web.gateway(family);
        for (asked, expected) in [
            (family.ip(HOST), family.ip(HOST)),
            (family.loopback(), gateway),
        ] {
            assert_eq!(host.ask_udp(asked, 5300), expected);
            // Several on one socket, and one that says so.
            let socket = host.udp(SocketAddr::new(asked, 5300));
            for _ in 0..3 {
                assert_eq!(answer_of(&socket).ip(), expected);
            }
            let url = netbpf_tests::lab::url(asked, 8080, "");
            let curl = ["curl", "-sS", "-g", "--max-time", "5", &url];
            let page = Cmd::new(&curl).within(host.path()).ok();
            assert!(page.contains(&format!("\"peer\":\"{expected}\"")), "{page}");
            let big = netbpf_tests::lab::url(asked, 8080, "big");
            let curl = ["curl", "-sS", "-g", "--max-time", "8", &big];
            assert_eq!(Cmd::new(&curl).within(host.path()).ok().len(), 4 << 20);
        }
    }
    drops.none();
    let flows: Vec<FlowInfo> = host.json(&["flows"]);
    assert!(flows.iter().any(|flow| flow.kind == "local"), "{flows:?}");
}

#[test]
fn containers_in_the_same_cgroup_are_not_taken_for_the_host() {
    let shop = shop("same_cgroup", &[]);
    let app = shop.street.front("app", &[]);
    let cgroup = shop.street.host.cgroup();
    // Its own service on its own loopback, at a port that the host has published.
    let _own = Http::start(&app, 8080);
    for family in Family::BOTH {
        let url = netbpf_tests::lab::url(family.loopback(), 8080, "");
        let curl = ["curl", "-sS", "-g", "--max-time", "5", &url];
        let inside = Cmd::new(&curl).within(app.path()).cgroup(cgroup.as_deref());
        assert!(inside.ok().contains("\"server\":\"app\""));
        let url = netbpf_tests::lab::url(family.ip(HOST), 8080, "");
        let curl = ["curl", "-sS", "-g", "--max-time", "5", &url];
        let inside = Cmd::new(&curl).within(app.path()).cgroup(cgroup.as_deref());
        let page = inside.ok();
        assert!(
            page.contains(&format!("\"peer\":\"{}\"", app.addr(family))),
            "{page}"
        );
    }
    app.probe(&["bind", "tcp", "[::]:8081"]).ok();
    app.probe(&["bind", "udp", "[::]:5300"])
        .cgroup(cgroup.as_deref())
        .ok();
}

#[test]
fn a_port_on_one_address_is_on_that_alone_for_the_host_too() {
    let street = street_with_networks("one_address_host", &[]);
    let web = street.front(
        "web",
        &["-p", "192.0.2.1:8080:80", "-p", "127.0.0.1:8081:80"],
    );
    let app = street.front("app", &["-p", "[::1]:8081:80"]);
    let (_web, _app) = (Http::start(&web, 80), Http::start(&app, 80));
    let host = &street.host;
    let v4 = Family::V4;
    assert_eq!(host.fetch(v4.ip(HOST), 8080).server, "web");
    host.is_refused(v4.loopback(), 8080);
    assert_eq!(host.fetch(v4.loopback(), 8081).server, "web");
    host.is_refused(v4.ip(HOST), 8081);
    host.is_refused("127.0.0.2".parse().unwrap(), 8081);
    assert_eq!(host.fetch(Ipv6Addr::LOCALHOST.into(), 8081).server, "app");
    host.is_refused(Ipv6Addr::LOCALHOST.into(), 8080);
    for family in Family::BOTH {
        street.client.is_refused(family.ip(HOST), 8081);
    }
}

#[test]
fn ports_are_held_against_programs_of_the_host() {
    let shop = shop("held", &["-p", "192.0.2.1:8090:80"]);
    let host = &shop.street.host;
    let refused = |arguments: &[&str]| {
        let output = host.probe(arguments).exits(1);
        assert_eq!(output.stderr.trim(), "EADDRINUSE", "{arguments:?}");
    };
    for (protocol, port) in [("tcp", 8080), ("udp", 5300)] {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "192.0.2.1",
            "[::]",
            "[::1]",
            "[2001:db8:1::1]",
            "[::ffff:127.0.0.1]",
        ] {
            let address = format!("{address}:{port}");
            refused(&["bind", protocol, &address]);
            refused(&["bind", protocol, &address, "--reuse-port"]);
        }
        // Another protocol or port is nobody's.
        let other = if protocol == "tcp" { "udp" } else { "tcp" };
        host.probe(&["bind", other, &format!("0.0.0.0:{port}")])
            .ok();
        host.probe(&["bind", protocol, &format!("[::]:{}", port + 1)])
            .ok();
    }
    // On one address: that, and what stands for it.
    for address in ["192.0.2.1", "0.0.0.0", "[::]"] {
        refused(&["bind", "tcp", &format!("{address}:8090")]);
    }
    for address in ["127.0.0.1", "[::1]", "[2001:db8:1::1]"] {
        host.probe(&["bind", "tcp", &format!("{address}:8090")])
            .ok();
    }
    // Containers and other namespaces are not affected, and ports come free again.
    shop.web.probe(&["bind", "tcp", "0.0.0.0:8080"]).ok();
    shop.street
        .client
        .probe(&["bind", "tcp", "0.0.0.0:8080"])
        .ok();
    shop.web.unpublish("8080:80");
    host.probe(&["bind", "tcp", "0.0.0.0:8080"]).ok();
    shop.web.detach();
    host.probe(&["bind", "udp", "0.0.0.0:5300"]).ok();
}

#[test]
fn a_firewall_of_the_host_is_not_in_the_way() {
    let test = "firewall_beside_ports";
    if !netbpf_tests::lab::has_tools(test, &["nft"]) {
        return;
    }
    let shop = shop(test, &[]);
    let host = &shop.street.host;
    // As ufw: nothing comes in but what was asked for.
    for rule in [
        "add table inet filter",
        "add chain inet filter input { type filter hook input priority 0; policy drop; }",
        "add chain inet filter forward { type filter hook forward priority 0; policy drop; }",
        "add rule inet filter input iif lo accept",
        "add rule inet filter input ct state established,related accept",
        "add rule inet filter input meta l4proto ipv6-icmp accept",
    ] {
        let mut arguments = vec!["nft"];
        arguments.extend(rule.split(' '));
        host.run(&arguments).ok();
    }
    for family in Family::BOTH {
        let client = family.ip(CLIENT);
        assert_eq!(shop.street.client.fetch(family.ip(HOST), 8080).peer, client);
        assert_eq!(shop.street.client.ask_udp(family.ip(HOST), 5300), client);
        for asked in [family.ip(HOST), family.loopback()] {
            for (call, port) in CALLS {
                host.heard(call, SocketAddr::new(asked, port), None);
            }
        }
    }
}

#[test]
fn ports_stay_held_and_answer_the_host_without_a_daemon() {
    let shop = shop("held_without_daemon", &[]);
    let host = &shop.street.host;
    host.kill();
    for family in Family::BOTH {
        for (call, port) in CALLS {
            let heard = host.heard(call, SocketAddr::new(family.ip(HOST), port), None);
            assert_eq!(seen(&heard), family.ip(HOST));
        }
        assert_eq!(
            host.ask_udp(family.loopback(), 5300),
            shop.web.gateway(family)
        );
    }
    let output = host.probe(&["bind", "tcp", "0.0.0.0:8080"]).exits(1);
    assert_eq!(output.stderr.trim(), "EADDRINUSE");
    host.restart();
    assert_eq!(
        shop.street.client.fetch(Family::V4.ip(HOST), 8080).peer,
        Family::V4.ip(CLIENT)
    );
    host.netbpf(&["teardown"]).ok();
    host.wait_ended();
    host.probe(&["bind", "tcp", "0.0.0.0:8080"]).ok();
}
