//! Which segments open and end a flow: from outside those that the container would take
//! (RFC 5961), and none that is forged blindly. Through the real programs by the kernel's
//! test-run, by a published port and by masquerade, for both families.

use std::net::IpAddr;

use netbpf_common::{
    flow::State,
    names::{FROM_CONTAINER, FROM_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, HOST},
    },
    packets::{Segment, Way},
    rows::{Rig, with_rig},
};

const TCP: u8 = 6;
const REDIRECT: u32 = 7;

/// Of the side that begins, next to the end of the numbers.
const ISN: u32 = u32::MAX - 2;
/// Of the other side.
const OTHER_ISN: u32 = 0x8000_0000;
/// 512 << 7 octets from the next one on, and what is lost by the shift.
const WINDOW: u16 = 512;
const SCALE: u8 = 7;
const REACH: u32 = 513 << 7;

/// One connection, from the side that begins it.
struct Connection<'a> {
    rig: &'a Rig,
    family: Family,
    published: bool,
    /// The outside client's port, or the container's.
    port: u16,
    /// The outside port of a masqueraded one.
    outside: u16,
}

impl Connection<'_> {
    /// One of which the client's ACK is yet to come.
    fn opening(rig: &Rig, family: Family, published: bool, port: u16) -> Connection<'_> {
        let mut connection = Connection {
            rig,
            family,
            published,
            port,
            outside: port,
        };
        let syn = Segment {
            flags: "S",
            seq: ISN,
            window: 64_240,
            scale: Some(SCALE),
            ..Segment::default()
        };
        let sent = connection.send(true, &syn);
        if !published {
            // IPv4's header or IPv6's, then the source port.
            let l4 = match family {
                Family::V4 => 14 + 20,
                Family::V6 => 14 + 40,
            };
            connection.outside = u16::from_be_bytes([sent[l4], sent[l4 + 1]]);
        }
        connection
    }

    /// The side that is outside is the one that began it.
    fn outside_began(&self) -> bool {
        self.published
    }

    /// The other side answers the SYN.
    fn answer(&self) {
        let answer = Segment {
            flags: "SA",
            seq: OTHER_ISN,
            ack: ISN.wrapping_add(1),
            window: 64_240,
            scale: Some(SCALE),
        };
        self.send(false, &answer);
    }

    fn established(rig: &Rig, family: Family, published: bool, port: u16) -> Connection<'_> {
        let connection = Connection::opening(rig, family, published, port);
        connection.answer();
        // Windows are shifted from here on.
        connection.send(true, &connection.plain(true, "A"));
        connection.send(false, &connection.plain(false, "A"));
        assert_eq!(connection.state(), State::Established, "{family:?}");
        connection
    }

    /// The next segment of a side, without data.
    fn plain<'f>(&self, of_client: bool, flags: &'f str) -> Segment<'f> {
        let (client, server) = (ISN.wrapping_add(1), OTHER_ISN.wrapping_add(1));
        let (seq, ack) = match of_client {
            true => (client, server),
            false => (server, client),
        };
        Segment {
            flags,
            seq,
            ack,
            window: WINDOW,
            scale: None,
        }
    }

    /// Has the side that began it, or the other one, send a segment; it is forwarded
    /// whatever it is.
    #[track_caller]
    fn send(&self, of_client: bool, segment: &Segment<'_>) -> Vec<u8> {
        let rig = self.rig;
        let [client, host]: [IpAddr; 2] = [self.family.ip(CLIENT), self.family.ip(HOST)];
        let web = rig.web.ifindex();
        let uplink = rig.uplink.entry.device.ifindex;
        let (program, ifindex, way, ports): (_, _, Way, _) = match (self.published, of_client) {
            (true, true) => (
                FROM_UPLINK,
                uplink,
                rig.by_uplink(client, host),
                (self.port, 8080),
            ),
            (true, false) => (
                FROM_CONTAINER,
                web,
                rig.from(&rig.web, client),
                (80, self.port),
            ),
            (false, true) => (
                FROM_CONTAINER,
                web,
                rig.from(&rig.web, client),
                (self.port, 443),
            ),
            (false, false) => (
                FROM_UPLINK,
                uplink,
                rig.by_uplink(client, host),
                (443, self.outside),
            ),
        };
        let (code, out) = rig.run(program, ifindex, &way.segment(ports, segment));
        assert_eq!(code, REDIRECT, "{segment:?} of {of_client}");
        out
    }

    /// What `netbpf flows` says of it.
    #[track_caller]
    fn state(&self) -> State {
        let flows = self.rig.datapath.flows().expect("the flows");
        let kind = match self.published {
            true => "publish",
            false => "masquerade",
        };
        let mut ours = flows.iter().filter(|flow| {
            let is_v6 = self.family == Family::V6;
            flow.kind == kind && flow.src.1 == self.port && flow.src.0.is_ipv6() == is_v6
        });
        let flow = ours.next().expect("the flow");
        assert!(ours.next().is_none());
        flow.state
    }
}

