//! Answers to what a container has asked the host, where somebody beside us has the kernel
//! translate and forward them: known by what was asked, to the port, and all else dropped.
//! The surroundings are drawn at [`netbpf_tests::rows::Rig`].

use std::net::IpAddr;

use netbpf::datapath::{EndpointEntry, NetworkFlags};
use netbpf_common::{
    drop::DropReason,
    maps::host::HANDED,
    names::{FROM_CONTAINER, FROM_UPLINK, TO_CONTAINER},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, FAR, FRONT, HOST},
    },
    packets::{Way, fragments},
    rows::{Action, OPEN, Rig, Row, with_rig},
};

/// What the kernel forwards to a member, or is about to translate, and what is made of it.
struct Forwarded<'a> {
    rig: &'a Rig,
    family: Family,
}

impl Forwarded<'_> {
    /// Web asks the host's stack.
    #[track_caller]
    fn asks(&self, at: IpAddr, packet: impl FnOnce(&Way) -> Vec<u8>) {
        let web = &self.rig.web;
        let packet = packet(&self.rig.from(web, at));
        let name = format!("asked, {:?}", self.family);
        Row::new(name, FROM_CONTAINER, web.ifindex(), packet, Action::Pass).check(self.rig);
    }

    /// As it leaves by the veth.
    fn leaves(&self, from: IpAddr, packet: impl FnOnce(&Way) -> Vec<u8>) -> Result<(), String> {
        let (rig, web) = (self.rig, &self.rig.web);
        let packet = packet(&rig.into(web, from));
        let came_by = rig.uplink.entry.device.ifindex;
        let program = rig.open(TO_CONTAINER);
        self.is_dropped(DropReason::KernelForwarded, || {
            program.run(came_by, web.ifindex(), &packet)
        })
    }

    /// As it arrives, by whatever device.
    fn arrives(&self, from: IpAddr, packet: impl FnOnce(&Way) -> Vec<u8>) -> Result<(), String> {
        let (rig, to) = (self.rig, self.rig.web.ip(self.family));
        let packet = packet(&rig.by_uplink(from, to));
        let uplink = rig.uplink.entry.device.ifindex;
        let program = rig.open(FROM_UPLINK);
        self.is_dropped(DropReason::ContainerAddress, || {
            program.run(uplink, uplink, &packet)
        })
    }

    /// `Err` where it is dropped, and counted for this reason.
    fn is_dropped(
        &self,
        reason: DropReason,
        run: impl FnOnce() -> Option<(u32, Vec<u8>)>,
    ) -> Result<(), String> {
        let count = || {
            let counts = self.rig.drop_counts();
            counts.get(reason.label()).copied().unwrap_or(0)
        };
        let before = count();
        let (code, _) = run().expect("a packet");
        match (Action::from_code(code), count() - before) {
            (Some(Action::Pass), 0) => Ok(()),
            (Some(Action::Drop), 1) => Err(reason.label().into()),
            (action, counted) => panic!("{action:?}, {counted} counted"),
        }
    }
}

#[test]
fn an_answer_is_known_by_what_was_asked() {
    with_rig("answers_are_known", |rig| {
        for family in Family::BOTH {
            let forwarded = Forwarded { rig, family };
            let (host, gateway) = (family.ip(HOST), family.ip(FRONT.gateways));
            let (client, far) = (family.ip(CLIENT), family.ip(FAR));
            let answers = |way: &Way| way.tcp(8888, 4000, "SA", b"");
            assert!(forwarded.leaves(host, answers).is_err(), "not asked yet");
            assert!(forwarded.arrives(far, answers).is_err(), "not asked yet");

            forwarded.asks(host, |way| way.tcp(4000, 8888, "S", b""));
            assert_eq!(
                forwarded.arrives(far, |way| way.tcp(80, 4000, "SA", b"")),
                Ok(())
            );
            assert_eq!(forwarded.leaves(host, answers), Ok(()));
            // Of the next packets, too, which are not noted.
            forwarded.asks(host, |way| way.tcp(4000, 8888, "A", b"x"));
            assert_eq!(
                forwarded.leaves(host, |way| way.tcp(8888, 4000, "A", b"x")),
                Ok(())
            );

            type Made = fn(&Way) -> Vec<u8>;
            let others: [(&str, IpAddr, Made); 6] = [
                ("another port", host, |way| way.tcp(8889, 4000, "SA", b"")),
                ("to another port", host, |way| {
                    way.tcp(8888, 4001, "SA", b"")
                }),
                ("another protocol", host, |way| way.udp(8888, 4000, b"x")),
                ("another address", gateway, |way| {
                    way.tcp(8888, 4000, "SA", b"")
                }),
                ("who was made to answer", far, |way| {
                    way.tcp(8888, 4000, "SA", b"")
                }),
                ("no ports", host, |way| way.echo_request(1, 1, b"x")),
            ];
            for (what, from, packet) in others {
                assert!(
                    forwarded.leaves(from, packet).is_err(),
                    "{what}, {family:?}"
                );
            }
            let others: [(&str, IpAddr, Made); 4] = [
                ("to another port", far, |way| way.tcp(80, 4001, "SA", b"")),
                ("another protocol", far, |way| way.udp(80, 4000, b"x")),
                ("the host's address on a wire", host, |way| {
                    way.tcp(8888, 4000, "SA", b"")
                }),
                ("no ports", client, |way| way.echo_request(1, 1, b"x")),
            ];
            for (what, from, packet) in others {
                assert!(
                    forwarded.arrives(from, packet).is_err(),
                    "{what}, {family:?}"
                );
            }
        }
    });
}

