//! Packets that come by an uplink, through the real program by the kernel's
//! test-run, each row for both families. The surroundings are drawn at
//! [`netbpf_tests::rows::Rig`].

use netbpf::datapath::NetworkFlags;
use netbpf_common::{
    drop::DropReason,
    maps::Pool,
    names::{self, FROM_CONTAINER, FROM_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, FRONT, HOST, NOWHERE},
    },
    packets::{Way, arp_request, behind_options, fragments, tiny_fragment},
    rows::{Action, OPEN, Out, Rig, Row, with_rig},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A row of a packet that comes by the uplink.
fn came<'a>(rig: &Rig, name: &str, family: Family, packet: Vec<u8>, verdict: Action) -> Row<'a> {
    let ifindex = rig.uplink.entry.device.ifindex;
    Row::new(
        format!("{name}, {family:?}"),
        FROM_UPLINK,
        ifindex,
        packet,
        verdict,
    )
}

#[track_caller]
fn dropped(rig: &Rig, family: Family, packet: Vec<u8>, reason: DropReason) {
    came(rig, reason.label(), family, packet, Action::Drop)
        .drops(&[(reason, 1)])
        .out(Out::Any)
        .check(rig);
}

/// One packet of each kind.
fn kinds(way: &Way) -> [Vec<u8>; 4] {
    [
        way.tcp(1000, 80, "S", b""),
        way.tcp(1000, 80, "A", b"x"),
        way.udp(1000, 53, b"x"),
        way.echo_request(1, 1, b"x"),
    ]
}

#[test]
fn what_is_not_ours_passes_unchanged() {
    with_rig("what_is_not_ours_passes", |rig| {
        rig.publish(1, UDP, 5300, &rig.web, 53);
        for family in Family::BOTH {
            let to_host = rig.by_uplink(family.ip(CLIENT), family.ip(HOST));
            for packet in kinds(&to_host) {
                came(rig, "to the host", family, packet, Action::Pass).check(rig);
            }
            // What the kernel would forward or drop is its own business.
            let through = rig.by_uplink(family.ip(CLIENT), family.ip(NOWHERE));
            for packet in kinds(&through) {
                came(rig, "through", family, packet, Action::Pass).check(rig);
            }
            let others = Way {
                to_mac: [2, 0, 0, 0, 0, 9],
                ..to_host
            };
            let packet = others.udp(1000, 5300, b"x");
            came(rig, "to another", family, packet, Action::Pass).check(rig);
            let groups = ["224.0.0.5", "ff02::5"];
            let group = rig.by_uplink(family.ip(CLIENT), family.ip(groups));
            let packet = group.protocol(89, b"OSPF");
            came(rig, "multicast", family, packet, Action::Pass).check(rig);
            // A port that is published for UDP is the host's own in TCP.
            let packet = to_host.tcp(1000, 5300, "S", b"");
            came(rig, "other protocol", family, packet, Action::Pass).check(rig);
        }
        let host = HOST[0].parse().unwrap();
        let asks = arp_request(rig.uplink.neighbour, CLIENT[0].parse().unwrap(), host);
        came(rig, "ARP", Family::V4, asks, Action::Pass).check(rig);
    });
}

#[test]
fn what_only_pretends_is_dropped() {
    with_rig("what_only_pretends", |rig| {
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let (inside, absent) = (rig.web.ip(family), family.ip(FRONT.absent));
            for to in [inside, absent] {
                for packet in kinds(&rig.by_uplink(client, to)) {
                    dropped(rig, family, packet, DropReason::ContainerAddress);
                }
            }
            for packet in kinds(&rig.by_uplink(client, family.ip(FRONT.gateways))) {
                dropped(rig, family, packet, DropReason::GatewayAddress);
            }
            for from in [inside, absent] {
                for packet in kinds(&rig.by_uplink(from, host)) {
                    dropped(rig, family, packet, DropReason::SpoofedSubnet);
                }
            }
            for packet in kinds(&rig.by_uplink(family.loopback(), host)) {
                dropped(rig, family, packet, DropReason::Martian);
            }
            for packet in kinds(&rig.by_uplink(client, family.loopback())) {
                dropped(rig, family, packet, DropReason::Martian);
            }
        }
    });
}

