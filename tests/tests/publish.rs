//! Published ports.
//!
//! ```text
//!   web :80 ── front ── host :8080 ──── client
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use netbpf::model::{EndpointInfo, PortOf, Protocol};
use netbpf_tests::{
    lab::{
        Family, Http, Namespace, SOON, TcpEcho, UdpEcho, Wiretap, answer_of,
        names::{CLIENT, HOST, HOST_B, HOST_WIRE_B},
        street_with_networks, within,
    },
    packets::{Way, has_payload},
    scenes,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

#[test]
fn a_published_port_answers_and_the_container_sees_the_client() {
    scenes::publish("publish", &[]);
}

#[test]
fn ports_are_listed_and_shown() {
    let street = street_with_networks("ports_are_listed", &[]);
    let flags = [
        "-p",
        "8080:80",
        "-p",
        "192.0.2.1:5300:53/udp",
        "-p",
        "9000-9002:90-92",
    ];
    let web = street.front("web", &flags);
    let ports: Vec<PortOf> = street.host.json(&["port", "web"]);
    let entries: Vec<_> = ports
        .iter()
        .map(|p| {
            (
                p.port.protocol,
                p.port.host_ip.as_str(),
                p.port.host_port,
                p.port.host_port_end,
                p.port.container_port,
            )
        })
        .collect();
    assert!(
        entries.contains(&(Protocol::Tcp, "*", 8080, None, 80)),
        "{entries:?}"
    );
    assert!(
        entries.contains(&(Protocol::Udp, "192.0.2.1", 5300, None, 53)),
        "{entries:?}"
    );
    assert!(
        entries.contains(&(Protocol::Tcp, "*", 9000, Some(9002), 90)),
        "{entries:?}"
    );
    assert_eq!(entries.len(), 3);
    assert_eq!(web.info.ports.len(), 3);
    let shown: EndpointInfo = street.host.json(&["inspect", "web"]);
    assert_eq!(shown.ports, web.info.ports);
}

#[test]
fn a_range_is_published_port_by_port() {
    let street = street_with_networks("a_range", &[]);
    let web = street.front("web", &["-p", "9000-9010:90-100"]);
    let servers = [90, 95, 100].map(|port| Http::start(&web, port));
    for family in Family::BOTH {
        let host = family.ip(HOST);
        for (outside, inside) in [(9000, 90), (9005, 95), (9010, 100)] {
            assert_eq!(street.client.fetch(host, outside).local.port(), inside);
        }
        street.client.cannot_fetch(host, 9011);
        street.client.cannot_fetch(host, 8999);
    }
    drop(servers);
}

#[test]
fn exposed_ports_get_free_host_ports() {
    let street = street_with_networks("exposed_ports", &[]);
    let flags = ["-P", "--expose", "80/tcp", "--expose", "53/udp"];
    let web = street.front("web", &flags);
    let other = street.front("other", &flags);
    let port = |info: &EndpointInfo, protocol| {
        let mut ports = info.ports.iter();
        ports
            .find(|p| p.protocol == protocol)
            .expect("published")
            .host_port
    };
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    for family in Family::BOTH {
        let host = family.ip(HOST);
        let (tcp, udp) = (
            port(&web.info, Protocol::Tcp),
            port(&web.info, Protocol::Udp),
        );
        assert_eq!(street.client.fetch(host, tcp).server, "web");
        assert_eq!(street.client.ask_udp(host, udp), family.ip(CLIENT));
        assert_ne!(tcp, port(&other.info, Protocol::Tcp));
    }
}

#[test]
fn a_port_on_one_host_address_is_not_on_the_others() {
    let street = street_with_networks("one_host_address", &[]);
    street.host.gain("up0", &HOST_WIRE_B);
    for family in Family::BOTH {
        let via = format!("via {}", family.ip(HOST));
        street.client.route(&family.ip(HOST_B).to_string(), &via);
    }
    let [host4, host6] = HOST;
    let flags = [format!("{host4}:8080:80"), format!("[{host6}]:8080:80")];
    let web = street.front("web", &["-p", &flags[0], "-p", &flags[1]]);
    let _http = Http::start(&web, 80);
    for family in Family::BOTH {
        assert_eq!(street.client.fetch(family.ip(HOST), 8080).server, "web");
        street.client.ping(family.ip(HOST_B));
        street.client.cannot_fetch(family.ip(HOST_B), 8080);
    }
}

/// One after the other, faster than changes are followed that come together.
#[test]
fn a_port_is_published_at_an_address_as_soon_as_the_host_has_it() {
    let street = street_with_networks("at_once", &[]);
    let web = street.front("web", &[]);
    let _server = Http::start(&web, 80);
    for (index, [v4, v6]) in (1_u16..=5).map(|n| {
        let number = 50 + n;
        (
            n,
            [format!("192.0.2.{number}"), format!("2001:db8:1::{number}")],
        )
    }) {
        let port = 8000 + index;
        for (address, prefix, spec) in [
            (&v4, 24, format!("{v4}:{port}:80")),
            (&v6, 64, format!("[{v6}]:{port}:80")),
        ] {
            street
                .host
                .address("up0", &[&format!("{address}/{prefix}")]);
            street.host.netbpf(&["publish", "web", "-p", &spec]).ok();
            street.client.fetch(address.parse().unwrap(), port);
        }
    }
}

#[test]
fn a_port_on_loopback_is_not_reached_from_outside() {
    let street = street_with_networks("on_loopback", &[]);
    let web = street.front("web", &["-p", "127.0.0.1:8080:80"]);
    let _http = Http::start(&web, 80);
    for family in Family::BOTH {
        street.client.cannot_fetch(family.ip(HOST), 8080);
    }
    let sender = Wiretap::open(&street.client, "eth0");
    let receiver = Wiretap::open(&web, "eth0");
    let way = Way::new(
        street.client.mac("eth0"),
        street.host.mac("up0"),
        Family::V4.ip(CLIENT),
        Family::V4.loopback(),
    );
    let drops = street.host.drops();
    sender.send(&way.tcp(1000, 8080, "S", b"from outside"));
    drops.only(&["martian"]);
    let arrived = |frame: &Vec<u8>| has_payload(frame, b"from outside");
    assert!(!receiver.seen().iter().any(arrived));
}

#[test]
fn ports_come_and_go_on_a_running_endpoint() {
    let street = street_with_networks("hot_publish", &[]);
    let web = street.front("web", &[]);
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    for family in Family::BOTH {
        let host = family.ip(HOST);
        street.client.cannot_fetch(host, 8080);
        web.publish("8080:80");
        web.publish("5300:53/udp");
        assert_eq!(street.client.fetch(host, 8080).server, "web");
        street.client.ask_udp(host, 5300);
        web.unpublish("8080:80");
        web.unpublish("5300:53/udp");
        street.client.is_refused(host, 8080);
        street.client.cannot_ask_udp(host, 5300);
    }
    let ports: Vec<PortOf> = street.host.json(&["port"]);
    assert_eq!(ports, []);
}

#[test]
fn unpublished_connections_are_followed_no_more() {
    use std::io::{Read as _, Write as _};
    let street = street_with_networks("unpublished_connections", &[]);
    let web = street.front("web", &["-p", "7000:7", "-p", "5300:53/udp"]);
    let _tcp = TcpEcho::start(&web, 7);
    let _udp = UdpEcho::start(&web, 53);
    for family in Family::BOTH {
        let host = family.ip(HOST);
        let udp = street.client.udp(SocketAddr::new(host, 5300));
        answer_of(&udp);
        let mut tcp = street
            .client
            .enter(|| std::net::TcpStream::connect((host, 7000)))
            .expect("connect");
        let mut buffer = [0; 5];
        tcp.set_read_timeout(Some(SOON)).expect("time limit");
        tcp.write_all(b"hello")
            .and_then(|()| tcp.read_exact(&mut buffer))
            .expect("an echo");
        web.unpublish("7000:7");
        web.unpublish("5300:53/udp");
        assert!(netbpf_tests::lab::ask(&udp, Duration::from_millis(300)).is_err());
        tcp.set_read_timeout(Some(Duration::from_millis(300)))
            .expect("time limit");
        let echo = tcp
            .write_all(b"hello")
            .and_then(|()| tcp.read_exact(&mut buffer));
        assert!(echo.is_err(), "followed although unpublished");
        web.publish("7000:7");
        web.publish("5300:53/udp");
        answer_of(&udp);
    }
}

#[test]
fn a_port_is_published_once() {
    let street = street_with_networks("port_in_use", &[]);
    let _web = street.front("web", &["-p", "8080:80"]);
    let app = street.front("app", &[]);
    for spec in ["8080:80", "192.0.2.1:8080:80", "8000-8100:8000-8100"] {
        let (code, message) = street.host.refused(&["publish", "app", "-p", spec]);
        assert_eq!(code, "port_in_use");
        for part in ["8080/tcp", "web", "front"] {
            assert!(message.contains(part), "{message}");
        }
    }
    app.publish("8080:80/udp");
    // A refused attach leaves nothing: no endpoint, no device.
    let late = street.lab.space("late");
    let attach = [
        "attach",
        "--name",
        "late",
        "--netns",
        late.name(),
        "-p",
        "8080:80",
    ];
    assert_eq!(street.host.refused(&attach).0, "port_in_use");
    assert_eq!(street.host.endpoints().len(), 2);
    assert!(!late.ip("link show").contains("eth0"));
}

#[test]
fn a_port_of_a_host_program_is_in_use() {
    let street = street_with_networks("port_of_a_host_program", &[]);
    let web = street.front("web", &[]);
    for address in ["[::]:8080", "127.0.0.1:8081", "192.0.2.1:8082"] {
        let _host = Http::start_on(&street.host, address);
        let port = address.rsplit(':').next().unwrap();
        let (code, _) = street
            .host
            .refused(&["publish", "web", "-p", &format!("{port}:80")]);
        assert_eq!(code, "port_in_use", "{address}");
    }
    // And free again when the program has ended.
    web.publish("8080:80");
}

/// A socket of the host's that shares its port with whoever asks for that, too; one for
/// connections listens.
#[track_caller]
fn shared_socket(space: &Namespace, protocol: &str, address: SocketAddr) -> OwnedFd {
    let open = || -> nix::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let kind = match protocol {
            "tcp" => SockType::Stream,
            _ => SockType::Datagram,
        };
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        if protocol == "tcp" {
            listen(&socket, Backlog::new(1)?)?;
        }
        Ok(socket)
    };
    space
        .enter(open)
        .unwrap_or_else(|e| panic!("bind {address}/{protocol}: {e}"))
}

