//! Whatever is sent, translated there and back it is the packet that was sent, byte by
//! byte: nothing changes but the address and port of the container, the hop limit and the
//! checksums, which are worked out anew here. Through the real programs by the kernel's
//! test-run, by masquerade, by a published port and of the host's own, with the errors
//! about it.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netbpf_common::{
    names::{FROM_CONTAINER, FROM_UPLINK, TO_UPLINK},
    packet::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{FAR, HOST},
    },
    packets::{Body, Way, Whole, describe},
    rows::{Action, Opened, ROOMY, Rig, with_rig_of},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestCaseResult, TestRunner},
};

/// Conversations of each direction.
const CASES: u32 = 700;

/// What is published: its port outside and inside.
const TCP_PORTS: (u16, u16) = (8080, 80);
const UDP_PORTS: (u16, u16) = (5300, 53);
const SCTP_PORT: u16 = 3868;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// The largest error that IPv6 has (RFC 4443 section 2.4 (c)), less its headers.
const MOST_QUOTED: usize = 1280 - 48;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tcp,
    Udp { summed: bool },
    Echo,
    Sctp,
    Other(u8),
}

/// What a packet has besides what the conversation says.
#[derive(Clone, Debug)]
struct Trimmings {
    class: u8,
    id: u16,
    dont_fragment: bool,
    options: u8,
    tcp_options: u8,
    flags: u8,
    numbers: (u32, u32, u16),
    hops: u8,
    payload: Payload,
}

/// Bytes at random that are told in one line.
#[derive(Clone, Copy, Debug)]
struct Payload {
    length: usize,
    seed: u64,
}

impl Payload {
    fn bytes(self) -> Vec<u8> {
        let byte = |at: u64| {
            (at.wrapping_add(self.seed)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                >> 56) as u8
        };
        (0..self.length as u64).map(byte).collect()
    }
}

/// What an error about a packet says, and how much of it it quotes.
#[derive(Clone, Debug)]
struct Complaint {
    kind: usize,
    head: [u8; 4],
    /// Words of 4 bytes behind the 8 that it has at least.
    quoted: usize,
    by_router: bool,
    trimmings: Trimmings,
}

/// Packets between two ends: one that begins, one that answers, one of each more.
#[derive(Clone, Debug)]
struct Conversation {
    family: Family,
    kind: Kind,
    remote: u8,
    ports: (u16, u16),
    there: [Trimmings; 2],
    back: [Trimmings; 2],
    complaint: Complaint,
}

fn families() -> impl Strategy<Value = Family> {
    prop::sample::select(Family::BOTH.to_vec())
}

/// IPv6 has no datagram without checksum.
fn kinds(family: Family) -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => Just(Kind::Tcp),
        3 => any::<bool>().prop_map(move |summed| Kind::Udp {
            summed: summed || family == Family::V6,
        }),
        2 => Just(Kind::Echo),
        1 => Just(Kind::Sctp),
        // IPIP, GRE, ESP, OSPF, PIM, and what nobody has heard of.
        1 => prop::sample::select(vec![4_u8, 47, 50, 89, 103, 253]).prop_map(Kind::Other),
    ]
}

fn trimmings() -> impl Strategy<Value = Trimmings> {
    let length = prop_oneof![0_usize..40, 0_usize..=1400];
    let payload = (length, any::<u64>()).prop_map(|(length, seed)| Payload { length, seed });
    let numbers = any::<(u32, u32, u16)>();
    let tcp = (0_u8..=4, any::<u8>(), numbers);
    let ip = (any::<u8>(), any::<u16>(), any::<bool>(), 0_u8..=3);
    (ip, tcp, 3_u8.., payload).prop_map(|(ip, tcp, hops, payload)| Trimmings {
        class: ip.0,
        id: ip.1,
        dont_fragment: ip.2,
        options: ip.3,
        tcp_options: tcp.0,
        flags: tcp.1,
        numbers: tcp.2,
        hops,
        payload,
    })
}

fn complaints() -> impl Strategy<Value = Complaint> {
    let quoted = prop_oneof![Just(0_usize), Just(usize::MAX), 0_usize..30];
    (
        0_usize..4,
        any::<[u8; 4]>(),
        quoted,
        any::<bool>(),
        trimmings(),
    )
        .prop_map(|(kind, head, quoted, by_router, trimmings)| Complaint {
            kind,
            head,
            quoted,
            by_router,
            trimmings,
        })
}

