//! What is not what it claims to be, from containers and from outside. Frames
//! are sent by packet sockets, and looked for by them.
//!
//! ```text
//!   web ── front ┐
//!   app ── front ┴ host ──── client
//! ```

use std::net::IpAddr;

use netbpf::datapath::GATEWAY_MAC;
use netbpf_tests::{
    lab::{
        Container, Family, Host, SOON, Street, Wiretap,
        names::{BACK, CLIENT, FRONT, HOST},
        street_with_networks, within,
    },
    packets::{
        Way, arp_reply, arp_request, has_payload, neighbour_advertisement, neighbour_solicitation,
        vlan_tagged,
    },
};

const MARK: &[u8] = b"not what it claims to be";

/// Sends a frame out of the container, expects it counted under the reason and
/// seen neither by the sibling nor by the client.
#[track_caller]
fn dropped(street: &Street, from: &Container, sibling: &Container, frame: &[u8], reason: &str) {
    let taps = [
        Wiretap::open(sibling, "eth0"),
        Wiretap::open(&street.client, "eth0"),
    ];
    let drops = street.host.drops();
    Wiretap::open(from, "eth0").send(frame);
    drops.only(&[reason]);
    for tap in taps {
        let arrived = |seen: &Vec<u8>| has_payload(seen, MARK);
        assert!(!tap.seen().iter().any(arrived), "delivered");
    }
}

fn both(name: &str) -> (Street, Container, Container) {
    let street = street_with_networks(name, &[]);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    (street, web, app)
}

#[test]
fn a_foreign_source_mac() {
    let (street, web, app) = both("a_foreign_source_mac");
    for family in Family::BOTH {
        for (to_mac, to) in [
            (app.mac("eth0"), app.addr(family)),
            (GATEWAY_MAC, app.addr(family)),
            (GATEWAY_MAC, family.ip(CLIENT)),
        ] {
            let way = Way::new([2, 0, 0, 0, 0, 9], to_mac, web.addr(family), to);
            dropped(&street, &web, &app, &way.udp(1, 2, MARK), "spoofed_mac");
        }
    }
}

#[test]
fn a_foreign_source_address() {
    let (street, web, app) = both("a_foreign_source_address");
    for family in Family::BOTH {
        let claims = [
            family.ip(FRONT.absent),
            family.ip(CLIENT),
            web.gateway(family),
        ];
        for claim in claims {
            for to in [app.addr(family), family.ip(CLIENT), web.gateway(family)] {
                if claim == to {
                    continue;
                }
                let way = Way::new(web.mac("eth0"), GATEWAY_MAC, claim, to);
                dropped(&street, &web, &app, &way.udp(1, 2, MARK), "spoofed_address");
            }
        }
    }
}

#[test]
fn a_foreign_neighbour_claim() {
    let (street, web, app) = both("a_foreign_neighbour_claim");
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => unreachable!("IPv4 wanted"),
    };
    let v6 = |address: IpAddr| match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(_) => unreachable!("IPv6 wanted"),
    };
    let (mac, app_mac) = (web.mac("eth0"), app.mac("eth0"));
    let (web4, app4) = (v4(web.addr(Family::V4)), v4(app.addr(Family::V4)));
    let (web6, app6) = (v6(web.addr(Family::V6)), v6(app.addr(Family::V6)));
    let (gateway4, gateway6) = (v4(web.gateway(Family::V4)), v6(web.gateway(Family::V6)));
    let claims = [
        arp_reply(mac, gateway4, app_mac, app4),
        arp_request(mac, app4, gateway4),
        arp_reply([2, 0, 0, 0, 0, 9], web4, app_mac, app4),
        neighbour_advertisement(mac, web6, app_mac, app6, gateway6),
        neighbour_advertisement(mac, web6, GATEWAY_MAC, gateway6, app6),
    ];
    for (number, mut frame) in claims.into_iter().enumerate() {
        // The frame's own source stays right: the claim inside is wrong.
        frame[6..12].copy_from_slice(&mac);
        let tap = Wiretap::open(&app, "eth0");
        let drops = street.host.drops();
        Wiretap::open(&web, "eth0").send(&frame);
        drops.only(&["spoofed_neighbour"]);
        assert!(!tap.seen().contains(&frame), "claim {number} delivered");
    }
    // And neither does the host believe it.
    let asks = neighbour_solicitation(mac, app6, gateway6);
    let drops = street.host.drops();
    Wiretap::open(&web, "eth0").send(&asks);
    drops.only_among(&["spoofed_neighbour", "spoofed_address"]);
    assert!(!drops.since().is_empty());
    for family in Family::BOTH {
        app.ping(web.addr(family));
        street.host.ping(app.addr(family));
    }
}