#[test]
fn a_published_port_leads_to_its_container_and_back() {
    with_rig("a_published_port_leads", |rig| {
        let web = &rig.web;
        rig.publish(1, TCP, 8080, web, 80);
        rig.publish(2, UDP, 5300, web, 53);
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let (asks, arrives) = (rig.by_uplink(client, host), rig.into(web, client).hops(63));
            let (answers, leaves) = (rig.from(web, client), rig.out(host, client).hops(63));
            let flows = [
                (
                    asks.tcp(1000, 8080, "S", b""),
                    arrives.tcp(1000, 80, "S", b""),
                    answers.tcp(80, 1000, "SA", b""),
                    leaves.tcp(8080, 1000, "SA", b""),
                ),
                (
                    asks.udp(1000, 5300, b"question"),
                    arrives.udp(1000, 53, b"question"),
                    answers.udp(53, 1000, b"answer"),
                    leaves.udp(5300, 1000, b"answer"),
                ),
            ];
            for (packet, inside, answer, outside) in flows {
                came(rig, "in", family, packet, Action::Redirect)
                    .out(Out::Frame(inside))
                    .check(rig);
                let ifindex = web.ifindex();
                Row::new("back", FROM_CONTAINER, ifindex, answer, Action::Redirect)
                    .out(Out::Packet(outside))
                    .check(rig);
            }
            // Without a SYN no flow begins.
            let packet = asks.tcp(1001, 8080, "A", b"x");
            came(rig, "ACK", family, packet, Action::Pass).check(rig);
        }
    });
}

#[test]
fn a_routed_network_is_reached_from_outside() {
    with_rig("a_routed_network_is_reached", |rig| {
        rig.set_network_flags(NetworkFlags {
            masquerade: false,
            ..OPEN
        });
        for family in Family::BOTH {
            let client = family.ip(CLIENT);
            let way = rig.by_uplink(client, rig.web.ip(family));
            let arrives = rig.into(&rig.web, client).hops(63);
            for (packet, out) in kinds(&way).into_iter().zip(kinds(&arrives)) {
                came(rig, "routed", family, packet, Action::Redirect)
                    .out(Out::Frame(out))
                    .check(rig);
            }
        }
    });
}

#[test]
fn addresses_are_judged_where_there_are_no_ports() {
    with_rig("judged_without_ports", |rig| {
        let make = |family: Family, way: &Way| match family {
            Family::V4 => tiny_fragment(way),
            Family::V6 => behind_options(way),
        };
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let (inside, gateway) = (rig.web.ip(family), family.ip(FRONT.gateways));
            let to = |from, to| make(family, &rig.by_uplink(from, to));
            let drop = |packet, reason| dropped(rig, family, packet, reason);
            drop(to(client, gateway), DropReason::GatewayAddress);
            drop(to(inside, host), DropReason::SpoofedSubnet);
            drop(to(client, inside), DropReason::ContainerAddress);
            let packet = to(client, host);
            came(rig, "to the host", family, packet, Action::Pass).check(rig);
        }
    });
}

#[test]
fn link_local_traffic_is_never_translated() {
    with_rig("link_local_untouched", |rig| {
        rig.publish(1, UDP, 5300, &rig.web, 53);
        let pairs = [("169.254.7.7", Family::V4), ("fe80::7", Family::V6)];
        for (address, family) in pairs {
            let from = address.parse().unwrap();
            let packet = rig.by_uplink(from, family.ip(HOST)).udp(1000, 5300, b"x");
            came(rig, "link-local", family, packet, Action::Pass).check(rig);
        }
    });
}

#[test]
fn fragments_are_translated_like_the_datagram_they_are_of() {
    with_rig("fragments_translated", |rig| {
        rig.publish(1, UDP, 5300, &rig.web, 53);
        let payload: Vec<u8> = (0..3000).map(|n| n as u8).collect();
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let outside = rig.by_uplink(client, host).udp(1000, 5300, &payload);
            let inside = rig.into(&rig.web, client).hops(63).udp(1000, 53, &payload);
            // Once as the first of the flow, once as one more.
            for id in [7, 8] {
                let came_in = fragments(&outside, 1000, id);
                for (packet, out) in came_in.into_iter().zip(fragments(&inside, 1000, id)) {
                    came(rig, "fragment", family, packet, Action::Redirect)
                        .out(Out::Frame(out))
                        .check(rig);
                }
            }
            // Of which the first one never came; what the stack makes of it is its own.
            let late = fragments(&outside, 1000, 9).remove(1);
            came(rig, "late", family, late, Action::Pass).check(rig);
        }
    });
}

