//! Nodes of a cluster, with a real etcd: they register, hold what they hold, and go away.

use netbpf::cluster::View;
use netbpf::cluster::{Block, Clash, Cluster, Link, Me, Mine, Refusal};
use netbpf_tests::{
    lab::within,
    nodes::{LONG, Town, endpoint, holding, me, on, owner, sees},
};

#[test]
fn etcd_has_what_the_node_holds() {
    Town::each("etcd_has_what_the_node_holds", |town| {
        let (one, two) = town.two();
        town.network(&one, "front", "10.7.0.0/16");
        let (web, db) = (
            on("n1", endpoint("front", "web", &["10.7.0.2"])),
            on("n1", endpoint("front", "db", &["10.7.0.3"])),
        );
        sees(&one, "the network", |view| {
            view.networks.contains_key("front")
        });
        one.set_mine(holding(&[web.clone(), db.clone()]));
        sees(&two, "web and db", |view| {
            owner(view, "front", "web").is_some() && owner(view, "front", "db").is_some()
        });
        // What somebody takes away comes back, and what somebody makes of ours goes.
        town.etcd
            .ctl(&["del", "/netbpf/v1/addresses/front/10.7.0.2"]);
        town.etcd.ctl(&["del", "/netbpf/v1/endpoints/front/db"]);
        town.etcd.ctl(&[
            "put",
            "/netbpf/v1/addresses/front/10.7.0.77",
            r#"{"v":1,"node":"n1","endpoint":"gone"}"#,
        ]);
        let is_right = |view: &View| {
            let address = |ip: &str| view.address("front", ip.parse().unwrap()).is_some();
            owner(view, "front", "db").is_some() && address("10.7.0.2") && !address("10.7.0.77")
        };
        sees(&two, "all is put right", is_right);
        one.set_mine(holding(&[db]));
        sees(&two, "web is gone", |view| {
            owner(view, "front", "web").is_none()
        });
        assert_eq!(
            town.etcd.keys("/netbpf/v1/addresses/"),
            ["/netbpf/v1/addresses/front/10.7.0.3"]
        );
    });
}

#[test]
fn what_others_have_is_never_taken_and_told_as_a_clash() {
    Town::each(
        "what_others_have_is_never_taken_and_told_as_a_clash",
        |town| {
            let (one, two) = town.two();
            town.network(&one, "front", "10.7.0.0/16");
            let theirs = endpoint("front", "web", &["10.7.0.2"]);
            town.wait(two.claim_endpoint(&theirs)).unwrap();
            sees(&one, "n2's", |view| owner(view, "front", "web").is_some());
            one.set_mine(Mine {
                endpoints: vec![
                    on("n1", endpoint("front", "web", &["10.7.0.3"])),
                    on("n1", endpoint("front", "db", &["10.7.0.2"])),
                    on("n1", endpoint("lost", "lost", &["10.7.0.2"])),
                    on("n1", endpoint("front", "good", &["10.7.0.4"])),
                ],
                blocks: vec![Block {
                    network: "front".into(),
                    block: "10.7.0.0/26".parse().unwrap(),
                }],
            });
            sees(&two, "the good one", |view| {
                owner(view, "front", "good").is_some()
            });
            within(LONG, "three clashes", || one.state().clashes.len() == 3);
            let clashes = one.state().clashes;
            let has = |is: fn(&Clash) -> bool| clashes.iter().any(is);
            assert!(has(
                |clash| matches!(clash, Clash::NoNetwork { network, .. } if network == "lost")
            ));
            assert!(has(
                |clash| matches!(clash, Clash::Name { endpoint, .. } if endpoint == "web")
            ));
            assert!(has(
                |clash| matches!(clash, Clash::Address { other, .. } if other == "web")
            ));
            sees(&two, "n1's block", |view| {
                view.block("front", &"10.7.0.0/26".parse().unwrap())
                    .is_some()
            });
            assert_eq!(owner(&one.view(), "front", "web").as_deref(), Some("n2"));
            // It is ours as soon as it is free.
            town.wait(two.release_endpoint("front", "web")).unwrap();
            sees(&two, "n1's now", |view| {
                owner(view, "front", "web").as_deref() == Some("n1")
            });
            within(LONG, "one clash is left", || one.state().clashes.len() == 1);
        },
    );
}

