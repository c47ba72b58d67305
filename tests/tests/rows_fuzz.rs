//! Mutated packets at the real programs, by the kernel's test-run, while flows of every
//! kind are alive: no wrong checksum ever leaves, nothing forged passes, and every drop is
//! counted. What is thrown follows from `NETBPF_FUZZ_SEED` alone, but for the MACs and the
//! outside ports; `NETBPF_FUZZ_SECONDS` throws for so long. The surroundings are drawn at
//! [`netbpf_tests::rows::Rig`].

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use netbpf::datapath::{GATEWAY_MAC, Service};
use netbpf_common::{
    names::{EARLY_DROP, FROM_CONTAINER, FROM_UPLINK, HOST_LOCAL, TO_CONTAINER, TO_UPLINK},
    packet::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{BACK, CLIENT, FAR, FRONT, HOST, NOBODY, NOWHERE},
    },
    packets::{
        BROADCAST, Body, Mac, Rest, Way, Whole, arp_reply, arp_request, behind_options, describe,
        fragments, neighbour_advertisement, neighbour_solicitation, repair, rests, tiny_fragment,
        vlan_tagged, vxlan,
    },
    rows::{Action, Member, Opened, Rig, backend, service, with_rig_of},
};

/// Packets that are thrown where nobody says for how long.
const RUNS: u64 = 20_000;

/// After so many the flows are as at the start again.
const ROUND: u64 = 2_000;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// The kernel makes no larger packet than fits into a page.
const MOST: usize = 3_000;

/// Bytes that an ICMP error of ours quotes.
const QUOTE: usize = 128;

/// Port of what the containers have outside, and of whom they ask.
const FLOW: (u16, u16) = (5000, 7);
/// What only FAR may ask for, and what leads to a network that the asker is not in.
const LIMITED: u16 = 5301;
const ELSEWHERE: u16 = 8090;

/// Who throws, and at what.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lane {
    /// The number of the container.
    Container(usize),
    Uplink,
    /// What the host sends by the uplink.
    Host,
    /// What a container has sent by it.
    Left,
    /// What the host sends to a container, or forwards to it.
    ToContainer {
        forwarded: bool,
    },
    Local,
    Early,
}

/// Those with more to go wrong more often.
const LANES: [Lane; 18] = [
    Lane::Container(0),
    Lane::Container(0),
    Lane::Container(0),
    Lane::Container(0),
    Lane::Container(1),
    Lane::Container(2),
    Lane::Uplink,
    Lane::Uplink,
    Lane::Uplink,
    Lane::Uplink,
    Lane::Uplink,
    Lane::Host,
    Lane::Host,
    Lane::Left,
    Lane::ToContainer { forwarded: false },
    Lane::ToContainer { forwarded: true },
    Lane::Local,
    Lane::Early,
];

impl Lane {
    /// Whose packets of before are like those that come by it.
    fn of_whose_kind(self) -> Lane {
        match self {
            Lane::Early => Lane::Uplink,
            Lane::Left => Lane::Host,
            Lane::ToContainer { .. } => Lane::ToContainer { forwarded: false },
            other => other,
        }
    }
}

/// A source of numbers that anybody can make again (Vigna, splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn of<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Programs of a rig, and packets to begin with.
struct Range<'a> {
    rig: &'a Rig,
    from_container: Opened,
    from_uplink: Opened,
    to_uplink: Opened,
    to_container: Opened,
    host_local: Opened,
    early_drop: Opened,
    seeds: Vec<(Lane, Vec<u8>)>,
    macs: Vec<Mac>,
    addresses: Vec<IpAddr>,
}

/// What a program made of a packet.
struct Outcome {
    code: u32,
    out: Vec<u8>,
    /// Drops that were counted.
    counted: u64,
}

