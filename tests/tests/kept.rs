//! What a router keeps is kept: header fields, options, checksums that are left out, and
//! data however devices cut it.
//!
//! ```text
//!   web 10.10.1.x :53 :80 ── host 192.0.2.1 :5300 :8080 ──── 192.0.2.2 client :53 :80
//! ```

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use netbpf_tests::{
    lab::{
        Container, Family, Http, Namespace, SOON, Street, TcpEcho, Wiretap, has_tools,
        names::{CLIENT, HOST},
        street_with_networks,
    },
    packets::{addresses, describe, has_payload},
};

const ETHERNET: usize = 14;

/// `asm-generic/socket.h` and `linux/udp.h`.
const SO_NO_CHECK: i32 = 11;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;

#[track_caller]
fn set(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the value is alive during the call, which copies it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    let error = std::io::Error::last_os_error();
    assert_eq!(done, 0, "option {name} of level {level}: {error}");
}

#[track_caller]
fn set_number(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    set(socket, level, name, &value.to_ne_bytes());
}

/// Two sockets that talk through the translation, and a tap at either end.
struct Talk {
    name: String,
    asks: UdpSocket,
    answers: UdpSocket,
    of_asker: Wiretap,
    of_answerer: Wiretap,
}

/// A packet as it left one end and as it came to the other.
struct Passage {
    name: String,
    left: Vec<u8>,
    arrived: Vec<u8>,
}

impl Talk {
    /// By masquerade, and by a published port.
    fn both(street: &Street, web: &Container, family: Family) -> [Talk; 2] {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let talk = |name, asker: &Namespace, to, answerer: &Namespace| {
            let talk = Talk {
                name: format!("{name}, {family:?}"),
                asks: asker.udp(to),
                answers: answerer.bind_udp((family.any(), 53)),
                of_asker: Wiretap::open(asker, "eth0"),
                of_answerer: Wiretap::open(answerer, "eth0"),
            };
            for socket in [&talk.asks, &talk.answers] {
                socket.set_read_timeout(Some(SOON)).expect("a time-out");
            }
            talk
        };
        [
            talk(
                "masquerade",
                web,
                SocketAddr::new(client, 53),
                &street.client,
            ),
            talk(
                "published",
                &street.client,
                SocketAddr::new(host, 5300),
                web,
            ),
        ]
    }

    fn sockets(&self) -> [&UdpSocket; 2] {
        [&self.asks, &self.answers]
    }

    /// A question and its answer, as they went.
    #[track_caller]
    fn exchange(&self, about: &str) -> [Passage; 2] {
        let about = format!("{about}, {}", self.name);
        let (question, answer) = (format!("question {about}"), format!("answer {about}"));
        let mut buffer = [0; 256];
        self.asks.send(question.as_bytes()).expect("a question");
        let (length, peer) = self
            .answers
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("{question} is lost: {e}"));
        assert_eq!(buffer[..length], *question.as_bytes());
        self.answers
            .send_to(answer.as_bytes(), peer)
            .expect("an answer");
        let length = self.asks.recv(&mut buffer);
        let length = length.unwrap_or_else(|e| panic!("{answer} is lost: {e}"));
        assert_eq!(buffer[..length], *answer.as_bytes());
        let passage = |from: &Wiretap, to: &Wiretap, text: &str| {
            let find = |tap: &Wiretap| tap.find(SOON, |frame| has_payload(frame, text.as_bytes()));
            Passage {
                name: text.to_owned(),
                left: find(from).expect("it has left"),
                arrived: find(to).expect("it has arrived"),
            }
        };
        [
            passage(&self.of_asker, &self.of_answerer, &question),
            passage(&self.of_answerer, &self.of_asker, &answer),
        ]
    }
}

impl Passage {
    /// Fails when more has changed than addresses, ports and checksums, and the hop limit
    /// by one.
    #[track_caller]
    fn assert_kept(&self) {
        let (left, arrived) = (&self.left, &self.arrived);
        let story = || {
            let (left, arrived) = (describe(left), describe(arrived));
            format!("{}\nleft:\n{left}arrived:\n{arrived}", self.name)
        };
        assert_ne!(addresses(left), addresses(arrived), "{}", story());
        assert_eq!(hops(arrived) + 1, hops(left), "{}", story());
        assert_eq!(kept(arrived), kept(left), "{}", story());
    }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[ETHERNET] >> 4 == 4
}