#[test]
fn a_node_whose_lease_has_ended_is_away_and_keeps_what_it_has() {
    Town::each(
        "a_node_whose_lease_has_ended_is_away_and_keeps_what_it_has",
        |town| {
            let (one, two) = town.two();
            town.network(&one, "front", "10.7.0.0/16");
            let block = town.wait(two.claim_block("front", false)).unwrap();
            let web = endpoint("front", "web", &["10.7.0.2"]);
            town.wait(two.claim_endpoint(&web)).unwrap();
            let told = town.wait(one.remove_node("n2")).unwrap_err();
            assert_eq!(told, Refusal::NodeAlive("n2".into()));
            drop(two);
            sees(&one, "n2 is away", |view| view.nodes["n2"].away);
            let view = one.view();
            assert!(view.block("front", &block).is_some());
            assert!(owner(&view, "front", "web").is_some());

            // Started anew, with the same id, before and after the end of its lease.
            let two = town.node("n2");
            sees(&one, "n2 is back", |view| !view.nodes["n2"].away);
            drop(two);
            let two = town.node("n2");
            drop(two);
            sees(&one, "n2 is away again", |view| view.nodes["n2"].away);
            town.wait(one.remove_node("n2")).unwrap();
            sees(&one, "n2 is forgotten", |view| {
                let address = view.address("front", "10.7.0.2".parse().unwrap());
                !view.nodes.contains_key("n2")
                    && view.block("front", &block).is_none()
                    && owner(view, "front", "web").is_none()
                    && address.is_none()
            });
            let told = town.wait(one.remove_node("n2")).unwrap_err();
            assert_eq!(told, Refusal::NoNode("n2".into()));
        },
    );
}

#[test]
fn a_node_that_leaves_takes_all_with_it() {
    Town::each("a_node_that_leaves_takes_all_with_it", |town| {
        let (one, two) = town.two();
        town.network(&one, "front", "10.7.0.0/16");
        let [of_one, of_two] =
            [&one, &two].map(|node| town.wait(node.claim_block("front", false)).unwrap());
        let web = endpoint("front", "web", &["10.7.0.2"]);
        town.wait(two.claim_endpoint(&web)).unwrap();
        town.wait(one.drain_node("n2", true)).unwrap();
        town.wait(two.leave()).unwrap();
        let gone = |view: &View| {
            view.block("front", &of_one).is_some()
                && view.block("front", &of_two).is_none()
                && !view.nodes.contains_key("n2")
                && owner(view, "front", "web").is_none()
                && view.address("front", "10.7.0.2".parse().unwrap()).is_none()
        };
        sees(&one, "n2 has left", gone);
        // Nothing that is still there of it registers it again.
        let told = town.wait(two.claim_block("front", false)).unwrap_err();
        assert_eq!(told, Refusal::Unregistered);
        assert!(gone(&one.view()), "{:?}", one.view());
        // A teardown that was not done may be tried again.
        town.wait(two.leave()).unwrap();
        drop(two);
        // Whoever takes the name is no drained node.
        let two = town.node("n2");
        town.wait(two.claim_block("front", false)).unwrap();
    });
}

#[test]
fn a_drained_node_gets_nothing_new() {
    Town::each("a_drained_node_gets_nothing_new", |town| {
        let (one, two) = town.two();
        town.network(&one, "front", "10.7.0.0/16");
        town.wait(one.drain_node("n2", true)).unwrap();
        sees(&one, "n2 is drained", |view| view.nodes["n2"].drained);
        let web = endpoint("front", "web", &["10.7.0.2"]);
        let told = town.wait(two.claim_endpoint(&web)).unwrap_err();
        assert_eq!(told, Refusal::Drained("n2".into()));
        let told = town.wait(two.claim_block("front", false)).unwrap_err();
        assert_eq!(told, Refusal::Drained("n2".into()));
        town.wait(one.drain_node("n2", false)).unwrap();
        town.wait(two.claim_endpoint(&web)).unwrap();
        let told = town.wait(one.drain_node("n3", true)).unwrap_err();
        assert_eq!(told, Refusal::NoNode("n3".into()));
    });
}

#[test]
fn a_second_daemon_of_a_name_waits_until_the_first_is_gone() {
    Town::each(
        "a_second_daemon_of_a_name_waits_until_the_first_is_gone",
        |town| {
            let first = town.node("n1");
            let impostor = Me {
                id: "another".into(),
                ..me("n1")
            };
            let second = Cluster::start(town.runtime.handle(), town.options(), impostor)
                .expect("good options");
            let is_refused =
                || matches!(second.state().link, Link::Conflict { id, .. } if id == "id-of-n1");
            within(LONG, "the second one is told", is_refused);
            // It sees what there is, and gets nothing.
            town.network(&first, "front", "10.7.0.0/16");
            sees(&second, "the network", |view| {
                view.networks.contains_key("front")
            });
            let told = town.wait(second.claim_block("front", false)).unwrap_err();
            assert!(matches!(told, Refusal::Conflict { .. }), "{told:?}");
            assert!(first.state().is_connected());
            drop(first);
            within(LONG, "the second one has the name", || {
                second.state().is_connected()
            });
            // What it wrote comes back to it by its own watch, a moment later.
            sees(&second, "its own registration", |view| {
                view.nodes
                    .get("n1")
                    .is_some_and(|node| node.id == "another")
            });
        },
    );
}

#[test]
fn a_change_of_mtu_and_address_is_told_to_all() {
    Town::each("a_change_of_mtu_and_address_is_told_to_all", |town| {
        let (one, two) = town.two();
        one.set_me(Me {
            mtu: 9000,
            address: "2001:db8::1".parse().unwrap(),
            ..me("n1")
        });
        sees(&two, "the new MTU", |view| view.nodes["n1"].mtu == 9000);
        assert_eq!(two.view().nodes["n1"].address.to_string(), "2001:db8::1");
    });
}
