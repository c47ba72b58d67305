//! Several ways out, and ways without Ethernet header.
//!
//! ```text
//!                 up0 192.0.2.1 ──── 192.0.2.2 client A ┐
//!   web ── host ─┤                                      ├ far 203.0.113.2
//!                 up1 198.51.100.1 ─ 198.51.100.2 client B ┘
//! ```

use std::{net::SocketAddr, time::Duration};

use netbpf::model::StatusInfo;
use netbpf_tests::{
    lab::{
        Family, Http, Namespace, SOON, Street, TcpEcho, UdpEcho, Wiretap,
        names::{
            CLIENT, CLIENT_B, CLIENT_WIRE, CLIENT_WIRE_B, FAR, FAR_NET, FRONT, HOST, HOST_B,
            HOST_WIRE, HOST_WIRE_B,
        },
        street_with_networks, street_without_daemon, until, within,
    },
    packets::addresses,
};

/// A street with a second client on a second uplink; the daemon is up and has
/// seen both.
fn crossing(test: &str) -> (Street, Namespace) {
    let street = street_without_daemon(test);
    let client_b = street.lab.space("client-b");
    street.lab.wire(
        (&street.host, "up1", &HOST_WIRE_B),
        (&client_b, "eth0", &CLIENT_WIRE_B),
    );
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    (street, client_b)
}

fn has_uplink(street: &Street, name: &str) -> bool {
    let status: StatusInfo = street.host.json(&["status"]);
    status.uplinks.iter().any(|uplink| uplink.name == name)
}

#[test]
fn each_uplink_serves_published_ports_and_masquerade() {
    let (street, client_b) = crossing("each_uplink");
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let (_http, _udp) = (Http::start(&web, 80), UdpEcho::start(&web, 53));
    let _echoes = [&street.client, &client_b].map(|space| UdpEcho::start(space, 53));
    let _a = Http::start(&street.client, 80);
    let _b = Http::start(&client_b, 80);
    let drops = street.host.drops();
    for family in Family::BOTH {
        assert_eq!(
            street.client.fetch(family.ip(HOST), 8080).peer,
            family.ip(CLIENT)
        );
        assert_eq!(
            client_b.fetch(family.ip(HOST_B), 8080).peer,
            family.ip(CLIENT_B)
        );
        assert_eq!(web.fetch(family.ip(CLIENT), 80).peer, family.ip(HOST));
        assert_eq!(web.fetch(family.ip(CLIENT_B), 80).peer, family.ip(HOST_B));
        let (client, host) = (family.ip(CLIENT), family.ip(HOST));
        let (other, host_b) = (family.ip(CLIENT_B), family.ip(HOST_B));
        assert_eq!(street.client.ask_udp(host, 5300), client);
        assert_eq!(client_b.ask_udp(host_b, 5300), other);
        assert_eq!(web.ask_udp(client, 53), host);
        assert_eq!(web.ask_udp(other, 53), host_b);
        web.ping(other);
    }
    drops.none();
}

#[test]
fn masquerade_takes_the_hosts_own_source_address() {
    netbpf_tests::scenes::source_addresses("own_source_address", &[]);
}

/// `far` behind both clients, which route.
fn far_behind(street: &Street, client_b: &Namespace) -> Namespace {
    let far = street.lab.space("far");
    let links: [(&Namespace, [&str; 2], [&str; 2]); 2] = [
        (&street.client, ["203.0.113.3/24", "2001:db8:3::3/64"], HOST),
        (client_b, ["203.0.113.4/24", "2001:db8:3::4/64"], HOST_B),
    ];
    far.ip("link add br0 type bridge");
    far.sysctl("net.ipv4.conf.all.rp_filter", "0");
    far.address("br0", &netbpf_tests::lab::names::FAR_WIRE);
    for (number, (client, addresses, host)) in links.into_iter().enumerate() {
        let port = format!("port{number}");
        street
            .lab
            .wire((&far, &port, &[]), (client, "eth1", &addresses));
        far.ip(&format!("link set {port} master br0"));
        client.sysctl("net.ipv4.ip_forward", "1");
        client.sysctl("net.ipv6.conf.all.forwarding", "1");
        for device in ["all", "eth0", "eth1"] {
            client.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0");
        }
        for family in Family::BOTH {
            let via = addresses[family as usize].split('/').next().unwrap();
            far.route(host[family as usize], &format!("via {via}"));
        }
    }
    far
}