fn hops(frame: &[u8]) -> u8 {
    frame[ETHERNET + if is_v4(frame) { 8 } else { 7 }]
}

/// Type of service or traffic class: DSCP and ECN.
fn class(frame: &[u8]) -> u8 {
    let (a, b) = (frame[ETHERNET], frame[ETHERNET + 1]);
    if is_v4(frame) { b } else { a << 4 | b >> 4 }
}

/// Where the transport header begins, and of which protocol it is.
fn transport(frame: &[u8]) -> (usize, u8) {
    let ip = &frame[ETHERNET..];
    if is_v4(frame) {
        return (ETHERNET + usize::from(ip[0] & 0xf) * 4, ip[9]);
    }
    let (mut next, mut at) = (ip[6], 40);
    // Hop-by-hop and destination options.
    while [0, 60].contains(&next) {
        (next, at) = (ip[at], at + (usize::from(ip[at + 1]) + 1) * 8);
    }
    (ETHERNET + at, next)
}

fn udp_checksum(frame: &[u8]) -> u16 {
    let (at, protocol) = transport(frame);
    assert_eq!(protocol, 17, "{}", describe(frame));
    u16::from_be_bytes([frame[at + 6], frame[at + 7]])
}

/// A UDP packet without what translation and a hop change.
fn kept(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let changed = match is_v4(&frame) {
        true => vec![8..9, 10..12, 12..20],
        false => vec![7..8, 8..40],
    };
    for range in changed {
        frame[ETHERNET + range.start..ETHERNET + range.end].fill(0);
    }
    let (at, _) = transport(&frame);
    // Ports and checksum.
    for range in [at..at + 4, at + 6..at + 8] {
        frame[range].fill(0);
    }
    frame.split_off(ETHERNET)
}

/// A street with `web`, two ports of which are published.
fn shop(test: &str) -> (Street, Container) {
    let street = street_with_networks(test, &[]);
    let web = street.front(
        "web",
        &["-p", "5300:53/udp", "-p", "8080:80", "-p", "7000:7"],
    );
    (street, web)
}

#[test]
fn the_hop_limit_goes_down_by_one_and_the_class_stays() {
    let (street, web) = shop("hops_and_class");
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (level, hop_limit, of_class) = match family {
            Family::V4 => (libc::IPPROTO_IP, libc::IP_TTL, libc::IP_TOS),
            Family::V6 => (
                libc::IPPROTO_IPV6,
                libc::IPV6_UNICAST_HOPS,
                libc::IPV6_TCLASS,
            ),
        };
        for talk in Talk::both(&street, &web, family) {
            // Every mark of ECN, with DSCP none, EF, AF21 and all bits; the first
            // exchange begins the flow, the others follow it.
            for (marks, limit) in [(0x00, 64), (0xb9, 255), (0x4a, 2), (0xff, 128)] {
                for socket in talk.sockets() {
                    set_number(socket, level, hop_limit, limit);
                    set_number(socket, level, of_class, marks);
                }
                for passage in talk.exchange(&format!("marked {marks:02x}")) {
                    let found = (hops(&passage.left), class(&passage.left));
                    assert_eq!(found, (limit as u8, marks as u8), "{}", passage.name);
                    passage.assert_kept();
                }
            }
        }
    }
    drops.none();
}

#[test]
fn tcp_negotiates_ecn_through() {
    let (street, web) = shop("tcp_ecn");
    for space in [&*web, &street.client] {
        space.sysctl("net.ipv4.tcp_ecn", "1");
    }
    let (_inside, _outside) = (Http::start(&web, 80), Http::start(&street.client, 80));
    for family in Family::BOTH {
        let rows: [(&Namespace, IpAddr, u16); 2] = [
            (&web, family.ip(CLIENT), 80),
            (&street.client, family.ip(HOST), 8080),
        ];
        for (asker, to, port) in rows {
            let tap = Wiretap::open(asker, "eth0");
            asker.fetch(to, port);
            // What comes back: ECE in the SYN's answer, ECT(0) on what carries data.
            let came: Vec<Vec<u8>> = tap
                .seen()
                .into_iter()
                .filter(|frame| addresses(frame).is_some_and(|(from, _)| from == to))
                .filter(|frame| transport(frame).1 == 6)
                .collect();
            let flags = |frame: &[u8]| frame[transport(frame).0 + 13];
            let is_willing = |frame: &Vec<u8>| flags(frame) & 0x52 == 0x52;
            let has_data = |frame: &&Vec<u8>| has_payload(frame, b"HTTP/1.1 200");
            let story: String = came.iter().map(|frame| describe(frame)).collect();
            assert!(came.iter().any(is_willing), "{to}: no ECE:\n{story}");
            let data = came.iter().find(has_data);
            let data = data.unwrap_or_else(|| panic!("{to}: no page:\n{story}"));
            assert_eq!(class(data) & 3, 2, "{}", describe(data));
        }
    }
}