/// Also where the program would share it, at whatever address of either family.
#[test]
fn a_port_that_a_host_program_shares_is_in_use() {
    let street = street_with_networks("port_of_a_sharing_program", &[]);
    let web = street.front("web", &[]);
    let addresses = [
        "0.0.0.0:8080",
        "[::]:8081",
        "127.0.0.1:8082",
        "[::1]:8083",
        "192.0.2.1:8084",
        "[2001:db8:1::1]:8085",
    ];
    for protocol in ["tcp", "udp"] {
        for address in addresses {
            let address: SocketAddr = address.parse().unwrap();
            let socket = shared_socket(&street.host, protocol, address);
            let spec = format!("{}:80/{protocol}", address.port());
            let (code, message) = street.host.refused(&["publish", "web", "-p", &spec]);
            assert_eq!(code, "port_in_use", "{address}/{protocol}");
            let named = message.contains(&format!("{}/{protocol}", address.port()));
            assert!(named, "{message}");
            // Another address of the host is not in the way.
            if address.ip() == HOST[0].parse::<IpAddr>().unwrap() {
                let spec = format!("127.0.0.1:{spec}");
                web.publish(&spec);
                street.host.netbpf(&["unpublish", "web", "-p", &spec]).ok();
            }
            drop(socket);
            // A program that another test is about to start has it until its exec.
            let filter = format!("sport = :{}", address.port());
            within(SOON, "the socket is gone", || {
                street.host.run(&["ss", "-Hantu", &filter]).ok().is_empty()
            });
            web.publish(&spec);
        }
    }
}