#[test]
fn answers_leave_as_the_hosts_rules_say() {
    let (street, client_b) = crossing("rules");
    let far = far_behind(&street, &client_b);
    for family in Family::BOTH {
        let net = family.of(FAR_NET);
        street
            .host
            .route(net, &format!("via {}", family.ip(CLIENT)));
        street
            .host
            .route(net, &format!("via {} table 100", family.ip(CLIENT_B)));
        let flag = family.of(["-4", "-6"]);
        street.host.ip(&format!(
            "{flag} rule add from {} lookup 100",
            family.ip(HOST_B)
        ));
    }
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    let (tap_a, tap_b) = (
        Wiretap::open(&street.client, "eth0"),
        Wiretap::open(&client_b, "eth0"),
    );
    for family in Family::BOTH {
        for host in [family.ip(HOST), family.ip(HOST_B)] {
            assert_eq!(far.fetch(host, 8080).peer, family.ip(FAR));
            assert_eq!(far.ask_udp(host, 5300), family.ip(FAR));
        }
        let (seen_a, seen_b) = (tap_a.seen(), tap_b.seen());
        let sends = |frames: &[Vec<u8>], from| {
            let wanted = Some((from, family.ip(FAR)));
            frames.iter().any(|frame| addresses(frame) == wanted)
        };
        assert!(sends(&seen_a, family.ip(HOST)) && !sends(&seen_a, family.ip(HOST_B)));
        assert!(sends(&seen_b, family.ip(HOST_B)) && !sends(&seen_b, family.ip(HOST)));
    }
}

#[test]
fn without_rules_answers_leave_by_the_one_route_with_the_address_that_was_asked() {
    let (street, client_b) = crossing("one_route");
    let far = far_behind(&street, &client_b);
    for family in Family::BOTH {
        let via = format!("via {}", family.ip(CLIENT));
        street.host.route(family.of(FAR_NET), &via);
    }
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    for family in Family::BOTH {
        for host in [family.ip(HOST), family.ip(HOST_B)] {
            assert_eq!(far.fetch(host, 8080).peer, family.ip(FAR));
        }
    }
}