/// An address may be another's by then, and a port may listen.
#[test]
fn nothing_begins_by_an_old_question() {
    with_rig("old_questions", |rig| {
        for family in Family::BOTH {
            let forwarded = Forwarded { rig, family };
            let (host, far) = (family.ip(HOST), family.ip(FAR));
            forwarded.asks(host, |way| way.tcp(4000, 8888, "S", b""));
            forwarded.asks(host, |way| way.udp(4000, 8889, b"x"));
            let begins = |way: &Way| way.tcp(8888, 4000, "S", b"");
            assert!(forwarded.leaves(host, begins).is_err(), "{family:?}");
            assert!(forwarded.arrives(far, begins).is_err(), "{family:?}");
            // What a container answers the host with is no question.
            forwarded.asks(host, |way| way.tcp(80, 9999, "SA", b""));
            forwarded.asks(host, |way| way.tcp(80, 9999, "A", b"x"));
            let came = forwarded.arrives(far, |way| way.tcp(9999, 80, "A", b"x"));
            assert!(came.is_err(), "{family:?}");
            let left = forwarded.leaves(host, |way| way.tcp(9999, 80, "A", b"x"));
            assert!(left.is_err(), "{family:?}");

            // Another endpoint behind the same device has asked nobody.
            let web = &rig.web;
            let next = EndpointEntry {
                index: 60,
                ..web.entry.clone()
            };
            rig.datapath.set_endpoint(&next).expect("another endpoint");
            for packet in [
                (|way| way.tcp(8888, 4000, "SA", b"")) as fn(&Way) -> Vec<u8>,
                |way| way.udp(8889, 4000, b"x"),
            ] {
                assert!(forwarded.leaves(host, packet).is_err(), "{family:?}");
            }
            // Once it has, it is answered.
            forwarded.asks(host, |way| way.udp(4000, 8889, b"x"));
            let answer = forwarded.leaves(host, |way| way.udp(8889, 4000, b"x"));
            assert_eq!(answer, Ok(()), "{family:?}");
            rig.datapath.set_endpoint(&web.entry).expect("web again");
        }
    });
}

/// The kernel makes the source of an error the address that was asked, whoever sends it.
#[test]
fn an_error_is_about_what_was_asked() {
    with_rig("errors_about_questions", |rig| {
        for family in Family::BOTH {
            let forwarded = Forwarded { rig, family };
            let (host, far) = (family.ip(HOST), family.ip(FAR));
            let web = rig.web.ip(family);
            forwarded.asks(host, |way| way.udp(4000, 8889, b"x"));
            let unreachable = |about: IpAddr, ports: (u16, u16)| {
                move |way: &Way| {
                    let asked = Way::new([2; 6], [2; 6], web, about);
                    let quoted = asked.udp(ports.0, ports.1, b"x")[14..].to_vec();
                    let (kind, code) = family.of([(3, 3), (1, 4)]);
                    way.icmp(kind, code, [0; 4], &quoted)
                }
            };
            let (right, other) = ((4000, 8889), (4000, 8890));
            assert_eq!(forwarded.leaves(host, unreachable(host, right)), Ok(()));
            assert_eq!(forwarded.arrives(far, unreachable(far, (4000, 53))), Ok(()));
            for (from, about, ports) in [(far, host, right), (host, host, other), (far, far, right)]
            {
                let left = forwarded.leaves(from, unreachable(about, ports));
                assert!(left.is_err(), "from {from} about {about}, {ports:?}");
            }
            let arrived = forwarded.arrives(far, unreachable(far, (4001, 53)));
            assert!(arrived.is_err(), "{family:?}");
        }
    });
}

