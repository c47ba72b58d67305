//! Packets through the real programs by the kernel's test-run, each row for
//! both families. The surroundings are drawn at [`netbpf_tests::rows::Rig`].

use netbpf::datapath::GATEWAY_MAC;
use netbpf_common::{drop::DropReason, names::FROM_CONTAINER};
use netbpf_tests::{
    lab::{Family, names::FRONT},
    packets::{Way, arp_reply, arp_request, describe, neighbour_solicitation},
    rows::{Action, Out, Row, with_rig},
};

#[test]
fn arp_for_the_gateway_is_answered() {
    with_rig("arp_for_the_gateway_is_answered", |rig| {
        let web = &rig.web;
        let gateway = FRONT.gateways[0].parse().unwrap();
        let question = arp_request(web.mac(), web.ipv4(), gateway);
        let answer = arp_reply(GATEWAY_MAC, gateway, web.mac(), web.ipv4());
        Row::new(
            "ARP",
            FROM_CONTAINER,
            web.ifindex(),
            question,
            Action::Redirect,
        )
        .out(Out::Frame(answer))
        .check(rig);
    });
}

#[test]
fn a_solicitation_for_the_gateway_is_answered() {
    with_rig("a_solicitation_for_the_gateway_is_answered", |rig| {
        let web = &rig.web;
        let gateway = FRONT.gateways[1].parse().unwrap();
        let question = neighbour_solicitation(web.mac(), web.ipv6(), gateway);
        let is_advertisement = |frame: &[u8]| {
            let claims = frame.len() >= 78 && frame[54] == 136 && frame[62..78] == gateway.octets();
            let to_web = frame[..6] == web.mac() && frame[6..12] == GATEWAY_MAC;
            assert!(claims && to_web, "not the answer: {}", describe(frame));
        };
        Row::new(
            "NS",
            FROM_CONTAINER,
            web.ifindex(),
            question,
            Action::Redirect,
        )
        .out(Out::Such(&is_advertisement))
        .check(rig);
    });
}

#[test]
fn a_spoofed_source_mac_is_dropped() {
    with_rig("a_spoofed_source_mac_is_dropped", |rig| {
        for family in Family::BOTH {
            let foreign = [2, 0, 0, 0, 0, 0x99];
            let way = Way::new(foreign, GATEWAY_MAC, rig.web.ip(family), rig.app.ip(family));
            Row::new(
                format!("{family:?}"),
                FROM_CONTAINER,
                rig.web.ifindex(),
                way.udp(1000, 2000, b"spoofed"),
                Action::Drop,
            )
            .drops(&[(DropReason::SpoofedMac, 1)])
            .out(Out::Any)
            .check(rig);
        }
    });
}

#[test]
fn a_spoofed_source_address_is_dropped() {
    with_rig("a_spoofed_source_address_is_dropped", |rig| {
        for family in Family::BOTH {
            let (web, app) = (&rig.web, &rig.app);
            let way = Way::new(web.mac(), GATEWAY_MAC, app.ip(family), rig.other.ip(family));
            Row::new(
                format!("{family:?}"),
                FROM_CONTAINER,
                web.ifindex(),
                way.udp(1000, 2000, b"spoofed"),
                Action::Drop,
            )
            .drops(&[(DropReason::SpoofedAddress, 1)])
            .out(Out::Any)
            .check(rig);
        }
    });
}

#[test]
fn a_packet_to_a_sibling_is_delivered_with_its_mac_and_ttl() {
    with_rig("a_packet_to_a_sibling_is_delivered", |rig| {
        for family in Family::BOTH {
            let (web, app) = (&rig.web, &rig.app);
            let way = Way::new(web.mac(), GATEWAY_MAC, web.ip(family), app.ip(family));
            let arrives = Way {
                from_mac: GATEWAY_MAC,
                to_mac: app.mac(),
                ..way
            };
            Row::new(
                format!("{family:?}"),
                FROM_CONTAINER,
                web.ifindex(),
                way.tcp(1000, 80, "S", b""),
                Action::Redirect,
            )
            .out(Out::Frame(arrives.tcp(1000, 80, "S", b"")))
            .check(rig);
        }
    });
}

#[test]
fn an_absent_address_is_answered_host_unreachable() {
    with_rig("an_absent_address_is_answered", |rig| {
        for family in Family::BOTH {
            let web = &rig.web;
            let way = Way::new(
                web.mac(),
                GATEWAY_MAC,
                web.ip(family),
                family.ip(FRONT.absent),
            );
            Row::new(
                format!("{family:?}"),
                FROM_CONTAINER,
                web.ifindex(),
                way.udp(1000, 2000, b"anybody?"),
                Action::Redirect,
            )
            .drops(&[(DropReason::HostUnreachable, 1)])
            .out(Out::Such(&|frame| {
                // ICMP 3/1, ICMPv6 1/3 (address unreachable).
                let wanted = family.of([(3, 1), (1, 3)]);
                let found = netbpf_tests::packets::icmp_type_code(frame);
                assert_eq!(found, Some(wanted), "{}", describe(frame));
            }))
            .check(rig);
        }
    });
}
