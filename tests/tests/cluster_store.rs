//! What nodes agree on, with a real etcd: networks, blocks, addresses and endpoints are
//! claimed, and exactly one gets each.

use std::time::Instant;

use futures_util::future::join;
use netbpf::cluster::{Cluster, Endpoint, Overlap, Refusal, Vni};
use netbpf_tests::{
    lab::within,
    nodes::{A_SECOND, LONG, Town, endpoint, network, owner, sees},
};

/// Of two that wanted the same at once, exactly one has it; what the other was told.
#[track_caller]
fn loser<T: std::fmt::Debug>(
    round: u32,
    both: (Result<T, Refusal>, Result<T, Refusal>),
) -> Refusal {
    match both {
        (Ok(_), Err(refusal)) | (Err(refusal), Ok(_)) => refusal,
        both => panic!("round {round}: {both:?}"),
    }
}

#[test]
fn a_network_is_seen_by_the_other_node_within_a_second() {
    Town::each(
        "a_network_is_seen_by_the_other_node_within_a_second",
        |town| {
            let (one, two) = (town.node("n1"), town.node("n2"));
            let asked = Instant::now();
            let made = town.network(&one, "front", "10.7.0.0/16");
            assert_eq!(made.vni, 1);
            within(A_SECOND, "n2 knows the network", || {
                two.view().networks.contains_key("front")
            });
            assert!(asked.elapsed() < A_SECOND, "{:?}", asked.elapsed());
            assert_eq!(two.view().networks["front"].record, made);
            within(A_SECOND, "n1 knows both nodes", || {
                let view = one.view();
                ["n1", "n2"]
                    .iter()
                    .all(|name| view.nodes.get(*name).is_some_and(|node| !node.away))
            });
        },
    );
}

#[test]
fn of_two_that_want_the_same_exactly_one_gets_it() {
    Town::each("of_two_that_want_the_same_exactly_one_gets_it", |town| {
        let (one, two) = town.two();
        town.network(&one, "front", "10.7.0.0/16");
        for round in 0..50 {
            // A name of a network.
            let same = network(&format!("net{round}"), &format!("10.100.{round}.0/24"));
            let both = town.wait(join(
                one.create_network(&same, Vni::Free, Overlap::Refuse),
                two.create_network(&same, Vni::Free, Overlap::Refuse),
            ));
            let told = loser(round, both);
            assert!(matches!(told, Refusal::NetworkExists(_)), "{told:?}");

            // A VNI.
            let this = Vni::This(1000 + round);
            let (left, right) = (format!("left{round}"), format!("right{round}"));
            let both = town.wait(join(
                one.create_network(&network(&left, "10.8.0.0/24"), this, Overlap::Allow),
                two.create_network(&network(&right, "10.8.0.0/24"), this, Overlap::Allow),
            ));
            let told = loser(round, both);
            assert!(
                matches!(told, Refusal::Vni { vni, .. } if vni == 1000 + round),
                "{told:?}"
            );

            // A subnet.
            let subnet = format!("10.9.{round}.0/24");
            let (left, right) = (format!("west{round}"), format!("east{round}"));
            let both = town.wait(join(
                one.create_network(&network(&left, &subnet), Vni::Free, Overlap::Refuse),
                two.create_network(&network(&right, &subnet), Vni::Free, Overlap::Refuse),
            ));
            let told = loser(round, both);
            assert!(matches!(told, Refusal::Overlap { .. }), "{told:?}");

            // An endpoint's name.
            let name = format!("web{round}");
            let (ip, other) = (format!("10.7.1.{round}"), format!("10.7.2.{round}"));
            let (left, right) = (
                endpoint("front", &name, &[&ip]),
                endpoint("front", &name, &[&other]),
            );
            let both = town.wait(join(one.claim_endpoint(&left), two.claim_endpoint(&right)));
            let told = loser(round, both);
            assert!(matches!(told, Refusal::Name { .. }), "{told:?}");

            // An address.
            let ip = format!("10.7.3.{round}");
            let left = endpoint("front", &format!("l{round}"), &[&ip]);
            let right = endpoint("front", &format!("r{round}"), &[&ip]);
            let both = town.wait(join(one.claim_endpoint(&left), two.claim_endpoint(&right)));
            let told = loser(round, both);
            assert!(matches!(told, Refusal::Address { .. }), "{told:?}");

            // A block: there is another one for the second.
            let both = town.wait(join(
                one.claim_block("front", false),
                two.claim_block("front", false),
            ));
            match both {
                (Ok(left), Ok(right)) => assert_ne!(left, right),
                both => panic!("round {round}: {both:?}"),
            }
        }
        sees(&one, "all blocks", |view| {
            view.blocks["front"].size() == 100
        });
        let view = one.view();
        let count = |node: &str| {
            view.blocks["front"]
                .values()
                .filter(|of| of.node == node)
                .count()
        };
        assert_eq!((count("n1"), count("n2")), (50, 50));
    });
}

