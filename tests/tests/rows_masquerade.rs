//! Which outside port a masqueraded flow gets, through the real programs by the kernel's
//! test-run (RFC 4787 section 4, RFC 7857): its own, a free one, that of a mapping that
//! is over, a shared one, or none.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use netbpf_common::{
    drop::DropReason,
    flow::Timeouts,
    names::{FROM_CONTAINER, FROM_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, HOST, NOBODY},
        within,
    },
    rows::{Action, Member, OPTIONS, Out, ROOMY, Rig, Row, with_rig, with_rig_of},
};

/// Ports that masquerade gives out in a rig: 1024 to 32767.
const RANGE: usize = 31_744;

/// What the interface promises to one remote address and port.
const PROMISED: usize = 28_000;

/// Runs the first packet of a flow; its outside port where it leaves.
fn leaves(rig: &Rig, member: &Member, packet: &[u8]) -> Option<u16> {
    let (code, frame) = rig.run(FROM_CONTAINER, member.ifindex(), packet);
    let at = if frame[14] >> 4 == 4 { 34 } else { 54 };
    (code == 7).then(|| u16::from_be_bytes([frame[at], frame[at + 1]]))
}

fn syn(rig: &Rig, member: &Member, to: IpAddr, from_port: u16) -> Vec<u8> {
    rig.from(member, to).tcp(from_port, 80, "S", b"")
}

#[track_caller]
fn exhausted(rig: &Rig, packet: Vec<u8>) {
    Row::new(
        "one too many",
        FROM_CONTAINER,
        rig.web.ifindex(),
        packet,
        Action::Drop,
    )
    .drops(&[(DropReason::PortsExhausted, 1)])
    .check(rig);
}

#[test]
fn who_finds_no_room_for_a_mapping_is_told_from_who_finds_no_port() {
    // Mappings for as many flows as there is room for; ports enough.
    with_rig("no_room_for_a_mapping", |rig| {
        for family in Family::BOTH {
            let client = family.ip(CLIENT);
            let syn = |port| syn(rig, &rig.web, client, port);
            for port in (20_000..).take(OPTIONS.max_flows as usize) {
                assert_eq!(leaves(rig, &rig.web, &syn(port)), Some(port));
            }
            // Nobody else's port is shared for that.
            Row::new(
                "one too many",
                FROM_CONTAINER,
                rig.web.ifindex(),
                syn(30_000),
                Action::Drop,
            )
            .drops(&[(DropReason::FlowTableFull, 1)])
            .check(rig);
            // One that has a mapping goes on, to others as well.
            let other = self::syn(rig, &rig.web, family.ip(NOBODY), 20_000);
            assert_eq!(leaves(rig, &rig.web, &other), Some(20_000));
        }
    });
}

#[test]
fn every_port_is_given_out_before_one_is_shared_or_refused() {
    with_rig_of("every_port", ROOMY, |rig| {
        let family = Family::V4;
        let (host, client, other) = (family.ip(HOST), family.ip(CLIENT), family.ip(NOBODY));
        let mut outside = HashSet::new();
        // Two containers with the same ports, both within the range and above.
        let flows = (20_000..).flat_map(|port| [(&rig.web, port), (&rig.app, port)]);
        let mut flows = flows.take(RANGE);
        for (number, (member, port)) in flows.by_ref().enumerate() {
            let packet = syn(rig, member, client, port);
            let got = leaves(rig, member, &packet);
            let got = got.unwrap_or_else(|| panic!("{number} flows, and no more"));
            assert!((1024..=32_767).contains(&got), "{got}");
            assert!(outside.insert(got), "{number} flows, and {got} twice");
        }
        assert!(outside.len() >= PROMISED);
        assert_eq!(outside.len(), RANGE);

        // To this remote there is none left: a counted drop, and nobody loses a flow.
        exhausted(rig, syn(rig, &rig.web, client, 60_000));
        // To another one there is, shared.
        let shared = leaves(rig, &rig.web, &syn(rig, &rig.web, other, 60_000));
        assert!(outside.contains(&shared.expect("a port to share")));
        // Its answer is its own, and the owner's is the owner's.
        let answer = rig
            .by_uplink(other, host)
            .tcp(80, shared.unwrap(), "SA", b"");
        let arrives = rig
            .into(&rig.web, other)
            .hops(63)
            .tcp(80, 60_000, "SA", b"");
        let uplink = rig.uplink.entry.device.ifindex;
        Row::new("answer", FROM_UPLINK, uplink, answer, Action::Redirect)
            .out(Out::Frame(arrives))
            .check(rig);

        // A flow that is over makes room, and is no one else's before.
        let old = leaves(rig, &rig.app, &syn(rig, &rig.app, client, 20_000)).expect("its own");
        let reset = rig.by_uplink(client, host).tcp(80, old, "RA", b"");
        Row::new("reset", FROM_UPLINK, uplink, reset, Action::Redirect)
            .out(Out::Any)
            .check(rig);
        let found = leaves(rig, &rig.web, &syn(rig, &rig.web, client, 60_001));
        assert_eq!(found, Some(old));
        exhausted(rig, syn(rig, &rig.web, client, 60_002));
    });
}

#[test]
fn published_ports_and_those_of_the_host_are_not_given_out() {
    with_rig_of("not_given_out", ROOMY, |rig| {
        for (slot, port) in (1..).zip(1024..1088) {
            rig.publish(slot, 6, port, &rig.web, 80);
        }
        let client = Family::V4.ip(CLIENT);
        let listener = std::net::TcpListener::bind("0.0.0.0:2000").expect("a listener");
        for port in (1024..1088).chain([2000]) {
            let got = leaves(rig, &rig.app, &syn(rig, &rig.app, client, port));
            let got = got.expect("a port");
            assert!(!(1024..1088).contains(&got) && got != 2000, "{got}");
        }
        drop(listener);
    });
}

