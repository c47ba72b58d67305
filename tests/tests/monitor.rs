//! `netbpf monitor`: what happens is told as it happens, with names, to everybody who
//! asks; what is lost is said.
//!
//! ```text
//!   web 10.10.1.x ── host 192.0.2.1 ──── 192.0.2.2 client
//!   db  10.10.2.x ┘
//! ```

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    time::Duration,
};

use aya::maps::{Array, Map, MapData};
use netbpf::model::{EventInfo, EventKind};
use netbpf_common::{maps::Config, names};
use netbpf_tests::{
    lab::{
        Background, Container, Family, Flood, Host, Http, UdpEcho,
        names::{CLIENT, FRONT, HOST},
        street_with_networks, until, within,
    },
    packets::Way,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const SOON: Duration = Duration::from_secs(5);

/// A running `netbpf monitor -j`, which listens already.
struct Monitor(Background);

impl Monitor {
    #[track_caller]
    fn start(host: &Host, arguments: &[&str]) -> Monitor {
        Monitor(listening(host, &[&["-j"], arguments].concat()))
    }

    fn events(&self) -> Vec<EventInfo> {
        let text = self.0.stdout();
        // The last line may still be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        whole.lines().map(parse).collect()
    }

    /// Waits for an event.
    #[track_caller]
    fn find(&self, what: &str, wanted: impl Fn(&EventInfo) -> bool) -> EventInfo {
        self.find_in(SOON, what, wanted)
    }

    #[track_caller]
    fn find_in(
        &self,
        time: Duration,
        what: &str,
        wanted: impl Fn(&EventInfo) -> bool,
    ) -> EventInfo {
        let mut found = None;
        let in_time = until(time, || {
            found = self.events().into_iter().find(&wanted);
            found.is_some()
        });
        assert!(in_time, "no event: {what}, among {:#?}", self.events());
        found.expect("just seen")
    }
}

/// `netbpf monitor` that has told by `-v` that it listens.
#[track_caller]
fn listening(host: &Host, arguments: &[&str]) -> Background {
    let all = [&["-v", "monitor"], arguments].concat();
    let monitor = host.netbpf(&all).timeout(Duration::from_secs(60)).spawn();
    within(SOON, "it listens", || {
        monitor.stderr().contains("listening")
    });
    monitor
}

fn address(ip: std::net::IpAddr, port: u16) -> Option<String> {
    Some(SocketAddr::new(ip, port).to_string())
}

/// Whether the programs tell.
fn is_told(host: &Host) -> bool {
    let data = MapData::from_pin(host.bpffs().join(names::CONFIG)).expect("the pinned map");
    let config: Array<_, Config> = Map::Array(data).try_into().expect("an array");
    config.get(&0, 0).expect("its entry").events != 0
}

/// Frames that web may not send, all to be dropped.
fn forged(web: &Container) -> Vec<Vec<u8>> {
    let gateway = netbpf::datapath::GATEWAY_MAC;
    let (from, to) = (web.addr(Family::V4), Family::V4.ip(CLIENT));
    let way = Way::new([2, 0, 0, 0, 0, 9], gateway, from, to);
    (0..100).map(|n| way.udp(1000 + n, 9, b"forged")).collect()
}

fn spoofed(host: &Host) -> u64 {
    host.drops().total("spoofed_mac")
}

#[test]
fn connections_are_told_when_they_begin_and_end_with_both_sides() {
    let street = street_with_networks("monitor_connections", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _inside = Http::start(&web, 80);
    let _outside = UdpEcho::start(&street.client, 53);
    let monitor = Monitor::start(&street.host, &[]);
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let seen = street.client.fetch(host, 8080);
        let from = address(client, seen.port);
        let new = monitor.find("a published port", |e| {
            e.event == EventKind::New && e.src == from
        });
        assert_eq!(new.dst, address(host, 8080));
        assert_eq!(new.reply_src, address(web.addr(family), 80));
        assert_eq!(new.reply_dst, from);
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            (&new.endpoint, &new.network),
            (&text("web"), &text("front"))
        );
        assert_eq!((&new.device, &new.kind), (&text("up0"), &text("publish")));
        assert_eq!(new.protocol, text("tcp"));
        assert_eq!(new.family, text(family.of(["ipv4", "ipv6"])));
        assert_eq!((&new.reason, new.lost), (&None, None));
        let close = monitor.find("its end", |e| e.event == EventKind::Close && e.src == from);
        let reason = close.reason.as_deref();
        assert!(matches!(reason, Some("closed" | "reset")), "{close:?}");
        // In the direction of the packet that began it, whoever ended it.
        assert_eq!(close.dst, new.dst);
        assert_eq!(
            (&close.reply_src, &close.reply_dst),
            (&new.reply_src, &new.reply_dst)
        );
        assert_eq!((&close.endpoint, &close.kind), (&new.endpoint, &new.kind));
        assert!(close.time > new.time, "{} before {}", close.time, new.time);

        web.ask_udp(client, 53);
        let out = monitor.find("masquerade", |e| {
            e.kind.as_deref() == Some("masquerade") && e.dst == address(client, 53)
        });
        assert_eq!(out.event, EventKind::New);
        assert_eq!(out.device.as_ref(), Some(&web.info.host_ifname));
        let outside = out.reply_dst.expect("translated");
        let outside: SocketAddr = outside.parse().expect("an address");
        assert_eq!(outside.ip(), host);
        assert_eq!(out.reply_src, address(client, 53));
    }
    let time: Result<jiff::Timestamp, _> = monitor.events()[0].time.parse();
    let age = jiff::Timestamp::now().duration_since(time.expect("RFC 3339"));
    assert!(age.as_secs() < 60, "{age}");
}

