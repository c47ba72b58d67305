//! The main job, which must hold however the programs hang on devices, and on
//! every kernel. Each takes the daemon's further flags.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::lab::{
    Background, Container, Family, Http, Knocks, Ping, Pulse, SOON, Street, TcpEcho, UdpEcho,
    answer_of,
    names::{CLIENT, CLIENT_B, CLIENT_WIRE_B, FAR, FAR_NET, FAR_WIRE, HOST, HOST_B, HOST_WIRE_B},
    street_with_networks, within,
};

/// Two containers of a network talk in both families: echo, tcp, udp.
#[track_caller]
pub fn siblings(test: &str, flags: &[&str]) {
    let street = street_with_networks(test, flags);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    let drops = street.host.drops();
    for family in Family::BOTH {
        app.ping(web.addr(family));
        web.ping(app.addr(family));
        assert_eq!(app.fetch(web.addr(family), 80).peer, app.addr(family));
        app.fetch_big(web.addr(family), 80);
        assert_eq!(app.ask_udp(web.addr(family), 53), app.addr(family));
    }
    drops.none();
}

/// A container reaches the outside under the host's address: tcp, udp, echo.
#[track_caller]
pub fn masquerade(test: &str, flags: &[&str]) {
    let street = street_with_networks(test, flags);
    let web = street.front("web", &[]);
    let _http = Http::start(&street.client, 80);
    let _udp = UdpEcho::start(&street.client, 53);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        web.ping(client);
        assert_eq!(web.fetch(client, 80).peer, host);
        web.fetch_big(client, 80);
        assert_eq!(web.ask_udp(client, 53), host);
    }
    drops.none();
}

/// A client outside reaches a published port, and the container sees the
/// client's own address: tcp, udp.
#[track_caller]
pub fn publish(test: &str, flags: &[&str]) {
    let street = street_with_networks(test, flags);
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let seen = street.client.fetch(host, 8080);
        assert_eq!((seen.peer, seen.server.as_str()), (client, "web"));
        assert_eq!(seen.local, SocketAddr::new(web.addr(family), 80));
        street.client.fetch_big(host, 8080);
        assert_eq!(street.client.ask_udp(host, 5300), client);
    }
    drops.none();
}

/// Masquerade takes the source address that the host itself would send from: by the
/// route's `src`, by the gateway's subnet, by the destination's; also once the host's
/// routes change.
#[track_caller]
pub fn source_addresses(test: &str, flags: &[&str]) {
    let street = street_with_networks(test, flags);
    let web = street.front("web", &[]);
    street.host.gain("up0", &HOST_WIRE_B);
    street
        .client
        .address("eth0", &[CLIENT_WIRE_B, FAR_WIRE].concat());
    let _http = Http::start(&street.client, 80);
    for family in Family::BOTH {
        let (near, beside, far) = (family.ip(CLIENT), family.ip(CLIENT_B), family.ip(FAR));
        let seen_as = |to: IpAddr, from: IpAddr| {
            within(SOON, &format!("{to} sees {from}"), || {
                web.fetch(to, 80).peer == from
            });
            let own = street.host.fetch(to, 80).peer;
            assert_eq!(own, from, "the host itself to {to}");
        };
        seen_as(near, family.ip(HOST));
        seen_as(beside, family.ip(HOST_B));
        street
            .host
            .route(family.of(FAR_NET), &format!("via {near}"));
        if family == Family::V4 {
            seen_as(far, family.ip(HOST));
        }
        let src = format!("via {near} src {}", family.ip(HOST_B));
        street.host.route(family.of(FAR_NET), &src);
        seen_as(far, family.ip(HOST_B));
    }
}

/// How a daemon is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM.
    Stop,
    /// SIGKILL.
    Kill,
}

/// The daemon ends and starts again while traffic of every way runs; not one
/// packet is lost, and new connections work without it.
#[track_caller]
pub fn restart_under_traffic(test: &str, flags: &[&str], end: End) {
    let street = street_with_networks(test, flags);
    let traffic = Traffic::start(&street);
    let before = street.host.endpoints();
    match end {
        End::Stop => street.host.stop(),
        End::Kill => street.host.kill(),
    }
    traffic.goes_on("without a daemon");
    street.host.restart();
    traffic.goes_on("with the next one");

    let names = |endpoints: &[netbpf::model::EndpointInfo]| -> Vec<_> {
        let fields = endpoints.iter().map(|e| {
            (
                e.name.clone(),
                e.host_ifindex,
                e.ipv4.clone(),
                e.mac.clone(),
            )
        });
        fields.collect()
    };
    assert_eq!(names(&street.host.endpoints()), names(&before), "adopted");
    traffic.web.publish("8081:80");
    for family in Family::BOTH {
        street.client.fetch(family.ip(HOST), 8081);
    }
    traffic.finish_whole();
}