fn conversations() -> impl Strategy<Value = Conversation> {
    families()
        .prop_flat_map(|family| (Just(family), kinds(family)))
        .prop_flat_map(move |(family, kind)| {
            let packets = ([trimmings(), trimmings()], [trimmings(), trimmings()]);
            let made = (2_u8..250, (1024_u16.., 1_u16..), packets, complaints());
            made.prop_map(move |(remote, ports, packets, complaint)| Conversation {
                family,
                kind,
                remote,
                ports,
                there: packets.0,
                back: packets.1,
                complaint,
            })
        })
}

impl Conversation {
    /// On the wire of the uplink.
    fn remote(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, self.remote).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, self.remote.into()).into(),
        }
    }

    /// A packet of that number, from the side that began the conversation or to it.
    fn packet(&self, way: Way, ports: (u16, u16), number: usize, there: bool) -> Whole {
        let with = &if there { &self.there } else { &self.back }[number];
        let payload = with.payload.bytes();
        let body = match self.kind {
            Kind::Tcp => Body::Tcp {
                ports,
                flags: match (number, there) {
                    (0, true) => SYN,
                    (0, false) => SYN | ACK,
                    // All but RST, which may end it, and SYN, which begins another.
                    _ => ACK | with.flags & !6,
                },
                seq: with.numbers.0,
                ack: with.numbers.1,
                window: with.numbers.2,
                options: with.tcp_options,
                payload,
            },
            Kind::Udp { summed } => Body::Udp {
                ports,
                summed,
                payload,
            },
            Kind::Echo => Body::Echo {
                request: there,
                id: if there { ports.0 } else { ports.1 },
                seq: with.numbers.2,
                payload,
            },
            Kind::Sctp => {
                let mut bytes = ports.0.to_be_bytes().to_vec();
                bytes.extend(ports.1.to_be_bytes());
                bytes.extend(with.numbers.0.to_be_bytes());
                bytes.extend(with.numbers.1.to_be_bytes());
                // INIT, INIT ACK, DATA.
                let chunk = [[1, 0], [2, 0]][usize::from(!there)][number];
                bytes.extend([chunk, 0, 0, 4]);
                bytes.extend(payload);
                Body::Other {
                    protocol: IPPROTO_SCTP,
                    payload: bytes,
                }
            }
            Kind::Other(protocol) => Body::Other { protocol, payload },
        };
        whole(with, way, body)
    }

    /// An error on that way about a packet.
    fn error(&self, way: Way, about: &Whole) -> Whole {
        let complaint = &self.complaint;
        let (kind, code) = self.family.of([
            [(3, 3), (1, 4)],
            [(3, 4), (2, 0)],
            [(11, 0), (3, 0)],
            [(12, 1), (4, 1)],
        ][complaint.kind]);
        let quote = about.bytes().split_off(ETHERNET);
        let least = about.header_len() + 8;
        let length = least
            .saturating_add(complaint.quoted.saturating_mul(4))
            .min(MOST_QUOTED)
            .min(quote.len());
        let body = Body::Error {
            kind,
            code,
            head: complaint.head,
            quote: quote[..length].to_vec(),
        };
        whole(&complaint.trimmings, way, body)
    }
}

fn whole(with: &Trimmings, way: Way, body: Body) -> Whole {
    Whole {
        way: way.hops(with.hops),
        class: with.class,
        id: with.id,
        dont_fragment: with.dont_fragment,
        options: with.options,
        body,
    }
}

/// The same packet, one router later.
fn one_hop_on(packet: &Whole) -> Whole {
    packet.on(packet.way.hops(packet.way.hops - 1))
}

/// Programs of a rig, and where packets come in.
struct Bench<'a> {
    rig: &'a Rig,
    from_container: Opened,
    from_uplink: Opened,
    to_uplink: Opened,
    packets: Cell<u32>,
}

/// By which program, and what becomes of the packet.
#[derive(Clone, Copy, Debug)]
enum By {
    Container,
    Uplink,
    UplinkToHost,
    Host,
}

