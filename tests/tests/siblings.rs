//! Containers of one network, of two, and of networks that do not let them.
//!
//! ```text
//!   web ── front ┐
//!   app ── front ┼ host ──── client
//!    db ── back  ┘
//! ```

use netbpf_tests::{
    lab::{
        Container, Family, Http, UdpEcho, Wiretap, address_of,
        names::{BACK, CLIENT, FRONT, HOST},
        street, street_with, street_with_networks,
    },
    packets::{Way, has_payload},
    scenes,
};

#[test]
fn siblings_talk_in_both_families() {
    scenes::siblings("siblings_talk_in_both_families", &[]);
}

#[test]
fn the_default_network_is_dual_stack_and_siblings_talk() {
    let street = street("the_default_network");
    let one = street.host.container(&street.lab, "one", &[]);
    let other = street.host.container(&street.lab, "other", &[]);
    for family in Family::BOTH {
        one.ping(other.addr(family));
        one.ping(one.gateway(family));
    }
    assert_eq!(one.info.network, "default");
    assert_eq!(one.info.ifname, "eth0");
}

#[test]
fn the_first_packet_after_attach_is_answered() {
    let street = street_with_networks("the_first_packet", &[]);
    let web = street.front("web", &[]);
    // Each destination is asked by a container that has sent nothing before,
    // and the client's neighbour entry is not there at first.
    for (number, family) in Family::BOTH.into_iter().enumerate() {
        let destinations = [family.ip(CLIENT), web.addr(family), web.gateway(family)];
        for (count, destination) in destinations.into_iter().enumerate() {
            street.host.ip("neigh flush dev up0");
            let fresh = street.front(&format!("fresh{number}{count}"), &[]);
            fresh.ping(destination);
        }
        // And the other way round: the first packet to a fresh container.
        let fresh = street.front(&format!("silent{number}"), &[]);
        web.ping(fresh.addr(family));
        let fresh = street.front(&format!("quiet{number}"), &[]);
        street.host.ping(fresh.addr(family));
    }
}

#[test]
fn siblings_keep_the_hop_limit() {
    let street = street_with_networks("siblings_keep_the_hop_limit", &[]);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    for family in Family::BOTH {
        let output = app.ping_with(web.addr(family), &["-t", "1"]);
        assert!(output.status.success(), "{output}");
    }
}

#[test]
fn networks_are_isolated_from_one_another() {
    let street = street_with_networks("networks_are_isolated", &[]);
    let (web, db) = (street.front("web", &[]), street.back("db", &[]));
    let _http = Http::start(&db, 80);
    let _udp = UdpEcho::start(&db, 53);
    for family in Family::BOTH {
        let drops = street.host.drops();
        web.cannot_ping(db.addr(family));
        web.cannot_fetch(db.addr(family), 80);
        web.cannot_ask_udp(db.addr(family), 53);
        drops.only(&["isolated"]);
    }
}

fn rules_of(container: &Container) -> [String; 2] {
    ["-4", "-6"].map(|family| {
        container.ip(&format!("{family} rule show"))
            + &container.ip(&format!("{family} route show table all"))
    })
}

