//! The main job, which must hold however the programs hang on devices, and on
//! every kernel. Each takes the daemon's further flags.

use std::net::{IpAddr, SocketAddr};

use crate::lab::{
    Family, Http, Ping, Pulse, SOON, Street, UdpEcho, answer_of,
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
    let web = street.front("web", &["-p", "8080:80", "-p", "5300:53/udp"]);
    let app = street.front("app", &[]);
    let _http = Http::start(&web, 80);
    let _web_udp = UdpEcho::start(&web, 53);
    let _client_udp = UdpEcho::start(&street.client, 53);
    let before = street.host.endpoints();

    let pulses: Vec<Pulse> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            [
                Pulse::start(&app, web.addr(family), 53),
                Pulse::start(&app, family.ip(CLIENT), 53),
                Pulse::start(&street.client, family.ip(HOST), 5300),
            ]
        })
        .collect();
    let pings = Family::BOTH.map(|family| app.ping_stream(family.ip(CLIENT), 300));
    match end {
        End::Stop => street.host.stop(),
        End::Kill => street.host.kill(),
    }
    for pulse in &pulses {
        pulse.wait_for_more("traffic goes on without a daemon");
    }
    new_connections_work(&street);
    street.host.restart();
    new_connections_work(&street);
    for pulse in pulses {
        pulse.finish_whole();
    }
    for ping in pings {
        let output = ping.wait();
        let Ping { sent, received } = Ping::parse(&output);
        assert_eq!((sent, received), (300, 300), "{output}");
    }

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
    web.publish("8081:80");
    for family in Family::BOTH {
        street.client.fetch(family.ip(HOST), 8081);
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