#[test]
fn a_network_without_a_way_out_gets_no_answer() {
    with_rig("internal_questions", |rig| {
        rig.set_network_flags(NetworkFlags {
            internal: true,
            ..OPEN
        });
        for family in Family::BOTH {
            let forwarded = Forwarded { rig, family };
            let (host, far) = (family.ip(HOST), family.ip(FAR));
            forwarded.asks(host, |way| way.tcp(4000, 8888, "S", b""));
            let arrived = forwarded.arrives(far, |way| way.tcp(80, 4000, "SA", b""));
            assert!(arrived.is_err(), "{family:?}");
            let left = forwarded.leaves(host, |way| way.tcp(8888, 4000, "SA", b""));
            assert!(left.is_err(), "{family:?}");
        }
    });
}

/// Whatever else is asked of the host, and by whom, pushes out none that was answered.
#[test]
fn others_push_out_no_connection() {
    with_rig("questions_of_others", |rig| {
        for family in Family::BOTH {
            let forwarded = Forwarded { rig, family };
            let host = family.ip(HOST);
            let (far, app) = (family.ip(FAR), &rig.app);
            for packet in [
                (|way| way.tcp(4000, 8888, "S", b"")) as fn(&Way) -> Vec<u8>,
                |way| way.udp(4000, 8889, b"x"),
                |way| way.tcp(4001, 8888, "S", b""),
            ] {
                forwarded.asks(host, packet);
            }
            let answered = || {
                let tcp = forwarded.leaves(host, |way| way.tcp(8888, 4000, "A", b"x"));
                let udp = forwarded.leaves(host, |way| way.udp(8889, 4000, b"x"));
                let tcp_came = forwarded.arrives(far, |way| way.tcp(80, 4000, "A", b"x"));
                let udp_came = forwarded.arrives(far, |way| way.udp(53, 4000, b"x"));
                [tcp, udp, tcp_came, udp_came]
            };
            assert_eq!(answered(), [const { Ok(()) }; 4], "{family:?}");
            let program = rig.open(FROM_CONTAINER);
            let way = rig.from(app, host);
            for number in 0..2 * HANDED {
                let (from, to) = (1024 + number as u16 % 60_000, 22 + (number / 60_000) as u16);
                let packet = match number % 2 {
                    0 => way.tcp(from, to, "S", b""),
                    _ => way.udp(from, to, b"x"),
                };
                program.run(app.ifindex(), app.ifindex(), &packet);
            }
            assert_eq!(answered(), [const { Ok(()) }; 4], "{family:?}");
            // One that nobody has answered is forgotten.
            let other = forwarded.leaves(host, |way| way.tcp(8888, 4001, "SA", b""));
            assert!(other.is_err(), "{family:?}");
        }
    });
}

#[test]
fn fragments_follow_the_first_one() {
    with_rig("answers_in_fragments", |rig| {
        for family in Family::BOTH {
            let forwarded = Forwarded { rig, family };
            let (host, far) = (family.ip(HOST), family.ip(FAR));
            forwarded.asks(host, |way| way.udp(4000, 8889, b"x"));
            let pieces =
                |way: &Way, from: u16, id| fragments(&way.udp(from, 4000, &[b'x'; 900]), 400, id);
            for number in 0..3 {
                let arrived = forwarded.arrives(far, |way| pieces(way, 53, 7)[number].clone());
                assert_eq!(arrived, Ok(()), "{number}, {family:?}");
                let left = forwarded.leaves(host, |way| pieces(way, 8889, 7)[number].clone());
                assert_eq!(left, Ok(()), "{number}, {family:?}");
            }
            // Of another datagram, and of one whose first was refused.
            let other = forwarded.leaves(host, |way| pieces(way, 8889, 8)[1].clone());
            assert!(other.is_err(), "{family:?}");
            for number in 0..3 {
                let other = forwarded.leaves(host, |way| pieces(way, 8890, 9)[number].clone());
                assert!(other.is_err(), "{number}, {family:?}");
            }
        }
    });
}