/// What a socket's options put between the network header and the transport's.
struct Between {
    name: &'static str,
    options: Vec<(i32, Vec<u8>)>,
    length: usize,
}

impl Between {
    fn all(family: Family) -> Vec<Between> {
        let between = |name, options, length| Between {
            name,
            options,
            length,
        };
        match family {
            Family::V4 => {
                let ip = |bytes| vec![(libc::IP_OPTIONS, bytes)];
                // Nothing four times; a timestamp with room for the sender's (RFC 791).
                let timestamp = vec![1, 1, 1, 1, 68, 8, 5, 0, 0, 0, 0, 0];
                let alert = vec![148, 4, 0, 0];
                let most = [vec![1; 36], alert.clone()].concat();
                vec![
                    between("timestamp", ip(timestamp), 12),
                    between("router alert", ip(alert), 4),
                    between("all the room", ip(most), 40),
                ]
            }
            Family::V6 => {
                // Eight bytes of padding (RFC 8200 section 4.2).
                let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
                let by_hop = (libc::IPV6_HOPOPTS, padding.clone());
                let at_end = (libc::IPV6_DSTOPTS, padding);
                vec![
                    between("hop by hop", vec![by_hop.clone()], 8),
                    between("destination", vec![at_end.clone()], 8),
                    between("both", vec![by_hop, at_end], 16),
                ]
            }
        }
    }

    #[track_caller]
    fn set(&self, socket: &impl AsRawFd, family: Family) {
        let level = family.of([libc::IPPROTO_IP, libc::IPPROTO_IPV6]);
        for (option, value) in &self.options {
            set(socket, level, *option, value);
        }
    }
}

#[test]
fn options_and_extension_headers_pass() {
    let (street, web) = shop("options_pass");
    let drops = street.host.drops();
    for family in Family::BOTH {
        for between in Between::all(family) {
            for talk in Talk::both(&street, &web, family) {
                for socket in talk.sockets() {
                    between.set(socket, family);
                }
                for passage in talk.exchange(between.name) {
                    let header = ETHERNET + family.of([20, 40]);
                    let found = transport(&passage.left).0 - header;
                    assert_eq!(found, between.length, "{}", describe(&passage.left));
                    passage.assert_kept();
                }
            }
        }
    }
    drops.none();
}

#[test]
fn connections_with_options_and_extension_headers_carry_much() {
    let (street, web) = shop("much_with_options");
    let _echoes = [&*web, &street.client].map(|space| TcpEcho::start(space, 7));
    let drops = street.host.drops();
    for family in Family::BOTH {
        let rows: [(&Namespace, SocketAddr); 2] = [
            (&web, SocketAddr::new(family.ip(CLIENT), 7)),
            (&street.client, SocketAddr::new(family.ip(HOST), 7000)),
        ];
        for (from, to) in rows {
            for between in Between::all(family) {
                println!("{} from {} to {to}", between.name, from.role());
                from.echo_big(to, |stream| between.set(stream, family));
            }
        }
    }
    drops.none();
}