impl<'a> Range<'a> {
    fn new(rig: &'a Rig) -> Range<'a> {
        publish(rig);
        let macs = vec![
            rig.web.mac(),
            rig.app.mac(),
            rig.other.mac(),
            GATEWAY_MAC,
            rig.uplink.mac,
            rig.uplink.neighbour,
            BROADCAST,
            [0x33, 0x33, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 9],
            [0; 6],
        ];
        let named = [
            HOST,
            CLIENT,
            FAR,
            NOBODY,
            NOWHERE,
            FRONT.gateways,
            BACK.gateways,
        ];
        let special = [
            ["127.0.0.1", "::1"],
            ["0.0.0.0", "::"],
            ["224.0.0.1", "ff02::1"],
            ["255.255.255.255", "ff05::2"],
            ["169.254.7.7", "fe80::7"],
            ["10.10.1.255", "::ffff:10.10.1.2"],
            ["240.0.0.1", "2001:db8:1::"],
        ];
        let texts = named.into_iter().chain(special);
        let texts = texts.chain([FRONT.absent, BACK.absent]).flatten();
        let mut addresses: Vec<IpAddr> = texts.map(|text| text.parse().unwrap()).collect();
        for family in Family::BOTH {
            addresses.extend([&rig.web, &rig.app, &rig.other].map(|member| member.ip(family)));
        }
        let mut range = Range {
            rig,
            from_container: rig.open(FROM_CONTAINER),
            from_uplink: rig.open(FROM_UPLINK),
            to_uplink: rig.open(TO_UPLINK),
            to_container: rig.open(TO_CONTAINER),
            host_local: rig.open(HOST_LOCAL),
            early_drop: rig.open(EARLY_DROP),
            seeds: Vec::new(),
            macs,
            addresses,
        };
        range.seeds = Family::BOTH
            .iter()
            .flat_map(|&family| seeds(rig, family))
            .collect();
        range.seeds.extend(seeds_of_neighbours(rig));
        range
    }

    fn member(&self, number: usize) -> &Member {
        [&self.rig.web, &self.rig.app, &self.rig.other][number]
    }

    fn lane(&self, lane: Lane) -> (&Opened, u32, u32) {
        let uplink = self.rig.uplink.entry.device.ifindex;
        let web = self.rig.web.ifindex();
        match lane {
            Lane::Container(number) => {
                let own = self.member(number).ifindex();
                (&self.from_container, own, own)
            }
            Lane::Uplink => (&self.from_uplink, uplink, uplink),
            Lane::Host => (&self.to_uplink, 0, uplink),
            Lane::Left => (&self.to_uplink, web, uplink),
            Lane::ToContainer { forwarded: false } => (&self.to_container, 0, web),
            Lane::ToContainer { forwarded: true } => (&self.to_container, uplink, web),
            Lane::Local => (&self.host_local, 0, 1),
            Lane::Early => (&self.early_drop, 0, 0),
        }
    }

    fn drops(&self) -> u64 {
        let drops = self.rig.datapath.drops(None).expect("drops");
        drops.into_iter().map(|(_, count)| count).sum()
    }

    /// `None` where the kernel makes no packet of it, or sends none like it that way.
    fn throw(&self, lane: Lane, packet: &[u8]) -> Option<Outcome> {
        // By `lo`, from the host to itself.
        let is_own = |address| is_local(address) || is_loopback(address);
        if lane == Lane::Local && !ends(packet).is_none_or(|e| is_own(e.from) && is_own(e.to)) {
            return None;
        }
        let (program, came_by, ifindex) = self.lane(lane);
        let before = self.drops();
        let (code, out) = program.run(came_by, ifindex, packet)?;
        Some(Outcome {
            code,
            out,
            counted: self.drops() - before,
        })
    }

    /// Begins flows of every kind anew.
    fn begin(&self) {
        self.rig.datapath.flush(|_| true, &|_| {}).expect("flush");
        for (lane, packet) in &self.seeds {
            self.throw(*lane, packet);
        }
    }
}

fn publish(rig: &Rig) {
    rig.publish(1, IPPROTO_TCP, 8080, &rig.web, 80);
    rig.publish(2, IPPROTO_UDP, 5300, &rig.web, 53);
    rig.publish(3, IPPROTO_SCTP, 3868, &rig.web, 3868);
    rig.publish(4, IPPROTO_TCP, ELSEWHERE, &rig.other, 80);
    let far = ["203.0.113.0/24", "2001:db8:3::/64"].map(|net| net.parse().unwrap());
    rig.publish_service(&Service {
        allow: far.into(),
        ..service(IPPROTO_UDP, LIMITED, vec![backend(5, &rig.app, 53, 1)])
    });
}

/// Real packets, in an order in which they begin flows and go on with them.
fn seeds(rig: &Rig, family: Family) -> Vec<(Lane, Vec<u8>)> {
    let (host, client, far) = (family.ip(HOST), family.ip(CLIENT), family.ip(FAR));
    let (web, app) = (&rig.web, &rig.app);
    let (kind, code) = family.of([(3, 3), (1, 4)]);
    let (out, back) = (rig.from(web, client), rig.by_uplink(client, host));
    let (own, of_app) = (rig.out(host, client), rig.from(app, client));
    let large: Vec<u8> = (0..1400).map(|n| n as u8).collect();
    let mut seeds = Vec::new();
    let mut add = |lane, packets: Vec<Vec<u8>>| {
        seeds.extend(packets.into_iter().map(|packet| (lane, packet)));
    };
    let whole = |way: Way, class: u8, options: u8, body: Body| {
        let packet = Whole {
            way,
            class,
            id: 0x1234,
            dont_fragment: class & 1 == 0,
            options,
            body,
        };
        packet.bytes()
    };
    let bare = |ports| Body::Udp {
        ports,
        summed: family == Family::V6,
        payload: b"bare".into(),
    };
    // Masqueraded, and what comes back.
    let datagram = out.udp(FLOW.0, FLOW.1, b"question");
    let left = rig
        .out(host, client)
        .hops(63)
        .udp(FLOW.0, FLOW.1, b"question");
    let inside = rig.into(web, client).udp(FLOW.1, FLOW.0, b"answer");
    add(
        Lane::Container(0),
        vec![
            out.tcp(FLOW.0, FLOW.1, "S", b""),
            datagram.clone(),
            out.echo_request(FLOW.0, 1, b"hello"),
            out.protocol(47, b"\x00\x00\x08\x00 in GRE"),
            out.sctp(FLOW.0, FLOW.1, 1),
            whole(out, 0xb9, 2, bare((FLOW.0 + 1, FLOW.1))),
        ],
    );
    add(
        Lane::Uplink,
        vec![
            back.tcp(FLOW.1, FLOW.0, "SA", b""),
            back.udp(FLOW.1, FLOW.0, b"answer"),
            back.echo_reply(FLOW.0, 1, b"hello"),
            back.protocol(47, b"\x00\x00\x08\x00 in GRE"),
            back.sctp(FLOW.1, FLOW.0, 2),
            whole(back, 3, 1, bare((FLOW.1, FLOW.0 + 1))),
            back.icmp(kind, code, [0; 4], &left[ETHERNET..]),
            rig.by_uplink(far, host).icmp(
                kind,
                code,
                [0; 4],
                &left[ETHERNET..ETHERNET + family.of([28, 48])],
            ),
        ],
    );
    add(
        Lane::Container(0),
        vec![
            out.tcp(FLOW.0, FLOW.1, "A", &large),
            out.icmp(kind, code, [0; 4], &inside[ETHERNET..]),
        ],
    );
    add(
        Lane::Container(0),
        fragments(&out.udp(FLOW.0, FLOW.1, &large), 600, 77),
    );
    add(
        Lane::Uplink,
        fragments(&back.udp(FLOW.1, FLOW.0, &large), 600, 78),
    );
    // By published ports, and the answers.
    add(
        Lane::Uplink,
        vec![
            back.tcp(1000, 8080, "S", b""),
            back.udp(1000, 5300, b"question"),
            back.sctp(1000, 3868, 1),
            back.tcp(1001, ELSEWHERE, "S", b""),
            rig.by_uplink(far, host).udp(1000, LIMITED, b"question"),
            back.udp(1000, LIMITED, b"not allowed"),
        ],
    );
    add(
        Lane::Uplink,
        fragments(&back.udp(1000, 5300, &large), 600, 79),
    );
    add(
        Lane::Container(0),
        vec![
            out.tcp(80, 1000, "SA", b""),
            out.udp(53, 1000, b"answer"),
            rig.from(web, host).tcp(2000, ELSEWHERE, "S", b""),
            rig.from(web, host).tcp(2001, 8080, "S", b""),
        ],
    );
    add(
        Lane::Container(2),
        vec![
            rig.from(&rig.other, web.ip(family))
                .tcp(80, 2000, "SA", b""),
            rig.from(&rig.other, client).tcp(80, 1001, "SA", b""),
        ],
    );
    // Containers at each other's outside ports.
    add(
        Lane::Container(1),
        vec![
            of_app.udp(6000, FLOW.1, b"question"),
            rig.from(app, host).udp(6000, FLOW.0, b"hello"),
        ],
    );
    add(
        Lane::Container(0),
        vec![
            rig.from(web, host).udp(FLOW.0, 6000, b"hello"),
            rig.from(web, host).hops(2).udp(FLOW.0, 6000, b"hello"),
        ],
    );
    // The host's own.
    add(
        Lane::Host,
        vec![
            own.tcp(FLOW.0, FLOW.1, "S", b""),
            own.udp(FLOW.0, FLOW.1, b"of the host"),
            own.echo_request(FLOW.0, 1, b"of the host"),
            own.udp(9, 9, b"another"),
            own.icmp(
                kind,
                code,
                [0; 4],
                &back.udp(FLOW.1, FLOW.0, b"answer")[ETHERNET..],
            ),
        ],
    );
    add(Lane::Left, vec![own.udp(FLOW.0, FLOW.1, b"of a container")]);
    let to_lo = |to| Way::new([0; 6], [0; 6], family.loopback(), to);
    add(
        Lane::Local,
        vec![
            to_lo(family.loopback()).tcp(3000, 8080, "S", b""),
            to_lo(host).udp(3000, 5300, b"question"),
            Way::new([0; 6], [0; 6], host, host).udp(3001, 5300, b"question"),
        ],
    );
    let gateway = family.ip(FRONT.gateways);
    add(
        Lane::Container(0),
        vec![
            rig.from(web, gateway).udp(53, 3000, b"answer"),
            rig.from(web, gateway).tcp(80, 3000, "SA", b""),
            rig.from(web, host).udp(53, 3001, b"answer"),
        ],
    );
    // What is of no flow.
    let nowhere = family.ip(NOWHERE);
    for to in [app.ip(family), rig.other.ip(family), host, gateway, nowhere] {
        let way = rig.from(web, to);
        add(
            Lane::Container(0),
            vec![
                way.udp(1, 53, b"x"),
                way.tcp(1, 22, "S", b""),
                way.hops(1).echo_request(1, 1, b"x"),
            ],
        );
    }
    let group = family.ip(["224.0.0.251", "ff02::fb"]);
    let frame = rig.from(app, client).udp(1, 2, b"in a tunnel");
    add(
        Lane::Container(0),
        vec![
            rig.from(web, group).udp(5353, 5353, b"mDNS"),
            out.udp(49_152, 4789, &vxlan(7, &frame)),
            out.protocol(51, b"signed with the addresses"),
            out.echo_reply(1, 1, b"unasked"),
            vlan_tagged(&datagram, 5),
        ],
    );
    add(
        Lane::Uplink,
        vec![
            back.udp(49_152, 4789, &vxlan(7, &frame)),
            back.udp(1, 53, b"the host's"),
            rig.by_uplink(client, web.ip(family))
                .udp(1, 53, b"straight"),
            rig.by_uplink(app.ip(family), host).udp(1, 5300, b"forged"),
            vlan_tagged(&back.udp(1000, 5300, b"tagged"), 5),
        ],
    );
    match family {
        Family::V4 => {
            add(Lane::Container(0), vec![tiny_fragment(&out)]);
            add(Lane::Uplink, vec![tiny_fragment(&back)]);
        }
        Family::V6 => {
            add(Lane::Container(0), vec![behind_options(&out)]);
            add(Lane::Uplink, vec![behind_options(&back)]);
        }
    }
    add(
        Lane::ToContainer { forwarded: false },
        vec![rig.into(web, host).tcp(22, 1, "SA", b"")],
    );
    seeds
}

fn seeds_of_neighbours(rig: &Rig) -> Vec<(Lane, Vec<u8>)> {
    let web = &rig.web;
    let [gateway, far] = [FRONT.gateways, CLIENT].map(|ips| ips[0].parse().unwrap());
    let [gateway6, far6] = [FRONT.gateways, CLIENT].map(|ips| ips[1].parse().unwrap());
    let neighbour = rig.uplink.neighbour;
    vec![
        (
            Lane::Container(0),
            arp_request(web.mac(), web.ipv4(), gateway),
        ),
        (
            Lane::Container(0),
            arp_reply(web.mac(), web.ipv4(), GATEWAY_MAC, gateway),
        ),
        (
            Lane::Container(0),
            neighbour_solicitation(web.mac(), web.ipv6(), gateway6),
        ),
        (
            Lane::Container(0),
            neighbour_advertisement(web.mac(), web.ipv6(), GATEWAY_MAC, gateway6, web.ipv6()),
        ),
        (
            Lane::Uplink,
            arp_request(neighbour, far, HOST[0].parse().unwrap()),
        ),
        (
            Lane::Uplink,
            neighbour_solicitation(neighbour, far6, HOST[1].parse().unwrap()),
        ),
    ]
}

/// Bytes and numbers that something depends on.
const BYTES: [u8; 22] = [
    0, 1, 2, 4, 5, 6, 8, 17, 43, 44, 47, 50, 51, 58, 59, 60, 63, 64, 127, 128, 132, 255,
];
const NUMBERS: [u16; 22] = [
    0, 1, 7, 8, 20, 28, 40, 53, 80, 0x1fff, 0x2000, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xffff, 5000,
    5300, 6000, 8080, 8090, 4789,
];

impl Range<'_> {
    /// A packet that never was.
    fn mutate(&self, dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
        let mut packet = seed.to_vec();
        for _ in 0..=dice.below(4) {
            self.change(dice, &mut packet);
        }
        packet.truncate(MOST);
        // Most receivers would not look at the others at all.
        if !dice.one_in(3) {
            repair(&mut packet, ETHERNET);
        }
        packet
    }

