//! Overlay networks over two and three hosts with a real etcd; the town is drawn at
//! [`netbpf_tests::lab::Town`].

use std::time::Duration;

use netbpf::model::{Finding, NetworkInfo, NodeInfo, Severity, StatusInfo};
use netbpf_tests::lab::{
    Family, Http, SOON, Town, UdpEcho,
    names::{CLIENT, SUBNETS},
    within,
};

/// In which a network is on all nodes.
const A_SECOND: Duration = Duration::from_secs(1);

/// Two hosts whose containers talk to each other, in both families and by all that
/// containers use.
fn containers_talk(test: &str, outer: Family) {
    let Some(town) = Town::new(test, 2, outer) else {
        return;
    };
    let made = town.overlay("wide", &SUBNETS);
    assert_eq!(made.vni, Some(1));
    let overhead = if outer == Family::V4 { 50 } else { 70 };
    assert_eq!(made.mtu, 1500 - overhead);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    let drops = [town.hosts[0].drops(), town.hosts[1].drops()];
    for family in Family::BOTH {
        // The first packet, before anything was sent the other way.
        app.ping(web.addr(family));
        // No hop between containers of one network.
        let output = app.ping_with(web.addr(family), &["-t", "1"]);
        assert!(output.status.success(), "{output}");
        assert_eq!(app.fetch(web.addr(family), 80).peer, app.addr(family));
        assert_eq!(app.ask_udp(web.addr(family), 53), app.addr(family));
        app.fetch_big(web.addr(family), 80);
        web.ping(app.addr(family));
        // Each node is the gateway, in whosever block that is.
        web.ping(web.gateway(family));
        app.ping(app.gateway(family));
        // Fragments of a datagram go the same way.
        let output = app.ping_with(web.addr(family), &["-s", "8000"]);
        assert!(output.status.success(), "{output}");
        // The whole MTU, and no byte more.
        let header = if family == Family::V4 { 28 } else { 48 };
        let most = usize::from(made.mtu) - header;
        let sized =
            |size: usize| app.ping_with(web.addr(family), &["-M", "do", "-s", &size.to_string()]);
        assert!(sized(most).status.success(), "{}", sized(most));
        assert!(!sized(most + 1).status.success());
    }
    for drops in drops {
        drops.only(&[]);
    }
    for host in &town.hosts {
        // Nothing of an overlay is taken for a stranger's, or for drift.
        let findings: Vec<Finding> = host.json(&["doctor"]);
        let bad: Vec<&Finding> = findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

#[test]
fn containers_on_two_hosts_talk_over_ipv4() {
    containers_talk("overlay_over_ipv4", Family::V4);
}

#[test]
fn containers_on_two_hosts_talk_over_ipv6() {
    containers_talk("overlay_over_ipv6", Family::V6);
}

#[test]
fn a_network_is_on_every_node_within_a_second_and_goes_with_its_last_endpoint() {
    let Some(town) = Town::new("overlay_networks", 3, Family::V4) else {
        return;
    };
    let create = ["network", "create", "wide", "--driver", "overlay"];
    let made: NetworkInfo = town.hosts[1].json(&[&create[..], &SUBNETS].concat());
    for host in &town.hosts {
        within(A_SECOND, "the network is known", || {
            town.knows(host, "wide")
        });
        let seen: NetworkInfo = host.json(&["network", "inspect", "wide"]);
        assert_eq!(seen, made);
    }
    let (code, message) = town.hosts[0].refused(&create);
    assert_eq!(code, "already_exists", "{message}");

    let web = town.container(2, "wide", "web", &[]);
    within(SOON, "the endpoint is listed", || {
        let seen: NetworkInfo = town.hosts[0].json(&["network", "inspect", "wide"]);
        seen.endpoints == ["web"]
    });
    for host in &town.hosts {
        let (code, message) = host.refused(&["network", "rm", "wide"]);
        assert_eq!(code, "network_in_use", "{message}");
        assert!(message.contains("web"), "{message}");
    }
    drop(web);
    town.hosts[2].netbpf(&["detach", "web"]).ok();
    town.hosts[0].netbpf(&["network", "rm", "wide"]).ok();
    for host in &town.hosts {
        within(SOON, "the network is gone", || !town.knows(host, "wide"));
    }
    // What is listed is in the tables a little later.
    town.wait_for_all();
    for host in &town.hosts {
        // Nothing of it is left.
        assert!(!host.ip("route show table all").contains("10.30."));
        assert!(!host.ip("addr show dev lo").contains("10.30."));
        assert!(!host.ip("link show").contains("vxlan"));
    }
    assert!(town.etcd.keys("/netbpf/v1/blocks").is_empty());
}

#[test]
fn without_etcd_there_is_no_overlay() {
    let street = netbpf_tests::lab::street("without_etcd");
    let (code, message) = street
        .host
        .refused(&["network", "create", "wide", "--driver", "overlay"]);
    assert_eq!(code, "cluster_unavailable");
    assert!(
        message.contains("wide") && message.contains("--etcd"),
        "{message}"
    );
    let nodes: Vec<NodeInfo> = street.host.json(&["node", "ls"]);
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].this && nodes[0].name == "host");
    let status: StatusInfo = street.host.json(&["status"]);
    assert_eq!(status.cluster, None);
}

