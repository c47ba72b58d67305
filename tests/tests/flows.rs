//! Flows as they are listed, and what becomes of them when they are flushed.
//!
//! ```text
//!   web, app ── front ── host ──── client :53, :54
//! ```

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use netbpf::model::{FlowInfo, FlushInfo, StatusInfo};
use netbpf_tests::lab::{
    Family, Host, Namespace, SOON, TcpEcho, UdpEcho, answer_of,
    names::{CLIENT, FRONT, HOST},
    street_with_networks, street_without_daemon, within,
};

fn flows(host: &Host, filter: &[&str]) -> Vec<FlowInfo> {
    host.json(&[&["flows"], filter].concat())
}

fn flush(host: &Host, filter: &[&str]) -> FlushInfo {
    host.json(&[&["flows", "flush"], filter].concat())
}

fn entries(host: &Host, map: &str) -> Option<u64> {
    let status: StatusInfo = host.json(&["status"]);
    let found = status.maps.into_iter().find(|m| m.name == map);
    found.expect("the map").entries
}

fn connect(from: &Namespace, to: SocketAddr) -> TcpStream {
    let stream = from.enter(|| TcpStream::connect_timeout(&to, SOON));
    let stream = stream.unwrap_or_else(|e| panic!("connect to {to}: {e}"));
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    stream
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut answer)
}

#[test]
fn what_is_flushed_begins_anew_and_the_rest_goes_on() {
    let street = street_with_networks("flush_filters", &[]);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    let host = &street.host;
    let _servers = [53, 54].map(|port| UdpEcho::start(&street.client, port));
    for family in Family::BOTH {
        let to = |port| SocketAddr::new(family.ip(CLIENT), port);
        let of_family = |flow: &FlowInfo| flow.family == family.of(["ipv4", "ipv6"]);
        let sockets = [&web, &app].map(|from| [53, 54].map(|port| from.udp(to(port))));
        for socket in sockets.iter().flatten() {
            for _ in 0..2 {
                answer_of(socket);
            }
        }
        let client = family.ip(CLIENT).to_string();
        let of_web = ["--endpoint", "web", "--dst", &client];
        assert_eq!(flows(host, &of_web).len(), 2, "{family:?}");
        let port = to(53).to_string();
        let filter = ["--network", "front", "--protocol", "udp", "--dst", &port];
        let one = [
            &filter[..],
            &["--endpoint", "web", "--state", "established"],
        ]
        .concat();
        let found = flows(host, &one);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].packets, found[0].reply_packets), (2, 2));
        let flushed = flush(host, &one);
        assert_eq!((flushed.flows, flushed.mappings), (1, 1), "{family:?}");
        assert_eq!(flows(host, &one), []);
        assert_eq!(flush(host, &one), FlushInfo::default());
        let left: Vec<_> = flows(host, &[]).into_iter().filter(of_family).collect();
        assert_eq!(left.len(), 3, "{left:?}");

        // The next packet of the same socket begins it anew.
        let drops = host.drops();
        for socket in sockets.iter().flatten() {
            answer_of(socket);
        }
        drops.none();
        let found = flows(host, &one);
        assert_eq!((found[0].packets, found[0].reply_packets), (1, 1));
        let other = [&filter[..], &["--endpoint", "app"]].concat();
        assert_eq!(flows(host, &other)[0].packets, 3);
        // By its outside address and port.
        let outside = found[0].reply_dst.clone();
        assert_eq!(flush(host, &["--reply-dst", &outside]).flows, 1);
    }
    flush(host, &[]);
    assert_eq!(flows(host, &[]), []);
}