    fn change(&self, dice: &mut Dice, packet: &mut Vec<u8>) {
        let length = packet.len();
        if length < ETHERNET + 20 {
            packet.resize(ETHERNET + 20, 0);
            return;
        }
        // Headers more often than payload.
        let near = length.min(ETHERNET + 80);
        let at = if dice.one_in(4) {
            dice.below(length)
        } else {
            dice.below(near)
        };
        let is_v4 = packet[ETHERNET] >> 4 == 4;
        match dice.below(17) {
            0 => packet[at] ^= 1 << dice.below(8),
            1 => packet[at] = *dice.of(&BYTES),
            2 => packet[at] = dice.next() as u8,
            3 | 4 => {
                let number = match dice.below(3) {
                    0 => *dice.of(&NUMBERS),
                    1 => (length as u16).wrapping_sub(dice.below(60) as u16),
                    _ => dice.next() as u16,
                };
                let at = at.min(length - 2) & !1;
                packet[at..at + 2].copy_from_slice(&number.to_be_bytes());
            }
            5 => {
                let cut = ETHERNET + dice.below(length - ETHERNET);
                packet.truncate(cut);
            }
            6 => {
                let more = dice.below(64);
                packet.extend((0..more).map(|_| dice.next() as u8));
            }
            // The head of one and the tail of another.
            7 => {
                let (_, other) = dice.of(&self.seeds);
                let at = *dice.of(&[ETHERNET, ETHERNET + 20, ETHERNET + 40, at]);
                packet.truncate(at);
                packet.extend(other.get(at..).unwrap_or(&[]));
            }
            8 => packet[ETHERNET] = *dice.of(&[0x44, 0x45, 0x46, 0x47, 0x4f, 0x60, 0x61, 0x00]),
            9 => {
                let said = ETHERNET + if is_v4 { 2 } else { 4 };
                let least = if is_v4 { 0 } else { 40 };
                let right = (length - ETHERNET).saturating_sub(least);
                let number = (right + dice.below(9)).saturating_sub(dice.below(60)) as u16;
                packet[said..said + 2].copy_from_slice(&number.to_be_bytes());
            }
            10 if is_v4 => {
                let field = *dice.of(&[0, 0x2000, 0x4000, 0x2001, 1, 0x1fff, 0x8000, 0x6000, 75]);
                packet[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&u16::to_be_bytes(field));
            }
            // One more extension header.
            10 | 11 if !is_v4 && length > ETHERNET + 40 => {
                let next = packet[ETHERNET + 6];
                let kind = *dice.of(&[0, 43, 44, 60, 60]);
                packet[ETHERNET + 6] = kind;
                let field = *dice.of(&[0, 1, 8, 9]);
                let header = [next, 0, if kind == 44 { 0 } else { 1 }, field, 0, 0, 0, 7];
                packet.splice(ETHERNET + 40..ETHERNET + 40, header);
                let said = u16::from_be_bytes([packet[ETHERNET + 4], packet[ETHERNET + 5]]);
                packet[ETHERNET + 4..ETHERNET + 6]
                    .copy_from_slice(&said.wrapping_add(8).to_be_bytes());
            }
            10 | 11 => packet[ETHERNET + if is_v4 { 9 } else { 6 }] = *dice.of(&BYTES),
            12 | 13 => self.change_address(dice, packet, is_v4),
            14 => {
                let at = *dice.of(&[0, 6]);
                packet[at..at + 6].copy_from_slice(&dice.of(&self.macs)[..]);
            }
            15 => {
                let kind = *dice.of(&[0x0800_u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x88b5, 60]);
                packet[12..14].copy_from_slice(&kind.to_be_bytes());
            }
            _ => packet[ETHERNET + if is_v4 { 8 } else { 7 }] = *dice.of(&[0, 1, 2, 3, 255]),
        }
    }

