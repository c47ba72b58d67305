//! What is not ours passes untouched: the host's own services, VLANs, frames to
//! others, multicast, and a Docker-like network beside us.
//!
//! ```text
//!   web ──────── front ┐
//!                      ├ host ──── client
//!   foreign ── docker0 ┘
//! ```

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use netbpf_tests::{
    lab::{
        Family, Held, Http, Namespace, SOON, Street, TcpEcho, UdpEcho, Wiretap, answer_of,
        ask_with, has_tools,
        names::{CLIENT, FRONT, HOST},
        refuses, street_with_networks, street_without_daemon, within, words,
    },
    packets::{Way, has_payload, vlan_tagged},
};

#[test]
fn the_hosts_own_services_and_connections() {
    let street = street_with_networks("own_services", &[]);
    let _web = street.front("web", &["-p", "8080:80"]);
    let _ssh = Http::start(&street.host, 22);
    let _dns = UdpEcho::start(&street.host, 53);
    let _outside = Http::start(&street.client, 80);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        street.client.ping(host);
        street.host.ping(client);
        assert_eq!(street.client.fetch(host, 22).server, "host");
        street.client.fetch_big(host, 22);
        assert_eq!(street.client.ask_udp(host, 53), client);
        assert_eq!(street.host.fetch(client, 80).peer, host);
        assert_eq!(street.host.fetch(host, 22).peer, host);
        assert_eq!(
            street.host.fetch(family.loopback(), 22).peer,
            family.loopback()
        );
        street.client.is_refused(host, 23);
    }
    drops.none();
}

/// A program of the host that has all addresses answers a container from the one that was
/// asked, not from the gateway's, which the route to the container names.
#[test]
fn datagrams_of_the_hosts_services_come_from_where_a_container_asked() {
    let street = street_with_networks("services_asked", &[]);
    let web = street.front("web", &[]);
    let drops = street.host.drops();
    for (address, families) in [
        ("0.0.0.0:53", &[Family::V4][..]),
        ("[::]:54", &Family::BOTH),
    ] {
        let _service = street.host.serve_udp(address);
        let port = address.parse::<SocketAddr>().unwrap().port();
        for &family in families {
            let own = web.addr(family);
            let asked = [family.ip(HOST), web.gateway(family), family.ip(HOST)];
            // The same port of the container, at one address after the other.
            let from = web.udp(SocketAddr::new(asked[0], port)).local_addr();
            let from = SocketAddr::new(family.any(), from.expect("an address").port());
            for at in asked {
                let to = SocketAddr::new(at, port);
                let heard = web.heard("udp", to, Some(from));
                assert_eq!(heard.from, Some(to.to_string()));
                assert_eq!(
                    heard.seen,
                    Some(SocketAddr::new(own, from.port()).to_string())
                );
                assert_eq!(web.ask_udp(at, port), own);
            }
            // In fragments, too.
            let socket = web.udp(SocketAddr::new(asked[0], port));
            let long = vec![b'x'; 8000];
            let seen = ask_with(&socket, &long, SOON);
            assert_eq!(seen.expect("a long answer").ip(), own);
        }
    }
    drops.none();
}

#[test]
fn connections_from_before_the_daemon_go_on() {
    let street = street_without_daemon("connections_from_before");
    let _dns = UdpEcho::start(&street.host, 53);
    let pulses = Family::BOTH
        .map(|family| netbpf_tests::lab::Pulse::start(&street.client, family.ip(HOST), 53));
    street.host.start(&[]);
    street.host.netbpf(&["teardown"]).ok();
    street.host.wait_ended();
    for pulse in pulses {
        pulse.finish_whole();
    }
}

