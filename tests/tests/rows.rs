//! Packets that a container sends, through the real program by the kernel's
//! test-run, each row for both families. The surroundings are drawn at
//! [`netbpf_tests::rows::Rig`].

use netbpf::datapath::{GATEWAY_MAC, NetworkFlags};
use netbpf_common::{drop::DropReason, names::FROM_CONTAINER};
use netbpf_tests::{
    lab::{
        Family,
        names::{BACK, CLIENT, FRONT, HOST, NOWHERE},
    },
    packets::{
        Way, arp_reply, arp_request, behind_options, describe, icmp_type_code,
        neighbour_advertisement, neighbour_solicitation,
    },
    rows::{Action, OPEN, Out, Rig, Row, with_rig},
};

/// A row of a packet that `web` sends.
fn sent<'a>(rig: &Rig, name: &str, family: Family, packet: Vec<u8>, verdict: Action) -> Row<'a> {
    let name = format!("{name}, {family:?}");
    Row::new(name, FROM_CONTAINER, rig.web.ifindex(), packet, verdict)
}

/// A packet that `web` sends is dropped without an answer.
#[track_caller]
fn dropped(rig: &Rig, name: &str, family: Family, packet: Vec<u8>, reason: DropReason) {
    sent(rig, name, family, packet, Action::Drop)
        .drops(&[(reason, 1)])
        .out(Out::Any)
        .check(rig);
}

/// A packet that `web` sends is answered with this ICMP type and code, from the
/// gateway.
#[track_caller]
fn refused(rig: &Rig, family: Family, packet: Vec<u8>, reason: DropReason, icmp: [(u8, u8); 2]) {
    let gateway = family.ip(FRONT.gateways);
    sent(rig, reason.label(), family, packet, Action::Redirect)
        .drops(&[(reason, 1)])
        .out(Out::Such(&|frame| {
            assert_eq!(
                icmp_type_code(frame),
                Some(family.of(icmp)),
                "{}",
                describe(frame)
            );
            let ends = netbpf_tests::packets::addresses(frame);
            assert_eq!(
                ends,
                Some((gateway, rig.web.ip(family))),
                "{}",
                describe(frame)
            );
            assert_eq!(frame[..6], rig.web.mac(), "{}", describe(frame));
        }))
        .check(rig);
}

#[test]
fn neighbours_are_answered() {
    with_rig("neighbours_are_answered", |rig| {
        let web = &rig.web;
        let asked = [FRONT.gateways[0], FRONT.absent[0]].map(|ip| ip.parse().unwrap());
        for wanted in asked.into_iter().chain([rig.app.ipv4()]) {
            let question = arp_request(web.mac(), web.ipv4(), wanted);
            let answer = arp_reply(GATEWAY_MAC, wanted, web.mac(), web.ipv4());
            sent(rig, "ARP", Family::V4, question, Action::Redirect)
                .out(Out::Frame(answer))
                .check(rig);
        }
        let gateway = FRONT.gateways[1].parse().unwrap();
        for wanted in [gateway, rig.app.ipv6()] {
            let question = neighbour_solicitation(web.mac(), web.ipv6(), wanted);
            let is_advertisement = |frame: &[u8]| {
                let claims = frame.len() == 86 && frame[54] == 136;
                let right = claims && frame[62..78] == wanted.octets();
                let to_web = frame[..6] == web.mac() && frame[6..12] == GATEWAY_MAC;
                assert!(right && to_web, "not the answer: {}", describe(frame));
            };
            sent(rig, "NS", Family::V6, question, Action::Redirect)
                .out(Out::Such(&is_advertisement))
                .check(rig);
        }
    });
}

#[test]
fn spoofed_packets_are_dropped() {
    with_rig("spoofed_packets_are_dropped", |rig| {
        let (web, app) = (&rig.web, &rig.app);
        let foreign = [2, 0, 0, 0, 0, 0x99];
        for family in Family::BOTH {
            for to in [app.ip(family), family.ip(CLIENT), family.ip(FRONT.gateways)] {
                let way = rig.from(web, to);
                let mac = Way {
                    from_mac: foreign,
                    ..way
                };
                dropped(
                    rig,
                    "MAC",
                    family,
                    mac.udp(1, 2, b"x"),
                    DropReason::SpoofedMac,
                );
                let address = Way {
                    from: rig.other.ip(family),
                    ..way
                };
                let packet = address.udp(1, 2, b"x");
                dropped(rig, "address", family, packet, DropReason::SpoofedAddress);
            }
            let way = rig.from(web, app.ip(family));
            let loopback = Way {
                from: family.loopback(),
                ..way
            };
            dropped(
                rig,
                "source",
                family,
                loopback.udp(1, 2, b"x"),
                DropReason::Martian,
            );
            let loopback = Way {
                to: family.loopback(),
                ..way
            };
            dropped(
                rig,
                "loopback",
                family,
                loopback.udp(1, 2, b"x"),
                DropReason::Martian,
            );
        }
        let claim = arp_reply(web.mac(), app.ipv4(), BROADCAST, app.ipv4());
        dropped(rig, "ARP", Family::V4, claim, DropReason::SpoofedNeighbour);
        let gateway = FRONT.gateways[1].parse().unwrap();
        let claim = neighbour_advertisement(web.mac(), web.ipv6(), app.mac(), app.ipv6(), gateway);
        dropped(rig, "NA", Family::V6, claim, DropReason::SpoofedNeighbour);
        let mut other = rig.from(web, app.ip(Family::V4)).udp(1, 2, b"x");
        other[12..14].copy_from_slice(&[0x88, 0xb5]);
        dropped(rig, "neither", Family::V4, other, DropReason::EtherType);
    });
}