    /// An address that means something, as source or destination, or in what is quoted.
    fn change_address(&self, dice: &mut Dice, packet: &mut [u8], is_v4: bool) {
        let places: &[usize] = match is_v4 {
            true => &[12, 12, 16, 16, 40, 44],
            false => &[8, 8, 24, 24, 56, 72],
        };
        let at = ETHERNET + *dice.of(places);
        let mut address = *dice.of(&self.addresses);
        while address.is_ipv4() != is_v4 {
            address = *dice.of(&self.addresses);
        }
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        if let Some(place) = packet.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(&bytes);
        }
    }
}

/// The network header of a frame, as far as it is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ends {
    from: IpAddr,
    to: IpAddr,
    hops: u8,
    family: Family,
}

fn ends(frame: &[u8]) -> Option<Ends> {
    let packet = frame.get(ETHERNET..)?;
    let address = |at: usize| -> Option<IpAddr> {
        Some(match packet.first()? >> 4 {
            4 => <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into(),
            _ => <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into(),
        })
    };
    let (family, from, to, hops) = match (frame.get(12..14)?, packet.first()? >> 4) {
        ([0x08, 0x00], 4) if packet[0] & 0x0f >= 5 => (Family::V4, 12, 16, 8),
        ([0x86, 0xdd], 6) => (Family::V6, 8, 24, 7),
        _ => return None,
    };
    Some(Ends {
        from: address(from)?,
        to: address(to)?,
        hops: *packet.get(hops)?,
        family,
    })
}

fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => matches!(address.octets(), [10, 10, 1 | 2, _]),
        IpAddr::V6(address) => {
            matches!(address.segments(), [0xfd10, 1 | 2, 0, 0, ..])
        }
    }
}

/// Of the host, its gateways in the networks included.
fn is_local(address: IpAddr) -> bool {
    [HOST, FRONT.gateways, BACK.gateways]
        .iter()
        .flatten()
        .any(|text| text.parse() == Ok(address))
}

/// Nobody on a wire has such an address.
fn is_nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            matches!(v4.octets(), [0 | 127, ..]) || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.to_ipv4_mapped().is_some()
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// What a packet was turned into instead of being let pass.
#[derive(Clone, Copy, PartialEq)]
enum Answer {
    /// By ARP or ND: no drop.
    Neighbour,
    /// The error, or reset, that says why it was dropped.
    Refusal,
}

fn answer(packet: &[u8], out: &[u8]) -> Option<Answer> {
    if packet.get(12..14) == Some(&[0x08, 0x06]) {
        return Some(Answer::Neighbour);
    }
    let (asked, told) = (ends(packet)?, ends(out)?);
    let l4 = ETHERNET + told.family.of([20, 40]);
    let (protocol, kind) = (out[ETHERNET + told.family.of([9, 6])], *out.get(l4)?);
    match (told.family, protocol, kind) {
        (Family::V6, 58, 136) if told.hops == 255 && out[..6] == packet[6..12] => {
            Some(Answer::Neighbour)
        }
        (Family::V4, 1, 3 | 11) | (Family::V6, 58, 1..=3) => {
            let quoted = (packet.len() - ETHERNET).min(QUOTE);
            let quote = packet[ETHERNET..].get(..quoted)?;
            (out.get(l4 + 8..) == Some(quote)).then_some(Answer::Refusal)
        }
        (_, 6, _) if out.get(l4 + 13)? & 4 != 0 && out.len() == l4 + 20 => {
            let turned = out[l4..l4 + 2] == packet[l4 + 2..l4 + 4];
            (turned && told.to == asked.from && told.from == asked.to).then_some(Answer::Refusal)
        }
        _ => None,
    }
}