#[test]
fn blocks_end_and_come_back() {
    Town::each("blocks_end_and_come_back", |town| {
        let (one, two) = town.two();
        town.network(&one, "small", "10.7.0.0/29");
        let claim = |node: &Cluster| town.wait(node.claim_block("small", false));
        let (first, second) = (claim(&one).unwrap(), claim(&two).unwrap());
        assert_eq!(first.to_string(), "10.7.0.0/30");
        assert_eq!(second.to_string(), "10.7.0.4/30");
        let told = claim(&one).unwrap_err();
        assert!(matches!(told, Refusal::Exhausted { .. }), "{told:?}");
        let told = town.wait(one.claim_block("small", true)).unwrap_err();
        assert!(matches!(told, Refusal::NoSubnet { .. }), "{told:?}");
        let told = town.wait(one.claim_block("none", false)).unwrap_err();
        assert_eq!(told, Refusal::NoNetwork("none".into()));

        // Another node's endpoint may have an address of it.
        let web = endpoint("small", "web", &["10.7.0.2"]);
        town.wait(two.claim_endpoint(&web)).unwrap();
        let told = town.wait(one.release_block("small", first)).unwrap_err();
        assert!(matches!(told, Refusal::BlockInUse { .. }), "{told:?}");
        // It is not this node's.
        town.wait(two.release_block("small", first)).unwrap();
        town.wait(two.release_endpoint("small", "web")).unwrap();
        town.wait(one.release_block("small", first)).unwrap();
        assert_eq!(claim(&two).unwrap(), first);
    });
}