#[test]
fn an_error_message_is_not_taken_for_the_answer_to_an_echo() {
    with_rig("error_is_no_answer", |rig| {
        let (client, host) = (Family::V4.ip(CLIENT), Family::V4.ip(HOST));
        // The identifier 0 is what messages without one seem to have.
        let request = rig.from(&rig.web, client).echo_request(0, 1, b"x");
        Row::new(
            "request",
            FROM_CONTAINER,
            rig.web.ifindex(),
            request,
            Action::Redirect,
        )
        .out(Out::Any)
        .check(rig);
        let unreachable = rig
            .by_uplink(client, host)
            .protocol(1, &[3, 1, 0, 0, 0, 0, 0, 0]);
        came(rig, "unreachable", Family::V4, unreachable, Action::Pass).check(rig);
    });
}

#[test]
fn flows_that_were_not_marked_are_found() {
    with_rig("flows_without_marks", |rig| {
        rig.publish(1, TCP, 8080, &rig.web, 80);
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let (out, back) = (rig.from(&rig.web, client), rig.by_uplink(client, host));
            let sent = |packet| {
                let web = rig.web.ifindex();
                Row::new("sent", FROM_CONTAINER, web, packet, Action::Redirect)
                    .out(Out::Any)
                    .check(rig);
            };
            let came_for_us = |packet| {
                came(rig, "for us", family, packet, Action::Redirect)
                    .out(Out::Any)
                    .check(rig);
            };
            let came_for_others = |packet| {
                came(rig, "for others", family, packet, Action::Pass).check(rig);
            };
            sent(out.udp(5000, 53, b"x"));
            came_for_us(back.tcp(6000, 8080, "S", b""));
            sent(out.tcp(80, 6000, "SA", b""));
            let all = || {
                came_for_us(back.udp(53, 5000, b"x"));
                came_for_us(back.tcp(6000, 8080, "A", b"x"));
                came_for_others(back.udp(53, 5001, b"x"));
                came_for_others(back.tcp(6000, 8081, "A", b"x"));
            };
            all();
            rig.forget_marks(names::ARRIVALS);
            all();
            // The next start finds them.
            let next = rig.another_daemon();
            next.trust_marks().expect("marked");
            all();
            // And one that begins has its mark.
            sent(out.udp(5002, 53, b"x"));
            came_for_us(back.udp(53, 5002, b"x"));
        }
    });
}

#[test]
fn subnets_are_known_by_how_they_begin() {
    with_rig("areas", |rig| {
        let spoofed = |verdict, drops: &[(DropReason, u64)]| {
            for family in Family::BOTH {
                let packet = rig
                    .by_uplink(rig.web.ip(family), family.ip(HOST))
                    .udp(1000, 9999, b"x");
                came(rig, "from a container", family, packet, verdict)
                    .drops(drops)
                    .check(rig);
            }
        };
        let refused = [(DropReason::SpoofedSubnet, 1)];
        spoofed(Action::Drop, &refused);
        let areas = rig.pinned_array::<Pool>(names::AREAS);
        let held = [0, 1].map(|index| areas.get(&index, 0).expect("areas"));
        assert!(held.iter().all(|marks| *marks != Pool::EMPTY));
        rig.clear_marks(names::AREAS);
        // It is by them alone that it is known.
        spoofed(Action::Pass, &[]);
        // They come and go with the subnets.
        rig.set_network_flags(OPEN);
        spoofed(Action::Drop, &refused);
        assert_eq!(
            [0, 1].map(|index| areas.get(&index, 0).expect("areas")),
            held
        );
        rig.datapath.set_subnets(&[]).expect("no subnets");
        let marks = [0, 1].map(|index| areas.get(&index, 0).expect("areas"));
        assert_eq!(marks, [Pool::EMPTY; 2]);
        spoofed(Action::Pass, &[]);
    });
}