/// Traffic of every way – published, masqueraded, between siblings, of the host's own –
/// in both families: datagrams, short connections, echoes, and a stream, until it ends.
pub struct Traffic<'a> {
    street: &'a Street,
    web: Container,
    pulses: Vec<Pulse>,
    knocks: Vec<Knocks>,
    pings: Vec<Background>,
    stream: Background,
    _servers: (Http, [TcpEcho; 2], [UdpEcho; 2], Background),
    _app: Container,
}

impl<'a> Traffic<'a> {
    #[track_caller]
    pub fn start(street: &'a Street) -> Traffic<'a> {
        let ports = ["8080:80", "7000:7", "5201:5201", "5300:53/udp"];
        let ports: Vec<&str> = ports.iter().flat_map(|port| ["-p", port]).collect();
        let (web, app) = (street.front("web", &ports), street.front("app", &[]));
        let client = &street.client;
        let server = web.run(&["iperf3", "-s", "--forceflush"]);
        let servers = (
            Http::start(&web, 80),
            [TcpEcho::start(&web, 7), TcpEcho::start(client, 7)],
            [UdpEcho::start(&web, 53), UdpEcho::start(client, 53)],
            server.timeout(Duration::from_secs(120)).spawn(),
        );
        let (mut pulses, mut knocks, mut pings) = (Vec::new(), Vec::new(), Vec::new());
        for family in Family::BOTH {
            let (web, host, out) = (web.addr(family), family.ip(HOST), family.ip(CLIENT));
            pulses.extend([
                Pulse::start(&app, web, 53),
                Pulse::start(&app, out, 53),
                Pulse::start(client, host, 5300),
            ]);
            let loopback = (family.loopback(), 7000);
            knocks.extend([
                Knocks::start(client, (host, 7000).into()),
                Knocks::start(&app, (out, 7).into()),
                Knocks::start(&app, (web, 7).into()),
                Knocks::start(&street.host, loopback.into()),
            ]);
            pings.push(app.ping_on(out));
        }
        within(SOON, "iperf3 listens", || {
            servers.3.stdout().contains("listening")
        });
        let to = Family::V4.ip(HOST).to_string();
        let stream = ["iperf3", "-J", "-t", "300", "-b", "200M", "-c", &to];
        let stream = client
            .run(&stream)
            .timeout(Duration::from_secs(300))
            .spawn();
        Traffic {
            street,
            web,
            pulses,
            knocks,
            pings,
            stream,
            _servers: servers,
            _app: app,
        }
    }

    /// All of it, and what is begun now.
    #[track_caller]
    pub fn goes_on(&self, when: &str) {
        for pulse in &self.pulses {
            pulse.wait_for_more(&format!("datagrams go on {when}"));
        }
        for knocks in &self.knocks {
            knocks.wait_for_more(&format!("connections go on {when}"));
        }
        new_connections_work(self.street);
    }

    /// Ends it; fails where a packet was lost or a connection reset.
    #[track_caller]
    pub fn finish_whole(self) {
        for mut ping in self.pings {
            assert!(ping.is_running(), "{}", ping.wait());
            ping.signal(Signal::SIGINT);
            let output = ping.wait();
            let Ping { sent, received } = Ping::parse(&output);
            // One may be on its way at the end.
            assert!(sent > 100 && sent - received <= 1, "{output}");
        }
        let mut stream = self.stream;
        assert!(stream.is_running(), "{}", stream.wait());
        stream.signal(Signal::SIGINT);
        let output = stream.wait();
        let result: serde_json::Value =
            serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
        let intervals = result["intervals"].as_array().into_iter().flatten();
        // The last one may have just begun.
        let whole = intervals.filter(|one| one["sum"]["seconds"].as_f64() > Some(0.5));
        let rates = whole.map(|one| one["sum"]["bytes"].as_u64().unwrap_or_default());
        let rates: Vec<u64> = rates.collect();
        assert!(!rates.is_empty() && !rates.contains(&0), "{output}");
        for pulse in self.pulses {
            pulse.finish_whole();
        }
        for knocks in self.knocks {
            knocks.finish_whole();
        }
    }
}

fn new_connections_work(street: &Street) {
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        assert_eq!(street.client.fetch(host, 8080).peer, client);
        let socket = street.client.udp(SocketAddr::new(host, 5300));
        assert_eq!(answer_of(&socket).ip(), client);
    }
}