/// Both families, by a published port and by masquerade.
fn each(test: &str, check: impl Fn(&Rig, Family, bool) + Send + Sync) {
    with_rig(test, |rig| {
        rig.publish(1, TCP, 8080, &rig.web, 80);
        for family in Family::BOTH {
            for published in [true, false] {
                check(rig, family, published);
            }
        }
    });
}

#[test]
fn a_reset_from_outside_ends_a_flow_within_the_window_only() {
    each("a_reset_ends_a_flow", |rig, family, published| {
        let forged = Connection::established(rig, family, published, 2000);
        let outside = forged.outside_began();
        let next = forged.plain(outside, "R");
        let numbers = [
            next.seq.wrapping_sub(1),
            next.seq.wrapping_add(REACH + 1),
            next.seq ^ 0x8000_0000,
        ];
        for seq in numbers {
            forged.send(outside, &Segment { seq, ..next });
            assert_eq!(forged.state(), State::Established, "{family:?} {seq}");
        }
        // Whatever was forged of acknowledgments and windows before.
        let told = Segment {
            flags: "A",
            ack: numbers[2],
            window: u16::MAX,
            ..next
        };
        forged.send(outside, &told);
        let seq = numbers[2];
        for flags in ["RA", "R"] {
            let reset = Segment { flags, seq, ..told };
            forged.send(outside, &reset);
            assert_eq!(forged.state(), State::Established, "{family:?}");
        }
        forged.send(outside, &next);
        assert_eq!(forged.state(), State::Reset, "{family:?}");

        // The last number that the container takes.
        let far = Connection::established(rig, family, published, 2001);
        let seq = next.seq.wrapping_add(REACH);
        far.send(outside, &Segment { seq, ..next });
        assert_eq!(far.state(), State::Reset, "{family:?}");
    });
}

/// Also after somebody has forged acknowledgments of the other side.
#[test]
fn a_reset_of_a_container_ends_its_flow() {
    each("a_reset_of_a_container", |rig, family, published| {
        let connection = Connection::established(rig, family, published, 2100);
        let outside = connection.outside_began();
        let forged = Segment {
            ack: 0x1234_5678,
            ..connection.plain(outside, "A")
        };
        connection.send(outside, &forged);
        connection.send(!outside, &connection.plain(!outside, "R"));
        assert_eq!(connection.state(), State::Reset, "{family:?}");
    });
}

#[test]
fn a_reset_may_follow_its_fin() {
    each("a_reset_may_follow", |rig, family, published| {
        let connection = Connection::established(rig, family, published, 2200);
        let outside = connection.outside_began();
        let fin = connection.plain(outside, "FA");
        connection.send(outside, &fin);
        let acknowledged = Segment {
            ack: fin.seq.wrapping_add(1),
            ..connection.plain(!outside, "A")
        };
        connection.send(!outside, &acknowledged);
        assert_eq!(connection.state(), State::HalfClosed, "{family:?}");
        connection.send(outside, &Segment { flags: "R", ..fin });
        assert_eq!(connection.state(), State::Reset, "{family:?}");
    });
}

/// An acknowledgment that was overtaken takes nothing back.
#[test]
fn segments_that_overtake_each_other_keep_the_window() {
    each("segments_that_overtake", |rig, family, published| {
        let connection = Connection::established(rig, family, published, 2300);
        let outside = connection.outside_began();
        let old = connection.plain(!outside, "A");
        let ack = old.ack.wrapping_add(100_000);
        connection.send(!outside, &Segment { ack, ..old });
        connection.send(!outside, &old);
        let reset = connection.plain(outside, "R");
        connection.send(
            outside,
            &Segment {
                seq: ack.wrapping_sub(1),
                ..reset
            },
        );
        assert_eq!(connection.state(), State::Established, "{family:?}");
        let seq = ack.wrapping_add(REACH);
        connection.send(outside, &Segment { seq, ..reset });
        assert_eq!(connection.state(), State::Reset, "{family:?}");
    });
}

#[test]
fn a_fin_from_outside_half_closes_within_the_window_only() {
    each("a_fin_half_closes", |rig, family, published| {
        let connection = Connection::established(rig, family, published, 3000);
        let outside = connection.outside_began();
        let next = connection.plain(outside, "FA");
        for seq in [next.seq.wrapping_add(REACH + 1), next.seq ^ 0x8000_0000] {
            connection.send(outside, &Segment { seq, ..next });
            assert_eq!(connection.state(), State::Established, "{family:?} {seq}");
        }
        // Sent again, with data that was there before.
        let seq = next.seq.wrapping_sub(1000);
        connection.send(outside, &Segment { seq, ..next });
        assert_eq!(connection.state(), State::HalfClosed, "{family:?}");
        connection.send(!outside, &connection.plain(!outside, "FA"));
        assert_eq!(connection.state(), State::TimeWait, "{family:?}");
    });
}