impl Bench<'_> {
    fn send(&self, by: By, packet: &Whole) -> Result<Vec<u8>, TestCaseError> {
        let uplink = self.rig.uplink.entry.device.ifindex;
        let web = self.rig.web.ifindex();
        let (program, came_by, ifindex, wanted) = match by {
            By::Container => (&self.from_container, web, web, Action::Redirect),
            By::Uplink => (&self.from_uplink, uplink, uplink, Action::Redirect),
            By::UplinkToHost => (&self.from_uplink, uplink, uplink, Action::Pass),
            By::Host => (&self.to_uplink, 0, uplink, Action::Pass),
        };
        let sent = packet.bytes();
        let (code, out) = program.run(came_by, ifindex, &sent).expect("a packet");
        self.packets.set(self.packets.get() + 1);
        prop_assert_eq!(
            Action::from_code(code),
            Some(wanted),
            "{:?} of\n{}-- out\n{}",
            by,
            describe(&sent),
            describe(&out)
        );
        Ok(out)
    }

    /// Sends a packet, which has to become that one; `from` which byte on counts.
    fn becomes(&self, by: By, packet: &Whole, wanted: &Whole, from: usize) -> TestCaseResult {
        let out = self.send(by, packet)?;
        let wanted = wanted.bytes();
        prop_assert!(
            out[from..] == wanted[from..],
            "{:?} of\n{}-- out\n{}-- wanted\n{}",
            by,
            describe(&packet.bytes()),
            describe(&out),
            describe(&wanted)
        );
        Ok(())
    }
}

/// The outside port, or identifier, of a packet that left.
fn port_of(packet: &Whole, out: &[u8]) -> u16 {
    let l4 = ETHERNET + packet.header_len();
    let at = match packet.body {
        Body::Echo { .. } => l4 + 4,
        Body::Tcp { .. } | Body::Udp { .. } => l4,
        _ => return 0,
    };
    u16::from_be_bytes([out[at], out[at + 1]])
}

fn masquerade(bench: &Bench, talk: &Conversation) -> TestCaseResult {
    let rig = bench.rig;
    let (remote, host) = (talk.remote(), talk.family.ip(HOST));
    let (leaves, outside) = (rig.from(&rig.web, remote), rig.from(&rig.web, remote));
    // Its MACs are the neighbour's to write.
    let outside = Way {
        from: host,
        ..outside
    };
    let (answer, arrives) = (rig.by_uplink(remote, host), rig.into(&rig.web, remote));
    let ports = match talk.kind {
        Kind::Echo => (talk.ports.0, 0),
        _ => talk.ports,
    };
    let mut port = ports.0;
    for number in 0..2 {
        let sent = talk.packet(leaves, ports, number, true);
        let out = bench.send(By::Container, &sent)?;
        if number == 0 && !matches!(talk.kind, Kind::Sctp) {
            port = port_of(&sent, &out);
        }
        let hops = sent.way.hops - 1;
        let left = sent.on(outside.hops(hops)).with_ports((port, ports.1));
        bench.becomes(By::Container, &sent, &left, 0)?;

        let reply = talk.packet(answer, (ports.1, port), number, false);
        let hops = reply.way.hops - 1;
        let inside = reply.on(arrives.hops(hops)).with_ports((ports.1, ports.0));
        bench.becomes(By::Uplink, &reply, &inside, 0)?;

        // What left comes back as a quote, of the container's own packet.
        let from = match talk.complaint.by_router {
            true => talk.family.ip(FAR),
            false => remote,
        };
        let error = talk.error(Way { from, ..answer }, &left);
        let told = talk.error(Way { from, ..arrives }, &one_hop_on(&sent));
        bench.becomes(By::Uplink, &error, &one_hop_on(&told), 0)?;

        // And the container's own about the answer.
        let error = talk.error(leaves, &inside);
        let told = talk.error(outside, &one_hop_on(&reply));
        bench.becomes(By::Container, &error, &one_hop_on(&told), 0)?;
    }
    Ok(())
}