#[test]
fn vlan_tagged_frames_and_frames_to_others() {
    let street = street_with_networks("vlans_and_others", &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let _udp = UdpEcho::start(&web, 53);
    let tap = Wiretap::open(&web, "eth0");
    let sender = Wiretap::open(&street.client, "eth0");
    let drops = street.host.drops();
    for family in Family::BOTH {
        let way = Way::new(
            street.client.mac("eth0"),
            street.host.mac("up0"),
            family.ip(CLIENT),
            family.ip(HOST),
        );
        sender.send(&vlan_tagged(&way.udp(1000, 5300, b"in a VLAN"), 7));
        let others = Way {
            to_mac: [2, 0, 0, 0, 0, 9],
            ..way
        };
        sender.send(&others.udp(1000, 5300, b"to another"));
        // The way itself works: what follows arrives, what came before did not.
        sender.send(&way.udp(1000, 5300, b"the marker"));
        let marker = tap.find(SOON, |frame| {
            assert!(
                !has_payload(frame, b"in a VLAN"),
                "a VLAN's frame delivered"
            );
            assert!(
                !has_payload(frame, b"to another"),
                "another's frame delivered"
            );
            has_payload(frame, b"the marker")
        });
        assert!(marker.is_some(), "{family:?}");
    }
    drops.none();
}

#[test]
fn multicast_to_the_host() {
    let street = street_with_networks("multicast_to_the_host", &[]);
    let _web = street.front("web", &["-p", "5000:5000/udp"]);
    let drops = street.host.drops();
    let group4 = Ipv4Addr::new(239, 1, 1, 1);
    let group6: Ipv6Addr = "ff05::101".parse().unwrap();
    street.client.route("239.0.0.0/8", "dev eth0");
    let receive = |bind: SocketAddr, send_to: SocketAddr| {
        let receiver = street.host.enter(|| {
            let socket = UdpSocket::bind(bind).expect("bind");
            let index = nix::net::if_::if_nametoindex("up0").expect("up0");
            let joined = match bind {
                SocketAddr::V4(_) => {
                    socket.join_multicast_v4(&group4, &Ipv4Addr::new(192, 0, 2, 1))
                }
                SocketAddr::V6(_) => socket.join_multicast_v6(&group6, index),
            };
            joined.expect("join");
            socket
        });
        receiver.set_read_timeout(Some(SOON)).expect("time limit");
        let sender = street.client.enter(|| {
            let any = if bind.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            UdpSocket::bind(any).expect("bind")
        });
        let mut send_to = send_to;
        if let SocketAddr::V6(v6) = &mut send_to {
            let eth0 = || nix::net::if_::if_nametoindex("eth0").expect("eth0");
            v6.set_scope_id(street.client.enter(eth0));
        }
        sender.send_to(b"to the group", send_to).expect("send");
        let mut buffer = [0; 64];
        receiver.recv(&mut buffer).expect("the group's datagram")
    };
    assert_eq!(
        receive("0.0.0.0:5001".parse().unwrap(), (group4, 5001).into()),
        12
    );
    assert_eq!(
        receive("[::]:5002".parse().unwrap(), (group6, 5002).into()),
        12
    );
    drops.none();
}

/// A network as Docker makes it: a bridge with masquerade and forwarding.
fn docker_beside(street: &Street) -> Namespace {
    let foreign = street.lab.space("foreign");
    let host = &street.host;
    host.ip("link add docker0 type bridge");
    host.sysctl("net.ipv6.conf.docker0.accept_dad", "0");
    street.lab.wire(
        (host, "vethd0", &[]),
        (&foreign, "eth0", &["172.17.0.2/16", "fd17::2/64"]),
    );
    host.ip("link set vethd0 master docker0");
    host.address("docker0", &["172.17.0.1/16", "fd17::1/64"]);
    host.sysctl("net.ipv4.ip_forward", "1");
    host.sysctl("net.ipv6.conf.all.forwarding", "1");
    foreign.route("0.0.0.0/0", "via 172.17.0.1");
    foreign.route("::/0", "via fd17::1");
    for gateway in ["172.17.0.1", "fd17::1"] {
        let gateway = gateway.parse().expect("an address");
        within(Duration::from_secs(5), "the bridge forwards", || {
            foreign.ping_with(gateway, &[]).status.success()
        });
    }
    for tool in ["iptables", "ip6tables"] {
        let net = if tool == "iptables" {
            "172.17.0.0/16"
        } else {
            "fd17::/64"
        };
        let chain = [
            "-t",
            "nat",
            "-A",
            "POSTROUTING",
            "-s",
            net,
            "!",
            "-o",
            "docker0",
        ];
        let mut rule = vec![tool];
        rule.extend(chain);
        rule.extend(["-j", "MASQUERADE"]);
        host.run(&rule).ok();
        let to = if tool == "iptables" {
            "172.17.0.2"
        } else {
            "[fd17::2]"
        };
        for (protocol, from, to_port) in [("tcp", 8888, 80), ("udp", 8889, 53), ("udp", 8890, 54)] {
            let rule = format!(
                "{tool} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p {protocol} \
                 --dport {from} -j DNAT --to-destination {to}:{to_port}"
            );
            host.run(&words(&rule)).ok();
        }
    }
    foreign
}

#[test]
fn docker_beside_us() {
    let test = "docker_beside_us";
    if !has_tools(test, &["iptables", "ip6tables"]) {
        return;
    }
    let street = street_without_daemon(test);
    let foreign = docker_beside(&street);
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _web = Http::start(&web, 80);
    let _foreign = Http::start(&foreign, 80);
    let _outside = Http::start(&street.client, 80);
    let _host = Http::start(&street.host, 22);
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        // Docker's own: out, published, to the host.
        foreign.ping(client);
        assert_eq!(foreign.fetch(client, 80).peer, host);
        let seen = street.client.fetch(host, 8888);
        assert_eq!((seen.peer, seen.server.as_str()), (client, "foreign"));
        assert_eq!(foreign.fetch(host, 22).server, "host");
        // Ours, while Docker has made the host a router.
        assert_eq!(web.fetch(client, 80).peer, host);
        assert_eq!(street.client.fetch(host, 8080).peer, client);
    }
    // Docker's containers reach what we publish.
    for family in Family::BOTH {
        assert_eq!(foreign.fetch(family.ip(HOST), 8080).server, "web");
    }
    // The kernel, a router now, does not carry foreign packets into containers.
    for family in Family::BOTH {
        let drops = street.host.drops();
        foreign.cannot_fetch(web.addr(family), 80);
        assert!(!drops.since().is_empty(), "dropped without a count");
    }
}

