//! Fragments of datagrams to and from containers, and packets that are larger than the
//! way out.
//!
//! ```text
//!   web 10.10.1.x ── host 192.0.2.1 ──── 192.0.2.2 client
//! ```

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use netbpf::datapath::GATEWAY_MAC;
use netbpf_tests::{
    lab::{
        Container, Family, Http, Namespace, SOON, TcpEcho, UdpEcho, Wiretap, ask_with,
        names::{CLIENT, FRONT, HOST},
        street_with, street_with_networks, until, within,
    },
    packets::{Way, addresses, describe, fragments},
};

/// More than four packets hold.
const BIG: usize = 8000;

/// A datagram to an address and port, of a size, comes back at the end of another.
const ASK: &str = "
import socket, sys
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ':' in host else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(2)
    s.connect((host, port))
    s.send(b'x' * size)
    assert s.recv(65536).endswith(b'x' * size)
";

/// A datagram of that size is answered with one as large.
#[track_caller]
fn asks(from: &Namespace, to: SocketAddr, size: usize) -> SocketAddr {
    let socket = from.udp(to);
    let answer = ask_with(&socket, &vec![b'x'; size], SOON);
    answer.unwrap_or_else(|e| panic!("no answer of {to} to {}: {e}", from.name()))
}

#[test]
fn big_datagrams_pass_in_every_direction() {
    let street = street_with_networks("big_datagrams", &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let app = street.front("app", &[]);
    let back = street.back("back", &[]);
    let (_inside, _outside) = (UdpEcho::start(&web, 53), UdpEcho::start(&street.client, 53));
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let published = SocketAddr::new(host, 5300);
        let outside = SocketAddr::new(client, 53);
        let sibling = SocketAddr::new(web.addr(family), 53);
        let rows: [(&Namespace, SocketAddr); 5] = [
            (&web, outside),
            (&street.client, published),
            (&app, published),
            (&back, published),
            (&app, sibling),
        ];
        for (from, to) in rows {
            // Twice: the first one begins the flow, the second one follows it.
            for size in [BIG, BIG, 1473, 60_000] {
                println!("{} bytes from {} to {to}", size, from.role());
                let seen = asks(from, to, size);
                if to == outside {
                    assert_eq!(seen.ip(), host);
                }
            }
        }
        let pings: [(&Namespace, IpAddr); 3] = [
            (&web, client),
            (&street.client, host),
            (&app, web.addr(family)),
        ];
        for (from, to) in pings {
            let output = from.ping_with(to, &["-s", "8000"]);
            assert!(output.status.success(), "{output}");
        }
    }
    drops.none();
}

