//! Packets to published ports that are shared, limited, taken back or SCTP, through
//! the real programs by the kernel's test-run, each row for both families. The
//! surroundings are drawn at [`netbpf_tests::rows::Rig`].

use std::{collections::BTreeMap, net::IpAddr};

use netbpf::datapath::Service;
use netbpf_common::{
    drop::DropReason,
    names::{EARLY_DROP, FROM_CONTAINER, FROM_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, FAR, HOST},
    },
    packets::{icmp_type_code, vlan_tagged},
    rows::{
        Action, Member, OPTIONS, Out, Rig, RigOptions, Row, backend, service, with_rig, with_rig_of,
    },
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A packet that comes by the uplink.
fn came<'a>(rig: &Rig, name: &str, packet: Vec<u8>, verdict: Action) -> Row<'a> {
    Row::new(
        name,
        FROM_UPLINK,
        rig.uplink.entry.device.ifindex,
        packet,
        verdict,
    )
}

/// A packet that a member sends.
fn sent<'a>(member: &Member, name: &str, packet: Vec<u8>, verdict: Action) -> Row<'a> {
    Row::new(name, FROM_CONTAINER, member.ifindex(), packet, verdict)
}

#[test]
fn what_was_taken_back_answers_the_container() {
    with_rig("taken_back", |rig| {
        let web = &rig.web;
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let asks = rig.by_uplink(client, host);
            let answers = rig.from(web, client);
            let back = rig.into(web, client);
            rig.publish(1, TCP, 8080, web, 80);
            rig.publish(2, UDP, 5300, web, 53);
            for packet in [asks.tcp(1000, 8080, "S", b""), asks.udp(1000, 5300, b"x")] {
                came(rig, "begins", packet, Action::Redirect)
                    .out(Out::Any)
                    .check(rig);
            }
            for (protocol, port, slot) in [(TCP, 8080, 1), (UDP, 5300, 2)] {
                let taken = service(protocol, port, vec![backend(slot, web, 1, 1)]);
                rig.datapath.unpublish(&taken).unwrap();
            }
            // They may go on as long as they are drained,
            let packet = answers.udp(53, 1000, b"late");
            sent(web, "drained", packet, Action::Redirect)
                .out(Out::Any)
                .check(rig);
            // while nobody else begins.
            let packet = asks.tcp(1001, 8080, "S", b"");
            came(rig, "new", packet, Action::Pass).check(rig);
            for slot in [1, 2] {
                rig.datapath.end_slot(slot).unwrap();
            }
            let unpublished = [(DropReason::Unpublished, 1)];
            // An acknowledged segment is reset where it is, another one behind it.
            let rows = [
                (
                    answers.tcp(80, 1000, "SA", b""),
                    back.reset(1000, 80, 2000, None),
                ),
                (
                    answers.tcp(80, 1000, "A", b"data"),
                    back.reset(1000, 80, 2000, None),
                ),
                (
                    answers.tcp(80, 1000, "S", b"data"),
                    back.reset(1000, 80, 0, Some(1005)),
                ),
            ];
            for (packet, reset) in rows {
                sent(web, "segment", packet, Action::Redirect)
                    .out(Out::Such(&|frame| same_but_identification(frame, &reset)))
                    .drops(&unpublished)
                    .check(rig);
            }
            let unreachable = match family {
                Family::V4 => (3, 3),
                Family::V6 => (1, 4),
            };
            let packet = answers.udp(53, 1000, b"later");
            sent(web, "datagram", packet, Action::Redirect)
                .out(Out::Such(&|frame| {
                    assert_eq!(icmp_type_code(frame), Some(unreachable));
                }))
                .drops(&unpublished)
                .check(rig);
            // A reset ends it for the client all the same.
            let packet = answers.tcp(80, 1000, "RA", b"");
            let leaves = rig.out(host, client).hops(63);
            sent(web, "reset", packet, Action::Redirect)
                .out(Out::Packet(leaves.tcp(8080, 1000, "RA", b"")))
                .check(rig);
            // The client's packets are the host's to answer.
            for packet in [asks.tcp(1000, 8080, "A", b"x"), asks.udp(1000, 5300, b"x")] {
                came(rig, "of the client", packet, Action::Pass).check(rig);
            }
            // Seen twice by the collector, it is forgotten.
            let late = || {
                sent(
                    web,
                    "late",
                    answers.tcp(80, 1000, "A", b"x"),
                    Action::Redirect,
                )
            };
            rig.datapath.collect(&|_| {}).unwrap();
            late().out(Out::Any).drops(&unpublished).check(rig);
            rig.datapath.collect(&|_| {}).unwrap();
            let packet = answers.tcp(80, 1000, "A", b"x");
            sent(web, "too late", packet, Action::Drop)
                .drops(&[(DropReason::NoFlow, 1)])
                .check(rig);
        }
    });
}