#[test]
fn names_and_addresses_are_agreed_on() {
    let Some(town) = Town::new("overlay_names", 2, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &["--ip", "10.30.7.7"]);
    assert_eq!(web.info.ipv4.as_deref(), Some("10.30.7.7/16"));
    let attach = |name: &str, flags: &[&str]| {
        let space = town.lab.space("late");
        let mut all = vec![
            "attach",
            "--name",
            name,
            "--netns",
            space.name(),
            "--network",
            "wide",
        ];
        all.extend(flags);
        town.hosts[1].refused(&all)
    };
    let (code, message) = attach("web", &[]);
    assert_eq!(code, "already_exists", "{message}");
    assert!(
        message.contains("web") && message.contains("n1"),
        "{message}"
    );
    let (code, message) = attach("other", &["--ip", "10.30.7.7"]);
    assert_eq!(code, "address_in_use", "{message}");
    assert!(
        message.contains("10.30.7.7") && message.contains("web"),
        "{message}"
    );

    // An address out of nobody's block, or of another node's, is found all the same.
    let app = town.container(1, "wide", "app", &[]);
    let first = web.addr(Family::V6);
    app.ping(web.addr(Family::V4));
    app.ping(first);
    // The other node's next address, asked for here.
    let mine = town.container(0, "wide", "mine", &[]);
    let std::net::IpAddr::V4(next) = mine.addr(Family::V4) else {
        unreachable!()
    };
    let next = std::net::Ipv4Addr::from_bits(next.to_bits() + 1).to_string();
    let guest = town.container(1, "wide", "guest", &["--ip", &next]);
    mine.ping(guest.addr(Family::V4));
    guest.ping(web.addr(Family::V4));
    // Its owner passes it over.
    let after = town.container(0, "wide", "after", &[]);
    assert_ne!(after.addr(Family::V4), guest.addr(Family::V4));
    after.ping(guest.addr(Family::V4));

    // It moves to another node at once, and is found there.
    town.hosts[1].netbpf(&["detach", "guest"]).ok();
    let moved = town.container(0, "wide", "moved", &["--ip", &next]);
    app.ping(moved.addr(Family::V4));
    mine.ping(moved.addr(Family::V4));
}

