//! What containers of one network send to each other: straight, but for what belongs to a flow
//! that one of them began by a published port. Through the real programs by the kernel's
//! test-run, each row for both families.

use aya::maps::{HashMap, Map, MapData};
use netbpf::datapath::{Device, EndpointEntry, NetworkFlags};
use netbpf_common::{
    drop::DropReason,
    maps::{
        Veth, VethSlot,
        endpoints::{VETH_SLOTS as SLOTS, veth_slot},
    },
    names::{self, FROM_CONTAINER, HOST_LOCAL, VETH_SLOTS, VETHS},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{BACK, HOST},
    },
    packets::{Way, addresses},
    rows::{Action, Member, OPEN, Out, Rig, Row, overlay, with_rig},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// One container sends a packet to another one of its network, which gets it as it is.
#[track_caller]
fn goes_straight(rig: &Rig, from: &Member, to: &Member, packet: impl Fn(&Way) -> Vec<u8>) {
    for family in Family::BOTH {
        let sent = packet(&rig.from(from, to.ip(family)));
        let arrives = packet(&rig.into(to, from.ip(family)));
        Row::new(
            "straight",
            FROM_CONTAINER,
            from.ifindex(),
            sent,
            Action::Redirect,
        )
        .out(Out::Packet(arrives))
        .check(rig);
    }
}

/// `app` asks `web` by a port of the host, and gets its answer from there, whatever else `web`
/// sends to it.
#[track_caller]
fn is_answered_from_the_host(rig: &Rig, sport: u16) {
    for family in Family::BOTH {
        let host = family.ip(HOST);
        let (web, app) = (&rig.web, &rig.app);
        for (name, asks, answers, arrives) in [
            (
                "TCP",
                rig.from(app, host).tcp(sport, 8080, "S", b""),
                rig.from(web, app.ip(family)).tcp(80, sport, "SA", b""),
                rig.into(app, host).hops(63).tcp(8080, sport, "SA", b""),
            ),
            (
                "UDP",
                rig.from(app, host).udp(sport, 5300, b"x"),
                rig.from(web, app.ip(family)).udp(53, sport, b"y"),
                rig.into(app, host).hops(63).udp(5300, sport, b"y"),
            ),
        ] {
            Row::new(name, FROM_CONTAINER, app.ifindex(), asks, Action::Redirect)
                .out(Out::Any)
                .check(rig);
            Row::new(
                name,
                FROM_CONTAINER,
                web.ifindex(),
                answers,
                Action::Redirect,
            )
            .out(Out::Packet(arrives))
            .check(rig);
        }
    }
}

fn publish(rig: &Rig) {
    rig.publish(1, TCP, 8080, &rig.web, 80);
    rig.publish(2, UDP, 5300, &rig.web, 53);
}

/// Without the marks, `web` answers as if `app` had asked it by its own address: what goes straight
/// is not looked up among the flows.
#[track_caller]
fn is_answered_straight(rig: &Rig, sport: u16) {
    rig.clear_marks(names::SIBLINGS);
    goes_straight(rig, &rig.web, &rig.app, |way| way.tcp(80, sport, "A", b"x"));
}

/// What is sent to siblings of all protocols.
#[track_caller]
fn all_go_straight(rig: &Rig, from: &Member, to: &Member) {
    goes_straight(rig, from, to, |way| way.tcp(80, 7000, "SA", b""));
    goes_straight(rig, from, to, |way| way.tcp(7000, 5432, "A", b"x"));
    goes_straight(rig, from, to, |way| way.udp(53, 7000, b"x"));
    goes_straight(rig, from, to, |way| way.echo_request(1, 1, b"x"));
    goes_straight(rig, from, to, |way| way.protocol(47, b"tunnel"));
}

#[test]
fn answers_by_a_port_are_followed() {
    with_rig("siblings_by_port", |rig| {
        publish(rig);
        all_go_straight(rig, &rig.web, &rig.app);
        all_go_straight(rig, &rig.app, &rig.web);
        is_answered_from_the_host(rig, 6000);
        is_answered_from_the_host(rig, 6001);
        // By its own port a container is reached without the host all the same.
        all_go_straight(rig, &rig.web, &rig.app);
        all_go_straight(rig, &rig.app, &rig.web);
        is_answered_straight(rig, 6001);
    });
}