/// Fails where it is false, with what was meant to hold.
macro_rules! hold {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

impl Range<'_> {
    /// What is wrong with an outcome.
    fn judge(&self, lane: Lane, packet: &[u8], outcome: &Outcome) -> Result<(), String> {
        let out = &outcome.out[..];
        let Some(action) = Action::from_code(outcome.code) else {
            return Err(format!("code {}", outcome.code));
        };
        let answered = match action {
            Action::Redirect => answer(packet, out),
            Action::Pass | Action::Drop => None,
        };
        let refused = action == Action::Drop || answered == Some(Answer::Refusal);
        hold!(
            outcome.counted == u64::from(refused),
            "{} drops counted",
            outcome.counted
        );
        if action == Action::Drop {
            return Ok(());
        }
        match answered {
            Some(_) => self.judge_answer(packet, out)?,
            None => judge_sums(packet, out)?,
        }
        if action == Action::Pass && out == packet {
            return self.judge_untouched(lane, packet);
        }
        match lane {
            Lane::Container(number) if answered.is_some() => {
                let own = self.member(number);
                hold!(packet[6..12] == own.mac(), "another's MAC answered");
                hold!(out[..6] == own.mac(), "the answer is not the sender's");
                if let Some(asked) = ends(packet).filter(|_| answered == Some(Answer::Refusal)) {
                    hold!(
                        asked.from == own.ip(asked.family),
                        "another's address answered"
                    );
                }
                Ok(())
            }
            Lane::Container(number) => self.judge_sent(self.member(number), packet, out, action),
            Lane::Uplink => self.judge_came(packet, out, action, answered),
            Lane::Host => {
                hold!(action == Action::Pass, "led elsewhere");
                hold!(packet[..ETHERNET] == out[..ETHERNET], "MACs");
                let [from, to] = both(packet, out)?;
                hold!(from == to, "another network header: {from:?}, {to:?}");
                Ok(())
            }
            Lane::Local => {
                if answered.is_some() {
                    return Ok(());
                }
                let [sent, got] = both(packet, out)?;
                // By a flow of the host's own to the outside, which does not come by here.
                if action == Action::Pass {
                    hold!(sent == got, "another network header: {sent:?}, {got:?}");
                    return Ok(());
                }
                self.member_of(out, got)?;
                hold!(!is_nobodys(got.from), "from {}", got.from);
                Ok(())
            }
            Lane::Left | Lane::ToContainer { .. } | Lane::Early => Err("changed".into()),
        }
    }

    /// Right by itself, and for whom the packet came from.
    fn judge_answer(&self, packet: &[u8], out: &[u8]) -> Result<(), String> {
        let found = rests(out, ETHERNET);
        if let Some(asked) = ends(packet) {
            let wrong: Vec<&Rest> = found.iter().filter(|r| r.whole && r.rest != 0).collect();
            hold!(wrong.is_empty(), "checksums of the answer: {wrong:?}");
            hold!(
                found.iter().any(|r| r.whole && r.what != "ip"),
                "no checksum to be seen"
            );
            let told = ends(out).ok_or("no answer")?;
            hold!(told.to == asked.from, "answered to {}", told.to);
        }
        hold!(out[..6] == packet[6..12], "answered to another MAC");
        Ok(())
    }

    /// What the stack gets, as it came.
    fn judge_untouched(&self, lane: Lane, packet: &[u8]) -> Result<(), String> {
        match lane {
            Lane::Container(number) => {
                let own = self.member(number);
                hold!(packet[6..12] == own.mac(), "another's MAC passes");
                let sent = ends(packet).ok_or("what is no packet passes")?;
                hold!(sent.from == own.ip(sent.family), "from {}", sent.from);
                hold!(is_local(sent.to), "to {} passes", sent.to);
            }
            Lane::Uplink => {
                let Some(came) = ends(packet) else {
                    return Ok(());
                };
                // For others, or not to be routed by anybody.
                let for_us = packet[0] & 1 != 0 || packet[..6] == self.rig.uplink.mac;
                let aside = is_nobodys(came.from) || is_link_local(came.from) || is_nd(packet);
                hold!(
                    !for_us || aside || !is_inside(came.to),
                    "to {} passes",
                    came.to
                );
            }
            Lane::ToContainer { forwarded: true } => return Err("forwarded".into()),
            _ => (),
        }
        Ok(())
    }

    /// The member that a frame is for.
    fn member_of(&self, out: &[u8], got: Ends) -> Result<&Member, String> {
        let members = [&self.rig.web, &self.rig.app, &self.rig.other];
        let Some(&to) = members.iter().find(|to| out[..6] == to.mac()) else {
            return Err("for no container's MAC".into());
        };
        hold!(out[6..12] == GATEWAY_MAC, "not from the gateway's MAC");
        hold!(
            got.to == to.ip(got.family),
            "to {} by another's MAC",
            got.to
        );
        Ok(to)
    }

    /// What a container sent, and where it went.
    fn judge_sent(
        &self,
        own: &Member,
        packet: &[u8],
        out: &[u8],
        action: Action,
    ) -> Result<(), String> {
        hold!(action == Action::Redirect, "changed for the host");
        hold!(packet[6..12] == own.mac(), "another's MAC");
        let [sent, got] = both(packet, out)?;
        hold!(sent.from == own.ip(sent.family), "from {}", sent.from);
        if out[..ETHERNET] != packet[..ETHERNET] {
            let to = self.member_of(out, got)?;
            let spent = sent.hops.checked_sub(got.hops);
            hold!(
                matches!(spent, Some(0..=2)),
                "hops {} to {}",
                sent.hops,
                got.hops
            );
            hold!(
                got.from == sent.from || is_local(got.from),
                "as {}",
                got.from
            );
            let by_host = is_local(sent.to) || is_local(got.from);
            let as_neighbours = own.entry.network == to.entry.network && sent.to == got.to;
            hold!(by_host || as_neighbours, "to {} as {}", got.to, got.from);
            return Ok(());
        }
        hold!(
            got.hops == sent.hops.wrapping_sub(1) && got.hops != 0,
            "hops {}",
            got.hops
        );
        if is_local(got.to) || is_loopback(got.to) {
            // The answer to what the host asked for.
            hold!(is_local(sent.to), "to the host's {}", got.to);
            hold!(
                is_local(got.from) || is_loopback(got.from),
                "as {}",
                got.from
            );
            return Ok(());
        }
        hold!(
            Ok(got.from) == HOST[got.family.of([0, 1])].parse(),
            "leaves as {}",
            got.from
        );
        hold!(got.to == sent.to, "leaves to {}", got.to);
        let astray = is_inside(got.to) || is_nobodys(got.to) || is_link_local(got.to);
        hold!(!astray, "leaves to {}", got.to);
        Ok(())
    }

    /// What came by the uplink, and was led on, or translated for the host.
    fn judge_came(
        &self,
        packet: &[u8],
        out: &[u8],
        action: Action,
        answered: Option<Answer>,
    ) -> Result<(), String> {
        let [came, got] = both(packet, out)?;
        if answered.is_some() {
            hold!(answered == Some(Answer::Refusal), "a neighbour's answer");
            return Ok(());
        }
        hold!(got.from == came.from, "as {}", got.from);
        hold!(
            Ok(came.to) == HOST[came.family.of([0, 1])].parse(),
            "for {}",
            came.to
        );
        if action == Action::Pass {
            hold!(packet[..ETHERNET] == out[..ETHERNET], "MACs");
            hold!(got == came, "another network header: {came:?}, {got:?}");
            return Ok(());
        }
        self.member_of(out, got)?;
        hold!(
            got.hops == came.hops.wrapping_sub(1) && got.hops != 0,
            "hops {}",
            got.hops
        );
        let forged = is_inside(came.from)
            || is_nobodys(came.from)
            || is_link_local(came.from)
            || is_local(came.from);
        hold!(!forged, "from {}", came.from);
        Ok(())
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

fn is_nd(packet: &[u8]) -> bool {
    // Behind whatever extension headers.
    packet[ETHERNET..]
        .windows(4)
        .any(|w| matches!(w[0], 133..=137))
        && packet[12] == 0x86
}

fn both(packet: &[u8], out: &[u8]) -> Result<[Ends; 2], String> {
    let sent = ends(packet).ok_or("what is no packet goes on")?;
    Ok([sent, ends(out).ok_or("no packet any more")?])
}

/// What is translated, is so by the difference: right stays right, wrong stays wrong.
fn judge_sums(packet: &[u8], out: &[u8]) -> Result<(), String> {
    let sums = |frame: &[u8]| -> Vec<(&str, u16)> {
        let found = ends(frame).map_or_else(Vec::new, |_| rests(frame, ETHERNET));
        found.iter().map(|rest| (rest.what, rest.rest)).collect()
    };
    let (before, after) = (sums(packet), sums(out));
    hold!(before == after, "checksums {before:x?} became {after:x?}");
    Ok(())
}

/// The failing packet with as few changes to its seed as fail still, and no tail.
fn minimise(range: &Range, lane: Lane, seed: &[u8], packet: &[u8]) -> Vec<u8> {
    let fails = |packet: &[u8]| {
        let outcome = range.throw(lane, packet);
        outcome.is_some_and(|outcome| range.judge(lane, packet, &outcome).is_err())
    };
    let mut least = packet.to_vec();
    for size in [256, 64, 16, 4, 1] {
        while least.len() > ETHERNET + size && fails(&least[..least.len() - size]) {
            least.truncate(least.len() - size);
        }
        for at in (0..least.len().min(seed.len())).step_by(size) {
            let mut tried = least.clone();
            let end = (at + size).min(seed.len()).min(tried.len());
            tried[at..end].copy_from_slice(&seed[at..end]);
            if tried != least && fails(&tried) {
                least = tried;
            }
        }
    }
    least
}

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: no number")),
    )
}