/// The kernel translates what a container asks the host for, and the answer back: that it
/// forwards, and nothing else.
#[test]
fn what_docker_publishes_is_reached_from_our_containers() {
    let test = "docker_published";
    if !has_tools(test, &["iptables", "ip6tables"]) {
        return;
    }
    let street = street_without_daemon(test);
    let foreign = docker_beside(&street);
    let host = &street.host;
    host.start(&[]);
    host.network(&FRONT, &[]);
    let web = street.front("web", &[]);
    let (_http, _echo) = (Http::start(&foreign, 80), UdpEcho::start(&foreign, 53));
    let (_own, _open) = (Http::start(&web, 80), UdpEcho::start(&web, 5000));
    for (family, gateway) in Family::BOTH.into_iter().zip(FRONT.gateways) {
        let drops = host.drops();
        let gateway = gateway.parse().expect("an address");
        for at in [family.ip(HOST), gateway] {
            let seen = web.fetch(at, 8888);
            assert_eq!(seen.server, "foreign", "{at}");
            assert_eq!(seen.peer, web.addr(family), "{at}");
            web.fetch_big(at, 8888);
            let socket = web.bind_udp(SocketAddr::new(family.any(), 0));
            let connected = web.enter(|| socket.connect((at, 8889)));
            connected.expect("a route");
            assert_eq!(answer_of(&socket).ip(), web.addr(family), "{at}");
            // In fragments, there and back.
            let seen = ask_with(&socket, &[b'x'; 4000], SOON);
            assert_eq!(seen.expect("an answer").ip(), web.addr(family), "{at}");
            // Nobody listens there: the error comes back as well.
            let connected = web.enter(|| socket.connect((at, 8890)));
            connected.expect("a route");
            refuses(&socket);
        }
        drops.none();
        // Docker's masquerade gives what comes unasked an address of the host, too: neither
        // to what listens nor to who has asked somebody else, from whatever port.
        let asking = web.bind_udp(SocketAddr::new(family.any(), 5001));
        let asked = SocketAddr::new(family.ip(HOST), 8889);
        asking.set_read_timeout(Some(SOON)).expect("a time-out");
        asking.send_to(b"hello", asked).expect("sent");
        let (_, from) = asking.recv_from(&mut [0; 64]).expect("an answer");
        assert_eq!(from, asked);
        for (port, reason) in [(5000, "container_address"), (5001, "kernel_forwarded")] {
            let drops = host.drops();
            foreign.cannot_ask_udp(web.addr(family), port);
            drops.only(&[reason]);
        }
        let drops = host.drops();
        foreign.cannot_fetch(web.addr(family), 80);
        drops.only(&["container_address"]);
    }
}

