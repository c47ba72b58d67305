//! Published ports that are taken back: what becomes of their connections, and what
//! is answered afterwards.
//!
//! ```text
//!   web :7 :53 ── front ── host :7000 :5300 ──── client
//! ```

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use netbpf::model::{PortOf, StatusInfo};
use netbpf_common::{maps::HostConn, names};
use netbpf_tests::lab::{
    Cmd, Container, Family, Namespace, SOON, Street, TcpEcho, UdpEcho, answer_of, ask, has_tools,
    names::{CLIENT, HOST},
    refuses, street_with_networks, within,
};

struct Shop {
    street: Street,
    web: Container,
    app: Container,
    _tcp: TcpEcho,
    _udp: UdpEcho,
}

fn shop(test: &str) -> Shop {
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &["-p", "7000:7", "-p", "5300:53/udp"]);
    let app = street.front("app", &[]);
    let (_tcp, _udp) = (TcpEcho::start(&web, 7), UdpEcho::start(&web, 53));
    Shop {
        street,
        web,
        app,
        _tcp,
        _udp,
    }
}

impl Shop {
    /// From outside, from a sibling, from the container itself, from the host by
    /// cgroup and packet by packet.
    fn clients(&self, family: Family) -> Vec<(&Namespace, SocketAddr)> {
        let host = SocketAddr::new(family.ip(HOST), 7000);
        vec![
            (&self.street.client, host),
            (&self.app, host),
            (&self.web, host),
            (&self.street.host, host),
            (&self.street.host, SocketAddr::new(family.loopback(), 7000)),
        ]
    }
}

/// TCP connections of the container that have a peer.
fn connections(web: &Container) -> Vec<String> {
    let listed = web.run(&["ss", "-Htn", "state", "established"]).ok();
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn idle_connections_end_at_once_on_both_sides() {
    let shop = shop("end_at_once");
    for family in Family::BOTH {
        let held: Vec<_> = shop
            .clients(family)
            .into_iter()
            .map(|(client, to)| client.hold(to))
            .collect();
        assert!(!connections(&shop.web).is_empty());
        shop.web.unpublish("7000:7");
        for (held, (client, to)) in held.into_iter().zip(shop.clients(family)) {
            let ended = held.ended();
            assert_eq!(ended, "ECONNRESET", "{} to {to}", client.role());
        }
        assert_eq!(connections(&shop.web), [] as [String; 0]);
        for (client, to) in shop.clients(family) {
            let refused = client.probe(&["tcp", &to.to_string()]).exits(1);
            assert_eq!(
                refused.stderr.trim(),
                "ECONNREFUSED",
                "{} to {to}",
                client.role()
            );
        }
        shop.web.publish("7000:7");
    }
}

#[test]
fn connections_to_the_container_itself_go_on() {
    let shop = shop("direct_goes_on");
    for family in Family::BOTH {
        let direct = SocketAddr::new(shop.web.addr(family), 7);
        let mut held = [&*shop.street.host, &*shop.app].map(|client| client.hold(direct));
        shop.web.unpublish("7000:7");
        assert!(held.iter_mut().all(|h| h.is_open()));
        shop.street.host.hold(direct);
        shop.web.publish("7000:7");
    }
}

#[test]
fn datagrams_of_either_side_are_answered_with_port_unreachable() {
    let shop = shop("udp_unreachable");
    let drops = shop.street.host.drops();
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(HOST), 5300);
        let client = shop.street.client.udp(to);
        let seen = answer_of(&client);
        shop.web.unpublish("5300:53/udp");
        let refused = ask(&client, SOON).expect_err("unpublished");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

        // The container's side: another socket at the server's port, as it would
        // be for a program that sends without being asked.
        let server = shop.web.enter(|| -> std::io::Result<_> {
            let socket = std::net::UdpSocket::bind(SocketAddr::new(family.any(), 0))?;
            socket.connect(seen)?;
            Ok(socket)
        });
        let _other_port = server.expect("a socket");
        shop.web.publish("5300:53/udp");
        assert_eq!(answer_of(&client), seen);
    }
    drops.only_among(&["unpublished"]);
}