#[test]
fn a_refusal_is_the_answer_to_the_syn_only() {
    each("a_refusal", |rig, family, published| {
        let connection = Connection::opening(rig, family, published, 4000);
        let refusal = Segment {
            flags: "RA",
            ack: ISN.wrapping_add(1),
            ..Segment::default()
        };
        let forged = [
            Segment {
                ack: ISN,
                ..refusal
            },
            Segment {
                ack: 77_777_777,
                ..refusal
            },
            Segment {
                flags: "R",
                ..refusal
            },
        ];
        // A container refuses in its own name.
        for segment in forged.iter().filter(|_| !published) {
            connection.send(false, segment);
            assert_eq!(connection.state(), State::Opening, "{family:?} {segment:?}");
        }
        connection.send(false, &refusal);
        assert_eq!(connection.state(), State::Reset, "{family:?}");

        // The one that began it may give it up, by the number after its SYN.
        let connection = Connection::opening(rig, family, published, 4001);
        connection.answer();
        let given_up = Segment {
            flags: "R",
            seq: ISN.wrapping_add(1),
            ..Segment::default()
        };
        // From outside forged, of a container what a forged answer draws out of it.
        let seq = ISN ^ 0x8000_0000;
        connection.send(true, &Segment { seq, ..given_up });
        assert_eq!(connection.state(), State::Opening, "{family:?}");
        connection.send(true, &given_up);
        assert_eq!(connection.state(), State::Reset, "{family:?}");
    });
}

/// The outside opens no connection without the number of the container's answer: a
/// flood of forged SYNs and ACKs stays among the flows that may be evicted.
#[test]
fn a_forged_acknowledgment_opens_nothing() {
    with_rig("a_forged_acknowledgment", |rig| {
        rig.publish(1, TCP, 8080, &rig.web, 80);
        for family in Family::BOTH {
            let connection = Connection::opening(rig, family, true, 5000);
            let ack = connection.plain(true, "A");
            connection.send(true, &ack);
            assert_eq!(connection.state(), State::Opening, "{family:?}");
            connection.answer();
            for number in [OTHER_ISN, 0, ack.ack ^ 0x8000_0000] {
                connection.send(true, &Segment { ack: number, ..ack });
                assert_eq!(connection.state(), State::Opening, "{family:?}");
                // What the container's stack says to that.
                let reset = Segment {
                    flags: "R",
                    seq: number,
                    ..Segment::default()
                };
                if number != OTHER_ISN {
                    connection.send(false, &reset);
                    assert_eq!(connection.state(), State::Opening, "{family:?}");
                }
            }
            connection.send(true, &ack);
            assert_eq!(connection.state(), State::Established, "{family:?}");
        }
    });
}

/// A container that knows of no connection any more begins another one from the same
/// port: refused it is over, answered it goes on, under the same outside port.
#[test]
fn a_container_begins_anew_from_the_same_port() {
    with_rig("a_container_begins_anew", |rig| {
        for family in Family::BOTH {
            let before = Connection::established(rig, family, false, 6000);
            let syn = Segment {
                flags: "S",
                seq: ISN.wrapping_add(1_000_000),
                window: 64_240,
                scale: Some(SCALE),
                ..Segment::default()
            };
            // Twice, as the answer is late.
            for _ in 0..2 {
                before.send(true, &syn);
                assert_eq!(before.state(), State::Opening, "{family:?}");
            }
            let refusal = Segment {
                flags: "RA",
                ack: syn.seq.wrapping_add(1),
                ..Segment::default()
            };
            before.send(false, &refusal);
            assert_eq!(before.state(), State::Reset, "{family:?}");
        }
    });
}

/// Both ends send a SYN before they have heard of the other's (RFC 9293, section 3.5).
#[test]
fn a_connection_that_both_sides_begin_is_established() {
    with_rig("both_sides_begin", |rig| {
        for family in Family::BOTH {
            let connection = Connection::opening(rig, family, false, 5000);
            let other = Segment {
                flags: "S",
                seq: OTHER_ISN,
                window: 64_240,
                scale: Some(SCALE),
                ..Segment::default()
            };
            connection.send(false, &other);
            for (of_client, seq, ack) in [(true, ISN, OTHER_ISN), (false, OTHER_ISN, ISN)] {
                let answer = Segment {
                    flags: "SA",
                    seq,
                    ack: ack.wrapping_add(1),
                    ..other
                };
                connection.send(of_client, &answer);
            }
            for of_client in [true, false] {
                connection.send(of_client, &connection.plain(of_client, "A"));
            }
            assert_eq!(connection.state(), State::Established, "{family:?}");
        }
    });
}
