//! As many connections as are promised, and what is left of much traffic once it is over.
//!
//! ```text
//!   web, app 10.10.1.x ── host 192.0.2.1 ──── 192.0.2.2 client
//! ```

use std::{
    collections::{BTreeMap, HashSet},
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use netbpf::model::{FlowInfo, StatusInfo};
use netbpf_common::names;
use netbpf_tests::lab::{
    Family, Host, Http, SOON, TcpEcho, UdpEcho, ask_with,
    names::{CLIENT, FRONT, HOST},
    street_with_networks, street_without_daemon, within,
};

/// Whoever is on the list of the least recently used stays until it is another's turn;
/// counters stay with their endpoint.
const SPARED: [&str; 8] = [
    names::ENDPOINT_DROPS,
    names::CLIENTS,
    names::HOST_PEERS,
    names::HOST_ASKED,
    names::HANDED,
    names::ANSWERED,
    names::FRAGMENTS4,
    names::FRAGMENTS6,
];

/// Connections at a time to one remote address and port that interface.md promises room for.
const PROMISED: usize = 28_000;

#[test]
fn as_many_connections_to_one_remote_as_promised() {
    let street = street_with_networks("as_many_connections", &[]);
    let containers = ["web", "app"].map(|name| street.front(name, &[]));
    // Connections that nobody has accepted yet need no descriptor.
    let backlog = PROMISED.to_string();
    street.client.sysctl("net.core.somaxconn", &backlog);
    street
        .client
        .sysctl("net.ipv4.tcp_max_syn_backlog", &backlog);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(CLIENT), 80);
        let listener = street.client.enter(|| TcpListener::bind(to)).expect("bind");
        // SAFETY: the descriptor is the listener's.
        let listens = unsafe { libc::listen(listener.as_raw_fd(), PROMISED as i32) };
        assert_eq!(listens, 0);
        // Both containers use the same ports.
        let half = (PROMISED / 2).to_string();
        let crowds = containers.each_ref().map(|container| {
            let crowd = container.probe(&["crowd", &to.to_string(), &half]);
            crowd.timeout(Duration::from_secs(60)).spawn()
        });
        within(Duration::from_secs(40), "all are open at a time", || {
            crowds.iter().all(|crowd| crowd.stdout().contains("open"))
        });
        let mut peers = HashSet::new();
        for number in 0..PROMISED as u32 {
            let (mut stream, peer) = listener.accept().expect("a connection");
            stream.write_all(&number.to_be_bytes()).expect("written");
            peers.insert(peer);
        }
        assert_eq!(peers.len(), PROMISED);
        assert!(peers.iter().all(|peer| peer.ip() == family.ip(HOST)));
        // Each is somebody's own: what one end says comes out at one other.
        let mut heard = HashSet::new();
        for crowd in crowds {
            let output = crowd.wait();
            assert!(output.status.success(), "{}", output.stderr);
            heard.extend(
                output
                    .stdout
                    .lines()
                    .filter_map(|line| line.parse::<u32>().ok()),
            );
        }
        assert_eq!(heard.len(), PROMISED);
    }
}

/// Entries of the maps that hold state of traffic.
fn filled(host: &Host) -> BTreeMap<String, u64> {
    let status: StatusInfo = host.json(&["status"]);
    let counted = status
        .maps
        .into_iter()
        .filter_map(|map| Some((map.name, map.entries?)));
    counted.collect()
}

#[test]
fn after_much_traffic_nothing_is_left_of_it() {
    let street = street_without_daemon("nothing_is_left");
    let host = &street.host;
    let times = [
        "tcp-opening",
        "tcp-closing",
        "udp",
        "udp-answered",
        "icmp",
        "other",
    ];
    let times = times.map(|kind| format!("{kind}=1s"));
    let flags: Vec<&str> = times.iter().flat_map(|time| ["--timeout", time]).collect();
    host.start(&flags);
    host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let app = street.front("app", &[]);
    let before = filled(host);
    let _http = [Http::start(&web, 80), Http::start(&street.client, 80)];
    let _udp = [UdpEcho::start(&web, 53), UdpEcho::start(&street.client, 53)];
    let _echo = TcpEcho::start(&street.client, 7);
    let soak = |family: Family, round: usize| {
        let (client, host_ip) = (family.ip(CLIENT), family.ip(HOST));
        let size = [5, 1400, 8000][round % 3];
        for (from, to, port, udp, size) in [
            (&*web, client, 80, 53, size),
            (&*app, client, 80, 53, size),
            (&*app, host_ip, 8080, 5300, size),
            (&street.client, host_ip, 8080, 5300, size),
            // The host's own are not cut on their way (docs/nat.md).
            (&**host, host_ip, 8080, 5300, size.min(1400)),
        ] {
            from.fetch(to, port);
            for _ in 0..10 {
                let socket = from.udp(SocketAddr::new(to, udp));
                ask_with(&socket, &vec![b'x'; size], SOON).expect("an answer");
            }
        }
        // What is refused, answered by nobody, and reset.
        app.is_refused(client, 81);
        let nobodys = app.udp(SocketAddr::new(client, 54));
        let time = Some(Duration::from_millis(500));
        nobodys.set_read_timeout(time).expect("a time-out");
        _ = nobodys.send(b"hello");
        _ = nobodys.recv(&mut [0; 8]);
        web.ping(client);
        let to = SocketAddr::new(client, 7);
        let stream = web.enter(|| TcpStream::connect_timeout(&to, SOON));
        let stream = stream.expect("a connection");
        (&stream)
            .write_all(b"what comes back is not read")
            .expect("written");
        // Not read, it is reset when it is closed.
        _ = stream.peek(&mut [0; 1]);
    };
    for round in 0..6 {
        for family in Family::BOTH {
            soak(family, round);
        }
    }
    let during = filled(host);
    for map in ["mappings4", "mappings6", "outside4", "outside6"] {
        assert!(during[map] > 0, "{map}: {during:?}");
    }
    within(Duration::from_secs(60), "all flows are over", || {
        host.json::<Vec<FlowInfo>>(&["flows"]).is_empty()
    });
    let grown = |now: &BTreeMap<String, u64>| -> Vec<String> {
        let grown = now
            .iter()
            .filter(|(name, count)| !SPARED.contains(&name.as_str()) && **count > before[*name]);
        grown
            .map(|(name, count)| format!("{name}: {count}"))
            .collect()
    };
    within(Duration::from_secs(60), "no map has grown", || {
        grown(&filled(host)).is_empty()
    });
}
