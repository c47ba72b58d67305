//! A connection that begins anew between the ports of one that is over: in the two halves that
//! its flow has already where it goes the same way, else in new ones, and the old are gone.
//! Through the real programs by the kernel's test-run, for both families.

use std::collections::BTreeSet;

use netbpf::datapath::{FlowRecord, Service};
use netbpf_common::{
    flow::State,
    names::{FLOWS4, FLOWS6, FROM_CONTAINER, FROM_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, HOST},
    },
    packets::{Segment, fragments},
    rows::{Member, Rig, TC_ACT_SHOT, backend, service, with_rig},
};

const TCP: u8 = 6;
const REDIRECT: u32 = 7;
/// Of whoever begins a connection, each time.
const PORT: u16 = 40_000;

/// Connections between the client outside and containers.
struct Wire<'a> {
    rig: &'a Rig,
    family: Family,
}

impl Wire<'_> {
    /// The client sends a segment; the verdict, and what became of it.
    fn comes(&self, ports: (u16, u16), segment: &Segment) -> (u32, Vec<u8>) {
        let (client, host) = (self.family.ip(CLIENT), self.family.ip(HOST));
        let packet = self.rig.by_uplink(client, host).segment(ports, segment);
        let uplink = self.rig.uplink.entry.device.ifindex;
        self.rig.run(FROM_UPLINK, uplink, &packet)
    }

    /// A container sends the client one, and it goes out.
    #[track_caller]
    fn goes(&self, member: &Member, ports: (u16, u16), segment: &Segment) -> Vec<u8> {
        let way = self.rig.from(member, self.family.ip(CLIENT));
        let packet = way.segment(ports, segment);
        let (code, out) = self.rig.run(FROM_CONTAINER, member.ifindex(), &packet);
        assert_eq!(code, REDIRECT, "{segment:?}");
        out
    }

    /// The client asks at a published port; which of the two containers gets it.
    #[track_caller]
    fn asks(&self, to: u16, seq: u32) -> &Member {
        let (code, packet) = self.comes((PORT, to), &syn(seq));
        assert_eq!(code, REDIRECT);
        let mac = &packet[..6];
        let mut members = [&self.rig.web, &self.rig.app].into_iter();
        let asked = members.find(|member| member.mac() == mac);
        asked.expect("one of them")
    }

    /// The container refuses what was asked with that number: it is over.
    #[track_caller]
    fn refuses(&self, member: &Member, seq: u32) {
        self.goes(member, (80, PORT), &refusal(seq));
    }

    /// The only flow, neither half of which is missing, and no other is there.
    #[track_caller]
    fn only(&self) -> FlowRecord {
        assert_eq!(self.halves(), 2);
        let mut flows = self.rig.datapath.flows().expect("flows");
        flows.retain(|flow| flow.src.0.is_ipv4() == (self.family == Family::V4));
        assert_eq!(flows.len(), 1, "{flows:?}");
        flows.remove(0)
    }

    fn halves(&self) -> u64 {
        let map = self.family.of([FLOWS4, FLOWS6]);
        let usage = self.rig.datapath.map_usage().expect("usage");
        let halves = usage.iter().find(|usage| usage.name == map);
        halves.and_then(|usage| usage.entries).expect("a number")
    }

    fn established(&self) -> u64 {
        let counts = self.rig.datapath.established().expect("counts");
        let is_v6 = self.family == Family::V6;
        let of_family = counts.iter().find(|count| count.is_v6 == is_v6);
        of_family.expect("of each family").flows
    }
}

fn syn(seq: u32) -> Segment<'static> {
    Segment {
        flags: "S",
        seq,
        ..Segment::default()
    }
}

/// Of a SYN with that number.
fn refusal(seq: u32) -> Segment<'static> {
    Segment {
        flags: "RA",
        ack: seq.wrapping_add(1),
        ..Segment::default()
    }
}