fn published(bench: &Bench, talk: &Conversation) -> TestCaseResult {
    let rig = bench.rig;
    let (remote, host) = (talk.remote(), talk.family.ip(HOST));
    let (outer, inner) = match talk.kind {
        Kind::Tcp => TCP_PORTS,
        Kind::Udp { .. } => UDP_PORTS,
        Kind::Sctp => (SCTP_PORT, SCTP_PORT),
        Kind::Echo | Kind::Other(_) => return Ok(()),
    };
    let (asks, arrives) = (rig.by_uplink(remote, host), rig.into(&rig.web, remote));
    let answers = rig.from(&rig.web, remote);
    let leaves = Way {
        from: host,
        ..answers
    };
    let port = talk.ports.0;
    for number in 0..2 {
        let sent = talk.packet(asks, (port, outer), number, true);
        let hops = sent.way.hops - 1;
        let inside = sent.on(arrives.hops(hops)).with_ports((port, inner));
        bench.becomes(By::Uplink, &sent, &inside, 0)?;

        let answer = talk.packet(answers, (inner, port), number, false);
        let hops = answer.way.hops - 1;
        let left = answer.on(leaves.hops(hops)).with_ports((outer, port));
        bench.becomes(By::Container, &answer, &left, 0)?;

        let error = talk.error(answers, &inside);
        let told = talk.error(leaves, &one_hop_on(&sent));
        bench.becomes(By::Container, &error, &one_hop_on(&told), 0)?;

        let from = match talk.complaint.by_router {
            true => talk.family.ip(FAR),
            false => remote,
        };
        let error = talk.error(Way { from, ..asks }, &left);
        let told = talk.error(Way { from, ..arrives }, &one_hop_on(&answer));
        bench.becomes(By::Uplink, &error, &one_hop_on(&told), 0)?;
    }
    Ok(())
}

/// The host is no router to itself: its hop limits stay.
fn of_the_host(bench: &Bench, talk: &Conversation) -> TestCaseResult {
    let rig = bench.rig;
    let (remote, host) = (talk.remote(), talk.family.ip(HOST));
    let ports = match talk.kind {
        Kind::Echo => (talk.ports.0, 0),
        Kind::Tcp | Kind::Udp { .. } => talk.ports,
        Kind::Sctp | Kind::Other(_) => return Ok(()),
    };
    // A container has the tuple first.
    let first = talk.packet(rig.from(&rig.web, remote), ports, 0, true);
    let taken = port_of(&first, &bench.send(By::Container, &first)?);
    let (out, back) = (rig.out(host, remote), rig.by_uplink(remote, host));
    let mut port = 0;
    for number in 0..2 {
        let sent = talk.packet(out, (taken, ports.1), number, true);
        if number == 0 {
            port = port_of(&sent, &bench.send(By::Host, &sent)?);
            prop_assert_ne!(port, taken);
        }
        let left = sent.with_ports((port, ports.1));
        bench.becomes(By::Host, &sent, &left, 0)?;

        let answer = talk.packet(back, (ports.1, port), number, false);
        let came = answer.with_ports((ports.1, taken));
        bench.becomes(By::UplinkToHost, &answer, &came, 0)?;

        let from = match talk.complaint.by_router {
            true => talk.family.ip(FAR),
            false => remote,
        };
        let way = Way { from, ..back };
        let (error, told) = (talk.error(way, &left), talk.error(way, &sent));
        bench.becomes(By::UplinkToHost, &error, &told, 0)?;

        let (error, told) = (talk.error(out, &came), talk.error(out, &answer));
        bench.becomes(By::Host, &error, &told, 0)?;
    }
    Ok(())
}

fn holds(test: &str, law: fn(&Bench, &Conversation) -> TestCaseResult) {
    with_rig_of(test, ROOMY, |rig| {
        rig.publish(1, IPPROTO_TCP, TCP_PORTS.0, &rig.web, TCP_PORTS.1);
        rig.publish(2, IPPROTO_UDP, UDP_PORTS.0, &rig.web, UDP_PORTS.1);
        rig.publish(3, IPPROTO_SCTP, SCTP_PORT, &rig.web, SCTP_PORT);
        let bench = Bench {
            rig,
            from_container: rig.open(FROM_CONTAINER),
            from_uplink: rig.open(FROM_UPLINK),
            to_uplink: rig.open(TO_UPLINK),
            packets: Cell::new(0),
        };
        let mut runner = TestRunner::new(Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        });
        let result = runner.run(&conversations(), |talk| law(&bench, &talk));
        println!("{test}: {} packets", bench.packets.get());
        if let Err(error) = result {
            panic!("{error}");
        }
    });
}

#[test]
fn what_is_masqueraded_there_and_back_is_what_was_sent() {
    holds("masqueraded_there_and_back", masquerade);
}

#[test]
fn what_goes_to_a_published_port_and_back_is_what_was_sent() {
    holds("published_there_and_back", published);
}

#[test]
fn what_the_host_sends_by_another_port_and_gets_back_is_what_was_sent() {
    holds("host_there_and_back", of_the_host);
}