#[test]
fn answers_that_were_not_marked_are_followed() {
    with_rig("siblings_without_marks", |rig| {
        publish(rig);
        let answer = |family: Family| {
            let (web, app) = (&rig.web, &rig.app);
            let packet = rig.from(web, app.ip(family)).tcp(80, 6000, "A", b"x");
            let arrives = rig.into(app, family.ip(HOST)).hops(63);
            Row::new(
                "answer",
                FROM_CONTAINER,
                web.ifindex(),
                packet,
                Action::Redirect,
            )
            .out(Out::Packet(arrives.tcp(8080, 6000, "A", b"x")))
            .check(rig);
        };
        is_answered_from_the_host(rig, 6000);
        rig.forget_marks(names::SIBLINGS);
        Family::BOTH.into_iter().for_each(answer);
        all_go_straight(rig, &rig.web, &rig.app);
        // The next start finds them.
        let next = rig.another_daemon();
        next.trust_marks().expect("marked");
        Family::BOTH.into_iter().for_each(answer);
        is_answered_from_the_host(rig, 6001);
        all_go_straight(rig, &rig.app, &rig.web);
    });
}

#[test]
fn who_may_not_talk_to_each_other_does_not() {
    with_rig("siblings_apart", |rig| {
        let dropped = |from: &Member, to: &Member, reason| {
            for family in Family::BOTH {
                let packet = rig.from(from, to.ip(family)).udp(7000, 53, b"x");
                Row::new(
                    "refused",
                    FROM_CONTAINER,
                    from.ifindex(),
                    packet,
                    Action::Drop,
                )
                .drops(&[(reason, 1)])
                .check(rig);
            }
        };
        dropped(&rig.web, &rig.other, DropReason::Isolated);
        rig.set_network_flags(NetworkFlags { icc: false, ..OPEN });
        dropped(&rig.web, &rig.app, DropReason::IccDisabled);
        // By a published port they may all the same.
        publish(rig);
        is_answered_from_the_host(rig, 6000);
        dropped(&rig.web, &rig.app, DropReason::IccDisabled);
        rig.set_network_flags(OPEN);
        all_go_straight(rig, &rig.web, &rig.app);
    });
}

#[test]
fn the_hosts_client_is_no_containers_namesake() {
    with_rig("siblings_namesake", |rig| {
        let mut other = rig.other.clone();
        other.entry.flags = overlay::flags();
        // The host has the gateway's address of another network with the same subnet.
        let namesake = EndpointEntry {
            index: 51,
            device: Device {
                name: "namesake".into(),
                ifindex: 9999,
            },
            ipv4: format!("{}/24", HOST[0]).parse().ok(),
            ipv6: format!("{}/64", HOST[1]).parse().ok(),
            ..other.entry.clone()
        };
        for entry in [&other.entry, &namesake] {
            rig.datapath.set_endpoint(entry).expect("an endpoint");
        }
        rig.publish(1, TCP, 8080, &other, 80);
        let host_local = rig.open(HOST_LOCAL);
        for family in Family::BOTH {
            let (host, gateway) = (family.ip(HOST), family.ip(BACK.gateways));
            let asks = Way::new([0; 6], [0; 6], host, host).tcp(6000, 8080, "S", b"");
            let (code, frame) = host_local.run(0, 1, &asks).expect("a packet");
            let seen_as = addresses(&frame).expect("a packet");
            assert_eq!((code, seen_as), (7, (gateway, other.ip(family))));
            let answers = rig.from(&other, gateway).tcp(80, 6000, "SA", b"");
            let (_, frame) = rig.run(FROM_CONTAINER, other.ifindex(), &answers);
            assert_eq!(addresses(&frame), Some((host, host)));
        }
    });
}