/// A window and an identification say nothing in a reset.
fn same_but_identification(frame: &[u8], wanted: &[u8]) {
    let fields = |frame: &[u8]| -> Vec<u8> {
        let l3 = 14;
        let l4 = l3 + if frame[l3] >> 4 == 4 { 20 } else { 40 };
        let addresses = &frame[l4 - if l4 == 34 { 8 } else { 32 }..l4];
        [&frame[..l3], addresses, &frame[l4..l4 + 14]].concat()
    };
    assert_eq!(frame.len(), wanted.len());
    assert_eq!(fields(frame), fields(wanted));
}

#[test]
fn a_port_is_for_those_that_it_allows() {
    with_rig("allowed", |rig| {
        let allowed = |nets: &[&str]| Service {
            allow: nets.iter().map(|net| net.parse().unwrap()).collect(),
            ..service(UDP, 5300, vec![backend(1, &rig.web, 53, 1)])
        };
        let refused = [(DropReason::NotAllowed, 1)];
        for family in Family::BOTH {
            let packet = |port: u16| {
                let way = rig.by_uplink(family.ip(CLIENT), family.ip(HOST));
                way.udp(port, 5300, b"x")
            };
            let far = rig.by_uplink(family.ip(FAR), family.ip(HOST));
            rig.publish_service(&allowed(&["192.0.2.0/24", "2001:db8:1::/64"]));
            came(rig, "of the net", packet(1), Action::Redirect)
                .out(Out::Any)
                .check(rig);
            came(rig, "from afar", far.udp(1, 5300, b"x"), Action::Drop)
                .drops(&refused)
                .check(rig);
            // A sibling is one by its own address.
            let sibling = rig.from(&rig.app, family.ip(HOST)).udp(1, 5300, b"x");
            sent(&rig.app, "sibling", sibling, Action::Drop)
                .drops(&refused)
                .check(rig);
            // Changed live: what goes on goes on.
            rig.publish_service(&allowed(&["203.0.113.2/32", "2001:db8:3::2/128"]));
            came(rig, "goes on", packet(1), Action::Redirect)
                .out(Out::Any)
                .check(rig);
            came(rig, "new", packet(2), Action::Drop)
                .drops(&refused)
                .check(rig);
            came(rig, "from afar", far.udp(1, 5300, b"x"), Action::Redirect)
                .out(Out::Any)
                .check(rig);
            rig.publish_service(&allowed(&[]));
            came(rig, "everybody", packet(3), Action::Redirect)
                .out(Out::Any)
                .check(rig);
        }
    });
}