/// A connected socket for datagrams outlives the port, whoever has it next: also one of
/// the host's own, at whichever of its addresses.
#[test]
fn datagrams_of_connected_sockets_go_on_when_the_port_is_published_anew() {
    let shop = shop("udp_anew");
    let mut streams = Vec::new();
    for family in Family::BOTH {
        let host = SocketAddr::new(family.ip(HOST), 5300);
        let own = SocketAddr::new(family.loopback(), 5300);
        let clients: [(&Namespace, _); 5] = [
            (&shop.street.host, own),
            (&shop.street.host, host),
            (&shop.street.client, host),
            (&shop.app, host),
            (&shop.web, host),
        ];
        for (client, to) in clients {
            let stream = client.probe(&["udp-connected-stream", &to.to_string()]);
            let stream = stream.timeout(Duration::from_secs(40)).spawn();
            streams.push((client.role(), to, stream));
        }
    }
    let all = |what: &str, wanted: &dyn Fn(&SocketAddr) -> String| {
        for (role, to, stream) in &streams {
            let before = stream.stdout().lines().count();
            let what = format!("{role} to {to}: {what}");
            within(SOON, &what, || {
                let said = stream.stdout();
                let mut since = said.lines().skip(before + 1);
                since.any(|line| line == wanted(to))
            });
        }
    };
    all("an answer", &|to| format!("answered by {to}"));
    shop.web.unpublish("5300:53/udp");
    all("refused", &|_| "ECONNREFUSED".into());
    let _next = UdpEcho::start(&shop.app, 53);
    shop.app.publish("5300:53/udp");
    all("an answer of the next", &|to| format!("answered by {to}"));
}

#[test]
fn a_client_that_keeps_its_port_reaches_the_next_holder_with_its_next_packet() {
    let shop = shop("next_holder");
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(HOST), 5300);
        let socket = shop.street.client.udp(to);
        let before = shop._udp.peers().len();
        answer_of(&socket);
        assert_eq!(shop._udp.peers().len(), before + 1);
        shop.web.unpublish("5300:53/udp");
        let next = UdpEcho::start(&shop.app, 53);
        shop.app.publish("5300:53/udp");
        assert_eq!(answer_of(&socket).ip(), family.ip(CLIENT));
        assert_eq!(next.peers(), [family.ip(CLIENT)]);
        shop.app.unpublish("5300:53/udp");
        shop.web.publish("5300:53/udp");
    }
}