/// A program that is about to listen, of whichever port of a range.
#[test]
fn a_port_that_a_host_program_is_bound_to_is_in_use() {
    let street = street_with_networks("port_of_a_bound_program", &[]);
    let web = street.front("web", &[]);
    for address in ["0.0.0.0:8080", "[::1]:8081", "192.0.2.1:8082", "[::]:8083"] {
        let address: SocketAddr = address.parse().unwrap();
        let bound = || -> nix::Result<OwnedFd> {
            let family = match address.ip() {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            };
            let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
            Ok(socket)
        };
        let _bound = street.host.enter(bound).expect("a bound socket");
        let port = address.port();
        let mut specs = vec![format!("{port}:80"), "8000-8100:8000-8100".into()];
        // It has IPv4, too.
        if address.ip().is_unspecified() {
            specs.push(format!("127.0.0.1:{port}:80"));
        }
        for spec in specs {
            let (code, message) = street.host.refused(&["publish", "web", "-p", &spec]);
            assert_eq!(code, "port_in_use", "{address}");
            assert!(message.contains(&format!("port {port}/tcp")), "{message}");
        }
        // What it has is TCP.
        let spec = format!("{port}:80/udp");
        web.publish(&spec);
        web.unpublish(&spec);
    }
}

#[test]
fn published_ports_are_reserved_against_the_kernels_own_choice() {
    let street = street_with_networks("reserved_ports", &[]);
    let setting = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let read = || street.host.run(&["cat", setting]).ok().trim().to_owned();
    street
        .host
        .sysctl("net.ipv4.ip_local_reserved_ports", "40000-40001");
    let web = street.front("web", &["-p", "40500:80"]);
    let reserved = read();
    assert!(
        reserved.contains("40000-40001") && reserved.contains("40500"),
        "{reserved}"
    );
    web.unpublish("40500:80");
    assert_eq!(read(), "40000-40001");
}

