//! Which segments end a flow: those that the other end would take (RFC 5961), and none
//! that is forged blindly. Through the real programs by the kernel's test-run, by a
//! published port and by masquerade, for both families.

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
/// 512 << 7 octets from the next one on.
const WINDOW: u16 = 512;
const SCALE: u8 = 7;
const REACH: u32 = 512 << 7;

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

    fn established(rig: &Rig, family: Family, published: bool, port: u16) -> Connection<'_> {
        let connection = Connection::opening(rig, family, published, port);
        connection.send(
            false,
            &Segment {
                flags: "SA",
                seq: OTHER_ISN,
                ack: ISN.wrapping_add(1),
                window: 64_240,
                scale: Some(SCALE),
            },
        );
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
fn a_reset_ends_a_flow_within_the_window_only() {
    each("a_reset_ends_a_flow", |rig, family, published| {
        for (index, of_client) in [true, false].into_iter().enumerate() {
            let port = 2000 + index as u16 * 10;
            let forged = Connection::established(rig, family, published, port);
            let next = forged.plain(of_client, "R");
            let numbers = [
                next.seq.wrapping_sub(1),
                next.seq.wrapping_add(REACH + 2),
                next.seq ^ 0x8000_0000,
            ];
            for seq in numbers {
                forged.send(of_client, &Segment { seq, ..next });
                assert_eq!(forged.state(), State::Established, "{family:?} {seq}");
            }
            // What it acknowledges, and its window, say nothing either.
            let told = Segment {
                flags: "RA",
                seq: numbers[2],
                ack: numbers[2],
                ..next
            };
            forged.send(of_client, &told);
            let other = forged.plain(!of_client, "R");
            let seq = other.seq ^ 0x8000_0000;
            forged.send(!of_client, &Segment { seq, ..other });
            assert_eq!(forged.state(), State::Established, "{family:?}");
            forged.send(of_client, &next);
            assert_eq!(forged.state(), State::Reset, "{family:?}");

            // The last number that the other end takes.
            let far = Connection::established(rig, family, published, port + 1);
            let seq = next.seq.wrapping_add(REACH);
            far.send(of_client, &Segment { seq, ..next });
            assert_eq!(far.state(), State::Reset, "{family:?}");
        }
    });
}

#[test]
fn a_fin_half_closes_within_the_window_only() {
    each("a_fin_half_closes", |rig, family, published| {
        let connection = Connection::established(rig, family, published, 3000);
        for of_client in [true, false] {
            let before = connection.state();
            let next = connection.plain(of_client, "FA");
            for seq in [next.seq.wrapping_add(REACH + 2), next.seq ^ 0x8000_0000] {
                connection.send(of_client, &Segment { seq, ..next });
                assert_eq!(connection.state(), before, "{family:?} {seq}");
            }
            // Sent again, with data that was there before.
            let seq = next.seq.wrapping_sub(1000);
            connection.send(of_client, &Segment { seq, ..next });
            let after = match of_client {
                true => State::HalfClosed,
                false => State::TimeWait,
            };
            assert_eq!(connection.state(), after, "{family:?}");
        }
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
        for segment in &forged {
            connection.send(false, segment);
            assert_eq!(connection.state(), State::Opening, "{family:?} {segment:?}");
        }
        connection.send(false, &refusal);
        assert_eq!(connection.state(), State::Reset, "{family:?}");

        // The one that began it may give it up, by the number after its SYN.
        let connection = Connection::opening(rig, family, published, 4001);
        let given_up = Segment {
            flags: "R",
            seq: ISN.wrapping_add(1),
            ..Segment::default()
        };
        connection.send(
            true,
            &Segment {
                seq: ISN ^ 0x8000_0000,
                ..given_up
            },
        );
        assert_eq!(connection.state(), State::Opening, "{family:?}");
        connection.send(true, &given_up);
        assert_eq!(connection.state(), State::Reset, "{family:?}");
    });
}
