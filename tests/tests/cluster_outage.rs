//! etcd is killed, frozen, cut off, compacted and restored from an old copy: nodes notice,
//! keep their picture, and meet again.

use std::time::{Duration, Instant};

use netbpf::cluster::{Cluster, Key, Link, Options, Overlap, Refusal, View, Vni};
use netbpf_tests::{
    lab::{Etcd, EtcdPrograms, Lab, until, within},
    nodes::{LONG, Town, endpoint, holding, is_made, me, network, on, options, owner, sees, start},
};

/// In which an etcd that is gone, silent or back is noticed.
const NOTICED: Duration = Duration::from_secs(6);

/// A node asks each minute who the members are: once more, if they were just choosing.
const MEMBERS_KNOWN: Duration = Duration::from_secs(80);

#[track_caller]
fn goes_away(node: &Cluster) -> Duration {
    let began = Instant::now();
    within(LONG, "the node is away", || {
        matches!(node.state().link, Link::Away { .. })
    });
    assert!(node.state().last_error.is_some());
    began.elapsed()
}

#[track_caller]
fn comes_back(node: &Cluster) {
    let back = until(LONG, || node.state().is_connected());
    assert!(back, "{:?}", node.state());
}

#[test]
fn what_changes_while_etcd_is_dead_is_there_when_it_is_back() {
    Town::each(
        "what_changes_while_etcd_is_dead_is_there_when_it_is_back",
        |town| {
            let (one, two) = town.two();
            town.network(&one, "front", "10.7.0.0/16");
            let (web, db) = (
                on("n1", endpoint("front", "web", &["10.7.0.2"])),
                on("n1", endpoint("front", "db", &["10.7.0.3"])),
            );
            town.wait(one.claim_endpoint(&web)).expect("free");
            one.set_mine(holding(std::slice::from_ref(&web)));
            sees(&two, "web", |view| owner(view, "front", "web").is_some());

            town.etcd.kill();
            let noticed = goes_away(&one);
            assert!(noticed < NOTICED, "{noticed:?}");
            let asked = Instant::now();
            let told = town
                .wait(one.claim_endpoint(&db))
                .expect_err("etcd is dead");
            assert!(matches!(told, Refusal::Away(_)), "{told:?}");
            assert!(
                asked.elapsed() < Duration::from_secs(2),
                "{:?}",
                asked.elapsed()
            );
            // The picture stays.
            let view = one.view();
            assert!(view.networks.contains_key("front") && view.nodes.contains_key("n2"));
            assert!(owner(&view, "front", "web").is_some());
            // A detach is remembered, and an attach from the node's own block told later.
            town.wait(one.release_endpoint("front", "web"))
                .expect_err("etcd is dead");
            one.set_mine(holding(std::slice::from_ref(&db)));

            town.etcd.restart();
            comes_back(&one);
            sees(&two, "db has come and web has gone", |view| {
                owner(view, "front", "db").is_some() && owner(view, "front", "web").is_none()
            });
            let addresses = town.etcd.keys("/netbpf/v1/addresses/");
            assert_eq!(addresses, ["/netbpf/v1/addresses/front/10.7.0.3"]);
            assert_eq!(
                (one.state().drift_repaired, two.state().drift_repaired),
                (0, 0)
            );
        },
    );
}

#[test]
fn a_frozen_etcd_is_noticed() {
    Town::each("a_frozen_etcd_is_noticed", |town| {
        let one = town.node("n1");
        town.network(&one, "front", "10.7.0.0/16");
        town.etcd.freeze();
        let asked = Instant::now();
        let told = town
            .wait(one.claim_block("front", false))
            .expect_err("etcd is frozen");
        assert!(matches!(told, Refusal::Away(_)), "{told:?}");
        assert!(asked.elapsed() < NOTICED, "{:?}", asked.elapsed());
        goes_away(&one);
        assert!(one.view().networks.contains_key("front"));
        town.etcd.thaw();
        comes_back(&one);
        town.wait(one.claim_block("front", false))
            .expect("etcd is back");
    });
}