#[test]
fn a_published_port_answers_siblings_and_the_container_itself() {
    let street = street_with_networks("hairpin", &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let (app, db) = (street.front("app", &[]), street.back("db", &[]));
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    for family in Family::BOTH {
        let host = family.ip(HOST);
        for container in [&app, &db] {
            // By the host's address, and by their own gateway's, as themselves.
            let own = container.addr(family);
            for address in [host, container.gateway(family)] {
                let seen = container.fetch(address, 8080);
                let (server, peer) = (seen.server.as_str(), seen.peer);
                assert_eq!(
                    (server, peer),
                    ("web", own),
                    "{} to {address}",
                    container.role()
                );
                assert_eq!(container.ask_udp(address, 5300), own, "{address}");
            }
        }
        let gateway = web.gateway(family);
        assert_eq!(web.fetch(host, 8080).peer, gateway);
        assert_eq!(web.ask_udp(host, 5300), gateway);
    }
}

#[test]
fn a_detached_endpoint_gives_its_ports_back() {
    let street = street_with_networks("ports_given_back", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    web.detach();
    let app = street.front("app", &["-p", "8080:80"]);
    let _http = Http::start(&app, 80);
    for family in Family::BOTH {
        within(SOON, "the new holder answers", || {
            street.client.fetch(family.ip(HOST), 8080).server == "app"
        });
    }
}

#[test]
fn wrong_specs_are_refused() {
    let street = street_with_networks("wrong_specs", &[]);
    let _web = street.front("web", &[]);
    for spec in [
        "0:80",
        "70000:80",
        "80-90:80-85",
        "203.0.113.9.1:80:80",
        "80/icmp",
        "",
    ] {
        let output = street.host.netbpf(&["publish", "web", "-p", spec]).fails();
        assert!(
            [Some(1), Some(2)].contains(&output.status.code()),
            "{output}"
        );
    }
    for spec in ["81:80/sctp", "published=80,target=80,allow=10.0.0.1/8"] {
        let refused = street.host.refused(&["publish", "web", "-p", spec]);
        assert_eq!(refused.0, "invalid_argument", "{spec}");
    }
}