#[test]
fn uplinks_are_followed_as_they_come_and_go() {
    let street = street_with_networks("uplinks_come_and_go", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let client_b = street.lab.space("client-b");
    street.lab.wire(
        (&street.host, "up1", &HOST_WIRE_B),
        (&client_b, "eth0", &CLIENT_WIRE_B),
    );
    within(Duration::from_secs(5), "up1 is an uplink", || {
        has_uplink(&street, "up1")
    });
    for family in Family::BOTH {
        assert_eq!(
            client_b.fetch(family.ip(HOST_B), 8080).peer,
            family.ip(CLIENT_B)
        );
        web.ping(family.ip(CLIENT_B));
    }
    street.host.ip("link del up1");
    within(Duration::from_secs(5), "up1 is gone", || {
        !has_uplink(&street, "up1")
    });
    for family in Family::BOTH {
        assert_eq!(
            street.client.fetch(family.ip(HOST), 8080).peer,
            family.ip(CLIENT)
        );
    }
}

/// Names are the operator's, who may change them, and so may a driver that is loaded anew:
/// the connection goes on where the device does, and the next one works on the next device.
#[test]
fn an_uplink_that_is_renamed_or_replaced_is_followed() {
    let street = street_with_networks("renamed_uplink", &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "7000:7"]);
    let (_http, _echo) = (Http::start(&web, 80), TcpEcho::start(&web, 7));
    let _there = Http::start(&street.client, 80);
    let host = &street.host;
    let works = |what: &str| {
        for family in Family::BOTH {
            let (at, client) = (family.ip(HOST), family.ip(CLIENT));
            assert_eq!(street.client.fetch(at, 8080).peer, client, "{what}");
            assert_eq!(web.fetch(client, 80).peer, at, "{what}");
        }
        within(SOON, &format!("{what}: the doctor is content"), || {
            host.netbpf(&["doctor"]).output().status.success()
        });
    };
    works("as it was");
    let mut held = street
        .client
        .hold(SocketAddr::new(Family::V4.ip(HOST), 7000));

    // Up all the while (`IFF_LIVE_RENAME_OK`), and its addresses stay.
    host.ip("link property add dev up0 altname also0");
    host.ip("link set dev up0 name other0");
    within(SOON, "its new name is known", || {
        has_uplink(&street, "other0")
    });
    assert!(!has_uplink(&street, "up0"));
    works("renamed");
    assert!(held.is_open());

    host.ip("link del other0");
    within(SOON, "it is gone", || !has_uplink(&street, "other0"));
    street.lab.wire(
        (host, "up0", &HOST_WIRE),
        (&street.client, "eth0", &CLIENT_WIRE),
    );
    within(SOON, "the new one is known", || has_uplink(&street, "up0"));
    works("replaced");
}

/// Its addresses, its MTU, down and up.
#[test]
fn what_changes_at_an_uplink_is_followed() {
    const NEW: [&str; 2] = ["192.0.2.9", "2001:db8:1::9"];
    let street = street_with_networks("changed_uplink", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let (_http, _there) = (Http::start(&web, 80), Http::start(&street.client, 80));
    let host = &street.host;
    let up0 = || {
        let status: StatusInfo = host.json(&["status"]);
        status.uplinks.into_iter().find(|u| u.name == "up0")
    };
    let has = |ip| up0().is_some_and(|u| u.addresses.contains(&ip));
    let works = |what: &str| {
        for family in Family::BOTH {
            let (at, client) = (family.ip(NEW), family.ip(CLIENT));
            assert_eq!(street.client.fetch(at, 8080).peer, client, "{what}");
            assert_eq!(web.fetch(client, 80).peer, at, "{what}");
        }
    };
    for (family, prefix) in Family::BOTH.into_iter().zip([24, 64]) {
        let (old, new) = (family.ip(HOST), family.ip(NEW));
        host.ip(&format!("address del {old}/{prefix} dev up0"));
        host.ip(&format!("address add {new}/{prefix} dev up0 nodad"));
        within(SOON, "its address is known", || has(new) && !has(old));
    }
    works("with other addresses");

    for space in [&street.client, &**host] {
        let device = if space.name() == host.name() {
            "up0"
        } else {
            "eth0"
        };
        space.ip(&format!("link set {device} mtu 1400"));
    }
    within(SOON, "its MTU is known", || {
        up0().is_some_and(|u| u.mtu == 1400)
    });
    assert_eq!(street.front("app", &[]).info.mtu, 1400);
    // This one has 1,500 still.
    for family in Family::BOTH {
        street.client.fetch_big(family.ip(NEW), 8080);
    }

    host.ip("link set up0 down");
    within(SOON, "it is down", || !has(Family::V6.ip(NEW)));
    host.ip("link set up0 up");
    // Down, a device loses what it has of IPv6.
    host.ip(&format!("address add {}/64 dev up0 nodad", NEW[1]));
    within(SOON, "it is up", || {
        Family::BOTH.iter().all(|f| has(f.ip(NEW)))
    });
    works("down and up");
}

/// The next connection leaves by the next way.
#[test]
fn a_route_that_changes_is_followed() {
    let (street, client_b) = crossing("changed_route");
    let far = far_behind(&street, &client_b);
    let _there = Http::start(&far, 80);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        let flag = family.of(["-4", "-6"]);
        for (via, source) in [(CLIENT, HOST), (CLIENT_B, HOST_B), (CLIENT, HOST)] {
            let via = family.ip(via);
            let route = format!("{flag} route replace default via {via}");
            street.host.ip(&route);
            let seen = web.fetch(family.ip(FAR), 80);
            assert_eq!(seen.peer, family.ip(source), "{route}");
        }
    }
}