/// ```text
///   etcd 10.1.0.1 ──── 10.1.0.2 far (n2)
///     n1
/// ```
#[test]
fn a_node_that_was_cut_off_catches_up_over_a_compaction() {
    Town::each(
        "a_node_that_was_cut_off_catches_up_over_a_compaction",
        |town| {
            let here = town.lab.space("here");
            let far = town.lab.space("far");
            town.lab.wire(
                (&here, "e0", &["10.1.0.1/24"]),
                (&far, "e0", &["10.1.0.2/24"]),
            );
            let etcd = Etcd::start_in(
                &town.programs,
                &here,
                &town.lab.dir().join("here"),
                "10.1.0.1",
            );
            let urls = options(&[etcd.url()]);
            let (near_runtime, far_runtime) = (here.runtime(), far.runtime());
            let one = start(&near_runtime, me("n1"), urls.clone());
            let two = start(&far_runtime, me("n2"), urls);
            let make = |name: &str, subnet: &str| town.network(&one, name, subnet);
            make("kept", "10.7.0.0/16");
            make("gone", "10.8.0.0/16");
            sees(&two, "both networks", |view| view.networks.size() == 2);

            far.run(&["iptables", "-A", "INPUT", "-j", "DROP"]).ok();
            goes_away(&two);
            town.wait(one.remove_network("gone"))
                .expect("nothing is on it");
            make("new", "10.9.0.0/16");
            etcd.compact();
            sees(&one, "n2 is away", |view| view.nodes["n2"].away);
            assert_eq!(two.view().networks.size(), 2);

            // Nothing that stays is ever missing.
            let mut changes = two.changes();
            far.run(&["iptables", "-D", "INPUT", "-j", "DROP"]).ok();
            let met = far_runtime.block_on(async {
                let meeting = async {
                    loop {
                        let view = two.view();
                        assert!(view.networks.contains_key("kept"));
                        if view.networks.contains_key("new") && !view.networks.contains_key("gone")
                        {
                            break;
                        }
                        changes.changed().await.expect("the node lives");
                    }
                };
                tokio::time::timeout(LONG, meeting).await
            });
            assert!(met.is_ok(), "{:?}", two.state());
            sees(&one, "n2 is back", |view| !view.nodes["n2"].away);
        },
    );
}

#[test]
fn an_etcd_from_an_old_copy_gets_back_what_nodes_hold() {
    Town::each(
        "an_etcd_from_an_old_copy_gets_back_what_nodes_hold",
        |town| {
            let (one, two) = town.two();
            town.network(&one, "front", "10.7.0.0/16");
            let (old, new) = (
                on("n1", endpoint("front", "old", &["10.7.0.2"])),
                on("n1", endpoint("front", "new", &["10.7.0.3"])),
            );
            town.wait(one.claim_endpoint(&old)).expect("free");
            one.set_mine(holding(&[old]));
            sees(&one, "old", |view| owner(view, "front", "old").is_some());
            let copy = town.etcd.snapshot("copy.db");

            town.wait(one.claim_endpoint(&new)).expect("free");
            let block = town.wait(one.claim_block("front", false)).expect("free");
            one.set_mine(holding(&[new]));
            sees(&two, "new, and old no more", |view| {
                owner(view, "front", "new").is_some() && owner(view, "front", "old").is_none()
            });
            let later = network("later", "10.9.0.0/16");
            let made = two.create_network(&later, Vni::Free, Overlap::Refuse);
            town.wait(made).expect("free");
            sees(&one, "the later network", |view| {
                view.networks.contains_key("later")
            });
            let before = one.view().revision;

            town.etcd.restore(&copy);
            comes_back(&one);
            sees(&two, "new, and old no more, and the block", |view| {
                owner(view, "front", "new").is_some()
                    && owner(view, "front", "old").is_none()
                    && view.block("front", &block).is_some()
                    && !view.networks.contains_key("later")
            });
            assert!(two.view().revision < before + 20, "etcd went back");
            assert_eq!(one.state().clashes, []);
        },
    );
}

#[test]
fn a_lease_that_is_taken_away_is_replaced() {
    Town::each("a_lease_that_is_taken_away_is_replaced", |town| {
        let (one, two) = town.two();
        town.network(&one, "front", "10.7.0.0/16");
        let registered = |view: &View| view.alive("n1").map(|alive| alive.revision);
        let before = registered(&two.view());
        let leases = town.etcd.ctl(&["lease", "list"]);
        for lease in leases
            .lines()
            .filter(|line| line.len() == 16 && !line.contains(' '))
        {
            town.etcd.ctl(&["lease", "revoke", lease]);
        }
        sees(&two, "n1 is registered anew", |view| {
            !view.nodes["n1"].away && registered(view) > before
        });
        within(LONG, "n1 can claim again", || {
            town.wait(one.claim_block("front", false)).is_ok()
        });

        // So it is with what says that it is alive, and with its registration.
        town.etcd.ctl(&["del", "/netbpf/v1/alive/n1"]);
        town.etcd.ctl(&["del", "/netbpf/v1/nodes/n1"]);
        sees(&two, "n1 is registered once more", |view| {
            view.nodes.get("n1").is_some_and(|node| !node.away)
        });
        within(LONG, "n1 can claim once more", || {
            town.wait(one.claim_block("front", false)).is_ok()
        });
    });
}

