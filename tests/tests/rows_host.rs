//! What the host's own programs send with a tuple that a container has outside already,
//! through the real programs by the kernel's test-run. Each row for both families.

use netbpf_common::{
    drop::DropReason,
    names::{FROM_CONTAINER, FROM_UPLINK, TO_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, HOST, NOBODY},
    },
    packets::Way,
    rows::{Action, Out, Rig, Row, with_rig},
};

/// Port of a container, which it has outside, too; that of the remote.
const PORTS: (u16, u16) = (5000, 80);

/// Sends what the host sends; the frame that leaves.
#[track_caller]
fn sends(rig: &Rig, packet: &[u8]) -> Vec<u8> {
    let (code, frame) = rig.run(TO_UPLINK, rig.uplink.entry.device.ifindex, packet);
    assert!(matches!(code as i32, 0 | -1), "{code}");
    frame
}

fn port_of(family: Family, frame: &[u8]) -> u16 {
    let at = family.of([34, 54]);
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// The first packet of a container with the tuple.
#[track_caller]
fn container_sends(rig: &Rig, packet: Vec<u8>) {
    let row = Row::new(
        "the container's",
        FROM_CONTAINER,
        rig.web.ifindex(),
        packet,
        Action::Redirect,
    );
    row.out(Out::Any).check(rig);
}

/// Packets that begin a flow, and what answers them.
type Begins = fn(&Way, (u16, u16)) -> Vec<u8>;

const BEGINS: [(&str, Begins, Begins); 2] = [
    (
        "tcp",
        |way, ports| way.tcp(ports.0, ports.1, "S", b""),
        |way, ports| way.tcp(ports.0, ports.1, "SA", b""),
    ),
    (
        "udp",
        |way, ports| way.udp(ports.0, ports.1, b"question"),
        |way, ports| way.udp(ports.0, ports.1, b"answer"),
    ),
];

#[test]
fn what_the_host_sends_with_a_containers_tuple_leaves_by_another_port() {
    with_rig("a_containers_tuple", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client, other) = (family.ip(HOST), family.ip(CLIENT), family.ip(NOBODY));
            let (out, back) = (rig.out(host, client), rig.by_uplink(client, host));
            for (name, asks, answers) in BEGINS {
                let untouched = |title: &str, packet| {
                    Row::new(
                        format!("{name} {title} {family:?}"),
                        TO_UPLINK,
                        uplink,
                        packet,
                        Action::Pass,
                    )
                    .check(rig);
                };
                untouched("nobody's", asks(&out, PORTS));
                container_sends(rig, asks(&rig.from(&rig.web, client), PORTS));
                untouched("another port", asks(&out, (PORTS.0 + 1, PORTS.1)));
                untouched("another remote port", asks(&out, (PORTS.0, PORTS.1 + 1)));
                untouched("another remote", asks(&rig.out(host, other), PORTS));

                let port = port_of(family, &sends(rig, &asks(&out, PORTS)));
                assert_ne!(port, PORTS.0, "{name}");
                // Once more, by the flow, and with a hop limit that leads nowhere: the host
                // is no router to itself.
                for hops in [64, 1] {
                    let wanted = asks(&out.hops(hops), (port, PORTS.1));
                    Row::new(
                        format!("{name} again {family:?}"),
                        TO_UPLINK,
                        uplink,
                        asks(&out.hops(hops), PORTS),
                        Action::Pass,
                    )
                    .out(Out::Frame(wanted))
                    .check(rig);
                    Row::new(
                        format!("{name} back {family:?}"),
                        FROM_UPLINK,
                        uplink,
                        answers(&back.hops(hops), (PORTS.1, port)),
                        Action::Pass,
                    )
                    .out(Out::Frame(answers(&back.hops(hops), (PORTS.1, PORTS.0))))
                    .check(rig);
                }
                // The container's is the container's still.
                let into = rig.into(&rig.web, client).hops(63);
                Row::new(
                    format!("{name} the container's answer {family:?}"),
                    FROM_UPLINK,
                    uplink,
                    answers(&back, (PORTS.1, PORTS.0)),
                    Action::Redirect,
                )
                .out(Out::Frame(answers(&into, (PORTS.1, PORTS.0))))
                .check(rig);
            }
        }
    });
}

#[test]
fn an_echo_of_the_host_with_a_containers_identifier_gets_another_one() {
    with_rig("a_containers_identifier", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let (out, back) = (rig.out(host, client), rig.by_uplink(client, host));
            let of_web = rig.from(&rig.web, client);
            container_sends(rig, of_web.echo_request(2000, 1, b"of web"));
            let frame = sends(rig, &out.echo_request(2000, 1, b"of the host"));
            let at = family.of([38, 58]);
            let id = u16::from_be_bytes([frame[at], frame[at + 1]]);
            assert_ne!(id, 2000);
            assert_eq!(frame, out.echo_request(id, 1, b"of the host"));
            Row::new(
                "back",
                FROM_UPLINK,
                uplink,
                back.echo_reply(id, 1, b"of the host"),
                Action::Pass,
            )
            .out(Out::Frame(back.echo_reply(2000, 1, b"of the host")))
            .check(rig);
        }
    });
}

