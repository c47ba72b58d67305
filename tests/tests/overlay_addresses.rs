//! Whose an address of an overlay network is, when blocks are full and containers come and
//! go, with a real etcd; the town is drawn at [`netbpf_tests::lab::Town`].

use std::net::IpAddr;

use netbpf::model::{EndpointInfo, NetworkInfo, NodeInfo, NodeState, StatusInfo};
use netbpf_tests::lab::{
    Container, Crowd, Family, Http, Pulse, Runtime, SOON, Town, UdpEcho, address_of,
    names::SUBNETS, within,
};
use serde_json::json;

/// Eight addresses, of which two blocks of four are made: one for each of two nodes.
const NARROW: [&str; 4] = ["--subnet", "10.30.0.0/29", "--subnet", "fd30::/125"];

fn last(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}

#[track_caller]
fn refused(town: &Town, host: usize, name: &str) -> (String, String) {
    let space = town.lab.space("late");
    let netns = space.name();
    let attach = ["attach", "--name", name, "--netns", netns, "--network"];
    town.hosts[host].refused(&[&attach[..], &["wide"]].concat())
}

#[test]
fn a_subnet_is_used_to_its_last_address_and_what_is_given_back_rests() {
    let Some(town) = Town::new("overlay_narrow", 2, Family::V4) else {
        return;
    };
    town.overlay("wide", &NARROW);
    let first = town.container(0, "wide", "a2", &[]);
    let theirs = town.container(1, "wide", "b4", &[]);
    assert_eq!(last(first.addr(Family::V4)), 2, "behind the gateway");
    assert_eq!(last(theirs.addr(Family::V4)), 4, "of the second block");
    // The rest goes to the first node: what its block has, then of the other's.
    let mut mine: Vec<Container> = vec![first];
    for number in 0..3 {
        mine.push(town.container(0, "wide", &format!("a{number}-more"), &[]));
    }
    // IPv6 has no broadcast address, and the last ones are taken first.
    for (family, expected) in Family::BOTH.into_iter().zip([[2, 3, 5, 6], [2, 3, 6, 7]]) {
        let mut all: Vec<u8> = mine.iter().map(|c| last(c.addr(family))).collect();
        all.sort_unstable();
        assert_eq!(all, expected);
    }
    for host in [0, 1] {
        let (code, message) = refused(&town, host, "late");
        assert_eq!(code, "pool_exhausted", "{message}");
        assert!(message.contains("10.30.0.0/29"), "{message}");
        assert!(!message.contains("rest"), "{message}");
    }
    // All are reached from everywhere, whosever block they are in.
    let nodes: Vec<NodeInfo> = town.hosts[0].json(&["node", "ls"]);
    assert_eq!(nodes.iter().map(|n| n.blocks.len()).sum::<usize>(), 4);
    for family in Family::BOTH {
        for container in &mine {
            theirs.ping(container.addr(family));
            container.ping(theirs.addr(family));
        }
    }

    // Of the other node's block: neither gives it out at once.
    let guest = mine.iter().find(|c| last(c.addr(Family::V4)) == 6);
    let guest = guest.expect("it is there");
    guest.detach();
    town.wait_for_all();
    let rests = || {
        for host in [0, 1] {
            let (code, message) = refused(&town, host, "late");
            assert_eq!(code, "pool_exhausted", "{message}");
            assert!(message.contains("rest for 60 s"), "{message}");
        }
    };
    rests();
    // The next daemon knows of it, be it another node's doing.
    for host in &town.hosts {
        host.stop();
        host.restart();
    }
    town.wait_for_nodes();
    rests();
    // For the asking it is there, on the node of its block, and no stale way leads back.
    let [v4, v6] = Family::BOTH.map(|family| guest.addr(family).to_string());
    let wish = ["--ip", &v4, "--ip", &v6];
    let moved = town.container(1, "wide", "moved", &wish);
    for family in Family::BOTH {
        mine[0].ping(moved.addr(family));
        moved.ping(mine[0].addr(family));
    }
    // And back again.
    moved.detach();
    let again = town.container(0, "wide", "again", &wish);
    for family in Family::BOTH {
        theirs.ping(again.addr(family));
        mine[0].ping(again.addr(family));
    }
}