#[test]
fn drops_are_told_with_their_reason_and_filters_hold() {
    let street = street_with_networks("monitor_drops", &[]);
    let (web, db) = (street.front("web", &[]), street.back("db", &[]));
    let _outside = UdpEcho::start(&street.client, 53);
    let all = Monitor::start(&street.host, &[]);
    let drops = Monitor::start(&street.host, &["--drops"]);
    let of_db = Monitor::start(&street.host, &["--endpoint", "db"]);
    let of_front = Monitor::start(&street.host, &["--network", "front", "--drops"]);
    let one = Monitor::start(
        &street.host,
        &["--endpoint", "web", "--drops", "--count", "1"],
    );
    for family in Family::BOTH {
        let absent = family.ip(FRONT.absent);
        web.cannot_ping(absent);
        web.ask_udp(family.ip(CLIENT), 53);
        db.ask_udp(family.ip(CLIENT), 53);
        let is_it = |e: &EventInfo| {
            let dst = e.dst.as_deref().unwrap_or_default();
            e.reason.as_deref() == Some("host_unreachable") && dst.contains(&absent.to_string())
        };
        for monitor in [&all, &drops, &of_front] {
            let drop = monitor.find("a drop", is_it);
            assert_eq!(drop.event, EventKind::Drop);
            assert_eq!(drop.endpoint.as_deref(), Some("web"));
            assert_eq!(drop.network.as_deref(), Some("front"));
            assert_eq!(drop.device.as_ref(), Some(&web.info.host_ifname));
            assert_eq!(drop.protocol.as_deref(), Some(family.of(["icmp", "icmp6"])));
            assert!(drop.length > Some(40) && drop.kind.is_none());
            assert!(drop.reply_src.is_none());
        }
        let dst = address(family.ip(CLIENT), 53);
        let is_new = |e: &EventInfo| e.event == EventKind::New && e.dst == dst;
        all.find("a connection", is_new);
        of_db.find("a connection of db", is_new);
    }
    for monitor in [&drops, &of_front] {
        assert!(monitor.events().iter().all(|e| e.event == EventKind::Drop));
    }
    let events = of_db.events();
    assert!(events.iter().all(|e| e.endpoint.as_deref() == Some("db")));
    let one = one.0.wait();
    assert!(
        one.status.success() && one.stdout.lines().count() == 1,
        "{one}"
    );

    let (code, message) = street.host.refused(&["monitor", "--endpoint", "nobody"]);
    assert_eq!(code, "not_found");
    assert!(message.contains("nobody"), "{message}");
    street.host.netbpf(&["monitor", "--count", "0"]).exits(2);
}

