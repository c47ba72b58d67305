//! ICMP errors of real kernels, through to whoever caused them: refused datagrams,
//! routes traced, and path MTUs that are smaller than the wire's.
//!
//! ```text
//!   web 10.10.1.x ── host 192.0.2.1 ──── 192.0.2.2 client (a router) ──── 203.0.113.2 far
//! ```

use std::{net::SocketAddr, time::Duration};

use netbpf_tests::lab::{
    Family, Http, Namespace, SOON, Street, TcpEcho, UdpEcho, has_tools,
    names::{CLIENT, FAR, FAR_NET, FAR_WIRE, HOST},
    refuses, street_with_networks,
};

/// The smallest MTU of IPv6 (RFC 8200 section 5).
const NARROW: u32 = 1280;

/// `far` behind the client, which routes, by a link with that MTU.
fn far_behind(street: &Street, mtu: u32) -> Namespace {
    let far = street.lab.space("far");
    let routes = ["203.0.113.1/24", "2001:db8:3::1/64"];
    street
        .lab
        .wire((&street.client, "eth1", &routes), (&far, "eth0", &FAR_WIRE));
    street.client.ip(&format!("link set eth1 mtu {mtu}"));
    street.client.sysctl("net.ipv4.ip_forward", "1");
    street.client.sysctl("net.ipv6.conf.all.forwarding", "1");
    for family in Family::BOTH {
        let via = family.of(routes).split('/').next().unwrap();
        // What it sends fits; what it says to be able to get does not.
        let way = format!("via {via} mtu {mtu} advmss 1400");
        far.route(&family.ip(HOST).to_string(), &way);
        let via = format!("via {}", family.ip(CLIENT));
        street.host.route(family.of(FAR_NET), &via);
    }
    far
}

#[test]
fn a_closed_port_refuses_whoever_asks() {
    let street = street_with_networks("closed_port_refuses", &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let app = street.front("app", &[]);
    let back = street.back("back", &[]);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let published = SocketAddr::new(host, 5300);
        let loopback = SocketAddr::new(family.loopback(), 5300);
        let rows: [(&str, &Namespace, SocketAddr); 6] = [
            ("outside of a container", &web, SocketAddr::new(client, 9)),
            ("published, from outside", &street.client, published),
            ("published, from a sibling", &app, published),
            ("published, from another network", &back, published),
            ("published, from itself", &web, published),
            ("published, from the host", &street.host, published),
        ];
        for (name, from, to) in rows {
            println!("{name}, {family:?}");
            refuses(&from.udp(to));
        }
        // Bound to loopback: packet by packet.
        let socket = street.host.bind_udp((family.loopback(), 0));
        socket.connect(loopback).expect("connect");
        refuses(&socket);
    }
    drops.none();
}

#[test]
fn a_client_that_is_gone_refuses_what_the_container_sends() {
    let street = street_with_networks("client_is_gone", &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let drops = street.host.drops();
    for family in Family::BOTH {
        for (from, to) in [
            (&street.client, family.ip(HOST)),
            (&*street.host, family.loopback()),
        ] {
            let server = web.bind_udp((web.addr(family), 53));
            server.set_read_timeout(Some(SOON)).expect("a time-out");
            let client = from.udp(SocketAddr::new(to, 5300));
            client.send(b"hello").expect("send");
            let (_, peer) = server.recv_from(&mut [0; 16]).expect("a question");
            drop(client);
            server.connect(peer).expect("connect");
            println!("{peer} of {}", from.role());
            refuses(&server);
        }
    }
    drops.none();
}

#[test]
fn routes_are_traced_through() {
    if !has_tools("routes_are_traced", &["traceroute", "tracepath", "mtr"]) {
        return;
    }
    let street = street_with_networks("routes_are_traced", &[]);
    let web = street.front("web", &[]);
    let far = far_behind(&street, 1500);
    let _udp = UdpEcho::start(&far, 53);
    for family in Family::BOTH {
        let (to, flag) = (family.ip(FAR).to_string(), family.of(["-4", "-6"]));
        let hops = [web.gateway(family), family.ip(CLIENT), family.ip(FAR)];
        let rows: [&[&str]; 6] = [
            &["traceroute", flag, "-n", "-q1", "-w2", "-m5", &to],
            &["traceroute", flag, "-n", "-I", "-q1", "-w2", "-m5", &to],
            &["traceroute", flag, "-n", "-T", "-q1", "-w2", "-m5", &to],
            &["tracepath", flag, "-n", "-m", "5", &to],
            &["mtr", flag, "-n", "-r", "-c1", "-m5", &to],
            &["mtr", flag, "-n", "-r", "-c1", "-m5", "-u", &to],
        ];
        for argv in rows {
            let output = web.run(argv).timeout(Duration::from_secs(60)).ok();
            let mut rest = output.as_str();
            for hop in hops {
                let at = rest.find(&hop.to_string());
                let at = at.unwrap_or_else(|| panic!("{argv:?}: no {hop} in\n{output}"));
                rest = &rest[at..];
            }
        }
    }
}

#[test]
fn a_narrow_link_on_the_way_is_found_and_kept_to() {
    let street = street_with_networks("narrow_link", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let far = far_behind(&street, NARROW);
    let (_inside, _outside) = (Http::start(&web, 80), Http::start(&far, 80));
    let _echo = TcpEcho::start(&far, 7);
    for family in Family::BOTH {
        // Published: the container sends the big thing, and hears of the link.
        far.fetch_big(family.ip(HOST), 8080);
        let known = web.run(&["ip", "route", "get", &family.ip(FAR).to_string()]);
        let known = known.ok();
        assert!(known.contains(&format!("mtu {NARROW}")), "{known}");
        // Masqueraded: the container sends it, and gets it back.
        web.echo_big(SocketAddr::new(family.ip(FAR), 7), |_| ());
        // And gets what it has not sent.
        web.fetch_big(family.ip(FAR), 80);
    }
}
