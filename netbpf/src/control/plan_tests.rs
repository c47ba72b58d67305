use super::*;
use crate::{
    model::{Driver, Protocol, SubnetInfo},
    store::{EndpointState, tests::endpoint as endpoint_record},
};

fn network() -> NetworkRecord {
    NetworkRecord {
        index: 3,
        name: "front".into(),
        driver: Driver::Bridge,
        subnets: vec![
            SubnetInfo {
                subnet: "10.0.0.0/24".parse().unwrap(),
                gateway: "10.0.0.1".parse().unwrap(),
                ip_range: None,
            },
            SubnetInfo {
                subnet: "fd00::/64".parse().unwrap(),
                gateway: "fd00::1".parse().unwrap(),
                ip_range: None,
            },
        ],
        mtu: None,
        internal: false,
        icc: true,
        masquerade: true,
        overlay: None,
        labels: Default::default(),
        created_at: String::new(),
    }
}

fn endpoint(index: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        record: Arc::new(EndpointRecord {
            index,
            serial: u64::from(index),
            state: EndpointState::Attached,
            name: format!("e{index}"),
            network_index: 3,
            host_ifname: host_ifname(index),
            host_ifindex: 100 + index,
            mac: [2, 0, 0, 0, 0, 1],
            ipv4: Some(format!("10.0.0.{}/24", index + 1).parse().unwrap()),
            automatic4: true,
            automatic6: true,
            ipv6: Some(format!("fd00::{}/64", index + 1).parse().unwrap()),
            gateway: Some("10.0.0.1".parse().unwrap()),
            gateway6: Some("fd00::1".parse().unwrap()),
            default4: true,
            default6: true,
            ports: vec![PortRecord {
                slot: 0,
                protocol: Protocol::Tcp,
                host_ip: None,
                host_port: 8080,
                host_port_end: 8080,
                container_port: 80,
                allow: vec![],
                weight: 1,
                affinity: false,
                unheld: false,
            }],
            ..endpoint_record(index)
        }),
        flags: NetworkFlags {
            overlay: None,
            icc: true,
            internal: false,
            masquerade: true,
        },
    })
}

/// Everything of the wanted, as it is in the kernel when all is well.
pub fn found(wanted: &Wanted) -> Found {
    Found {
        addresses: [("10.0.0.1", true), ("fd00::1", true), ("127.0.0.1", false)]
            .map(|(a, ours)| (a.parse().unwrap(), ours))
            .into(),
        held: ["10.0.0.0/24", "fd00::/64"]
            .map(|n| n.parse().unwrap())
            .into(),
        host_routes: wanted
            .endpoints
            .iter()
            .flat_map(|e| e.record.host_routes())
            .map(|(route, source)| (route, Some(source)))
            .collect(),
        veths: wanted
            .endpoints
            .iter()
            .map(|e| {
                let record = &e.record;
                (
                    record.host_ifindex,
                    record.host_ifname.clone(),
                    Some(alias(record)),
                )
            })
            .collect(),
        down: BTreeSet::new(),
        not_forwarding: BTreeSet::new(),
        neighbours: wanted
            .endpoints
            .iter()
            .flat_map(|e| {
                let record = &e.record;
                let addresses = record.addresses();
                let at = |(address, _): (IpNet, IpAddr)| (address.addr(), record.host_ifindex);
                addresses.map(move |a| (at(a), record.mac.to_vec()))
            })
            .collect(),
    }
}

pub fn wanted() -> Wanted {
    Wanted {
        networks: vec![network()],
        endpoints: vec![endpoint(1), endpoint(2)],
        services: vec![],
        draining: vec![],
        ipv6: true,
    }
}

/// What publishes the port of an endpoint that has it alone.
fn publishing(endpoint: &Arc<Endpoint>) -> Step {
    Step::SetService {
        before: None,
        after: Service::new([(endpoint.clone(), endpoint.record.ports[0].clone())]),
        leave: Leave::AtOnce,
    }
}

#[test]
fn ports_come_last() {
    let endpoint = endpoint(1);
    let published = publishing(&endpoint);
    let last = attach(&endpoint, vec![published.clone()]).pop();
    assert_eq!(last.as_ref(), Some(&published));
}

#[test]
fn what_attach_makes_its_undo_takes_away() {
    let endpoint = endpoint(1);
    let steps = attach(&endpoint, vec![publishing(&endpoint)]);
    let undone: Vec<Step> = steps.iter().rev().filter_map(Step::undo).collect();
    let first = undone.first();
    assert!(
        matches!(
            first,
            Some(Step::SetService {
                after: None,
                before: Some(_),
                ..
            })
        ),
        "{first:?}"
    );
    assert!(matches!(undone.last(), Some(Step::RemoveVeth(_))));
}

#[test]
fn a_start_publishes_what_is_shared_once() {
    let mut wanted = wanted();
    let members = wanted.endpoints.iter().cloned();
    let members = members.map(|e| (e.clone(), e.record.ports[0].clone()));
    wanted.services = Service::new(members).into_iter().collect();
    let steps = recover(&wanted, &found(&wanted));
    let published = steps.iter().filter_map(|step| match step {
        Step::SetService { after, .. } => after.as_ref(),
        _ => None,
    });
    let members: Vec<usize> = published.map(|s| s.members.len()).collect();
    assert_eq!(members, [2]);
}

#[test]
fn nothing_is_removed_where_all_is_as_wanted() {
    let wanted = wanted();
    assert_eq!(strays(&wanted, &found(&wanted)), []);
    let steps = recover(&wanted, &found(&wanted));
    assert!(
        !steps.iter().any(|s| matches!(
            s,
            Step::AddGateway(_) | Step::HoldSubnet(_) | Step::MakeVeth(_) | Step::AddHostRoutes(_)
        )),
        "{steps:?}"
    );
}

