//! Nodes of an overlay that stop, die, come back and change, with a real etcd; the town is
//! drawn at [`netbpf_tests::lab::Town`].

use std::time::Duration;

use netbpf::model::{NetworkInfo, NodeInfo, NodeState, StatusInfo};
use netbpf_common::maps::{Tunnel, TunnelKey};
use netbpf_tests::lab::{Container, Family, Http, LEASE, Ping, SOON, Town, names::SUBNETS, within};

/// In which a node whose daemon is dead is away, or back: longer than its lease.
const A_LEASE: Duration = Duration::from_secs(20);

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
    within(A_LEASE, "all meets", || {
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
    within(A_LEASE, "the node is away", || {
        node("n2").state == NodeState::Away
    });
    let listed = || {
        let seen: NetworkInfo = town.hosts[0].json(&["network", "inspect", "wide"]);
        seen.endpoints
    };
    assert_eq!(listed(), ["web"]);
    // Its daemon is dead, its containers are not.
    web.ping(app.addr(Family::V4));
    town.hosts[1].restart();
    within(A_LEASE, "it is back", || listed() == ["web", "app"]);
    app.ping(web.addr(Family::V4));

    town.hosts[1].kill();
    within(A_LEASE, "the node is away", || {
        node("n2").state == NodeState::Away
    });
    town.hosts[0].netbpf(&["node", "rm", "n2"]).ok();
    within(SOON, "it is gone", || {
        let nodes: Vec<NodeInfo> = town.hosts[2].json(&["node", "ls"]);
        nodes.iter().all(|node| node.name != "n2")
    });
    within(SOON, "its containers are not reached", || {
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
fn a_node_that_is_purged_leaves_the_cluster() {
    let Some(town) = Town::new("overlay_purge", 2, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    web.ping(app.addr(Family::V4));
    town.hosts[1].netbpf(&["teardown", "--purge"]).ok();
    town.hosts[1].wait_ended();
    // At once, not when its lease would end.
    let keys = town
        .etcd
        .ctl(&["get", "--prefix", "--keys-only", "/netbpf/v1/"]);
    let of_node: Vec<&str> = keys.lines().filter(|key| key.contains("n2")).collect();
    assert!(of_node.is_empty(), "{of_node:?}");
    within(SOON, "it is gone", || {
        let nodes: Vec<NodeInfo> = town.hosts[0].json(&["node", "ls"]);
        nodes.iter().all(|node| node.name != "n2")
    });
    let drops = town.hosts[0].drops();
    web.run(&["ping", "-c1", "-W1", &app.addr(Family::V4).to_string()])
        .fails();
    drops.only(&["host_unreachable"]);
    // Blocks and addresses are for others, the name for whoever comes.
    let keys = keys.lines().filter(|key| key.contains("/blocks/"));
    assert_eq!(keys.count(), 2, "one for each family");
    town.start(1, &[]);
    town.wait_for_nodes();
    let again = town.container(1, "wide", "again", &[]);
    web.ping(again.addr(Family::V4));
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
    let mtu = |container: &Container| {
        let links = container.ip_json("link show dev eth0");
        links[0]["mtu"].as_u64().expect("an MTU")
    };
    assert_eq!((mtu(&web), mtu(&app)), (1450, 1450));
    for (number, host) in town.hosts.iter().enumerate() {
        host.ip("link set up0 mtu 1400");
        town.lan.ip(&format!("link set n{} mtu 1400", number + 1));
    }
    within(SOON, "the containers follow", || {
        (mtu(&web), mtu(&app)) == (1350, 1350)
    });
    for family in Family::BOTH {
        app.fetch_big(web.addr(family), 80);
    }
    let seen: NetworkInfo = town.hosts[0].json(&["network", "inspect", "wide"]);
    assert_eq!(seen.mtu, 1350);
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
    let pin = town.hosts[0].bpffs().join("tunnels");
    let data = MapData::from_pin(&pin).unwrap_or_else(|e| panic!("{}: {e}", pin.display()));
    let mut tunnels: HashMap<_, TunnelKey, Tunnel> = Map::HashMap(data).try_into().unwrap();
    let mut removed = 0;
    // A repair may come between the removal and the question: then once more.
    let is_cut = (0..5).any(|_| {
        let keys: Vec<TunnelKey> = tunnels.keys().flatten().collect();
        for key in keys {
            tunnels.remove(&key).unwrap();
            removed += 1;
        }
        !app.ping_with(web.addr(Family::V4), &[]).status.success()
    });
    assert!(is_cut, "it goes on without");
    within(Duration::from_secs(45), "the table is put right", || {
        app.ping_with(web.addr(Family::V4), &[]).status.success()
    });
    within(SOON, "each is counted", || {
        let status: StatusInfo = town.hosts[0].json(&["status"]);
        status.cluster.expect("a cluster").tables_repaired == removed
    });
}

#[test]
fn the_address_of_a_node_is_followed_unless_it_was_given() {
    let Some(town) = Town::without_daemons("overlay_address", 2, Family::V4) else {
        return;
    };
    let url = town.etcd.url();
    // By the default route's source.
    town.hosts[0].start(&["--etcd", &url, "--lease-ttl", LEASE]);
    town.start(1, &[]);
    town.wait_for_nodes();
    let address_of = |name: &str| {
        let node: NodeInfo = town.hosts[1].json(&["node", "inspect", name]);
        node.address.map(|ip| ip.to_string())
    };
    assert_eq!(address_of("n1").as_deref(), Some("192.0.2.11"));
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    app.ping(web.addr(Family::V4));

    let host = &town.hosts[0];
    host.address("up0", &["192.0.2.31/24"]);
    // One more changes nothing.
    app.ping(web.addr(Family::V4));
    // The other one takes over at once: a daemon that is quick would else find the host
    // with a way out by IPv6 alone, and be content with that.
    host.sysctl("net.ipv4.conf.up0.promote_secondaries", "1");
    host.ip("addr del 192.0.2.11/24 dev up0");
    within(Duration::from_secs(10), "the node has moved", || {
        address_of("n1").as_deref() == Some("192.0.2.31")
    });
    // What is listed comes into the tables a little later.
    town.wait_for_all();
    for family in Family::BOTH {
        within(SOON, "its containers are reached", || {
            app.ping_with(web.addr(family), &[]).status.success()
        });
        web.ping(app.addr(family));
    }
    host.kill();
    host.restart();
    app.ping(web.addr(Family::V4));

    // What was given is kept, also where the host has it no more.
    town.hosts[1].ip("addr add 192.0.2.32/24 dev up0");
    town.hosts[1].ip("addr del 192.0.2.12/24 dev up0");
    town.hosts[1].gain("up0", &["192.0.2.33/24"]);
    assert_eq!(address_of("n2").as_deref(), Some("192.0.2.12"));
}

#[test]
fn a_daemon_is_ready_when_it_has_what_the_cluster_has() {
    let Some(town) = Town::without_daemons("overlay_first", 2, Family::V4) else {
        return;
    };
    town.start(0, &[]);
    let create = ["network", "create", "wide", "--driver", "overlay"];
    let made: NetworkInfo = town.hosts[0].json(&[&create[..], &SUBNETS].concat());
    assert_eq!(made.vni, Some(1));
    let web = town.container(0, "wide", "web", &[]);
    town.start(1, &[]);
    let app = town.hosts[1].container(&town.lab, "app", &["--network", "wide"]);
    for family in Family::BOTH {
        app.ping(web.addr(family));
    }
}

#[test]
fn what_etcd_has_to_agree_to_is_named_when_it_is_away() {
    let Some(town) = Town::new("overlay_away", 1, Family::V4) else {
        return;
    };
    let host = &town.hosts[0];
    town.overlay("wide", &SUBNETS);
    town.overlay("empty", &[]);
    // With it the node has its blocks.
    let _first = town.container(0, "wide", "first", &[]);
    let space = town.lab.space("web");
    let far = [
        "attach",
        "--name",
        "web",
        "--netns",
        space.name(),
        "--network",
        "wide",
        "--ip",
        "10.30.9.9",
    ];
    town.etcd.kill();
    within(A_LEASE, "etcd is missed", || {
        let status: StatusInfo = host.json(&["status"]);
        status.cluster.is_some_and(|of| of.state == "away")
    });
    let asks: [(&[&str], &str); 5] = [
        (
            &["network", "create", "late", "--driver", "overlay"],
            "overlay network \"late\" cannot be made: ",
        ),
        (
            &["network", "rm", "empty"],
            "overlay network \"empty\" cannot be removed: ",
        ),
        (&["node", "rm", "n7"], "node \"n7\" cannot be removed: "),
        (&["node", "drain", "n1"], "node \"n1\" cannot be drained: "),
        (
            &far,
            "endpoint \"web\" on network \"wide\": address 10.30.9.9",
        ),
    ];
    let url = town.etcd.url();
    for (asked, begins) in asks {
        let (code, message) = host.refused(asked);
        assert_eq!(code, "cluster_unavailable", "{message}");
        assert!(
            message.starts_with(begins) && message.contains(&url),
            "{message}"
        );
    }
    let names: Vec<String> = host.endpoints().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["first"]);
}
