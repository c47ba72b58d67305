//! The lab itself, by plain kernel features alone: what it makes works, and is
//! gone afterwards.
//!
//! ```text
//!   host  up0 192.0.2.1 ──── eth0 192.0.2.2  client
//!         tun0 198.51.100.1 ─ ─ tun0 198.51.100.2
//! ```

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use netbpf_tests::{
    lab::{
        Cmd, Family, Http, Lab, Ping, Pulse, SOON, TcpEcho, UdpEcho, Wiretap,
        names::{self, CLIENT, CLIENT_B, HOST, HOST_B},
        remove_stale, street_without_daemon,
    },
    packets::{Way, has_payload},
};

#[test]
fn a_wire_carries_ping_curl_and_datagrams_in_both_families() {
    let street = street_without_daemon("a_wire_carries");
    let http = Http::start(&street.host, 80);
    let _udp = UdpEcho::start(&street.host, 53);
    let _tcp = TcpEcho::start(&street.host, 7);
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        street.client.ping(host);
        let seen = street.client.fetch(host, 80);
        assert_eq!((seen.peer, seen.server.as_str()), (client, "host"));
        assert_eq!(seen.local, SocketAddr::new(host, 80));
        street.client.fetch_big(host, 80);
        assert_eq!(street.client.ask_udp(host, 53), client);
        street.client.is_refused(host, 81);
        street.client.cannot_ask_udp(host, 54);
        street.client.cannot_ping(family.ip(names::NOWHERE));
    }
    assert!(http.peers().contains(&family_v6_client()));
}

fn family_v6_client() -> std::net::IpAddr {
    Family::V6.ip(CLIENT)
}

#[test]
fn a_tunnel_carries_packets_without_ethernet_header() {
    let lab = Lab::new("a_tunnel_carries");
    let (host, client) = (lab.space("host"), lab.space("client"));
    lab.tunnel(
        (&host, "tun0", &names::HOST_WIRE_B),
        (&client, "tun0", &names::CLIENT_WIRE_B),
    );
    let _http = Http::start(&host, 80);
    for family in Family::BOTH {
        client.ping(family.ip(HOST_B));
        let seen = client.fetch(family.ip(HOST_B), 80);
        assert_eq!(seen.peer, family.ip(CLIENT_B));
        client.fetch_big(family.ip(HOST_B), 80);
    }
}

#[test]
fn a_pulse_counts_what_is_lost() {
    let street = street_without_daemon("a_pulse_counts");
    let _udp = UdpEcho::start(&street.host, 53);
    let whole = Pulse::start(&street.client, Family::V6.ip(HOST), 53);
    whole.wait_for_more("answers");
    whole.finish_whole();
    let cut = Pulse::start(&street.client, Family::V4.ip(HOST), 53);
    street.host.ip("link set up0 down");
    cut.wait_for_beats(5);
    assert!(!cut.finish().is_empty());
}

#[test]
fn a_ping_stream_is_counted() {
    let street = street_without_daemon("a_ping_stream");
    let output = street.client.ping_stream(Family::V4.ip(HOST), 20).wait();
    let wanted = Ping {
        sent: 20,
        received: 20,
    };
    assert_eq!(Ping::parse(&output), wanted);
}

#[test]
fn a_wiretap_sends_and_sees_frames() {
    let street = street_without_daemon("a_wiretap");
    let (one, other) = (
        Wiretap::open(&street.host, "up0"),
        Wiretap::open(&street.client, "eth0"),
    );
    for family in Family::BOTH {
        let way = Way::new(
            street.client.mac("eth0"),
            street.host.mac("up0"),
            family.ip(CLIENT),
            family.ip(HOST),
        );
        other.send(&way.udp(1, 2, b"a frame of ours"));
        let found = one.find(SOON, |f| has_payload(f, b"a frame of ours"));
        assert!(found.is_some(), "{family:?}");
    }
}

#[test]
fn nothing_is_left_when_a_test_panics() {
    let mut left: Vec<PathBuf> = Vec::new();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let street = street_without_daemon("nothing_is_left");
        left.push(street.host.path().into());
        left.push(street.client.path().into());
        left.push(street.lab.dir().into());
        assert!(left.iter().all(|path| path.exists()));
        street.client.run(&["false"]).ok();
    }));
    assert!(result.is_err());
    for path in left {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

#[test]
#[should_panic(expected = "did not end in time")]
fn a_command_has_a_time_limit() {
    let lab = Lab::new("a_command_has_a_time_limit");
    let space = lab.space("alone");
    space
        .run(&["sleep", "30"])
        .timeout(Duration::from_millis(100))
        .ok();
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let ended = Cmd::new(&["sleep", "0"]).spawn();
    let pid = ended.pid();
    ended.wait();
    let name = format!("nbt-{pid}-1-left");
    Cmd::new(&["ip", "netns", "add", &name]).ok();
    let dir = std::env::temp_dir().join(format!("nbt-{pid}-1"));
    let mount = dir.join("host/bpffs");
    std::fs::create_dir_all(&mount).expect("make a directory");
    let target = mount.display().to_string();
    Cmd::new(&["mount", "-t", "bpf", "bpf", &target]).ok();
    remove_stale();
    let left = [PathBuf::from("/run/netns").join(&name), dir];
    for path in left {
        assert!(!path.exists(), "{} is left", path.display());
    }
}