#[test]
fn a_vlan_tag() {
    let (street, web, app) = both("a_vlan_tag");
    for family in Family::BOTH {
        let way = Way::new(
            web.mac("eth0"),
            GATEWAY_MAC,
            web.addr(family),
            app.addr(family),
        );
        let frame = vlan_tagged(&way.udp(1, 2, MARK), 7);
        dropped(&street, &web, &app, &frame, "vlan");
    }
}

#[test]
fn another_ether_type() {
    let (street, web, app) = both("another_ether_type");
    let mut frame = Vec::new();
    frame.extend(app.mac("eth0"));
    frame.extend(web.mac("eth0"));
    frame.extend([0x88, 0xb5]);
    frame.extend(MARK);
    frame.resize(60, 0);
    dropped(&street, &web, &app, &frame, "ether_type");
}

/// A frame of the client, as it would reach the host as a router.
#[track_caller]
fn from_outside(street: &Street, web: &Container, from: IpAddr, to: IpAddr, reason: &str) {
    let tap = Wiretap::open(web, "eth0");
    let way = Way::new(street.client.mac("eth0"), up0_mac(&street.host), from, to);
    let drops = street.host.drops();
    let sender = Wiretap::open(&street.client, "eth0");
    for frame in [
        way.udp(1000, 53, MARK),
        way.tcp(1000, 80, "S", MARK),
        way.tcp(1000, 80, "A", MARK),
        way.echo_request(1, 1, MARK),
    ] {
        sender.send(&frame);
    }
    let count = || drops.since().get(reason).copied().unwrap_or(0);
    within(SOON, "each of the four is counted", || count() >= 4);
    drops.only(&[reason]);
    assert_eq!(count(), 4, "each once");
    let arrived = |seen: &Vec<u8>| has_payload(seen, MARK);
    assert!(!tap.seen().iter().any(arrived), "delivered");
}

fn up0_mac(host: &Host) -> [u8; 6] {
    host.mac("up0")
}

#[test]
fn from_outside_straight_to_a_container() {
    let (street, web, _app) = both("straight_to_a_container");
    for family in Family::BOTH {
        let client = family.ip(CLIENT);
        from_outside(&street, &web, client, web.addr(family), "container_address");
        let absent = family.ip(FRONT.absent);
        from_outside(&street, &web, client, absent, "container_address");
    }
}

#[test]
fn from_outside_to_a_gateway_address() {
    let (street, web, _app) = both("to_a_gateway_address");
    for family in Family::BOTH {
        for gateway in [web.gateway(family), family.ip(BACK.gateways)] {
            from_outside(&street, &web, family.ip(CLIENT), gateway, "gateway_address");
        }
    }
}

#[test]
fn from_outside_with_a_source_within_our_subnets() {
    let (street, web, app) = both("a_source_within_our_subnets");
    for family in Family::BOTH {
        let sources = [
            app.addr(family),
            family.ip(FRONT.absent),
            web.gateway(family),
        ];
        for source in sources {
            from_outside(&street, &web, source, family.ip(HOST), "spoofed_subnet");
        }
    }
}

#[test]
fn from_outside_with_loopback_addresses() {
    let (street, web, _app) = both("loopback_addresses");
    for family in Family::BOTH {
        let (loopback, client) = (family.loopback(), family.ip(CLIENT));
        from_outside(&street, &web, loopback, family.ip(HOST), "martian");
        from_outside(&street, &web, client, loopback, "martian");
    }
}
