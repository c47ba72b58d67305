//! Overlay networks over two and three hosts with a real etcd; the town is drawn at
//! [`netbpf_tests::lab::Town`].

use std::time::Duration;

use netbpf::model::{Finding, NetworkInfo, NodeInfo, Severity, StatusInfo};
use netbpf_tests::lab::{Cmd, Family, Http, Ping, Town, UdpEcho, Wiretap, has_tools, within};

/// In which a change is to be known on all nodes.
const A_SECOND: Duration = Duration::from_secs(1);

const SUBNETS: [&str; 4] = ["--subnet", "10.30.0.0/16", "--subnet", "fd30::/64"];

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
    within(A_SECOND, "the endpoint is listed", || {
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
        within(A_SECOND, "the network is gone", || {
            !town.knows(host, "wide")
        });
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
fn the_daemons_and_etcd_do_not_matter_to_what_runs() {
    let Some(town) = Town::new("overlay_goes_on", 2, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    app.ping(web.addr(Family::V4));
    let pings: Vec<_> = Family::BOTH
        .into_iter()
        .map(|family| app.ping_stream(web.addr(family), 400))
        .collect();
    town.hosts[0].kill();
    town.hosts[0].restart();
    town.hosts[1].stop();
    town.etcd.kill();
    town.hosts[1].restart();
    for ping in pings {
        let output = ping.wait();
        assert_eq!(
            Ping::parse(&output),
            Ping {
                sent: 400,
                received: 400
            },
            "{output}"
        );
    }
    // Without etcd, out of this node's own block.
    let late = town.hosts[0].container(&town.lab, "late", &["--network", "wide"]);
    late.ping(web.addr(Family::V4));
    town.hosts[0].netbpf(&["detach", "web"]).ok();
    let status: StatusInfo = town.hosts[0].json(&["status"]);
    let state = status.cluster.expect("a cluster").state;
    assert_ne!(state, "connected");

    town.etcd.restart();
    within(Duration::from_secs(10), "all meets", || {
        let seen: NetworkInfo = town.hosts[1].json(&["network", "inspect", "wide"]);
        let mut endpoints = seen.endpoints;
        endpoints.sort();
        endpoints == ["app", "late"]
    });
    for family in Family::BOTH {
        app.ping(late.addr(family));
        late.ping(app.addr(family));
    }
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
    for (family, client) in Family::BOTH
        .into_iter()
        .zip(netbpf_tests::lab::names::CLIENT)
    {
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
fn a_node_that_dies_leaves_the_listings_and_can_be_removed() {
    let Some(town) = Town::new("overlay_node", 3, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    let (code, message) = town.hosts[0].refused(&["node", "rm", "n2"]);
    assert_eq!(code, "conflict", "{message}");
    town.hosts[1].kill();
    let node = |name: &str| -> NodeInfo { town.hosts[0].json(&["node", "inspect", name]) };
    within(Duration::from_secs(10), "the node is away", || {
        node("n2").state == netbpf::model::NodeState::Away
    });
    let listed = || {
        let seen: NetworkInfo = town.hosts[0].json(&["network", "inspect", "wide"]);
        seen.endpoints
    };
    assert_eq!(listed(), ["web"]);
    // Its daemon is dead, its containers are not.
    web.ping(app.addr(Family::V4));
    town.hosts[1].restart();
    within(Duration::from_secs(5), "it is back", || {
        listed() == ["web", "app"]
    });
    app.ping(web.addr(Family::V4));

    town.hosts[1].kill();
    within(Duration::from_secs(10), "the node is away", || {
        node("n2").state == netbpf::model::NodeState::Away
    });
    town.hosts[0].netbpf(&["node", "rm", "n2"]).ok();
    within(A_SECOND, "it is gone", || {
        let nodes: Vec<NodeInfo> = town.hosts[2].json(&["node", "ls"]);
        nodes.iter().all(|node| node.name != "n2")
    });
    within(A_SECOND, "its containers are not reached", || {
        !web.ping_with(app.addr(Family::V4), &[]).status.success()
    });
    let drained: NodeInfo = town.hosts[0].json(&["node", "drain", "n3"]);
    assert!(drained.drained);
    let space = town.lab.space("late");
    let attach = [
        "attach",
        "--name",
        "late",
        "--netns",
        space.name(),
        "--network",
        "wide",
    ];
    let (code, message) = town.hosts[2].refused(&attach);
    assert_eq!(code, "conflict", "{message}");
    town.hosts[0]
        .netbpf(&["node", "drain", "n3", "--undo"])
        .ok();
    town.hosts[2].netbpf(&attach).ok();
}

#[test]
fn the_mtu_follows_the_uplink() {
    let Some(town) = Town::new("overlay_mtu", 2, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    let _http = Http::start(&web, 80);
    let mtu = |container: &netbpf_tests::lab::Container| {
        let links = container.ip_json("link show dev eth0");
        links[0]["mtu"].as_u64().expect("an MTU")
    };
    assert_eq!((mtu(&web), mtu(&app)), (1450, 1450));
    for (number, host) in town.hosts.iter().enumerate() {
        host.ip("link set up0 mtu 1400");
        town.lan.ip(&format!("link set n{} mtu 1400", number + 1));
    }
    within(Duration::from_secs(5), "the containers follow", || {
        (mtu(&web), mtu(&app)) == (1350, 1350)
    });
    for family in Family::BOTH {
        app.fetch_big(web.addr(family), 80);
    }
    let seen: NetworkInfo = town.hosts[0].json(&["network", "inspect", "wide"]);
    assert_eq!(seen.mtu, 1350);
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
    let client = Family::V4.ip(netbpf_tests::lab::names::CLIENT);
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
fn others_vxlan_on_the_same_port_goes_on() {
    let Some(town) = Town::new("overlay_beside", 2, Family::V4) else {
        return;
    };
    // As Docker's overlay has it: made on the host, moved into a namespace of its own.
    let sandbox = town.lab.space("sandbox");
    let [own, peer] = [Town::addresses(0)[0].clone(), "192.0.2.2".into()];
    let device = |space: &netbpf_tests::lab::Namespace, local: &str, remote: &str| {
        space.ip(&format!(
            "link add vx77 type vxlan id 77 dstport 4789 local {local} remote {remote} nolearning"
        ));
    };
    device(&town.client, &peer, &own);
    town.client.address("vx77", &["10.77.0.2/24"]);
    device(&town.hosts[0], &own, &peer);
    town.hosts[0].ip(&format!("link set vx77 netns {}", sandbox.name()));
    sandbox.address("vx77", &["10.77.0.1/24"]);
    sandbox.ping("10.77.0.2".parse().unwrap());

    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    web.ping(app.addr(Family::V4));
    sandbox.ping("10.77.0.2".parse().unwrap());
    town.client.ping("10.77.0.1".parse().unwrap());
    town.hosts[0].netbpf(&["detach", "web"]).ok();
    town.hosts[1].netbpf(&["detach", "app"]).ok();
    town.hosts[0].netbpf(&["network", "rm", "wide"]).ok();
    sandbox.ping("10.77.0.2".parse().unwrap());
    // One that comes while ours is there is noticed, too.
    town.overlay("wide", &SUBNETS);
    sandbox.ip("link del vx77");
    device(&town.hosts[0], &own, &peer);
    town.hosts[0].address("vx77", &["10.77.0.1/24"]);
    within(Duration::from_secs(10), "the other's VXLAN passes", || {
        let to = "10.77.0.1".parse().unwrap();
        town.client.ping_with(to, &[]).status.success()
    });
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
    within(A_SECOND, "the other node has the new one", || {
        let output = town.hosts[1]
            .netbpf(&["-j", "network", "inspect", "wide"])
            .output();
        serde_json::from_str(&output.stdout).is_ok_and(|seen: NetworkInfo| seen == made)
    });
    assert!(!town.hosts[1].ip("route").contains("10.32."));
    let web = town.hosts[1].attach(&web, "web", &["--network", "wide"]);
    assert!(web.ipv4.expect("an address").starts_with("10.33.0."));
    // Pruned are those that nobody has an endpoint on, on whatever node.
    town.overlay("spare", &[]);
    let pruned: Vec<String> = town.hosts[0].json(&["network", "prune"]);
    assert_eq!(pruned, ["spare"]);
}

#[test]
fn a_plain_vxlan_device_of_linux_is_a_peer() {
    let Some(town) = Town::new("overlay_linux_peer", 1, Family::V4) else {
        return;
    };
    let made = town.overlay("wide", &["--subnet", "10.30.0.0/16", "--vni", "4242"]);
    let web = town.container(0, "wide", "web", &[]);
    let _http = Http::start(&web, 80);
    // The client has an address of the network, by a device of its own.
    let peer = &town.client;
    let own = Town::addresses(0)[0].clone();
    peer.ip(&format!(
        "link add vx0 type vxlan id 4242 dstport 4789 local 192.0.2.2 remote {own} nolearning"
    ));
    peer.ip(&format!("link set vx0 mtu {}", made.mtu));
    peer.address("vx0", &["10.30.200.1/16"]);
    let mac = peer.mac("vx0").map(|b| format!("{b:02x}")).join(":");
    peer.ip(&format!(
        "neigh add {} lladdr 02:6e:65:74:62:70 dev vx0 nud permanent",
        web.addr(Family::V4)
    ));
    // And is registered by hand, as docs/cluster.md says.
    let node = format!(
        r#"{{"v":1,"name":"linux","id":"by hand","address":"192.0.2.2","mtu":1500,"port":4789,"mac":"{mac}","version":""}}"#
    );
    town.etcd.ctl(&["put", "/netbpf/v1/nodes/linux", &node]);
    town.etcd.ctl(&[
        "put",
        "/netbpf/v1/addresses/wide/10.30.200.1",
        r#"{"v":1,"node":"linux","endpoint":"linux"}"#,
    ]);
    let address = "10.30.200.1".parse().unwrap();
    within(Duration::from_secs(5), "the peer is known", || {
        web.ping_with(address, &[]).status.success()
    });
    peer.ping(web.addr(Family::V4));
    assert_eq!(peer.fetch(web.addr(Family::V4), 80).peer, address);
    let _back = Http::start(peer, 81);
    assert_eq!(web.fetch(address, 81).peer, web.addr(Family::V4));
    web.fetch_big(address, 81);
    peer.fetch_big(web.addr(Family::V4), 80);
}

#[test]
fn a_smaller_way_between_nodes_is_learned() {
    let Some(town) = Town::without_daemons("overlay_path_mtu", 2, Family::V4) else {
        return;
    };
    // The second node is behind a router whose wire to it is smaller.
    let router = town.lab.space("router");
    router.sysctl("net.ipv4.ip_forward", "1");
    town.lab.wire(
        (&town.lan, "router", &[]),
        (&router, "lan", &["192.0.2.9/24"]),
    );
    town.lan.ip("link set router master br0");
    town.lab.wire(
        (&router, "far", &["198.51.100.1/24"]),
        (&town.hosts[1], "up1", &["198.51.100.2/24"]),
    );
    router.ip("link set far mtu 1400");
    town.hosts[1].ip("link set up1 mtu 1400");
    town.hosts[1].ip("addr del 192.0.2.12/24 dev up0");
    town.hosts[1].ip("link set up0 down");
    town.hosts[1].ip("route replace default via 198.51.100.1");
    for space in [&*town.hosts[0], &town.lan] {
        space.ip("route add 198.51.100.0/24 via 192.0.2.9");
    }
    town.start(0, &[]);
    let url = town.etcd.url();
    town.hosts[1].start(&["--etcd", &url, "--node-ip", "198.51.100.2"]);
    town.wait_for_nodes();
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    let _http = [Http::start(&web, 80), Http::start(&app, 80)];
    for family in Family::BOTH {
        web.fetch_big(app.addr(family), 80);
        app.fetch_big(web.addr(family), 80);
        let header = if family == Family::V4 { 28 } else { 48 };
        let sized =
            |size: usize| web.ping_with(app.addr(family), &["-M", "do", "-s", &size.to_string()]);
        // Told by our program, which the router has told.
        within(
            Duration::from_secs(2),
            "the MTU of the way is known",
            || {
                let output = sized(1450 - header);
                output.stdout.contains("mtu") || output.stderr.contains("too long")
            },
        );
        assert!(
            sized(1350 - header).status.success(),
            "{}",
            sized(1350 - header)
        );
    }
}

#[test]
fn what_others_change_in_the_tables_is_put_right() {
    let Some(town) = Town::new("overlay_repair", 2, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    web.ping(app.addr(Family::V4));
    use aya::maps::{HashMap, Map, MapData};
    let pin = town.hosts[0].bpffs().join("vteps");
    let data = MapData::from_pin(&pin).unwrap_or_else(|e| panic!("{}: {e}", pin.display()));
    let mut vteps: HashMap<_, [u8; 16], u32> = Map::HashMap(data).try_into().unwrap();
    let keys: Vec<[u8; 16]> = vteps.keys().flatten().collect();
    for key in &keys {
        vteps.remove(key).unwrap();
    }
    assert!(!app.ping_with(web.addr(Family::V4), &[]).status.success());
    within(Duration::from_secs(45), "the table is put right", || {
        app.ping_with(web.addr(Family::V4), &[]).status.success()
    });
    let status: StatusInfo = town.hosts[0].json(&["status"]);
    let repaired = status.cluster.expect("a cluster").tables_repaired;
    assert_eq!(repaired, keys.len() as u64);
}

/// A capture file of these frames (draft-ietf-opsawg-pcap).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_ne_bytes());
    }
    for frame in frames {
        let length = frame.len() as u32;
        for word in [0, 0, length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

#[test]
fn others_decode_what_goes_between_nodes() {
    if !has_tools("others_decode_what_goes_between_nodes", &["tshark"]) {
        return;
    }
    for outer in Family::BOTH {
        let test = format!("overlay_decoded_{outer:?}").to_lowercase();
        let Some(town) = Town::new(&test, 2, outer) else {
            return;
        };
        town.overlay("wide", &[&SUBNETS[..], &["--vni", "4711"]].concat());
        let web = town.container(0, "wide", "web", &[]);
        let app = town.container(1, "wide", "app", &[]);
        let (_http, _udp) = (Http::start(&web, 80), UdpEcho::start(&web, 7777));
        let wire = Wiretap::open(&town.lan, "n1");
        for family in Family::BOTH {
            app.ping(web.addr(family));
            app.fetch(web.addr(family), 80);
            app.ask_udp(web.addr(family), 7777);
            app.ping_with(web.addr(family), &["-s", "4000"]);
        }
        let file = town.lab.dir().join("wire.pcap");
        std::fs::write(&file, pcap(&wire.seen())).expect("write the capture");
        let file = file.display().to_string();
        let tshark = |arguments: &[&str]| {
            // Those of UDP and TCP inside are left to the card, which these wires lack.
            let base = [
                "tshark",
                "-r",
                &file,
                "-o",
                "ip.check_checksum:TRUE",
                "-o",
                "udp.ignore_ipv6_zero_checksum:TRUE",
            ];
            Cmd::new(&[&base[..], arguments].concat()).ok()
        };
        let wrong =
            "vxlan && (_ws.malformed || ip.checksum.status == 0 || _ws.expert.severity == error)";
        assert_eq!(tshark(&["-Y", wrong]), "", "{outer:?}");
        let numbers = tshark(&["-Y", "vxlan", "-T", "fields", "-e", "vxlan.vni"]);
        assert!(numbers.lines().count() > 20, "{numbers}");
        assert!(numbers.lines().all(|vni| vni == "4711"), "{numbers}");
        for inside in ["icmp", "icmpv6", "http", "udp.dstport == 7777"] {
            let found = tshark(&["-Y", &format!("vxlan && {inside}")]);
            assert!(!found.is_empty(), "no {inside} in the capture, {outer:?}");
        }
    }
}