#[test]
fn big_datagrams_of_the_host_itself_are_cut_once_it_knows_the_size() {
    let street = street_with_networks("big_of_the_host", &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let _udp = UdpEcho::start(&web, 53);
    for family in Family::BOTH {
        let ask = |to: IpAddr| {
            let to = to.to_string();
            let ask = ["python3", "-c", ASK, &to, "5300", "8000"];
            let command = street.host.run(&ask);
            command.cgroup(street.host.cgroup().as_deref()).output()
        };
        for to in [family.loopback(), family.ip(HOST)] {
            // A connected socket goes packet by packet: it is told first.
            let drops = street.host.drops();
            let output = ask(to);
            assert!(output.stderr.contains("Message too long"), "{output}");
            drops.only(&["too_big"]);
            // (Linux keeps no path MTU of IPv6 to itself.)
            if family == Family::V4 {
                let output = ask(to);
                assert!(output.status.success(), "{output}");
                drops.only(&["too_big"]);
            }
        }
    }
}

/// Sends the fragments of a datagram of which two containers have the same
/// identification.
fn sends(container: &Container, family: Family, id: u32, payload: u8) {
    let way = Way::new(
        container.mac("eth0"),
        GATEWAY_MAC,
        container.addr(family),
        family.ip(CLIENT),
    );
    let datagram = way.udp(4000, 53, &[payload; 2000]);
    let tap = Wiretap::open(container, "eth0");
    for fragment in fragments(&datagram, 1200, id) {
        tap.send(&fragment);
    }
}

#[test]
fn fragments_of_two_containers_with_one_identification_are_kept_apart() {
    let street = street_with_networks("one_identification", &[]);
    let (one, two) = (street.front("one", &[]), street.front("two", &[]));
    let echo = UdpEcho::start(&street.client, 53);
    for family in Family::BOTH {
        let tap = Wiretap::open(&street.client, "eth0");
        let host = family.ip(HOST);
        let ids: HashSet<Vec<u8>> = [(&one, b'1'), (&two, b'2')]
            .into_iter()
            .flat_map(|(container, payload)| {
                sends(container, family, 4711, payload);
                // Both fragments, with one identification.
                let (at, len) = family.of([(18, 2), (58, 4)]);
                // UDP, or IPv6's fragment header: what comes back is refused, which is
                // said in fragments, too.
                let protocol = family.of([(23, 17), (20, 44)]);
                let ours = |frame: &Vec<u8>| {
                    addresses(frame).is_some_and(|(from, _)| from == host)
                        && frame[protocol.0] == protocol.1
                        && frame[frame.len() - 1] == payload
                };
                let mut found = Vec::new();
                let complete = until(SOON, || {
                    found.extend(tap.seen().into_iter().filter(ours));
                    found.len() == 2
                });
                let story: String = found.iter().map(|frame| describe(frame)).collect();
                assert!(complete, "{family:?}: not two fragments:\n{story}");
                let ids: HashSet<_> = found.iter().map(|f| f[at..at + len].to_vec()).collect();
                assert_eq!(ids.len(), 1, "{family:?}: {ids:?}");
                ids
            })
            .collect();
        assert_eq!(ids.len(), 2, "{family:?}: {ids:?}");
    }
    // Put together by a kernel: what came is what was sent.
    within(SOON, "all four are whole", || echo.peers().len() == 4);
}

#[test]
fn a_later_fragment_alone_leaves_no_container() {
    let street = street_with_networks("a_later_fragment", &[]);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        let way = Way::new(
            web.mac("eth0"),
            GATEWAY_MAC,
            web.addr(family),
            family.ip(CLIENT),
        );
        let drops = street.host.drops();
        let datagram = way.udp(4000, 53, &[0; 2000]);
        let tap = Wiretap::open(&web, "eth0");
        tap.send(&fragments(&datagram, 1200, 77)[1]);
        drops.only(&["fragment"]);
    }
}

#[test]
fn packets_larger_than_the_way_out_are_refused_until_they_fit() {
    let street = street_with("larger_than_the_way", &[]);
    street.host.network(&FRONT, &["--mtu", "1500"]);
    for (space, device) in [(&*street.host, "up0"), (&street.client, "eth0")] {
        space.ip(&format!("link set {device} mtu 1280"));
    }
    let web = street.front("web", &["-p", "8080:80"]);
    let (_http, _echo) = (Http::start(&web, 80), TcpEcho::start(&street.client, 7));
    for family in Family::BOTH {
        let drops = street.host.drops();
        // The client says that it can get more: what it says is not what fits.
        let host = family.ip(HOST).to_string();
        street.client.route(&host, "dev eth0 advmss 1400");
        street.client.fetch_big(family.ip(HOST), 8080);
        let route = web.run(&["ip", "route", "get", &family.ip(CLIENT).to_string()]);
        let route = route.ok();
        assert!(route.contains("mtu 1280"), "{route}");
        drops.only(&["too_big"]);
        // A datagram that its kernel did not cut to that size, also without DF.
        let way = Way::new(
            web.mac("eth0"),
            GATEWAY_MAC,
            web.addr(family),
            family.ip(CLIENT),
        );
        let tap = Wiretap::open(&web, "eth0");
        let drops = street.host.drops();
        tap.send(&way.udp(4000, 53, &[0; 1400]));
        let wanted = (web.gateway(family), web.addr(family));
        let answer = tap.find(SOON, |frame| {
            addresses(frame) == Some(wanted) && icmp_is_too_big(frame, family)
        });
        assert!(answer.is_some(), "{family:?}");
        drops.only(&["too_big"]);
    }
}

fn icmp_is_too_big(frame: &[u8], family: Family) -> bool {
    netbpf_tests::packets::icmp_type_code(frame) == Some(family.of([(3, 4), (2, 0)]))
}