#[test]
fn one_of_three_members_may_die_whichever_leads() {
    let test = "one_of_three_members_may_die_whichever_leads";
    for programs in EtcdPrograms::each(test) {
        one_of_three(test, &programs);
    }
}

fn one_of_three(test: &str, programs: &EtcdPrograms) {
    let lab = Lab::new(test);
    let space = lab.space("etcd");
    let places = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|ip| (&space, ip));
    let members = Etcd::start_members(programs, lab.dir(), &places);
    let urls: Vec<String> = members.iter().map(Etcd::url).collect();
    let runtime = space.runtime();
    let nodes = ["n1", "n2", "n3"].map(|name| start(&runtime, me(name), options(&urls)));
    let [one, two, _] = &nodes;
    let make = |name: &str| {
        let wanted = network(name, "10.7.0.0/16");
        let made = one.create_network(&wanted, Vni::Free, Overlap::Allow);
        runtime.block_on(made)
    };
    // On a slow machine they may be choosing a leader at any time.
    within(LONG, "a network", || is_made(&make("front")));
    within(
        MEMBERS_KNOWN,
        "the members and their leader are known",
        || {
            let members = one.state().members;
            members.len() == 3 && members.iter().any(|member| member.leader)
        },
    );

    let mut leader = None;
    within(LONG, "a leader", || {
        leader = members.iter().position(Etcd::is_leader);
        leader.is_some()
    });
    let leader = leader.expect("just found");
    members[leader].kill();
    let began = Instant::now();
    within(LONG, "the others go on", || is_made(&make("back")));
    println!("claims went on after {:?}", began.elapsed());
    nodes
        .iter()
        .for_each(|node| sees(node, "back", |view| view.networks.contains_key("back")));
    nodes.iter().for_each(comes_back);

    // One of three is no majority.
    let second = (leader + 1) % 3;
    members[second].kill();
    nodes.iter().for_each(|node| _ = goes_away(node));
    assert!(two.view().networks.contains_key("back"));
    members[second].start_again();
    nodes.iter().for_each(comes_back);
    within(LONG, "all goes on", || is_made(&make("side")));
}

/// An etcd whose history is another one than it was, at the same revision: what the node
/// has followed is no longer what is there.
///
/// ```text
///   etcd 10.1.0.1 ──── 10.1.0.2 far (n1)
/// ```
#[test]
fn a_picture_that_is_wrong_is_put_right_and_counted() {
    let test = "a_picture_that_is_wrong_is_put_right_and_counted";
    let Some(programs) = EtcdPrograms::find(test) else {
        return;
    };
    let lab = Lab::new(test);
    let (here, far) = (lab.space("here"), lab.space("far"));
    lab.wire(
        (&here, "e0", &["10.1.0.1/24"]),
        (&far, "e0", &["10.1.0.2/24"]),
    );
    let etcd = Etcd::start_in(&programs, &here, lab.dir(), "10.1.0.1");
    let runtime = far.runtime();
    // The lease must outlive all this.
    let patient = Options {
        lease_ttl: Duration::from_secs(60),
        ..options(&[etcd.url()])
    };
    let node = start(&runtime, me("n1"), patient);
    let block = "/netbpf/v1/blocks/front/10.7.0.0-26";
    let copy = etcd.snapshot("copy.db");
    etcd.ctl(&["put", block, r#"{"v":1,"node":"n2"}"#]);
    let owner = |view: &View| {
        let of = view.block("front", &"10.7.0.0/26".parse().expect("a block"))?;
        Some(of.node.clone())
    };
    sees(&node, "n2's", |view| owner(view).as_deref() == Some("n2"));
    let seen = node.changed_since(0).seen;

    far.run(&["iptables", "-A", "INPUT", "-j", "DROP"]).ok();
    etcd.restore(&copy);
    etcd.ctl(&["put", block, r#"{"v":1,"node":"n3"}"#]);
    far.run(&["iptables", "-D", "INPUT", "-j", "DROP"]).ok();
    sees(&node, "n3's", |view| owner(view).as_deref() == Some("n3"));
    assert_eq!(node.state().drift_repaired, 1);
    let changed = node.changed_since(seen);
    assert_eq!(changed.keys, None, "all may have changed");
    etcd.ctl(&["del", block]);
    sees(&node, "nobody's", |view| owner(view).is_none());
    let keys = node
        .changed_since(changed.seen)
        .keys
        .expect("they are known");
    let expected = Key::Block {
        network: "front".into(),
        block: "10.7.0.0/26".parse().expect("a block"),
    };
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), [expected]);
}