const BROADCAST: [u8; 6] = netbpf_tests::packets::BROADCAST;

#[test]
fn siblings_by_the_policy_of_their_network() {
    with_rig("siblings_by_the_policy", |rig| {
        let (web, app, other) = (&rig.web, &rig.app, &rig.other);
        for family in Family::BOTH {
            // MACs change, the hop limit does not.
            let (leaves, arrives) = (rig.from(web, app.ip(family)), rig.into(app, web.ip(family)));
            let packets = [
                (
                    leaves.tcp(1000, 80, "S", b""),
                    arrives.tcp(1000, 80, "S", b""),
                ),
                (
                    leaves.tcp(1000, 80, "A", b"x"),
                    arrives.tcp(1000, 80, "A", b"x"),
                ),
                (leaves.udp(1000, 53, b"x"), arrives.udp(1000, 53, b"x")),
                (
                    leaves.echo_request(1, 1, b"x"),
                    arrives.echo_request(1, 1, b"x"),
                ),
                (
                    leaves.protocol(132, b"an SCTP chunk"),
                    arrives.protocol(132, b"an SCTP chunk"),
                ),
                (
                    leaves.hops(1).udp(1, 2, b"x"),
                    arrives.hops(1).udp(1, 2, b"x"),
                ),
            ];
            for (packet, out) in packets {
                sent(rig, "sibling", family, packet, Action::Redirect)
                    .out(Out::Frame(out))
                    .check(rig);
            }
            let packet = rig.from(web, other.ip(family)).udp(1, 2, b"x");
            dropped(rig, "another network", family, packet, DropReason::Isolated);
            let absent = rig.from(web, family.ip(BACK.absent)).udp(1, 2, b"x");
            dropped(
                rig,
                "absent elsewhere",
                family,
                absent,
                DropReason::Isolated,
            );
        }
        rig.set_network_flags(NetworkFlags { icc: false, ..OPEN });
        for family in Family::BOTH {
            let packet = rig.from(web, app.ip(family)).udp(1, 2, b"x");
            dropped(rig, "no icc", family, packet, DropReason::IccDisabled);
        }
        rig.set_network_flags(NetworkFlags {
            internal: true,
            ..OPEN
        });
        for family in Family::BOTH {
            let packet = rig.from(web, family.ip(CLIENT)).udp(1, 2, b"x");
            dropped(rig, "internal", family, packet, DropReason::Internal);
        }
    });
}

#[test]
fn host_services_pass_to_the_stack() {
    with_rig("host_services_pass", |rig| {
        for family in Family::BOTH {
            let addresses = [
                family.ip(FRONT.gateways),
                family.ip(BACK.gateways),
                family.ip(HOST),
            ];
            for to in addresses {
                let way = rig.from(&rig.web, to);
                for packet in [way.tcp(1, 22, "S", b""), way.udp(1, 53, b"x")] {
                    sent(rig, "host", family, packet, Action::Pass).check(rig);
                }
            }
        }
    });
}

#[test]
fn what_cannot_be_delivered_is_answered() {
    with_rig("what_cannot_be_delivered", |rig| {
        for family in Family::BOTH {
            let absent = rig.from(&rig.web, family.ip(FRONT.absent));
            let reason = DropReason::HostUnreachable;
            refused(
                rig,
                family,
                absent.udp(1, 2, b"x"),
                reason,
                [(3, 1), (1, 3)],
            );
            refused(
                rig,
                family,
                absent.echo_request(1, 1, b"x"),
                reason,
                [(3, 1), (1, 3)],
            );
            let nowhere = rig.from(&rig.web, family.ip(NOWHERE));
            let reason = DropReason::NetUnreachable;
            refused(
                rig,
                family,
                nowhere.udp(1, 2, b"x"),
                reason,
                [(3, 0), (1, 0)],
            );
            let spent = rig.from(&rig.web, family.ip(CLIENT)).hops(1);
            let reason = DropReason::HopLimit;
            refused(
                rig,
                family,
                spent.udp(1, 2, b"x"),
                reason,
                [(11, 0), (3, 0)],
            );
            refused(
                rig,
                family,
                spent.tcp(1, 2, "S", b""),
                reason,
                [(11, 0), (3, 0)],
            );
        }
    });
}

