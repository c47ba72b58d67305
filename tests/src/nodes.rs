//! Nodes' parts in a cluster, several in one process, in the namespace of a real etcd.
//!
//! ```text
//!   etcd  lo 127.0.0.1 ──── n1, n2, …
//! ```

use std::{future::Future, time::Duration};

use netbpf::{
    cluster::{Cluster, Endpoint, Me, Mine, Network, Options, Overlap, Refusal, View, Vni},
    model::{Labels, SubnetInfo},
};
use tokio::runtime::Runtime;

use crate::lab::{Etcd, EtcdPrograms, Lab, until, within};

/// Longer than anything takes on a slow machine.
pub const LONG: Duration = Duration::from_secs(20);

/// In which a change is to be seen everywhere.
pub const A_SECOND: Duration = Duration::from_secs(1);

/// Of a node: renewed each second, so that it takes a long stall to lose it.
const LEASE: Duration = Duration::from_secs(6);

/// An etcd with nodes.
pub struct Town {
    pub etcd: Etcd,
    pub runtime: Runtime,
    pub programs: EtcdPrograms,
    pub lab: Lab,
}

impl Town {
    /// Does it with each release of etcd.
    pub fn each(test: &str, scene: impl Fn(&Town)) {
        for programs in EtcdPrograms::each(test) {
            scene(&Town::with(test, programs));
        }
    }

    pub fn with(test: &str, programs: EtcdPrograms) -> Town {
        let lab = Lab::new(test);
        let space = lab.space("etcd");
        Town {
            etcd: Etcd::start_in(&programs, &space, lab.dir(), "127.0.0.1"),
            runtime: space.runtime(),
            programs,
            lab,
        }
    }

    pub fn options(&self) -> Options {
        options(&[self.etcd.url()])
    }

    /// A node that has a first picture and is registered.
    #[track_caller]
    pub fn node(&self, name: &str) -> Cluster {
        start(&self.runtime, me(name), self.options())
    }

    /// Two nodes that know each other.
    #[track_caller]
    pub fn two(&self) -> (Cluster, Cluster) {
        let (one, two) = (self.node("n1"), self.node("n2"));
        for node in [&one, &two] {
            sees(node, "both nodes", |view| {
                ["n1", "n2"]
                    .iter()
                    .all(|name| view.nodes.get(*name).is_some_and(|node| !node.away))
            });
        }
        (one, two)
    }

    pub fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(what)
    }

    #[track_caller]
    pub fn network(&self, node: &Cluster, name: &str, subnet: &str) -> Network {
        let wanted = network(name, subnet);
        let made = node.create_network(&wanted, Vni::Free, Overlap::Refuse);
        self.wait(made).expect("a network")
    }
}

pub fn options(urls: &[String]) -> Options {
    Options {
        endpoints: urls.to_vec(),
        lease_ttl: LEASE,
        ..Options::default()
    }
}

/// Starts a node; waits until it has a first picture and is registered.
#[track_caller]
pub fn start(runtime: &Runtime, me: Me, options: Options) -> Cluster {
    let node = Cluster::start(runtime.handle(), options, me).expect("options that work");
    let first = runtime.block_on(node.wait_first(LONG));
    assert!(first, "{:?}", node.state());
    within(LONG, "the node is registered", || {
        node.state().is_connected()
    });
    node
}

/// Waits until the node's picture is so.
#[track_caller]
pub fn sees(node: &Cluster, what: &str, condition: impl Fn(&View) -> bool) {
    let seen = until(LONG, || condition(&node.view()));
    assert!(seen, "{what}: {:?}\n{:?}", node.state(), node.view());
}

pub fn me(name: &str) -> Me {
    Me {
        name: name.into(),
        id: format!("id-of-{name}"),
        address: "192.0.2.1".parse().unwrap(),
        ..Me::default()
    }
}

pub fn network(name: &str, subnet: &str) -> Network {
    let subnet: ipnet::IpNet = subnet.parse().unwrap();
    Network {
        name: name.into(),
        vni: 0,
        subnets: vec![SubnetInfo {
            subnet,
            gateway: subnet.hosts().next().unwrap(),
            ip_range: None,
        }],
        mtu: None,
        internal: false,
        icc: true,
        masquerade: true,
        labels: Labels::new(),
        created_at: "2026-01-01T00:00:00Z".into(),
        created_by: "n1".into(),
    }
}

pub fn endpoint(network: &str, name: &str, ips: &[&str]) -> Endpoint {
    Endpoint {
        network: network.into(),
        name: name.into(),
        node: String::new(),
        container: Some(format!("container-of-{name}")),
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        mac: [2, 0, 0, 0, 0, 7],
        aliases: vec![format!("{name}-alias")],
        created_at: "2026-01-01T00:00:00Z".into(),
    }
}

/// The same as it stands in etcd.
pub fn on(node: &str, endpoint: Endpoint) -> Endpoint {
    Endpoint {
        node: node.into(),
        ..endpoint
    }
}

pub fn holding(endpoints: &[Endpoint]) -> Mine {
    Mine {
        endpoints: endpoints.to_vec(),
        blocks: Vec::new(),
    }
}

/// Whether the network is there now. etcd may have made it and not said so: then it is
/// there the next time.
pub fn is_made(made: &Result<Network, Refusal>) -> bool {
    matches!(made, Ok(_) | Err(Refusal::NetworkExists(_)))
}

/// Whose the endpoint is.
pub fn owner(view: &View, network: &str, name: &str) -> Option<String> {
    Some(view.endpoint(network, name)?.node.clone())
}