#[test]
fn a_checksum_that_is_left_out_stays_out() {
    let (street, web) = shop("no_checksum");
    let drops = street.host.drops();
    for family in Family::BOTH {
        for talk in Talk::both(&street, &web, family) {
            for socket in talk.sockets() {
                match family {
                    Family::V4 => set_number(socket, libc::SOL_SOCKET, SO_NO_CHECK, 1),
                    // As tunnels do it (RFC 6935).
                    Family::V6 => {
                        set_number(socket, libc::SOL_UDP, UDP_NO_CHECK6_TX, 1);
                        set_number(socket, libc::SOL_UDP, UDP_NO_CHECK6_RX, 1);
                    }
                }
            }
            for turn in ["once", "again"] {
                for passage in talk.exchange(turn) {
                    assert_eq!(udp_checksum(&passage.left), 0, "{}", passage.name);
                    assert_eq!(udp_checksum(&passage.arrived), 0, "{}", passage.name);
                    passage.assert_kept();
                }
            }
        }
    }
    drops.none();
}

/// Ten datagrams that a socket hands over in one piece, there and back.
#[track_caller]
fn datagrams_in_one_piece(talk: &Talk) {
    const SIZE: usize = 1000;
    for socket in talk.sockets() {
        set_number(socket, libc::SOL_UDP, UDP_SEGMENT, SIZE as i32);
    }
    let piece: Vec<u8> = (0..10).flat_map(|number| [number; SIZE]).collect();
    let collect = |socket: &UdpSocket| {
        let mut peer = None;
        let mut numbers = BTreeSet::new();
        for _ in 0..10 {
            let mut buffer = [0; 2 * SIZE];
            let got = socket.recv_from(&mut buffer);
            let (length, from) = got.unwrap_or_else(|e| panic!("{}, {numbers:?}: {e}", talk.name));
            assert_eq!(length, SIZE, "{}", talk.name);
            numbers.insert(buffer[0]);
            assert!(buffer[..SIZE].iter().all(|&byte| byte == buffer[0]));
            peer = Some(from);
        }
        assert_eq!(numbers.len(), 10, "{}: {numbers:?}", talk.name);
        peer.expect("somebody")
    };
    talk.asks.send(&piece).expect("send");
    let peer = collect(&talk.answers);
    talk.answers.send_to(&piece, peer).expect("send");
    collect(&talk.asks);
}

/// Much by TCP and UDP, in every direction that is translated.
#[track_caller]
fn much_passes(street: &Street, web: &Container) {
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        web.fetch_big(client, 80);
        web.echo_big(SocketAddr::new(client, 7), |_| ());
        street.client.fetch_big(host, 8080);
        street.client.echo_big(SocketAddr::new(host, 7000), |_| ());
        // What never leaves the host.
        street.host.fetch_big(host, 8080);
        for talk in Talk::both(street, web, family) {
            datagrams_in_one_piece(&talk);
        }
    }
}

#[test]
fn data_passes_whatever_devices_do_for_their_kernels() {
    let test = "data_passes_whatever_devices_do";
    if !has_tools(test, &["ethtool"]) {
        return;
    }
    let (street, web) = shop(test);
    let spaces = [&*web, &street.client];
    let _http = spaces.map(|space| Http::start(space, 80));
    let _echoes = spaces.map(|space| TcpEcho::start(space, 7));
    let sides: [(&str, &Namespace, &str); 4] = [
        ("container", &web, "eth0"),
        ("its veth", &street.host, &web.info.host_ifname),
        ("uplink", &street.host, "up0"),
        ("client", &street.client, "eth0"),
    ];
    let switch = |sides: &[(&str, &Namespace, &str)], how: &str| {
        for (_, space, device) in sides {
            let mut argv = vec!["ethtool", "-K", device];
            for offload in ["tx", "rx", "sg", "tso", "gso", "gro"] {
                argv.extend([offload, how]);
            }
            space.run(&argv).ok();
            let shown = space.run(&["ethtool", "-k", device]).ok();
            for offload in [
                "rx-checksumming",
                "tx-checksumming",
                "tcp-segmentation-offload",
                "generic-segmentation-offload",
                "generic-receive-offload",
            ] {
                let wanted = format!("{offload}: {how}");
                assert!(shown.contains(&wanted), "{device}, no {wanted}:\n{shown}");
            }
        }
    };
    let drops = street.host.drops();
    for side in sides {
        println!("off: {}", side.0);
        switch(&[side], "off");
        much_passes(&street, &web);
        switch(&[side], "on");
    }
    // As it stands now also with GRO, which a veth has off at first.
    for how in ["on", "off"] {
        println!("all {how}");
        switch(&sides, how);
        much_passes(&street, &web);
    }
    drops.none();
}