/// Answer to a SYN, with a number of its own.
fn answer(seq: u32, to: u32) -> Segment<'static> {
    Segment {
        flags: "SA",
        seq,
        ack: to.wrapping_add(1),
        ..Segment::default()
    }
}

fn ack(seq: u32, to: u32) -> Segment<'static> {
    Segment {
        flags: "A",
        seq: seq.wrapping_add(1),
        ack: to.wrapping_add(1),
        ..Segment::default()
    }
}

fn each(test: &str, rows: impl Fn(&Wire) + Send + Sync) {
    with_rig(test, |rig| {
        for family in Family::BOTH {
            rows(&Wire { rig, family });
        }
    });
}

/// Of the second one nothing is left in the third.
#[test]
fn a_client_is_back_at_a_published_port() {
    each("back_at_a_port", |wire| {
        let web = &wire.rig.web;
        wire.rig.publish(1, TCP, 8080, web, 80);
        for (seq, theirs) in [(1000, 70_000), (2_000_000, 9_000_000), (77, 3)] {
            assert_eq!(wire.asks(8080, seq).mac(), web.mac());
            let opening = wire.only();
            assert_eq!(opening.state, State::Opening);
            let counts = [opening.packets, opening.reply_packets, wire.established()];
            assert_eq!(counts, [1, 0, 0]);

            wire.goes(web, (80, PORT), &answer(theirs, seq));
            // Not what was expected of one before.
            let forged = ack(seq, theirs ^ 0x8000_0000);
            assert_eq!(wire.comes((PORT, 8080), &forged).0, REDIRECT);
            assert_eq!(wire.only().state, State::Opening, "{seq}");
            assert_eq!(wire.comes((PORT, 8080), &ack(seq, theirs)).0, REDIRECT);
            assert_eq!(wire.only().state, State::Established, "{seq}");
            assert_eq!(wire.established(), 1);

            let reset = Segment {
                flags: "R",
                seq: theirs.wrapping_add(1),
                ..Segment::default()
            };
            wire.goes(web, (80, PORT), &reset);
            assert_eq!(wire.only().state, State::Reset);
            assert_eq!(wire.established(), 0);
        }
    });
}

/// Under the same outside port.
#[test]
fn a_container_is_back_at_a_server() {
    each("back_at_a_server", |wire| {
        let web = &wire.rig.web;
        let mut outside = BTreeSet::new();
        for (seq, theirs) in [(1000, 70_000), (2_000_000, 9_000_000), (77, 3)] {
            let sent = wire.goes(web, (PORT, 443), &syn(seq));
            // IPv4's header or IPv6's, then the source port.
            let l4 = 14 + wire.family.of([20, 40]);
            let port = u16::from_be_bytes([sent[l4], sent[l4 + 1]]);
            outside.insert(port);
            let opening = wire.only();
            assert_eq!(opening.state, State::Opening);
            let counts = [opening.packets, opening.reply_packets, wire.established()];
            assert_eq!(counts, [1, 0, 0]);

            assert_eq!(wire.comes((443, port), &answer(theirs, seq)).0, REDIRECT);
            wire.goes(web, (PORT, 443), &ack(seq, theirs));
            assert_eq!(wire.only().state, State::Established, "{seq}");
            assert_eq!(wire.established(), 1);

            let reset = Segment {
                flags: "R",
                seq: seq.wrapping_add(1),
                ..Segment::default()
            };
            wire.goes(web, (PORT, 443), &reset);
            assert_eq!(wire.only().state, State::Reset);
            assert_eq!(wire.established(), 0);
        }
        assert_eq!(outside.len(), 1, "{outside:?}");
    });
}

/// Of the container that had it before nothing is left.
#[test]
fn another_container_gets_the_next() {
    each("another_gets_it", |wire| {
        let rig = wire.rig;
        rig.publish_service(&service(
            TCP,
            8081,
            vec![backend(2, &rig.web, 80, 1), backend(3, &rig.app, 80, 1)],
        ));
        let mut turns = Vec::new();
        for turn in 0..8 {
            let seq = 1000 + turn * 100_000;
            let asked = wire.asks(8081, seq);
            assert_eq!(wire.only().state, State::Opening, "{turns:?}");
            wire.refuses(asked, seq);
            assert_eq!(wire.only().state, State::Reset, "{turns:?}");
            turns.push(asked.entry.index);
        }
        let both: BTreeSet<_> = turns.iter().collect();
        assert_eq!(both.len(), 2, "{turns:?}");
    });
}