#[test]
fn the_end_of_a_flow_without_a_packet_is_told_too() {
    let street = street_with_networks("monitor_ends", &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let db = street.front("db", &[]);
    let _inside = UdpEcho::start(&web, 53);
    let _outside = UdpEcho::start(&street.client, 53);
    let monitor = Monitor::start(&street.host, &[]);
    street.client.ask_udp(Family::V4.ip(HOST), 5300);
    db.ask_udp(Family::V6.ip(CLIENT), 53);
    web.unpublish("5300:53/udp");
    db.detach();
    // What nobody closes is found when flows are collected, every 10 s.
    let time = Duration::from_secs(30);
    let is = |e: &EventInfo, reason: &str| {
        e.event == EventKind::Close && e.reason.as_deref() == Some(reason)
    };
    let detached = monitor.find_in(time, "detached", |e| is(e, "detached"));
    assert_eq!(
        detached.endpoint.as_deref(),
        Some("db"),
        "gone, and still named"
    );
    assert_eq!(detached.dst, address(Family::V6.ip(CLIENT), 53));
    let unpublished = monitor.find_in(time, "unpublished", |e| is(e, "unpublished"));
    assert_eq!(unpublished.dst, address(Family::V4.ip(HOST), 5300));
    assert_eq!(unpublished.reply_src, address(web.addr(Family::V4), 53));
}

#[test]
fn it_ends_as_it_is_told_and_the_programs_are_silent_then() {
    let street = street_with_networks("monitor_end", &[]);
    let web = street.front("web", &[]);
    let host = &street.host;
    assert!(!is_told(host));
    // Lines for people; several read at once.
    let readers: Vec<Background> = (0..8).map(|_| listening(host, &["--drops"])).collect();
    assert!(is_told(host));
    web.cannot_ping(Family::V4.ip(FRONT.absent));
    for (number, reader) in readers.into_iter().enumerate() {
        within(SOON, "a line", || {
            reader.stdout().contains("drop host_unreachable icmp")
        });
        reader.signal(match number % 2 {
            0 => Signal::SIGINT,
            _ => Signal::SIGTERM,
        });
        let output = reader.wait();
        assert!(output.status.success(), "{output}");
        assert!(output.stdout.contains("web@front by nb"), "{output}");
        assert!(output.stdout.ends_with('\n'), "{output}");
    }
    within(SOON, "nobody listens any more", || !is_told(host));
    host.netbpf(&["monitor", "--duration", "50ms"]).ok();
    within(SOON, "nor after that", || !is_told(host));

    // The daemon ends at once, and says so to who listens.
    let reader = listening(host, &[]);
    let began = std::time::Instant::now();
    host.stop();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "it waited for readers"
    );
    let output = reader.wait();
    assert_eq!(output.status.code(), Some(3), "{output}");
    assert!(output.stderr.contains("has ended"), "{output}");
    assert!(!is_told(host));
    host.restart();
    listening(host, &[]);
}

#[test]
fn what_the_daemon_cannot_read_in_time_is_counted_and_said() {
    let street = street_with_networks("monitor_full", &[]);
    let web = street.front("web", &[]);
    let frames = forged(&web);
    let monitor = Monitor::start(&street.host, &["--drops", "--endpoint", "web"]);
    let (before, drops) = (spoofed(&street.host), street.host.drops());
    let pid = Pid::from_raw(street.host.pid().expect("it runs") as i32);
    kill(pid, Signal::SIGSTOP).expect("stop the daemon for a while");
    let flood = Flood::start(&web, "eth0", frames);
    // The buffer holds some 2,000.
    within(
        Duration::from_secs(20),
        "more than the buffer holds",
        || flood.sent() > 6000,
    );
    drop(flood);
    kill(pid, Signal::SIGCONT).expect("let it go on");
    let lost = monitor.find("lost events", |e| e.event == EventKind::Lost);
    assert_eq!(lost.reason.as_deref(), Some("buffer_full"));
    assert!(lost.lost > Some(1000), "{lost:?}");
    let dropped = spoofed(&street.host) - before;
    assert!(dropped > 6000, "{dropped}");
    let mut counts = BTreeMap::new();
    // What the kernel in a container sends on its own may be among the lost ones.
    let all = until(SOON, || {
        counts = counted(monitor.events());
        let told = counts.values().sum::<u64>();
        told >= dropped && told <= drops.since().values().sum()
    });
    assert!(all, "{dropped} dropped, told: {counts:?}");
}

/// Events and lost ones by what they are; those of the kernel in web aside.
fn counted(events: Vec<EventInfo>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for event in events {
        let reason = event.reason.unwrap_or_default();
        if reason != "multicast" && reason != "link_local" {
            *counts.entry(reason).or_default() += event.lost.unwrap_or(1);
        }
    }
    counts
}