#[test]
fn a_route_that_is_missing_is_made_for_its_endpoint_alone() {
    let wanted = wanted();
    let mut found = found(&wanted);
    let made = |found: &Found| -> Vec<u32> {
        let made = |step: &Step| match step {
            Step::AddHostRoutes(endpoint) => Some(endpoint.record.host_ifindex),
            _ => None,
        };
        recover(&wanted, found).iter().filter_map(made).collect()
    };
    assert!(made(&found).is_empty());
    // One that has lost its source address counts as missing.
    let (route, _) = found.host_routes.pop_last().unwrap();
    assert_eq!(made(&found), [route.1]);
    found.host_routes.insert(route, None);
    assert_eq!(made(&found), [route.1]);
}

#[test]
fn what_is_missing_of_a_network_is_made() {
    let wanted = wanted();
    let mut found = found(&wanted);
    found.addresses.remove(&"10.0.0.1".parse().unwrap());
    found.held.remove(&"fd00::/64".parse().unwrap());
    let steps = recover(&wanted, &found);
    assert!(steps.contains(&Step::AddGateway("10.0.0.1".parse().unwrap())));
    assert!(steps.contains(&Step::HoldSubnet("fd00::/64".parse().unwrap())));
}

#[test]
fn a_host_without_ipv6_gets_none() {
    let steps = network_up(&network(), false);
    assert_eq!(
        steps,
        [
            Step::HoldSubnet("10.0.0.0/24".parse().unwrap()),
            Step::AddGateway("10.0.0.1".parse().unwrap())
        ]
    );
}

#[test]
fn strays_of_ours_go_and_those_of_others_stay() {
    let wanted = wanted();
    let mut found = found(&wanted);
    found.addresses.insert("10.9.0.1".parse().unwrap(), true);
    found.addresses.insert("192.0.2.1".parse().unwrap(), false);
    found.held.insert("10.9.0.0/24".parse().unwrap());
    found
        .host_routes
        .insert(("10.9.0.2/32".parse().unwrap(), 55), None);
    found
        .veths
        .push((55, "nb0000ffff".into(), Some("netbpf old front".into())));
    found.veths.push((56, "nb0000fffe".into(), None));
    let mut steps = strays(&wanted, &found);
    assert_eq!(
        steps.pop(),
        Some(Step::RemoveStrayVeth {
            ifindex: 55,
            name: "nb0000ffff".into()
        })
    );
    assert_eq!(
        steps,
        [
            Step::RemoveGateway("10.9.0.1".parse().unwrap()),
            Step::ReleaseSubnet("10.9.0.0/24".parse().unwrap()),
            Step::RemoveStrayRoute {
                destination: "10.9.0.2/32".parse().unwrap(),
                ifindex: 55
            },
        ]
    );
}

#[test]
fn the_first_network_has_the_default_route_and_the_next_its_rules() {
    let mut first = EndpointRecord::clone(&endpoint(1).record);
    settle_routes(&mut first, false, &ContainerFound::default());
    assert!(first.default4 && first.default6 && !first.rules);
    let mut second = EndpointRecord::clone(&endpoint(2).record);
    let found = ContainerFound {
        default4: true,
        default6: true,
        ..Default::default()
    };
    settle_routes(&mut second, false, &found);
    assert!(!second.default4 && !second.default6 && second.rules);
    let mut internal = EndpointRecord::clone(&endpoint(3).record);
    settle_routes(&mut internal, true, &ContainerFound::default());
    assert!(!internal.has_default_route() && !internal.rules);
}

#[test]
fn devices_of_ours_are_known_by_name() {
    assert!(is_host_ifname(&host_ifname(0xdead_beef)));
    assert!(is_host_ifname(&host_ifname(1)));
    for other in [
        "nb",
        "nbeth0",
        "nb1234567",
        "nb123456789",
        "nbDEADBEEF",
        "eth0",
    ] {
        assert!(!is_host_ifname(other), "{other}");
    }
}

#[test]
fn the_first_free_eth_is_taken() {
    let found = ContainerFound {
        devices: ["lo", "eth0", "eth2"].map(Into::into).into(),
        ..Default::default()
    };
    assert_eq!(found.free_ifname(), "eth1");
}

#[test]
fn nothing_is_repaired_where_all_is_as_it_was_made() {
    let wanted = wanted();
    assert_eq!(repairs(&wanted, &found(&wanted)), []);
}

#[test]
fn what_others_undid_is_put_back_and_nothing_else() {
    let wanted = wanted();
    let (first, second) = (&wanted.endpoints[0], &wanted.endpoints[1]);
    let device = first.record.host_ifindex;
    let v4 = IpAddr::V4("10.0.0.2".parse().unwrap());
    let mut now = found(&wanted);
    now.addresses.remove(&"10.0.0.1".parse().unwrap());
    now.held.remove(&"fd00::/64".parse().unwrap());
    now.neighbours.remove(&(v4, device));
    now.down.insert(second.record.host_ifindex);
    now.host_routes
        .retain(|(_, ifindex), _| *ifindex != second.record.host_ifindex);
    assert_eq!(
        repairs(&wanted, &now),
        [
            Step::AddGateway("10.0.0.1".parse().unwrap()),
            Step::HoldSubnet("fd00::/64".parse().unwrap()),
            Step::SetHostNeighbours(first.clone()),
            Step::SetUpHostEnd(second.clone()),
            Step::AddHostRoutes(second.clone()),
        ]
    );
    // Without its device it is gone, and cleared away by others.
    now.veths.retain(|(ifindex, ..)| *ifindex == device);
    let steps = repairs(&wanted, &now);
    assert!(!steps.contains(&Step::AddHostRoutes(second.clone())));
}