/// Nor is anything of one whose successor is refused.
#[test]
fn who_is_not_allowed_any_more_does_not_begin_anew() {
    each("not_allowed_any_more", |wire| {
        let rig = wire.rig;
        let to = |allow: &[&str]| Service {
            allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
            ..service(TCP, 8082, vec![backend(4, &rig.web, 80, 1)])
        };
        rig.publish_service(&to(&[]));
        let asked = wire.asks(8082, 1000);
        wire.refuses(asked, 1000);
        assert_eq!(wire.only().state, State::Reset);
        rig.publish_service(&to(&["203.0.113.2/32", "2001:db8:3::2/128"]));
        let (code, _) = wire.comes((PORT, 8082), &syn(2000));
        assert_eq!((code, wire.halves()), (TC_ACT_SHOT, 0));
    });
}

/// A fragment of which nothing is known, and an error that a container sends, end no flow.
#[test]
fn what_tells_no_ports_ends_nothing() {
    const GRE: u8 = 47;
    each("no_ports", |wire| {
        let (rig, family) = (wire.rig, wire.family);
        let (web, uplink) = (&rig.web, rig.uplink.entry.device.ifindex);
        let [client, host] = [family.ip(CLIENT), family.ip(HOST)];
        let out = rig.from(web, client).protocol(GRE, &[0; 64]);
        let back = rig.by_uplink(client, host);
        let answer = back.protocol(GRE, &[0; 64]);
        for (program, ifindex, packet) in [
            (FROM_CONTAINER, web.ifindex(), &out),
            (FROM_UPLINK, uplink, &answer),
            (FROM_CONTAINER, web.ifindex(), &out),
        ] {
            assert_eq!(rig.run(program, ifindex, packet).0, REDIRECT);
        }
        // Of an echo with that identifier an error has the key.
        let echo = rig.from(web, client).echo_request(0, 1, &[0; 8]);
        assert_eq!(rig.run(FROM_CONTAINER, web.ifindex(), &echo).0, REDIRECT);
        let goes_on = || {
            let flows = rig.datapath.flows().expect("flows");
            for protocol in [GRE, family.of([1, 58])] {
                let is_it = |flow: &FlowRecord| {
                    flow.protocol == protocol && flow.src.0.is_ipv4() == client.is_ipv4()
                };
                assert!(flows.iter().any(is_it), "{protocol}: {flows:?}");
            }
        };
        goes_on();
        // What one family leaves in the programs' room is not the other's.
        let others = Family::BOTH.into_iter().find(|other| *other != family);
        let other = others.expect("another family").ip(CLIENT);
        let datagram = rig.from(web, other).udp(5000, 53, b"?");
        // About what it was never sent.
        let (kind, code) = family.of([(3, 3), (1, 4)]);
        let quoted = &rig.into(web, client).udp(7, 9, b"?")[14..];
        let error = rig.from(web, client).icmp(kind, code, [0; 4], quoted);
        rig.run(FROM_CONTAINER, web.ifindex(), &datagram);
        rig.run(FROM_CONTAINER, web.ifindex(), &error);
        goes_on();
        for frames in [
            fragments(&back.protocol(GRE, &[0; 2000]), 1200, 99),
            fragments(&rig.from(web, client).protocol(GRE, &[0; 2000]), 1200, 98),
        ] {
            rig.run(FROM_CONTAINER, web.ifindex(), &datagram);
            let last = frames.last().expect("several");
            rig.run(FROM_UPLINK, uplink, last);
            rig.run(FROM_CONTAINER, web.ifindex(), last);
            goes_on();
        }
    });
}