#[test]
fn what_can_begin_no_flow_is_dropped() {
    with_rig("what_can_begin_no_flow", |rig| {
        for family in Family::BOTH {
            let way = rig.from(&rig.web, family.ip(CLIENT));
            for flags in ["A", "SA", "R", "FA"] {
                let packet = way.tcp(2000, 80, flags, b"");
                dropped(rig, flags, family, packet, DropReason::NoFlow);
            }
            let packet = way.echo_reply(1, 1, b"x");
            dropped(rig, "echo reply", family, packet, DropReason::NoFlow);
            // Signed, or summed up, together with the addresses.
            for protocol in [51, 33, 136] {
                let packet = way.protocol(protocol, b"AH, DCCP or UDP-Lite");
                dropped(rig, "protocol", family, packet, DropReason::Protocol);
            }
        }
    });
}

#[test]
fn what_leaves_is_masqueraded_and_its_answers_come_back() {
    use netbpf_common::names::FROM_UPLINK;
    with_rig("what_leaves_is_masqueraded", |rig| {
        let web = &rig.web;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let (leaves, outside) = (rig.from(web, client), rig.out(host, client).hops(63));
            let (answer, arrives) = (rig.by_uplink(client, host), rig.into(web, client).hops(63));
            // Ports within the range of masquerade are kept where they are free.
            let flows = [
                (
                    leaves.tcp(5000, 80, "S", b""),
                    outside.tcp(5000, 80, "S", b""),
                    answer.tcp(80, 5000, "SA", b""),
                    arrives.tcp(80, 5000, "SA", b""),
                ),
                (
                    leaves.udp(5000, 53, b"question"),
                    outside.udp(5000, 53, b"question"),
                    answer.udp(53, 5000, b"answer"),
                    arrives.udp(53, 5000, b"answer"),
                ),
                (
                    leaves.echo_request(5000, 1, b"abc"),
                    outside.echo_request(5000, 1, b"abc"),
                    answer.echo_reply(5000, 1, b"abc"),
                    arrives.echo_reply(5000, 1, b"abc"),
                ),
            ];
            for (packet, out, reply, back) in flows {
                sent(rig, "out", family, packet, Action::Redirect)
                    .out(Out::Packet(out))
                    .check(rig);
                let ifindex = rig.uplink.entry.device.ifindex;
                Row::new("back", FROM_UPLINK, ifindex, reply, Action::Redirect)
                    .out(Out::Frame(back))
                    .check(rig);
            }
        }
    });
}

#[test]
fn a_routed_network_leaves_under_its_own_addresses() {
    with_rig("a_routed_network", |rig| {
        rig.set_network_flags(NetworkFlags {
            masquerade: false,
            ..OPEN
        });
        for family in Family::BOTH {
            let client = family.ip(CLIENT);
            let leaves = rig.from(&rig.web, client);
            let out = rig.out(rig.web.ip(family), client).hops(63);
            sent(
                rig,
                "routed",
                family,
                leaves.udp(1, 2, b"x"),
                Action::Redirect,
            )
            .out(Out::Packet(out.udp(1, 2, b"x")))
            .check(rig);
        }
    });
}

#[test]
fn nothing_hides_behind_headers_that_are_not_followed() {
    with_rig("nothing_hides", |rig| {
        for to in [rig.app.ip(Family::V6), Family::V6.ip(CLIENT)] {
            let packet = behind_options(&rig.from(&rig.web, to));
            dropped(rig, "options", Family::V6, packet, DropReason::Malformed);
        }
    });
}

#[test]
fn the_next_container_with_an_address_does_not_take_up_its_flows() {
    with_rig("next_container", |rig| {
        for family in Family::BOTH {
            let client = family.ip(CLIENT);
            let leaves = rig.from(&rig.web, client);
            let flows = || {
                let flows = rig.datapath.flows().expect("flows");
                flows
                    .iter()
                    .map(|f| (f.endpoint, f.packets))
                    .collect::<Vec<_>>()
            };
            let send = || {
                let packet = leaves.udp(5000, 53, b"x");
                sent(rig, "out", family, packet, Action::Redirect)
                    .out(Out::Any)
                    .check(rig);
            };
            send();
            send();
            assert!(flows().contains(&(rig.web.entry.index, 2)), "{:?}", flows());
            let mut successor = rig.web.entry.clone();
            successor.index += 20;
            rig.datapath.set_endpoint(&successor).expect("set");
            send();
            assert!(flows().contains(&(successor.index, 1)), "{:?}", flows());
            rig.datapath.set_endpoint(&rig.web.entry).expect("set");
        }
    });
}