#[test]
fn drained_connections_go_on_and_new_ones_are_refused() {
    let shop = shop("drain");
    for family in Family::BOTH {
        let mut held: Vec<_> = shop
            .clients(family)
            .into_iter()
            .map(|(client, to)| client.hold(to))
            .collect();
        let udp = shop
            .street
            .client
            .udp(SocketAddr::new(family.ip(HOST), 5300));
        answer_of(&udp);
        let begun = Instant::now();
        let specs = ["-p", "7000:7", "-p", "5300:53/udp", "--drain", "4s"];
        let mut arguments = vec!["unpublish", "web"];
        arguments.extend(specs);
        shop.street.host.netbpf(&arguments).ok();
        let ports: Vec<PortOf> = shop.street.host.json(&["port"]);
        assert_eq!(ports, []);
        for (client, to) in shop.clients(family) {
            let refused = client.probe(&["tcp", &to.to_string()]).exits(1);
            assert_eq!(
                refused.stderr.trim(),
                "ECONNREFUSED",
                "{} to {to}",
                client.role()
            );
        }
        let answer = ask(&udp, Duration::from_secs(2));
        // On a slow machine the end may have come meanwhile.
        if begun.elapsed() < Duration::from_secs(3) {
            answer.expect("established ones may go on");
        }
        // The port is free for others: a program of the host, too.
        shop.street.host.probe(&["bind", "tcp", "[::]:7000"]).ok();
        if begun.elapsed() < Duration::from_secs(3) {
            assert!(held.iter_mut().all(|h| h.is_open()), "ended too early");
        }
        for held in held {
            assert!(held.ended().starts_with("ECONN"));
        }
        assert!(
            begun.elapsed() >= Duration::from_millis(3900),
            "ended too early"
        );
        // Each port has an end of its own, one a moment after the other.
        within(SOON, "datagrams are refused", || {
            let refused = ask(&udp, Duration::from_secs(1)).err();
            refused.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        shop.web.publish("7000:7");
        shop.web.publish("5300:53/udp");
    }
}

/// A socket of the host that is not connected is one that has asked before, too.
#[test]
fn datagrams_of_the_hosts_own_programs_go_on_while_drained() {
    let shop = shop("drain_host_udp");
    let host = &shop.street.host;
    let asked = Family::BOTH.map(|family| [family.ip(HOST), family.loopback()]);
    let streams: Vec<_> = asked
        .concat()
        .into_iter()
        .map(|ip| {
            let to = SocketAddr::new(ip, 5300);
            let stream = host.probe(&["udp-stream", &to.to_string()]);
            (to, stream.timeout(Duration::from_secs(40)).spawn())
        })
        .collect();
    let answered = |to: &SocketAddr| format!("answered by {to}");
    let all = |what: &str, wanted: &dyn Fn(&SocketAddr, &str) -> bool| {
        for (to, stream) in &streams {
            let before = stream.stdout().lines().count();
            within(SOON, &format!("{to}: {what}"), || {
                let said = stream.stdout();
                let mut since = said.lines().skip(before + 2);
                since.any(|line| wanted(to, line))
            });
        }
    };
    all("an answer", &|to, line| line == answered(to));
    let drain = ["unpublish", "web", "-p", "5300:53/udp", "--drain", "10s"];
    let begun = Instant::now();
    host.netbpf(&drain).ok();
    all("it goes on", &|to, line| line == answered(to));
    for (to, _) in &streams {
        host.probe(&["udp-connected", &to.to_string()]).exits(1);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "too slow to tell a refusal from the end"
    );
    // One may be late, all of five are not.
    for (to, stream) in &streams {
        within(Duration::from_secs(20), &format!("{to}: the end"), || {
            let said = stream.stdout();
            let last = said.lines().rev().take(5);
            last.filter(|line| line.starts_with("silent")).count() == 5
        });
    }
    assert!(begun.elapsed() > Duration::from_secs(8), "ended too early");
}

/// An address that the host has lost is another's: a socket that has asked there before
/// does not go on to our container.
#[test]
fn a_lost_address_is_the_hosts_no_more_for_those_who_asked_before_either() {
    let shop = shop("lost_address");
    let host = &shop.street.host;
    let rows = [
        ("192.0.2.77/24", "192.0.2.77:5300"),
        ("2001:db8:1::77/64", "[2001:db8:1::77]:5300"),
    ];
    for (address, to) in rows {
        host.gain("up0", &[address]);
        let stream = host.probe(&["udp-stream", to]);
        let mut stream = stream.timeout(Duration::from_secs(40)).spawn();
        let answer = format!("answered by {to}");
        within(SOON, &format!("{to} answers"), || {
            stream.stdout().lines().any(|line| line == answer)
        });
        host.ip(&format!("addr del {address} dev up0"));
        within(SOON, &format!("{to} is gone"), || {
            let said = stream.stdout();
            let mut last = said.lines().rev().take(3);
            !stream.is_running() || last.all(|line| line != answer)
        });
    }
}

#[test]
fn a_drain_outlives_the_daemon() {
    let shop = shop("drain_restart");
    let family = Family::V4;
    let to = SocketAddr::new(family.ip(HOST), 7000);
    let mut held = [
        shop.street.client.hold(to),
        shop.street.host.hold(to),
        shop.street
            .host
            .hold(SocketAddr::new(family.loopback(), 7000)),
    ];
    let drain = ["unpublish", "web", "-p", "7000:7", "--drain", "3s"];
    let begun = Instant::now();
    shop.street.host.netbpf(&drain).ok();
    shop.street.host.kill();
    shop.street.host.restart();
    if begun.elapsed() < Duration::from_millis(2500) {
        assert!(held.iter_mut().all(|h| h.is_open()));
    }
    for held in held {
        assert!(held.ended().starts_with("ECONN"));
    }
    assert!(begun.elapsed() >= Duration::from_millis(2900));
}

#[test]
fn nothing_published_answers_as_the_host_would() {
    let shop = shop("nothing_published");
    let host = &shop.street.host;
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(HOST), 7001);
        for client in [&shop.street.client, &*shop.app, &**host] {
            let refused = client.probe(&["tcp", &to.to_string()]).exits(1);
            assert_eq!(refused.stderr.trim(), "ECONNREFUSED");
            refuses(&client.udp(to));
        }
    }
    // What is published is nobody's when the container does not listen.
    shop.web.publish("7002:7002");
    shop.web.publish("7002:7002/udp");
    for family in Family::BOTH {
        let to = SocketAddr::new(family.ip(HOST), 7002);
        let refused = shop.street.client.probe(&["tcp", &to.to_string()]).exits(1);
        assert_eq!(refused.stderr.trim(), "ECONNREFUSED");
    }
}

#[test]
fn a_container_that_leaves_takes_its_connections_along() {
    let shop = shop("leaves");
    let to = SocketAddr::new(Family::V4.ip(HOST), 5300);
    let udp = shop.street.client.udp(to);
    answer_of(&udp);
    let own = Family::V4.loopback();
    let mut of_host = shop.street.host.hold(SocketAddr::new(own, 7000));
    assert!(of_host.is_open());
    let others = [&shop.street.client, &*shop.app];
    let others = others.map(|client| client.hold(SocketAddr::new(Family::V4.ip(HOST), 7000)));
    shop.web.detach();
    // Idle, they would never hear of it, and one of the host then talk to who has the
    // address next.
    assert!(of_host.ended().starts_with("ECONN"));
    for other in others {
        assert_eq!(other.ended(), "ECONNRESET");
    }
    assert_eq!(connections(&shop.web), [] as [String; 0]);
    within(SOON, "the client hears of it", || {
        ask(&udp, Duration::from_millis(200))
            .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    });
}