#[test]
fn a_mapping_goes_with_the_last_of_its_flows() {
    let street = street_with_networks("flush_mapping", &[]);
    let web = street.front("web", &[]);
    let host = &street.host;
    let _servers = [53, 54].map(|port| UdpEcho::start(&street.client, port));
    for family in Family::BOTH {
        let socket = web.udp(SocketAddr::new(family.ip(CLIENT), 53));
        answer_of(&socket);
        socket.connect((family.ip(CLIENT), 54)).expect("connect");
        let outside = answer_of(&socket);
        let inside = SocketAddr::new(web.addr(family), socket.local_addr().expect("bound").port());
        let src = inside.to_string();
        let flushed = flush(host, &["--src", &src, "--dst", ":53"]);
        assert_eq!((flushed.flows, flushed.mappings), (1, 0), "{family:?}");
        // Its other flow still has the port.
        assert_eq!(answer_of(&socket), outside);
        let flushed = flush(host, &["--src", &src]);
        assert_eq!((flushed.flows, flushed.mappings), (1, 1), "{family:?}");
        let maps = family.of([["mappings4", "outside4"], ["mappings6", "outside6"]]);
        for map in maps {
            assert_eq!(entries(host, map), Some(0), "{map}");
        }
        answer_of(&socket);
    }
}

#[test]
fn connections_do_not_go_on_and_new_ones_do() {
    let street = street_with_networks("flush_tcp", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let host = &street.host;
    let _inside = TcpEcho::start(&web, 80);
    let _outside = TcpEcho::start(&street.client, 80);
    for family in Family::BOTH {
        let out = SocketAddr::new(family.ip(CLIENT), 80);
        let published = SocketAddr::new(family.ip(HOST), 8080);
        for (from, to, kind) in [
            (&*web, out, "masquerade"),
            (&street.client, published, "publish"),
        ] {
            let mut before = connect(from, to);
            echo(&mut before).expect("an answer");
            let dst = to.to_string();
            let filter = ["--protocol", "tcp", "--kind", kind, "--dst", &dst];
            assert_eq!(flows(host, &filter).len(), 1);
            assert_eq!(flush(host, &filter).flows, 1);
            before
                .set_read_timeout(Some(Duration::from_millis(300)))
                .expect("a time-out");
            let error = echo(&mut before).expect_err("it does not go on");
            let expected = [ErrorKind::WouldBlock, ErrorKind::ConnectionReset];
            assert!(expected.contains(&error.kind()), "{error}");
            echo(&mut connect(from, to)).expect("an answer");
        }
    }
}

#[test]
fn silent_flows_expire_as_configured_and_a_reload_changes_it() {
    let street = street_without_daemon("timeouts");
    let host = &street.host;
    let file = street.lab.dir().join("netbpf.toml");
    let set = |text: &str| fs::write(&file, text).expect("write the file");
    set("timeout = ['udp-answered=6s', 'icmp=1000s']\n");
    host.start(&["--config", file.to_str().expect("a path")]);
    host.network(&FRONT, &[]);
    let web = street.front("web", &[]);
    let _server = UdpEcho::start(&street.client, 53);
    let status: StatusInfo = host.json(&["status"]);
    let note = "timeout udp-answered=6s is less than the 120s of RFC 4787";
    assert!(status.notes.iter().any(|n| n.contains(note)), "{status:?}");
    let udp = ["--protocol", "udp"];
    for family in Family::BOTH {
        web.ping(family.ip(CLIENT));
        let socket = web.udp(SocketAddr::new(family.ip(CLIENT), 53));
        answer_of(&socket);
        let expires = flows(host, &udp)[0].expires_in;
        assert!((1..=6).contains(&expires), "{expires} s");
        within(Duration::from_secs(20), "it expires", || {
            flows(host, &udp).is_empty()
        });
    }
    // Those of UDP may not be collected yet, and come back with a longer time.
    let icmp = || {
        let mut icmp = flows(host, &["--state", "established"]);
        icmp.retain(|flow| flow.protocol.starts_with("icmp"));
        assert_eq!(icmp.len(), 2, "{icmp:?}");
        icmp
    };
    assert!(icmp().iter().all(|f| (900..=1000).contains(&f.expires_in)));

    set("timeout = ['icmp=2000s']\n");
    let reloaded: netbpf::model::ReloadInfo = host.json(&["reload"]);
    assert_eq!(reloaded.applied[0].key, "timeout");
    assert!(icmp().iter().all(|f| (1900..=2000).contains(&f.expires_in)));
    let status: StatusInfo = host.json(&["status"]);
    assert!(!status.notes.iter().any(|n| n.contains("timeout")));
}