#[test]
fn a_container_in_several_networks_answers_on_each() {
    let street = street_with_networks("several_networks", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let alone = rules_of(&web);
    let second = web.attach(&["--network", "back", "-p", "8081:80"]);
    assert_eq!(
        (second.ifname.as_str(), web.info.ifname.as_str()),
        ("eth1", "eth0")
    );
    let (app, db) = (street.front("app", &[]), street.back("db", &[]));
    let _http = Http::start(&web, 80);
    for family in Family::BOTH {
        let host = family.ip(HOST);
        assert_eq!(app.fetch(web.addr(family), 80).peer, app.addr(family));
        assert_eq!(
            db.fetch(address_of(&second, family), 80).peer,
            db.addr(family)
        );
        // Answers leave by the network that was asked, also by the second one.
        assert_eq!(street.client.fetch(host, 8080).peer, family.ip(CLIENT));
        assert_eq!(street.client.fetch(host, 8081).peer, family.ip(CLIENT));
        web.ping(family.ip(CLIENT));
        // Asked by its port on the other network, it does not answer by the interface there.
        let gateways = [FRONT, BACK].map(|net| family.ip(net.gateways));
        for at in [host, gateways[0], gateways[1]] {
            for port in [8080, 8081] {
                for asking in [&app, &db] {
                    let seen = asking.fetch(at, port);
                    assert_eq!(seen.peer, asking.addr(family), "{at} {port}");
                }
                street.host.fetch(at, port);
            }
        }
        // Itself, by either port: as the gateway of that network.
        for (port, gateway) in [8080, 8081].into_iter().zip(gateways) {
            assert_eq!(web.fetch(host, port).peer, gateway, "{port}");
        }
    }
    street
        .host
        .netbpf(&["detach", "web", "--network", "back"])
        .ok();
    assert_eq!(rules_of(&web), alone, "with one network it needs no rule");
    web.attach(&["--network", "back", "-p", "8081:80"]);
    let all: Vec<netbpf::model::EndpointInfo> = street.host.json(&["inspect", "web"]);
    assert_eq!(all.len(), 2);

    // The default route moves on when its network goes.
    let detach = ["detach", "web", "--network", "front"];
    street.host.netbpf(&detach).ok();
    for family in Family::BOTH {
        web.ping(family.ip(CLIENT));
        assert_eq!(
            street.client.fetch(family.ip(HOST), 8081).peer,
            family.ip(CLIENT)
        );
        street.client.cannot_fetch(family.ip(HOST), 8080);
    }
}

#[test]
fn without_icc_members_reach_the_outside_but_not_each_other() {
    let street = street_with("without_icc", &[]);
    street.host.network(&FRONT, &["--no-icc"]);
    let web = street.front("web", &["-p", "8080:80"]);
    let app = street.front("app", &[]);
    let _http = Http::start(&web, 80);
    let _host = Http::start(&street.host, 90);
    for family in Family::BOTH {
        let drops = street.host.drops();
        app.cannot_ping(web.addr(family));
        app.cannot_fetch(web.addr(family), 80);
        drops.only(&["icc_disabled"]);
        app.ping(family.ip(CLIENT));
        assert_eq!(app.fetch(app.gateway(family), 90).peer, app.addr(family));
        assert_eq!(
            street.client.fetch(family.ip(HOST), 8080).peer,
            family.ip(CLIENT)
        );
    }
}

#[test]
fn an_internal_network_has_no_outside() {
    let street = street_with("internal", &[]);
    street.host.network(&FRONT, &["--internal"]);
    street.host.network(&BACK, &[]);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    let _outside = Http::start(&street.client, 80);
    let _inside = Http::start(&web, 80);
    let _host = Http::start(&street.host, 90);
    for family in Family::BOTH {
        app.ping(web.addr(family));
        // The host reaches its members, and its services answer them.
        assert_eq!(street.host.fetch(web.addr(family), 80).server, "web");
        assert_eq!(app.fetch(app.gateway(family), 90).peer, app.addr(family));
        app.cannot_ping(family.ip(CLIENT));
        app.cannot_fetch(family.ip(CLIENT), 80);
    }
    let (code, _) = street.host.refused(&["publish", "web", "-p", "8080:80"]);
    assert_eq!(code, "invalid_argument");
}

#[test]
fn what_would_leave_an_internal_network_is_counted() {
    let street = street_with("internal_is_counted", &[]);
    street.host.network(&FRONT, &["--internal"]);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        // A container that makes itself a default route.
        let gateway = web.gateway(family);
        web.ip(&format!("route replace default via {gateway} dev eth0"));
        let drops = street.host.drops();
        web.cannot_ping(family.ip(CLIENT));
        drops.only(&["internal"]);
    }
}

#[test]
fn broadcast_and_multicast_between_siblings_have_a_reason_of_their_own() {
    let street = street_with_networks("multicast", &[]);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    let tap = Wiretap::open(&app, "eth0");
    let group = |text: &str| text.parse().unwrap();
    let ways = [
        ([1, 0, 0x5e, 1, 1, 1], Family::V4, group("239.1.1.1")),
        ([0x33, 0x33, 0, 0, 1, 1], Family::V6, group("ff05::101")),
        ([0xff; 6], Family::V4, group("255.255.255.255")),
    ];
    let sender = Wiretap::open(&web, "eth0");
    for (mac, family, to) in ways {
        let before = street.host.drops();
        let way = Way::new(web.mac("eth0"), mac, web.addr(family), to);
        sender.send(&way.udp(5000, 5000, b"to everyone"));
        before.only(&["multicast"]);
    }
    assert!(
        !tap.seen()
            .iter()
            .any(|frame| has_payload(frame, b"to everyone"))
    );
}