/// Nothing of ours is a rule.
#[test]
fn a_firewall_that_is_flushed_and_settings_that_change_do_nothing_to_us() {
    let test = "flushed_beside_us";
    if !has_tools(test, &["iptables", "ip6tables", "nft"]) {
        return;
    }
    let street = street_without_daemon(test);
    let _foreign = docker_beside(&street);
    let host = &street.host;
    host.start(&[]);
    host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "7000:7"]);
    let app = street.front("app", &[]);
    let _servers =
        [&*web, &street.client].map(|space| (Http::start(space, 80), TcpEcho::start(space, 7)));
    let mut held: Vec<Held> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            let at = |ip, port| SocketAddr::new(ip, port);
            [
                street.client.hold(at(family.ip(HOST), 7000)),
                host.hold(at(family.loopback(), 7000)),
                app.hold(at(web.addr(family), 7)),
                web.hold(at(family.ip(CLIENT), 7)),
            ]
        })
        .collect();
    for change in [
        "nft flush ruleset",
        "iptables -F",
        "iptables -t nat -F",
        "iptables -X",
        "ip6tables -F",
        "ip6tables -t nat -F",
        "sysctl -w net.ipv4.conf.all.rp_filter=1",
        "sysctl -w net.ipv4.conf.all.rp_filter=2",
        "sysctl -w net.ipv4.conf.all.route_localnet=1",
        "sysctl -w net.ipv4.conf.all.accept_local=1",
        "sysctl -w net.ipv4.conf.all.arp_ignore=2",
        "sysctl -w net.ipv4.ip_nonlocal_bind=1",
        "sysctl -w net.ipv6.conf.all.forwarding=0",
        "sysctl -w net.ipv6.conf.all.accept_ra=2",
    ] {
        let words: Vec<&str> = change.split(' ').collect();
        host.run(&words).ok();
        for family in Family::BOTH {
            let (at, client) = (family.ip(HOST), family.ip(CLIENT));
            assert_eq!(street.client.fetch(at, 8080).peer, client, "{change}");
            assert_eq!(app.fetch(web.addr(family), 80).server, "web", "{change}");
            assert_eq!(
                host.fetch(family.loopback(), 8080).server,
                "web",
                "{change}"
            );
            assert_eq!(web.fetch(client, 80).peer, at, "{change}");
        }
        assert!(held.iter_mut().all(Held::is_open), "{change}");
    }
}

#[test]
fn forwarding_switched_off_beside_us_comes_back() {
    let street = street_with_networks("forwarding_comes_back", &[]);
    let web = street.front("web", &[]);
    let name = format!("net.ipv4.conf.{}.forwarding", web.info.host_ifname);
    let read = ["sysctl", "-n", &name];
    // It is heard of; the look at all, every three seconds, may come first by chance, and
    // hardly each time.
    let was_heard = (0..5).any(|_| {
        // As an engine that starts and stops beside us does.
        street.host.sysctl("net.ipv4.ip_forward", "1");
        street.host.sysctl("net.ipv4.ip_forward", "0");
        within(SOON, "forwarding is on again", || {
            street.host.run(&read).ok().trim() == "1"
        });
        let log = street.host.log();
        let mut told = log
            .lines()
            .filter(|line| line.contains("forwarding was switched off"));
        told.any(|line| line.contains("was_heard=true"))
    });
    assert!(was_heard, "{}", street.host.log());
}