#[test]
fn containers_of_an_overlay_reach_outside_and_publish_on_their_node() {
    let Some(town) = Town::new("overlay_outside", 2, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let app = town.container(1, "wide", "app", &[]);
    let _client = Http::start(&town.client, 81);
    for (family, client) in Family::BOTH.into_iter().zip(CLIENT) {
        let client: std::net::IpAddr = client.parse().unwrap();
        let of = |number: usize| -> std::net::IpAddr {
            Town::addresses(number)[family as usize].parse().unwrap()
        };
        let seen = app.fetch(client, 81);
        assert_eq!(seen.peer, of(1), "masqueraded by its own node");
        assert_eq!(town.client.fetch(of(0), 8080).peer, client);
        // From the other node's container, by the node's address.
        assert_eq!(app.fetch(of(0), 8080).peer, of(1));
        // Of the other node's hosts nobody is reached by a container's address.
        town.client.cannot_ping(web.addr(family));
    }
}

#[test]
fn networks_of_one_subnet_stay_apart() {
    let Some(town) = Town::new("overlay_twins", 2, Family::V4) else {
        return;
    };
    let twin = |vni: &'static str| ["--subnet", "10.31.0.0/24", "--vni", vni];
    town.overlay("red", &twin("100"));
    town.overlay("blue", &twin("200"));
    let red = [
        town.container(0, "red", "red1", &["--ip", "10.31.0.5"]),
        town.container(1, "red", "red2", &["--ip", "10.31.0.6"]),
    ];
    let blue = [
        town.container(0, "blue", "blue1", &["--ip", "10.31.0.5", "-p", "8081:80"]),
        town.container(1, "blue", "blue2", &["--ip", "10.31.0.6"]),
    ];
    let servers: Vec<Http> = red
        .iter()
        .chain(&blue)
        .map(|c| Http::start(c, 80))
        .collect();
    let ip = |last: u8| std::net::IpAddr::from([10, 31, 0, last]);
    for (one, other, name) in [(&red[0], &red[1], "red"), (&blue[0], &blue[1], "blue")] {
        let seen = one.fetch(ip(6), 80);
        assert_eq!(
            (seen.peer, seen.server.as_str()),
            (ip(5), &*format!("{name}2"))
        );
        let seen = other.fetch(ip(5), 80);
        assert_eq!(
            (seen.peer, seen.server.as_str()),
            (ip(6), &*format!("{name}1"))
        );
    }
    // The second one publishes and reaches outside as well.
    let host: std::net::IpAddr = Town::addresses(0)[0].parse().unwrap();
    assert_eq!(town.client.fetch(host, 8081).server, "blue1");
    let client = Family::V4.ip(CLIENT);
    let _client = Http::start(&town.client, 82);
    for container in red.iter().chain(&blue) {
        container.fetch(client, 82);
    }
    // So do programs of the host, who have no route to it.
    for to in [host, "127.0.0.1".parse().unwrap()] {
        assert_eq!(town.hosts[0].fetch(to, 8081).server, "blue1");
    }
    // A container of the other twin sees an answer, too, and its peer no address of its own.
    assert_eq!(red[0].fetch(host, 8081).peer, ip(1));
    // The host itself reaches the first one's, and answers the second one's nothing.
    assert_eq!(town.hosts[0].fetch(ip(5), 80).server, "red1");
    let drops = town.hosts[0].drops();
    blue[0].cannot_ping("10.31.0.1".parse().unwrap());
    drops.only(&["isolated"]);
    drop(servers);
    // An address is free or not on each network by itself.
    let (code, _) = town.hosts[0].refused(&[
        "attach",
        "--name",
        "late",
        "--netns",
        blue[0].name(),
        "--network",
        "red",
        "--ip",
        "10.31.0.6",
    ]);
    assert_eq!(code, "address_in_use");
    town.hosts[0].kill();
    town.hosts[0].restart();
    red[0].ping(ip(6));
    blue[0].ping(ip(6));
}

#[test]
fn a_network_that_is_made_anew_is_another_one() {
    let Some(town) = Town::new("overlay_anew", 2, Family::V4) else {
        return;
    };
    let before = town.overlay("wide", &["--subnet", "10.32.0.0/24"]);
    let web = town.container(1, "wide", "web", &[]);
    town.hosts[1].netbpf(&["detach", "web"]).ok();
    // The other node sees no moment in which there was none.
    town.hosts[0].netbpf(&["network", "rm", "wide"]).ok();
    let anew = [
        "network",
        "create",
        "wide",
        "--driver",
        "overlay",
        "--subnet",
        "10.33.0.0/24",
        "--internal",
    ];
    let made: NetworkInfo = town.hosts[0].json(&anew);
    assert_eq!(made.vni, before.vni, "it is the lowest free one");
    within(SOON, "the other node has the new one", || {
        let output = town.hosts[1]
            .netbpf(&["-j", "network", "inspect", "wide"])
            .output();
        serde_json::from_str(&output.stdout).is_ok_and(|seen: NetworkInfo| seen == made)
    });
    town.wait_for_all();
    assert!(!town.hosts[1].ip("route").contains("10.32."));
    let web = town.hosts[1].attach(&web, "web", &["--network", "wide"]);
    assert!(web.ipv4.expect("an address").starts_with("10.33.0."));
    // Pruned are those that nobody has an endpoint on, on whatever node.
    town.overlay("spare", &[]);
    let pruned: Vec<String> = town.hosts[0].json(&["network", "prune"]);
    assert_eq!(pruned, ["spare"]);
}