/// The place of a device among `veth_slots`.
fn slot(rig: &Rig, member: &Member) -> VethSlot {
    let slots = rig.pinned_array::<VethSlot>(VETH_SLOTS);
    slots.get(&veth_slot(member.ifindex()), 0).expect("a slot")
}

#[test]
fn a_device_is_found_by_its_place_alone() {
    with_rig("siblings_placed", |rig| {
        let map = MapData::from_pin(rig.bpffs().join(VETHS)).expect("veths");
        let mut veths: HashMap<_, u32, Veth> = Map::HashMap(map).try_into().expect("veths");
        for member in [&rig.web, &rig.app] {
            veths.remove(&member.ifindex()).expect("an entry");
        }
        all_go_straight(rig, &rig.web, &rig.app);
        all_go_straight(rig, &rig.app, &rig.web);
        // Of whom the daemon does not know, nothing stays.
        rig.datapath
            .retain_endpoints(&[1, 2, 3].into())
            .expect("none");
        assert_eq!(slot(rig, &rig.web).ifindex, 0);
        let other = slot(rig, &rig.other);
        assert_eq!(other.ifindex, rig.other.ifindex());
        // Nor what is at no device's place.
        let mut slots = rig.pinned_array::<VethSlot>(VETH_SLOTS);
        let elsewhere = veth_slot(rig.other.ifindex() + 1000);
        slots.set(elsewhere, other, 0).expect("a copy");
        rig.datapath
            .retain_endpoints(&[1, 2, 3].into())
            .expect("one");
        assert_eq!(slots.get(&elsewhere, 0).expect("a slot").ifindex, 0);
        assert_eq!(slot(rig, &rig.other), other);
    });
}

#[test]
fn a_device_whose_place_is_taken_is_found() {
    with_rig("siblings_taken", |rig| {
        publish(rig);
        let web = &rig.web;
        let all = || {
            all_go_straight(rig, web, &rig.app);
            all_go_straight(rig, &rig.app, web);
            is_answered_from_the_host(rig, 6000);
        };
        let set = |entry: &EndpointEntry| rig.datapath.set_endpoint(entry).expect("an endpoint");
        let own = slot(rig, web);
        assert_eq!(own.ifindex, web.ifindex());
        let twin = EndpointEntry {
            index: 50,
            device: Device {
                name: "twin".into(),
                ifindex: web.ifindex() + SLOTS,
            },
            ipv4: None,
            ipv6: None,
            ..web.entry.clone()
        };
        // Nobody takes it from whoever has it.
        set(&twin);
        assert_eq!(slot(rig, web), own);
        rig.datapath.remove_endpoint(&web.entry).expect("web gone");
        set(&twin);
        let other = slot(rig, web);
        assert_eq!(other.ifindex, twin.device.ifindex);
        set(&web.entry);
        assert_eq!(slot(rig, web), other);
        all();
        rig.datapath.remove_endpoint(&twin).expect("the twin gone");
        assert_eq!(slot(rig, web).ifindex, 0);
        set(&web.entry);
        assert_eq!(slot(rig, web), own);
        all();
        // Left behind by a version that knew of no places.
        let mut slots = rig.pinned_array::<VethSlot>(VETH_SLOTS);
        let index = veth_slot(web.ifindex());
        slots.set(index, other, 0).expect("the twin's");
        all();
        set(&web.entry);
        assert_eq!(slot(rig, web), own);
        // Another container behind the device.
        let next = EndpointEntry {
            index: 60,
            ..web.entry.clone()
        };
        set(&next);
        assert_eq!(slot(rig, web).veth.endpoint, 60);
        rig.datapath.remove_endpoint(&next).expect("gone");
        assert_eq!(slot(rig, web).ifindex, 0);
        let packet = rig.from(web, rig.app.ip(Family::V4)).udp(1, 2, b"x");
        Row::new(
            "nobody's",
            FROM_CONTAINER,
            web.ifindex(),
            packet,
            Action::Drop,
        )
        .drops(&[(DropReason::UnknownEndpoint, 1)])
        .check(rig);
    });
}