/// Filters of the host: what comes from containers by TCP gets to none of its programs.
fn deafen(host: &Namespace) {
    for rule in [
        "add table inet deaf",
        "add chain inet deaf input { type filter hook input priority 0; policy accept; }",
        "add rule inet deaf input iifname != lo meta l4proto tcp drop",
    ] {
        let mut arguments = vec!["nft"];
        arguments.extend(rule.split(' '));
        host.run(&arguments).ok();
    }
}

/// They would hang, idle, and talk to who has the address next.
#[test]
fn connections_of_the_host_end_also_where_a_filter_drops_the_reset() {
    let test = "end_deaf";
    if !has_tools(test, &["nft"]) {
        return;
    }
    let shop = shop(test);
    let host = &shop.street.host;
    shop.web.publish("7001:7");
    shop.web.publish("7002:7");
    let held: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            let at = |port| SocketAddr::new(family.ip(HOST), port);
            [7000, 7001, 7002].map(at).map(|to| host.hold(to))
        })
        .collect();
    deafen(host);
    let specs = ["-p", "7000:7", "-p", "7001:7", "-p", "7002:7"];
    let mut unpublish = vec!["unpublish", "web"];
    unpublish.extend(specs);
    host.netbpf(&unpublish).ok();
    for held in held {
        assert_eq!(held.ended(), "ECONNABORTED");
    }
    assert_eq!(connections(&shop.web), [] as [String; 0]);
}

#[test]
fn drained_connections_of_the_host_end_with_a_container_that_can_say_nothing() {
    let test = "drain_deaf";
    if !has_tools(test, &["nft"]) {
        return;
    }
    let shop = shop(test);
    let host = &shop.street.host;
    let addresses = Family::BOTH.map(|family| SocketAddr::new(family.ip(HOST), 7000));
    let mut held = addresses.map(|to| host.hold(to));
    host.netbpf(&["unpublish", "web", "-p", "7000:7", "--drain", "1h"])
        .ok();
    deafen(host);
    assert!(held.iter_mut().all(|h| h.is_open()));
    shop.web.ip("link del eth0");
    for held in held {
        assert_eq!(held.ended(), "ECONNABORTED");
    }
}

/// The end of a socket is not seen while others have taken the programs off.
#[test]
fn what_is_left_of_the_hosts_connections_is_forgotten_at_a_start() {
    let test = "forgotten_connections";
    if !has_tools(test, &["bpftool"]) {
        return;
    }
    let shop = shop(test);
    let host = &shop.street.host;
    let mut held = host.hold(SocketAddr::new(Family::V4.ip(HOST), 7000));
    let known = || {
        let status: StatusInfo = host.json(&["status"]);
        let found = status.maps.iter().find(|m| m.name == names::HOST_CONNS);
        found.and_then(|m| m.entries)
    };
    assert_eq!(known(), Some(1));
    let pin = host.bpffs().join(names::HOST_CONNS).display().to_string();
    let mut update = vec!["bpftool", "map", "update", "pinned", &pin];
    // A cookie that no socket has by now, and a value of zeros: made long ago.
    update.extend(["key", "hex", "ff", "ff", "ff", "ff", "ff", "ff", "0", "0"]);
    update.extend(["value", "hex"]);
    update.resize(update.len() + size_of::<HostConn>(), "0");
    Cmd::new(&update).ok();
    assert_eq!(known(), Some(2));
    host.stop();
    host.restart();
    assert_eq!(known(), Some(1));
    assert!(held.is_open());
}

#[test]
fn a_teardown_ends_the_connections_of_everybody() {
    let shop = shop("teardown_ends");
    let host = &shop.street.host;
    let mut held: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(|family| shop.clients(family))
        .map(|(client, to)| client.hold(to))
        .collect();
    // Of a port that is drained, too.
    shop.web.publish("7001:7");
    let drained = SocketAddr::new(Family::V4.ip(HOST), 7001);
    held.push(shop.street.client.hold(drained));
    held.push(host.hold(drained));
    host.netbpf(&["unpublish", "web", "-p", "7001:7", "--drain", "1h"])
        .ok();
    assert!(held.iter_mut().all(|held| held.is_open()));
    host.netbpf(&["teardown"]).ok();
    for held in held {
        assert!(held.ended().starts_with("ECONN"));
    }
    assert_eq!(connections(&shop.web), [] as [String; 0]);
}
