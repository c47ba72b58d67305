//! Programs of the host and containers that have the same tuple outside, with real sockets:
//! neither hears of the other (interface.md, "The host comes first").
//!
//! ```text
//!   web 10.10.1.x ── host 192.0.2.1 ──── 192.0.2.2 client :7, :53
//! ```

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
};

use netbpf::model::FlowInfo;
use netbpf_tests::lab::{
    Family, Host, Namespace, SOON, TcpEcho, UdpEcho, answer_of, has_tools,
    names::{CLIENT, FRONT, HOST},
    street_with_networks, street_without_daemon,
};
use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
        sockopt,
    },
    time::{TimeVal, TimeValLike as _},
};

/// Within the ports that masquerade gives out, so that a container keeps it outside.
const PORT: u16 = 5000;

/// A connection from a port of that namespace; 0: the kernel's choice.
#[track_caller]
fn connect_from(space: &Namespace, port: u16, to: SocketAddr) -> TcpStream {
    let family = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, Family::V4),
        SocketAddr::V6(_) => (AddressFamily::Inet6, Family::V6),
    };
    let stream = space.enter(|| {
        let fd = socket(family.0, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        let timeout = TimeVal::seconds(SOON.as_secs() as i64);
        setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        if port != 0 {
            let own = SocketAddr::new(family.1.any(), port);
            bind(raw, &SockaddrStorage::from(own))?;
        }
        connect(raw, &SockaddrStorage::from(to))?;
        nix::Result::Ok(TcpStream::from(fd))
    });
    let stream = stream.unwrap_or_else(|e| panic!("{}: connect to {to}: {e}", space.name()));
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    stream
}

fn echoes(stream: &mut TcpStream, text: &[u8]) {
    let mut answer = vec![0; text.len()];
    stream.write_all(text).expect("written");
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, text);
}

/// Flows whose first packet came from there.
fn flows_from(host: &Host, from: SocketAddr) -> Vec<FlowInfo> {
    host.json(&["flows", "--src", &from.to_string()])
}

#[test]
fn a_connection_of_the_host_with_a_containers_tuple_works() {
    let street = street_with_networks("hosts_connection", &[]);
    let web = street.front("web", &[]);
    let _server = TcpEcho::start(&street.client, 7);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(CLIENT), 7);
        let mut of_web = connect_from(&web, PORT, to);
        echoes(&mut of_web, b"of web");
        let mut of_host = connect_from(&street.host, PORT, to);
        for _ in 0..3 {
            echoes(&mut of_host, b"of the host");
            echoes(&mut of_web, b"of web");
        }
        let own = SocketAddr::new(family.ip(HOST), PORT);
        let flows = flows_from(&street.host, own);
        assert_eq!(flows.len(), 1, "{flows:?}");
        let flow = &flows[0];
        assert_eq!(
            (flow.endpoint.as_ref(), flow.kind.as_str()),
            (None, "masquerade")
        );
        assert_eq!(flow.state, "established");
        assert_ne!(flow.reply_dst, own.to_string());
        // More than fits into one segment, both ways, with what devices put off.
        let much = vec![b'x'; 1 << 20];
        let mut writer = of_host.try_clone().expect("a copy");
        let sent = much.clone();
        let thread = std::thread::spawn(move || writer.write_all(&sent));
        let mut back = vec![0; much.len()];
        of_host.read_exact(&mut back).expect("all of it");
        thread.join().expect("no panic").expect("written");
        assert!(back == much);
    }
}

#[test]
fn the_kernels_own_choice_of_a_port_may_be_a_containers() {
    let street = street_without_daemon("kernels_own_choice");
    // No range is left to masquerade alone.
    let range = |text| street.host.sysctl("net.ipv4.ip_local_port_range", text);
    range("1024 65535");
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let web = street.front("web", &[]);
    let _server = TcpEcho::start(&street.client, 7);
    range(&format!("{PORT} {PORT}"));
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(CLIENT), 7);
        let mut of_web = connect_from(&web, PORT, to);
        echoes(&mut of_web, b"of web");
        let mut of_host = connect_from(&street.host, 0, to);
        assert_eq!(of_host.local_addr().expect("an address").port(), PORT);
        echoes(&mut of_host, b"of the host");
        echoes(&mut of_web, b"of web");
    }
}

#[test]
fn a_container_that_comes_later_gets_another_port() {
    let street = street_with_networks("container_comes_later", &[]);
    let web = street.front("web", &[]);
    let _servers = [7, 8].map(|port| TcpEcho::start(&street.client, port));
    for family in Family::BOTH {
        let to = |port| SocketAddr::new(family.ip(CLIENT), port);
        // It has the port outside already, towards another remote.
        let mut first = connect_from(&web, PORT, to(8));
        echoes(&mut first, b"of web");
        let mut of_host = connect_from(&street.host, PORT, to(7));
        echoes(&mut of_host, b"of the host");
        let mut of_web = connect_from(&web, PORT, to(7));
        for _ in 0..2 {
            echoes(&mut of_web, b"of web");
            echoes(&mut of_host, b"of the host");
            echoes(&mut first, b"of web");
        }
    }
}

#[test]
fn datagrams_of_the_host_with_a_containers_tuple_are_answered() {
    let street = street_with_networks("hosts_datagrams", &[]);
    let web = street.front("web", &[]);
    let _server = UdpEcho::start(&street.client, 53);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(CLIENT), 53);
        let from = |space: &Namespace| {
            let socket = space.bind_udp((family.any(), PORT));
            socket.connect(to).expect("connect");
            socket
        };
        let seen = |socket: &UdpSocket| answer_of(socket);
        let of_web = from(&web);
        let of_web_seen = seen(&of_web);
        assert_eq!(of_web_seen.port(), PORT);
        let of_host = from(&street.host);
        let of_host_seen = seen(&of_host);
        assert_ne!(of_host_seen.port(), PORT);
        for _ in 0..3 {
            assert_eq!(seen(&of_host), of_host_seen);
            assert_eq!(seen(&of_web), of_web_seen);
        }
        // Larger than a packet: the ports are in the first fragment alone.
        let large = vec![b'x'; 8000];
        let answer = netbpf_tests::lab::ask_with(&of_host, &large, SOON);
        assert_eq!(answer.expect("all of it"), of_host_seen);
    }
}

#[test]
fn an_echo_of_the_host_with_a_containers_identifier_is_answered() {
    let test = "hosts_echo";
    if !has_tools(test, &["ping"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &[]);
    for family in Family::BOTH {
        let client = family.ip(CLIENT);
        for _ in 0..2 {
            for space in [&*web, &*street.host] {
                let output = space.ping_with(client, &["-e", "2000"]);
                assert!(output.status.success(), "{output}");
            }
        }
    }
}