#[test]
fn a_network_of_ipv6_lets_no_client_of_ipv4_in() {
    with_rig("allowed_family", |rig| {
        let allow = ["10.0.0.0/8", "::/0"].map(|net| net.parse().unwrap());
        rig.publish_service(&Service {
            allow: allow.into(),
            ..service(UDP, 5300, vec![backend(1, &rig.web, 53, 1)])
        });
        let asks = |family: Family| {
            rig.by_uplink(family.ip(CLIENT), family.ip(HOST))
                .udp(1000, 5300, b"x")
        };
        came(rig, "IPv4", asks(Family::V4), Action::Drop)
            .drops(&[(DropReason::NotAllowed, 1)])
            .check(rig);
        came(rig, "IPv6", asks(Family::V6), Action::Redirect)
            .out(Out::Any)
            .check(rig);
        // Of a family of which no client is allowed, none is.
        let service = Service {
            allow: vec!["2001:db8::/32".parse().unwrap()],
            ..service(UDP, 5300, vec![backend(1, &rig.web, 53, 1)])
        };
        rig.publish_service(&service);
        came(rig, "IPv4", asks(Family::V4), Action::Drop)
            .drops(&[(DropReason::NotAllowed, 1)])
            .check(rig);
    });
}

#[test]
fn a_new_daemon_leaves_marked_what_it_has_not_come_to_yet() {
    with_rig("new_daemon", |rig| {
        let of = |protocol, slot| service(protocol, 5300, vec![backend(slot, &rig.web, 53, 1)]);
        rig.publish_service(&of(UDP, 1));
        rig.publish_service(&of(TCP, 2));
        let new = rig.another_daemon();
        let asks = |note: &str| {
            for family in Family::BOTH {
                let way = rig.by_uplink(family.ip(CLIENT), family.ip(HOST));
                for packet in [way.udp(1000, 5300, b"x"), way.tcp(1000, 5300, "S", b"")] {
                    came(rig, note, packet, Action::Redirect)
                        .out(Out::Any)
                        .check(rig);
                }
            }
        };
        asks("nothing said");
        assert!(!new.publish(&of(UDP, 1)).expect("publish"), "it was there");
        asks("one said");
        assert!(!new.publish(&of(TCP, 2)).expect("publish"), "it was there");
        new.retain_ports(&[1, 2].into()).expect("retain");
        asks("all said");
    });
}

/// What XDP drops is what TC would drop, for the same reason; all else it passes.
#[test]
fn early_drop_says_the_same() {
    with_rig("early_drop", |rig| {
        let allowed = |nets: [&str; 2]| Service {
            allow: nets.map(|net| net.parse().unwrap()).into(),
            ..service(UDP, 5300, vec![backend(1, &rig.web, 53, 1)])
        };
        let near = allowed(["192.0.2.0/24", "2001:db8:1::/64"]);
        rig.publish_service(&near);
        rig.publish(2, TCP, 8080, &rig.web, 80);
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (client, host, far) = (family.ip(CLIENT), family.ip(HOST), family.ip(FAR));
            let ok = rig.by_uplink(client, host);
            let not_allowed = Some(DropReason::NotAllowed);
            let martian = Some(DropReason::Martian);
            let rows = [
                (ok.udp(1, 5300, b"x"), None),
                (ok.tcp(1, 8080, "S", b""), None),
                (rig.by_uplink(far, host).tcp(1, 8080, "S", b""), None),
                (rig.by_uplink(far, host).udp(1, 5300, b"x"), not_allowed),
                (rig.by_uplink(far, host).udp(1, 5301, b"x"), None),
                (
                    rig.by_uplink(family.loopback(), host).udp(1, 9, b"x"),
                    martian,
                ),
                (
                    rig.by_uplink(client, family.loopback()).tcp(1, 9, "S", b""),
                    martian,
                ),
                (ok.echo_request(1, 1, b"x"), None),
                (ok.protocol(47, b"GRE"), None),
            ];
            for (packet, reason) in rows {
                let verdict = match reason {
                    Some(_) => Action::Drop,
                    None => Action::Pass,
                };
                let drops: Vec<_> = reason.map(|reason| (reason, 1)).into_iter().collect();
                Row::new("early", EARLY_DROP, uplink, packet.clone(), verdict)
                    .drops(&drops)
                    .check(rig);
                // What bears a priority's tag alone is judged as without; a VLAN's is not.
                for (id, verdict) in [(0, verdict), (7, Action::Pass)] {
                    let tagged = vlan_tagged(&packet, id);
                    let drops = if id == 0 { &drops[..] } else { &[] };
                    Row::new("early, tagged", EARLY_DROP, uplink, tagged, verdict)
                        .drops(drops)
                        .check(rig);
                }
                if reason.is_some() {
                    came(rig, "the same later", packet, Action::Drop)
                        .drops(&drops)
                        .out(Out::Any)
                        .check(rig);
                }
            }
            // What goes on goes on, whatever the list says.
            let packet = ok.udp(7, 5300, b"x");
            came(rig, "begins", packet.clone(), Action::Redirect)
                .out(Out::Any)
                .check(rig);
            rig.publish_service(&allowed(["203.0.113.0/24", "2001:db8:3::/64"]));
            Row::new("goes on", EARLY_DROP, uplink, packet, Action::Pass).check(rig);
            rig.publish_service(&near);
        }
    });
}