#[test]
fn no_wrong_checksum_leaves_and_nothing_forged_passes() {
    let seed = number_in("NETBPF_FUZZ_SEED").unwrap_or(1);
    let time = number_in("NETBPF_FUZZ_SECONDS").map(Duration::from_secs);
    with_rig_of("fuzz", 16_384, |rig| {
        let range = Range::new(rig);
        let (mut dice, start) = (Dice(seed), Instant::now());
        let (mut run, mut verdicts) = (0_u64, [0_u64; 4]);
        while time.map_or(run < RUNS, |time| start.elapsed() < time) {
            if run % ROUND == 0 {
                range.begin();
            }
            run += 1;
            let lane = *dice.of(&LANES);
            let mut from = dice.of(&range.seeds);
            // Mostly one that somebody there may have sent.
            while !dice.one_in(6) && from.0 != lane.of_whose_kind() {
                from = dice.of(&range.seeds);
            }
            let packet = range.mutate(&mut dice, &from.1);
            let Some(outcome) = range.throw(lane, &packet) else {
                verdicts[3] += 1;
                continue;
            };
            verdicts[Action::from_code(outcome.code).map_or(3, |action| action as usize)] += 1;
            if let Err(why) = range.judge(lane, &packet, &outcome) {
                let least = minimise(&range, lane, &from.1, &packet);
                let again = range.throw(lane, &least).map(|again| {
                    let why = range.judge(lane, &least, &again).err();
                    (why.unwrap_or_else(|| "not again".into()), again.out)
                });
                let (least_why, least_out) = again.unwrap_or_default();
                panic!(
                    "NETBPF_FUZZ_SEED={seed}, run {run}, {lane:?} through {}: {why}\n\
                     -- in\n{}-- code {}, {} drops counted, out\n{}\
                     -- at least: {least_why}\n{}-- out\n{}-- of the seed\n{}",
                    range.lane(lane).0.name,
                    describe(&packet),
                    outcome.code as i32,
                    outcome.counted,
                    describe(&outcome.out),
                    describe(&least),
                    describe(&least_out),
                    describe(&from.1),
                );
            }
        }
        let [passed, dropped, led, refused] = verdicts;
        println!(
            "seed {seed}: {run} packets in {:?}, {passed} passed, {dropped} dropped, {led} led \
             on, {refused} the kernel took no part in",
            start.elapsed()
        );
        assert!(led * 20 > run, "hardly anything gets anywhere");
    });
}