#[test]
fn a_network_with_endpoints_stays() {
    Town::each("a_network_with_endpoints_stays", |town| {
        let (one, two) = town.two();
        let made = town.network(&one, "front", "10.7.0.0/16");
        let web = endpoint("front", "web", &["10.7.0.2"]);
        town.wait(two.claim_endpoint(&web)).unwrap();
        let told = town.wait(one.remove_network("front")).unwrap_err();
        let expected = Refusal::NetworkInUse {
            network: "front".into(),
            endpoint: "web".into(),
            node: "n2".into(),
            more: 0,
        };
        assert_eq!(told, expected);
        town.wait(two.claim_block("front", false)).unwrap();
        town.wait(two.release_endpoint("front", "web")).unwrap();
        town.wait(one.remove_network("front")).unwrap();
        let left = town.etcd.keys("/netbpf/v1/");
        let left: Vec<_> = left
            .iter()
            .filter(|key| !key.contains("n1") && !key.contains("n2"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        let told = town.wait(one.remove_network("front")).unwrap_err();
        assert_eq!(told, Refusal::NoNetwork("front".into()));
        let told = town.wait(two.claim_endpoint(&web)).unwrap_err();
        assert_eq!(told, Refusal::NoNetwork("front".into()));
        // Its number is free again.
        assert_eq!(town.network(&two, "back", "10.7.0.0/16").vni, made.vni);
    });
}

#[test]
fn a_network_is_removed_or_gets_its_first_endpoint() {
    Town::each("a_network_is_removed_or_gets_its_first_endpoint", |town| {
        let (one, two) = town.two();
        let mut removed = 0;
        for round in 0..50 {
            let name = format!("net{round}");
            town.network(&one, &name, "10.7.0.0/16");
            let web = endpoint(&name, "web", &["10.7.0.2"]);
            // The removal reads before it writes; every other time the claim does, too.
            let claim = async {
                if round % 2 == 0 {
                    two.drain_node("n2", false).await?;
                }
                two.claim_endpoint(&web).await
            };
            let both = town.wait(join(one.remove_network(&name), claim));
            match both {
                (Ok(()), Err(Refusal::NoNetwork(_))) => removed += 1,
                (Err(Refusal::NetworkInUse { .. }), Ok(())) => {
                    town.wait(two.release_endpoint(&name, "web")).unwrap();
                    town.wait(one.remove_network(&name)).unwrap();
                }
                both => panic!("round {round}: {both:?}"),
            }
        }
        println!("{removed} of 50 networks were gone first");
    });
}

#[test]
fn an_endpoint_is_claimed_whole_or_not_at_all() {
    Town::each("an_endpoint_is_claimed_whole_or_not_at_all", |town| {
        let (one, two) = town.two();
        town.network(&one, "front", "10.7.0.0/16");
        let web = endpoint("front", "web", &["10.7.0.2", "10.7.0.3"]);
        town.wait(one.claim_endpoint(&web)).unwrap();
        // Once more by the same container.
        town.wait(one.claim_endpoint(&web)).unwrap();
        let other = Endpoint {
            container: Some("another".into()),
            ..web.clone()
        };
        let told = town.wait(one.claim_endpoint(&other)).unwrap_err();
        assert!(
            matches!(&told, Refusal::Name { node, .. } if node == "n1"),
            "{told:?}"
        );
        let db = endpoint("front", "db", &["10.7.0.9", "10.7.0.3"]);
        let told = town.wait(two.claim_endpoint(&db)).unwrap_err();
        let expected = Refusal::Address {
            network: "front".into(),
            ip: "10.7.0.3".parse().unwrap(),
            node: "n1".into(),
            endpoint: "web".into(),
        };
        assert_eq!(told, expected);
        let prefix = "/netbpf/v1/addresses/front/";
        assert_eq!(
            town.etcd.keys(prefix),
            ["10.7.0.2", "10.7.0.3"].map(|ip| format!("{prefix}{ip}"))
        );
        // Another node's is none of its business.
        town.wait(two.release_endpoint("front", "web")).unwrap();
        sees(&two, "web on n1", |view| {
            owner(view, "front", "web").as_deref() == Some("n1")
        });
        town.wait(one.release_endpoint("front", "web")).unwrap();
        assert!(town.etcd.keys(prefix).is_empty());
        town.wait(two.claim_endpoint(&db)).unwrap();
    });
}

#[test]
fn what_cannot_be_read_is_passed_over_and_counted() {
    Town::each("what_cannot_be_read_is_passed_over_and_counted", |town| {
        let one = town.node("n1");
        town.network(&one, "front", "10.7.0.0/16");
        sees(&one, "the network", |view| {
            view.networks.contains_key("front")
        });
        for (key, value) in [
            ("networks/front", r#"{"v":2}"#),
            ("networks/broken", "{"),
            ("networks/wrong", r#"{"v":1,"name":1}"#),
            ("blocks/front/10.7.0.1-26", r#"{"v":1,"node":"n2"}"#),
            ("colours/red", "#f00"),
            ("endpoints/front/web", r#"{"v":7,"node":"n1"}"#),
        ] {
            town.etcd.ctl(&["put", &format!("/netbpf/v1/{key}"), value]);
        }
        within(LONG, "all six are passed over", || {
            one.state().unreadable == 6
        });
        // What was known stays, for those that come later there is nothing.
        assert!(one.view().networks.contains_key("front"));
        let web = endpoint("front", "web", &["10.7.0.2"]);
        let told = town.wait(one.claim_endpoint(&web)).unwrap_err();
        assert_eq!(
            told,
            Refusal::Unreadable("/netbpf/v1/endpoints/front/web".into())
        );
        let two = town.node("n2");
        assert_eq!(two.state().unreadable, 6);
        assert!(!two.view().networks.contains_key("front"));
        town.etcd.ctl(&["del", "--prefix", "/netbpf/v1/colours/"]);
        within(LONG, "five are left", || one.state().unreadable == 5);
    });
}