/// What begins anew a flow that is over is a beginning for XDP, too.
#[test]
fn early_drop_counts_what_begins_anew() {
    let told = RigOptions {
        client_rate: 3,
        ..OPTIONS
    };
    with_rig_of("early_anew", told, |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        let udp = || service(UDP, 5300, vec![backend(1, &rig.web, 53, 1)]);
        rig.publish_service(&udp());
        rig.publish(2, TCP, 8080, &rig.web, 80);
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            // So often that a new window of time hides nothing.
            let refused = |packet: &[u8]| {
                let early = || Action::from_code(rig.run(EARLY_DROP, uplink, packet).0);
                (0..12).filter(|_| early() == Some(Action::Drop)).count()
            };
            let asks = rig.by_uplink(family.ip(FAR), host).udp(1000, 5300, b"x");
            came(rig, "begins", asks.clone(), Action::Redirect)
                .out(Out::Any)
                .check(rig);
            assert_eq!(refused(&asks), 0, "it goes on");
            rig.datapath.unpublish(&udp()).expect("unpublish");
            rig.datapath.end_slot(1).expect("end");
            rig.publish_service(&udp());
            assert!(refused(&asks) > 0, "its port was published anew");

            // Another client: the first one has begun enough.
            let syn = rig.by_uplink(client, host).tcp(1000, 8080, "S", b"");
            came(rig, "opens", syn.clone(), Action::Redirect)
                .out(Out::Any)
                .check(rig);
            assert_eq!(refused(&syn), 0, "it is opening");
            let refuses = rig.from(&rig.web, client).tcp(80, 1000, "RA", b"");
            sent(&rig.web, "refuses", refuses, Action::Redirect)
                .out(Out::Any)
                .check(rig);
            assert!(refused(&syn) > 0, "it was refused");
        }
    });
}

/// Which member a new flow of that source port leads to.
fn backend_of(rig: &Rig, from: IpAddr, to: IpAddr, sport: u16) -> IpAddr {
    let packet = rig.by_uplink(from, to).udp(sport, 5300, b"x");
    let (_, frame) = rig.run(FROM_UPLINK, rig.uplink.entry.device.ifindex, &packet);
    let (_, to) = netbpf_tests::packets::addresses(&frame).expect("a packet");
    to
}