#[test]
fn a_mapping_is_kept_towards_every_remote_and_port() {
    with_rig("a_mapping_is_kept", |rig| {
        for family in Family::BOTH {
            // Its own port is the other container's.
            let client = family.ip(CLIENT);
            assert_eq!(
                leaves(rig, &rig.app, &rig.from(&rig.app, client).udp(5000, 1, b"")),
                Some(5000)
            );
            let mut ports = HashSet::new();
            for to in [client, family.ip(NOBODY)] {
                for port in [53, 123, 4500] {
                    let packet = rig.from(&rig.web, to).udp(5000, port, b"x");
                    ports.insert(leaves(rig, &rig.web, &packet).expect("a port"));
                }
            }
            assert_eq!(ports.len(), 1, "{ports:?}");
            assert!(!ports.contains(&5000));
        }
    });
}

#[test]
fn protocols_without_ports_leave_under_the_hosts_address_one_container_at_a_time() {
    const GRE: u8 = 47;
    const ESP: u8 = 50;
    with_rig("without_ports", |rig| {
        let (web, app) = (&rig.web, &rig.app);
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            for protocol in [GRE, ESP] {
                let sent = rig.from(web, client).protocol(protocol, b"tunnelled");
                let outside = rig.out(host, client).hops(63);
                Row::new("out", FROM_CONTAINER, web.ifindex(), sent, Action::Redirect)
                    .out(Out::Packet(outside.protocol(protocol, b"tunnelled")))
                    .check(rig);
                let answer = rig.by_uplink(client, host).protocol(protocol, b"back");
                let arrives = rig.into(web, client).hops(63).protocol(protocol, b"back");
                Row::new("back", FROM_UPLINK, uplink, answer, Action::Redirect)
                    .out(Out::Frame(arrives))
                    .check(rig);
                let second = rig.from(app, client).protocol(protocol, b"tunnelled");
                Row::new(
                    "second",
                    FROM_CONTAINER,
                    app.ifindex(),
                    second,
                    Action::Drop,
                )
                .drops(&[(DropReason::Protocol, 1)])
                .check(rig);
                // Another remote is another tunnel.
                let other = rig.from(app, family.ip(NOBODY)).protocol(protocol, b"x");
                Row::new(
                    "other",
                    FROM_CONTAINER,
                    app.ifindex(),
                    other,
                    Action::Redirect,
                )
                .out(Out::Any)
                .check(rig);
                // The host's own stays its own.
                let own = rig.by_uplink(family.ip(["192.0.2.50", "2001:db8:1::50"]), host);
                let own = own.protocol(protocol, b"x");
                Row::new("the host's", FROM_UPLINK, uplink, own, Action::Pass).check(rig);
            }
        }
    });
}

#[test]
fn containers_that_send_to_each_others_outside_ports_meet() {
    with_rig("outside_ports_meet", |rig| {
        let (web, app) = (&rig.web, &rig.app);
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let asks = |member: &Member, port: u16| {
                let packet = rig.from(member, client).udp(port, 3478, b"who am I?");
                leaves(rig, member, &packet).expect("a port")
            };
            // Not the port that it has inside.
            assert_eq!(asks(app, 7000), 7000);
            let (of_web, of_app) = (asks(web, 7000), asks(app, 7001));
            assert_ne!(of_web, 7000);
            let send = |member: &Member, from: u16, to: u16| {
                let packet = rig.from(member, host).udp(from, to, b"hello");
                Row::new(
                    "hairpin",
                    FROM_CONTAINER,
                    member.ifindex(),
                    packet,
                    Action::Redirect,
                )
            };
            // Whom the other one has not sent to is filtered.
            let mut first = send(web, 7000, of_app);
            first.verdict = Action::Drop;
            first
                .drops(&[(DropReason::NoFlow, 1)])
                .out(Out::Any)
                .check(rig);
            for _ in 0..2 {
                let hops = 62;
                let to_web = rig.into(web, host).hops(hops).udp(of_app, 7000, b"hello");
                send(app, 7001, of_web).out(Out::Frame(to_web)).check(rig);
                let to_app = rig.into(app, host).hops(hops).udp(of_web, 7001, b"hello");
                send(web, 7000, of_app).out(Out::Frame(to_app)).check(rig);
            }
            // A port that is nobody's is the host's.
            let nobodys = rig.from(web, host).udp(7000, 9999, b"hello");
            Row::new(
                "nobody's",
                FROM_CONTAINER,
                web.ifindex(),
                nobodys,
                Action::Pass,
            )
            .check(rig);
        }
    });
}

#[test]
fn an_expired_tunnel_makes_way_for_the_next_without_the_daemon() {
    with_rig("expired_tunnel", |rig| {
        let client = Family::V4.ip(CLIENT);
        let tunnels = |member: &Member| {
            let packet = rig.from(member, client).protocol(47, b"tunnelled");
            rig.run(FROM_CONTAINER, member.ifindex(), &packet).0 == 7
        };
        assert!(tunnels(&rig.web));
        assert!(!tunnels(&rig.app));
        rig.datapath
            .set_timeouts(Timeouts {
                other: 1,
                ..Timeouts::DEFAULT
            })
            .expect("time-outs");
        within(Duration::from_secs(5), "the other's is over", || {
            tunnels(&rig.app)
        });
    });
}