#[test]
fn the_daemon_may_be_limited_to_some_uplinks() {
    let street = street_without_daemon("limited_uplinks");
    let client_b = street.lab.space("client-b");
    street.lab.wire(
        (&street.host, "up1", &HOST_WIRE_B),
        (&client_b, "eth0", &CLIENT_WIRE_B),
    );
    street.host.start(&["--uplink", "up0"]);
    let status: StatusInfo = street.host.json(&["status"]);
    let names: Vec<&str> = status.uplinks.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["up0"]);
    let uplink = &status.uplinks[0];
    assert_eq!((uplink.mtu, uplink.link.as_str()), (1500, "ethernet"));
    for family in Family::BOTH {
        assert!(uplink.addresses.contains(&family.ip(HOST)));
    }
}

fn with_tun(street: &Street) {
    street.lab.tunnel(
        (&street.host, "tun0", &HOST_WIRE_B),
        (&street.client, "tun0", &CLIENT_WIRE_B),
    );
}

#[test]
fn a_device_without_ethernet_header_is_an_uplink() {
    let street = street_without_daemon("a_tun_uplink");
    with_tun(&street);
    street.host.start(&[]);
    serves_by_tun(&street);
}

/// Its programs are loaded then, long after all others.
#[test]
fn a_device_without_ethernet_header_may_come_later() {
    let street = street_without_daemon("a_late_tun_uplink");
    street.host.start(&[]);
    // Also where all others were taken over of an earlier daemon.
    street.host.kill();
    street.host.restart();
    with_tun(&street);
    serves_by_tun(&street);
}

#[track_caller]
fn serves_by_tun(street: &Street) {
    street.host.network(&FRONT, &[]);
    within(Duration::from_secs(5), "tun0 is an uplink", || {
        has_uplink(street, "tun0")
    });
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let _inside = Http::start(&web, 80);
    let _inside_udp = UdpEcho::start(&web, 53);
    let _outside = Http::start(&street.client, 80);
    let _outside_udp = UdpEcho::start(&street.client, 53);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST_B), family.ip(CLIENT_B));
        web.ping(client);
        assert_eq!(web.fetch(client, 80).peer, host);
        assert_eq!(web.ask_udp(client, 53), host);
        web.fetch_big(client, 80);
        assert_eq!(street.client.fetch(host, 8080).peer, client);
        assert_eq!(street.client.ask_udp(host, 5300), client);
        street.client.fetch_big(host, 8080);
        // The host's own traffic on it.
        street.client.ping(host);
    }
    drops.none();
}

#[test]
fn a_bridge_with_an_address_is_an_uplink() {
    let street = street_without_daemon("a_bridge_uplink");
    let neighbour = street.lab.space("neighbour");
    street.host.ip("link add br0 type bridge");
    street.lab.wire(
        (&street.host, "port0", &[]),
        (&neighbour, "eth0", &CLIENT_WIRE_B),
    );
    street.host.ip("link set port0 master br0");
    street.host.address("br0", &HOST_WIRE_B);
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _inside = Http::start(&web, 80);
    let _outside = Http::start(&neighbour, 80);
    for family in Family::BOTH {
        until(Duration::from_secs(2), || {
            neighbour.ping_with(family.ip(HOST_B), &[]).status.success()
        });
        assert_eq!(
            neighbour.fetch(family.ip(HOST_B), 8080).peer,
            family.ip(CLIENT_B)
        );
        assert_eq!(web.fetch(family.ip(CLIENT_B), 80).peer, family.ip(HOST_B));
    }
}