#[test]
fn shared_ports_are_spread_by_weight_and_established_flows_stay() {
    with_rig("spread", |rig| {
        let three = |a: u32, b: u32, c: u32| {
            let members = [&rig.web, &rig.app, &rig.other].into_iter();
            let weighted = members.zip([a, b, c]).zip(1..);
            let backends = weighted
                .filter(|((_, weight), _)| *weight > 0)
                .map(|((member, weight), slot)| backend(slot, member, 53, weight));
            service(UDP, 5300, backends.collect())
        };
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let spread = |ports: std::ops::Range<u16>| {
                let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
                for port in ports {
                    *counts
                        .entry(backend_of(rig, client, host, port))
                        .or_default() += 1;
                }
                [&rig.web, &rig.app, &rig.other]
                    .map(|member| counts.get(&member.ip(family)).copied().unwrap_or(0))
            };
            rig.publish_service(&three(1, 2, 5));
            let counts = spread(1000..11_000);
            for (count, wanted) in counts.into_iter().zip([1250_usize, 2500, 6250]) {
                assert!(count.abs_diff(wanted) * 100 <= wanted * 3, "{counts:?}");
            }
            // One leaves: its flows end, those of the others stay where they are.
            let before: Vec<IpAddr> = (1000..1100)
                .map(|port| backend_of(rig, client, host, port))
                .collect();
            rig.publish_service(&three(1, 2, 0));
            rig.datapath.end_slot(3).unwrap();
            for (port, before) in (1000..1100).zip(before) {
                let now = backend_of(rig, client, host, port);
                assert_ne!(now, rig.other.ip(family));
                if before != rig.other.ip(family) {
                    assert_eq!(now, before);
                }
            }
            let counts = spread(13_000..13_900);
            for (count, wanted) in counts.into_iter().zip([300, 600, 0]) {
                assert!(count.abs_diff(wanted) <= 15, "{counts:?}");
            }
            // And one alone has all.
            rig.publish_service(&three(0, 1, 0));
            rig.datapath.end_slot(1).unwrap();
            assert_eq!(spread(14_000..14_050), [0, 50, 0]);
            rig.datapath.unpublish(&three(0, 1, 0)).unwrap();
            rig.datapath.end_slot(2).unwrap();
        }
    });
}

#[test]
fn a_client_keeps_its_backend_by_affinity() {
    with_rig("affinity", |rig| {
        let sharing = Service {
            affinity: true,
            ..service(
                UDP,
                5300,
                vec![backend(1, &rig.web, 53, 1), backend(2, &rig.app, 53, 1)],
            )
        };
        rig.publish_service(&sharing);
        for family in Family::BOTH {
            let host = family.ip(HOST);
            let clients = (1..60_u8).map(|n| match family {
                Family::V4 => IpAddr::from([198, 18, 0, n]),
                Family::V6 => format!("2001:db8:7::{n:x}").parse().unwrap(),
            });
            let mut of_web = 0;
            for client in clients {
                let first = backend_of(rig, client, host, 1000);
                for port in 1001..1005 {
                    assert_eq!(backend_of(rig, client, host, port), first);
                }
                of_web += usize::from(first == rig.web.ip(family));
            }
            assert!((10..50).contains(&of_web), "{of_web} of 59");
        }
    });
}

#[test]
fn sctp_is_led_by_address_alone() {
    const INIT: u8 = 1;
    const DATA: u8 = 0;
    with_rig("sctp", |rig| {
        let web = &rig.web;
        rig.publish(1, SCTP, 3868, web, 3868);
        for family in Family::BOTH {
            let (client, host) = (family.ip(CLIENT), family.ip(HOST));
            let (asks, arrives) = (rig.by_uplink(client, host), rig.into(web, client).hops(63));
            let (answers, leaves) = (rig.from(web, client), rig.out(host, client).hops(63));
            came(rig, "no INIT", asks.sctp(1000, 3868, DATA), Action::Pass).check(rig);
            came(rig, "INIT", asks.sctp(1000, 3868, INIT), Action::Redirect)
                .out(Out::Frame(arrives.sctp(1000, 3868, INIT)))
                .check(rig);
            sent(
                web,
                "INIT ACK",
                answers.sctp(3868, 1000, 2),
                Action::Redirect,
            )
            .out(Out::Packet(leaves.sctp(3868, 1000, 2)))
            .check(rig);
            came(rig, "DATA", asks.sctp(1000, 3868, DATA), Action::Redirect)
                .out(Out::Frame(arrives.sctp(1000, 3868, DATA)))
                .check(rig);
            // What nobody asked for is masqueraded by its address alone.
            sent(
                web,
                "outward",
                answers.sctp(999, 999, INIT),
                Action::Redirect,
            )
            .out(Out::Packet(leaves.sctp(999, 999, INIT)))
            .check(rig);
        }
    });
}