#[test]
fn errors_about_what_the_host_sent_by_another_port_are_the_hosts() {
    with_rig("errors_of_the_hosts", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let (out, back) = (rig.out(host, client), rig.by_uplink(client, host));
            container_sends(rig, rig.from(&rig.web, client).udp(PORTS.0, PORTS.1, b"q"));
            let asked = out.udp(PORTS.0, PORTS.1, b"question");
            let left = sends(rig, &asked);
            let port = port_of(family, &left);
            let (kind, code) = family.of([(3, 3), (1, 4)]);
            // From outside, about what left; from the host, about what came.
            let error = back.icmp(kind, code, [0; 4], &left[14..]);
            Row::new("from outside", FROM_UPLINK, uplink, error, Action::Pass)
                .out(Out::Frame(back.icmp(kind, code, [0; 4], &asked[14..])))
                .check(rig);
            let came = back.udp(PORTS.1, PORTS.0, b"answer");
            let sent = back.udp(PORTS.1, port, b"answer");
            let error = out.icmp(kind, code, [0; 4], &came[14..]);
            Row::new("from the host", TO_UPLINK, uplink, error, Action::Pass)
                .out(Out::Frame(out.icmp(kind, code, [0; 4], &sent[14..])))
                .check(rig);
        }
    });
}

#[test]
fn a_segment_that_begins_nothing_is_left_alone() {
    with_rig("begins_nothing", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let of_web = rig.from(&rig.web, client);
            container_sends(rig, of_web.tcp(PORTS.0, PORTS.1, "S", b""));
            for flags in ["A", "R", "SA", "FA"] {
                let packet = rig.out(host, client).tcp(PORTS.0, PORTS.1, flags, b"");
                Row::new(flags, TO_UPLINK, uplink, packet, Action::Pass).check(rig);
            }
        }
    });
}

/// What has no ports cannot leave by another one: a container's tunnel makes way.
#[test]
fn a_tunnel_of_the_host_takes_the_place_of_a_containers() {
    with_rig("tunnel_of_the_host", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let (out, back) = (rig.out(host, client), rig.by_uplink(client, host));
            let of_web = rig.from(&rig.web, client).protocol(47, b"of web");
            container_sends(rig, of_web.clone());
            let answer = back.protocol(47, b"answer");
            let comes = |action| {
                let row = Row::new("answer", FROM_UPLINK, uplink, answer.clone(), action);
                row.out(Out::Any).check(rig);
            };
            comes(Action::Redirect);
            for _ in 0..2 {
                let packet = out.protocol(47, b"of the host");
                Row::new("the host's", TO_UPLINK, uplink, packet, Action::Pass).check(rig);
                Row::new("back", FROM_UPLINK, uplink, answer.clone(), Action::Pass).check(rig);
            }
            // As long as the host has its tunnel the container gets none.
            refused(rig, of_web, DropReason::Protocol);
            // Nor where the host's was there first.
            let packet = out.protocol(50, b"of the host");
            Row::new("first", TO_UPLINK, uplink, packet, Action::Pass).check(rig);
            let of_web = rig.from(&rig.web, client).protocol(50, b"of web");
            refused(rig, of_web, DropReason::Protocol);
            // An association that began before we looked.
            let of_web = rig.from(&rig.web, client).sctp(PORTS.0, PORTS.1, 1);
            container_sends(rig, of_web.clone());
            let data = out.sctp(PORTS.0, PORTS.1, 0);
            Row::new("association", TO_UPLINK, uplink, data, Action::Pass).check(rig);
            let answer = back.sctp(PORTS.1, PORTS.0, 0);
            Row::new("its answer", FROM_UPLINK, uplink, answer, Action::Pass).check(rig);
            refused(rig, of_web, DropReason::PortsExhausted);
        }
    });
}

#[track_caller]
fn refused(rig: &Rig, packet: Vec<u8>, reason: DropReason) {
    let ifindex = rig.web.ifindex();
    Row::new(
        "the container's again",
        FROM_CONTAINER,
        ifindex,
        packet,
        Action::Drop,
    )
    .drops(&[(reason, 1)])
    .check(rig);
}

/// Both are changed, one after the other, whoever is in the way.
#[test]
fn two_of_the_host_get_two_ports() {
    with_rig("two_of_the_host", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let (out, back) = (rig.out(host, client), rig.by_uplink(client, host));
            container_sends(rig, rig.from(&rig.web, client).udp(PORTS.0, PORTS.1, b"q"));
            let mut seen = vec![PORTS.0];
            // The second program has the port that the first one leaves by.
            for _ in 0..3 {
                let own = *seen.last().expect("one at least");
                let port = port_of(family, &sends(rig, &out.udp(own, PORTS.1, b"question")));
                assert!(!seen.contains(&port), "{port} of {seen:?}");
                let answer = back.udp(PORTS.1, port, b"answer");
                Row::new("back", FROM_UPLINK, uplink, answer, Action::Pass)
                    .out(Out::Frame(back.udp(PORTS.1, own, b"answer")))
                    .check(rig);
                seen.push(port);
            }
            // Nobody but the remote gets to it by that port: there is no socket of the host.
            let port = *seen.last().expect("one at least");
            let packet = rig.from(&rig.app, host).udp(7000, port, b"hello");
            let ifindex = rig.app.ifindex();
            Row::new("a container", FROM_CONTAINER, ifindex, packet, Action::Pass).check(rig);
        }
    });
}

#[test]
fn a_container_gets_another_port_where_the_host_has_its_tuple() {
    with_rig("the_hosts_tuple", |rig| {
        for family in Family::BOTH {
            let (host, client, other) = (family.ip(HOST), family.ip(CLIENT), family.ip(NOBODY));
            // The mapping is there before the host's socket is.
            let asks = |to| {
                let packet = rig.from(&rig.web, to).udp(PORTS.0, PORTS.1, b"question");
                let (code, frame) = rig.run(FROM_CONTAINER, rig.web.ifindex(), &packet);
                assert_eq!(code, 7);
                port_of(family, &frame)
            };
            assert_eq!(asks(other), PORTS.0);
            let socket = std::net::UdpSocket::bind((host, PORTS.0)).expect("bind");
            socket.connect((client, PORTS.1)).expect("connect");
            assert_ne!(asks(client), PORTS.0);
        }
    });
}