#[test]
fn a_slow_reader_loses_events_and_not_the_daemons_memory() {
    let street = street_with_networks("monitor_slow", &[]);
    let web = street.front("web", &[]);
    let host = &street.host;
    let frames = forged(&web);
    let quick = Monitor::start(host, &["--drops", "--endpoint", "web"]);
    let mut slow: Vec<UnixStream> = (0..8).map(|_| open(host)).collect();
    let memory = resident(host);
    let before = spoofed(host);
    let flood = Flood::start(&web, "eth0", frames);
    within(
        Duration::from_secs(30),
        "more than is kept for anybody",
        || flood.sent() > 40_000,
    );
    drop(flood);
    let grown = resident(host).saturating_sub(memory);
    assert!(grown < 24 << 20, "{} MiB more", grown >> 20);

    let mut stream = slow.remove(0);
    let text = read_until(&mut stream, "slow_reader");
    let line = text.lines().find(|line| line.contains("slow_reader"));
    let lost: EventInfo = serde_json::from_str(line.expect("a line")).expect("JSON");
    assert_eq!(lost.event, EventKind::Lost);
    assert!(lost.lost > Some(0), "{lost:?}");
    // And goes on with what is there.
    read_until(&mut stream, "spoofed_mac");

    // Who reads gets all, or is told what not.
    let dropped = spoofed(host) - before;
    let mut told = 0;
    let all = until(Duration::from_secs(10), || {
        told = counted(quick.events()).values().sum();
        told >= dropped
    });
    assert!(all, "{dropped} dropped, {told} told");
}

/// Asks for events and reads no more than that they come.
#[track_caller]
fn open(host: &Host) -> UnixStream {
    let mut stream = UnixStream::connect(host.socket()).expect("connect");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let request = b"GET /v1/events?drops=true HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).expect("ask");
    let head = read_until(&mut stream, "\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.to_lowercase().contains("application/x-ndjson"),
        "{head}"
    );
    assert!(head.to_lowercase().contains("chunked"), "{head}");
    stream
}

/// Up to the end of the line that has this.
#[track_caller]
fn read_until(stream: &mut UnixStream, mark: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 65_536];
    loop {
        if let Some(at) = text.find(mark)
            && text[at..].contains('\n')
        {
            return text;
        }
        // No more than the mark may be in: keep the end.
        let read = stream
            .read(&mut buffer)
            .unwrap_or_else(|e| panic!("{mark}: {e}"));
        assert!(read > 0, "ended before {mark}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

/// Bytes of the daemon's memory.
fn resident(host: &Host) -> u64 {
    let path = format!("/proc/{}/statm", host.pid().expect("it runs"));
    let statm = fs::read_to_string(path).expect("statm");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .expect("resident")
        .parse()
        .expect("a number");
    pages * 4096
}

#[test]
fn what_ends_without_a_packet_is_told_too() {
    let street = street_with_networks("monitor_ends", &["--timeout", "udp=1s"]);
    let (host, web) = (&street.host, street.front("web", &[]));
    let monitor = Monitor::start(host, &["--endpoint", "web"]);
    // Nobody answers the first; the second is answered, and goes on for long.
    let _echo = UdpEcho::start(&street.client, 9002);
    for (port, family) in [(9001, Family::V4), (9002, Family::V6)] {
        let to = SocketAddr::new(family.ip(CLIENT), port);
        let socket = web.udp(to);
        match port {
            9002 => {
                netbpf_tests::lab::ask(&socket, SOON).expect("an answer");
            }
            _ => {
                socket.send(b"hello").expect("send");
            }
        }
        let dst = address(to.ip(), port);
        monitor.find("it begins", |e| e.event == EventKind::New && e.dst == dst);
        if port == 9002 {
            host.netbpf(&["flows", "flush", "--dst", &to.to_string()])
                .ok();
        }
        let (reason, time) = match port {
            9001 => ("timeout", Duration::from_secs(20)),
            _ => ("flushed", SOON),
        };
        let end = monitor.find_in(time, "it ends", |e| {
            e.event == EventKind::Close && e.dst == dst
        });
        assert_eq!(end.reason.as_deref(), Some(reason), "{end:?}");
        assert_eq!(end.kind.as_deref(), Some("masquerade"), "{end:?}");
        assert_eq!(end.endpoint.as_deref(), Some("web"), "{end:?}");
    }
}