#[test]
fn what_a_teardown_has_given_back_rests_too() {
    let Some(town) = Town::new("overlay_teardown", 1, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let before = town.container(0, "wide", "before", &[]);
    town.hosts[0].netbpf(&["teardown"]).ok();
    town.hosts[0].wait_ended();
    town.hosts[0].restart();
    town.wait_for_nodes();
    let after = town.container(0, "wide", "after", &[]);
    for family in Family::BOTH {
        assert_ne!(before.addr(family), after.addr(family));
    }
}

#[test]
fn an_address_is_followed_to_whichever_node_has_it() {
    let Some(town) = Town::new("overlay_moves", 3, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let app = town.container(2, "wide", "app", &[]);
    let wish = ["--ip", "10.30.77.7", "--ip", "fd30::777"];
    for round in 0..6 {
        let host = round % 2;
        let name = format!("web{round}");
        let web = town.container(host, "wide", &name, &wish);
        let _http = Http::start(&web, 80);
        for family in Family::BOTH {
            // One connection and one ping alike: neither an old neighbour nor an old way.
            let seen = app.fetch(web.addr(family), 80);
            assert_eq!((seen.peer, seen.server), (app.addr(family), name.clone()));
            app.ping(web.addr(family));
        }
        web.detach();
    }
}

#[test]
fn a_node_that_is_cut_off_from_etcd_alone_goes_on() {
    let Some(town) = Town::new("overlay_cut_off", 3, Family::V4) else {
        return;
    };
    town.overlay("wide", &SUBNETS);
    let containers = [0, 1, 2].map(|n| town.container(n, "wide", &format!("c{n}"), &[]));
    let leaving = town.container(1, "wide", "leaving", &[]);
    let echoes = containers.each_ref().map(|c| UdpEcho::start(c, 7));
    let pulses: Vec<Pulse> = [(1, 0), (1, 2), (0, 1)]
        .into_iter()
        .flat_map(|(from, to): (usize, usize)| {
            let (from, to) = (&containers[from], &containers[to]);
            Family::BOTH.map(|family| Pulse::start(from, to.addr(family), 7))
        })
        .collect();
    // Whatever it sends there is lost, as where a switch fails.
    let rule = ["OUTPUT", "-d", "192.0.2.1", "-p", "tcp", "-j", "DROP"];
    let cut = |verb: &str| {
        let words = [&["iptables", verb][..], &rule].concat();
        town.hosts[1].run(&words).ok();
    };
    cut("-A");
    let node =
        |host: usize, name: &str| -> NodeInfo { town.hosts[host].json(&["node", "inspect", name]) };
    let lease = 3 * SOON;
    within(lease, "the others see it away", || {
        node(0, "n2").state == NodeState::Away && node(2, "n2").state == NodeState::Away
    });
    let state = || -> String {
        let status: StatusInfo = town.hosts[1].json(&["status"]);
        status.cluster.expect("a cluster").state
    };
    within(lease, "it knows", || state() == "away");
    let listed = || -> Vec<String> {
        let seen: NetworkInfo = town.hosts[0].json(&["network", "inspect", "wide"]);
        seen.endpoints
    };
    assert_eq!(listed(), ["c0", "c2"]);
    // New containers on both sides, new connections both ways.
    let late = town.hosts[1].container(&town.lab, "late", &["--network", "wide"]);
    let new = town.hosts[0].container(&town.lab, "new", &["--network", "wide"]);
    let _servers = [Http::start(&late, 80), Http::start(&new, 80)];
    for family in Family::BOTH {
        assert_eq!(containers[0].fetch(late.addr(family), 80).server, "late");
        assert_eq!(containers[2].fetch(late.addr(family), 80).server, "late");
        assert_eq!(late.fetch(new.addr(family), 80).server, "new");
    }
    // What leaves now is told later; what needs the others is refused by name.
    leaving.detach();
    let (code, message) = town.hosts[1].refused(&["network", "rm", "wide"]);
    assert_ne!(code, "internal", "{message}");
    cut("-D");
    within(lease, "all meets", || {
        let mut listed = listed();
        listed.sort();
        listed == ["c0", "c1", "c2", "late", "new"]
    });
    assert_eq!(node(2, "n2").state, NodeState::Alive);
    for pulse in pulses {
        pulse.finish_whole();
    }
    drop(echoes);
    let status: StatusInfo = town.hosts[1].json(&["status"]);
    let cluster = status.cluster.expect("a cluster");
    assert_eq!((cluster.drift_repaired, cluster.tables_repaired), (0, 0));
}

#[test]
fn cni_makes_an_overlay_for_all_nodes() {
    let Some(town) = Town::new("overlay_cni", 2, Family::V4) else {
        return;
    };
    let spaces = [town.lab.space("c0"), town.lab.space("c1")];
    let runtimes = [0, 1].map(|n| {
        Runtime::new(&town.lab, &town.hosts[n], "1.1.0")
            .with("driver", json!("overlay"))
            .with("subnets", json!(["10.30.0.0/16", "fd30::/64"]))
    });
    // Each runtime has the same configuration; whichever is first makes the network.
    for (number, (runtime, space)) in runtimes.iter().zip(&spaces).enumerate() {
        space.ip("link set lo up");
        runtime.add(&format!("c{number}-id"), space);
    }
    town.wait_for_all();
    let endpoints: Vec<EndpointInfo> = [0, 1]
        .into_iter()
        .flat_map(|n| town.hosts[n].endpoints())
        .collect();
    assert_eq!(endpoints.len(), 2);
    for family in Family::BOTH {
        spaces[0].ping(address_of(&endpoints[1], family));
        spaces[1].ping(address_of(&endpoints[0], family));
    }
    for (number, (runtime, space)) in runtimes.iter().zip(&spaces).enumerate() {
        let deleted = runtime.call("DEL", &format!("c{number}-id"), "eth0", Some(space));
        assert!(deleted.ok, "{:?}", deleted.value);
    }
    within(SOON, "nothing is left in etcd", || {
        town.etcd.keys("/netbpf/v1/endpoints").is_empty()
    });
    assert!(town.etcd.keys("/netbpf/v1/addresses").is_empty());
}

/// Two hundred nodes with a hundred endpoints each.
#[test]
fn twenty_thousand_endpoints_are_followed() {
    let Some(town) = Town::new("overlay_crowd", 1, Family::V4) else {
        return;
    };
    let (host, nodes, each) = (&town.hosts[0], 200, 100);
    let wide = town.overlay("wide", &SUBNETS);
    let app = town.container(0, "wide", "app", &[]);
    let mut crowd = Crowd::put(&town.etcd, &wide, nodes, each);
    town.wait_for_all();
    let ways = || {
        let status: StatusInfo = host.json(&["status"]);
        let cluster = status.cluster.expect("a cluster");
        assert_eq!((cluster.unreadable, cluster.tables_repaired), (0, 0));
        let tunnels = status.maps.iter().find(|map| map.name == "tunnels");
        tunnels.and_then(|map| map.entries).expect("its entries")
    };
    // Blocks, and what lives elsewhere; not one for each container.
    let all = crowd.ways() as u64;
    assert_eq!(ways(), all);
    assert!(all < 2000);
    let listed = || -> usize {
        let seen: NetworkInfo = host.json(&["network", "inspect", "wide"]);
        seen.endpoints.len()
    };
    assert_eq!(listed(), nodes * each + 1);
    let of_nodes: Vec<NodeInfo> = host.json(&["node", "ls"]);
    assert_eq!(of_nodes.len(), nodes + 1);
    let one = of_nodes.iter().find(|node| node.name == Crowd::name(7));
    assert_eq!(one.map(|node| node.endpoints), Some(each));

    // A start lists all of it, and changes nothing.
    host.kill();
    host.restart();
    town.wait_for_all();
    assert_eq!((ways(), listed()), (all, nodes * each + 1));
    // A thousand containers are started anew.
    crowd.restart((0..nodes).flat_map(|node| (0..5).map(move |number| (node, number))));
    town.wait_for_all();
    assert_eq!(ways(), all);
    // One more here, among all of them.
    let other = town.container(0, "wide", "other", &[]);
    app.ping(other.addr(Family::V4));
    // All of them die; what they have stays reachable until somebody says otherwise.
    crowd.end();
    town.wait_for_all();
    within(SOON, "they have left the listing", || listed() == 2);
    assert_eq!(ways(), all);
    host.netbpf(&["node", "rm", &Crowd::name(7)]).ok();
    town.wait_for_all();
    within(SOON, "its ways are gone", || ways() < all);
}
