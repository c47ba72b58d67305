//! Hosts that share a wire and an etcd.

use netbpf::model::{NetworkInfo, NodeInfo, NodeState, StatusInfo};

use super::{Container, Etcd, EtcdPrograms, Family, Host, Lab, Namespace, SOON, names, within};

/// Several hosts on one wire, each a node of the cluster `n1`, `n2` and so on.
///
/// ```text
///   n1  up0 192.0.2.11 2001:db8:1::11 ─┐
///   n2  up0 192.0.2.12 2001:db8:1::12 ─┼─ lan 192.0.2.1 2001:db8:1::1, etcd
///   client 192.0.2.2 2001:db8:1::2 ────┘
/// ```
pub struct Town {
    pub hosts: Vec<Host>,
    pub etcd: Etcd,
    pub client: Namespace,
    pub lan: Namespace,
    pub lab: Lab,
    outer: Family,
}

/// Of each node: renewed each second, so that it takes a long stall to lose it.
pub const LEASE: &str = "6s";

impl Town {
    /// Hosts that reach each other by that family, their daemons running; `None` without
    /// etcd.
    #[track_caller]
    pub fn new(test: &str, hosts: usize, outer: Family) -> Option<Town> {
        let town = Town::without_daemons(test, hosts, outer)?;
        for number in 0..hosts {
            town.start(number, &[]);
        }
        town.wait_for_nodes();
        Some(town)
    }

    /// The same before the daemons start.
    #[track_caller]
    pub fn without_daemons(test: &str, hosts: usize, outer: Family) -> Option<Town> {
        let programs = EtcdPrograms::find(test)?;
        let lab = Lab::new(test);
        let lan = lab.space("lan");
        lan.ip("link add br0 type bridge");
        lan.sysctl("net.ipv6.conf.br0.accept_dad", "0");
        lan.address("br0", &["192.0.2.1/24", "2001:db8:1::1/64"]);
        let client = lab.space("client");
        lab.wire(
            (&lan, "client", &[]),
            (&client, "eth0", &names::CLIENT_WIRE),
        );
        lan.ip("link set client master br0");
        let hosts: Vec<Host> = (0..hosts)
            .map(|number| {
                let host = lab.host(&format!("n{}", number + 1));
                let port = format!("n{}", number + 1);
                let [v4, v6] = Town::addresses(number);
                let wire = [format!("{v4}/24"), format!("{v6}/64")];
                let wire = wire.each_ref().map(String::as_str);
                lab.wire((&lan, &port, &[]), (&host, "up0", &wire));
                lan.ip(&format!("link set {port} master br0"));
                host.ip("route add default via 192.0.2.1");
                host.ip("-6 route add default via 2001:db8:1::1");
                host
            })
            .collect();
        let etcd = Etcd::start_in(&programs, &lan, lab.dir(), "192.0.2.1");
        Some(Town {
            hosts,
            etcd,
            client,
            lan,
            lab,
            outer,
        })
    }

    /// Of the host with that number, from 0 on.
    pub fn addresses(number: usize) -> [String; 2] {
        let last = 11 + number;
        [format!("192.0.2.{last}"), format!("2001:db8:1::{last}")]
    }

    /// Starts a host's daemon as a node, with further flags.
    #[track_caller]
    pub fn start(&self, number: usize, flags: &[&str]) {
        let [v4, v6] = Town::addresses(number);
        let address = match self.outer {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let url = self.etcd.url();
        let mut all = vec!["--etcd", &url, "--lease-ttl", LEASE, "--node-ip", &address];
        all.extend(flags);
        self.hosts[number].start(&all);
    }

    /// Until each knows all others.
    #[track_caller]
    pub fn wait_for_nodes(&self) {
        for host in &self.hosts {
            within(SOON, "all nodes are known", || {
                let nodes: Vec<NodeInfo> = host.json(&["node", "ls"]);
                let alive = nodes.iter().filter(|n| n.state == NodeState::Alive);
                alive.count() == self.hosts.len()
            });
        }
    }

    /// An overlay network of both families, made on the first host and known on all.
    #[track_caller]
    pub fn overlay(&self, name: &str, flags: &[&str]) -> NetworkInfo {
        let mut arguments = vec!["network", "create", name, "--driver", "overlay"];
        arguments.extend(flags);
        let made: NetworkInfo = self.hosts[0].json(&arguments);
        for host in &self.hosts {
            within(SOON, "the network is known", || self.knows(host, name));
        }
        made
    }

    pub fn knows(&self, host: &Host, network: &str) -> bool {
        let inspect = ["-j", "network", "inspect", network];
        host.netbpf(&inspect).output().status.success()
    }

    /// A container on a host's part of a network, known to all others.
    #[track_caller]
    pub fn container(&self, number: usize, network: &str, name: &str, flags: &[&str]) -> Container {
        let mut all = vec!["--network", network];
        all.extend(flags);
        let container = self.hosts[number].container(&self.lab, name, &all);
        self.wait_for_all();
        container
    }

    /// Until what stands in etcd is in the tables of all hosts.
    #[track_caller]
    pub fn wait_for_all(&self) {
        let revision = self.etcd.revision();
        for host in self.hosts.iter().filter(|host| host.pid().is_some()) {
            within(SOON, "the other hosts know", || {
                let status: StatusInfo = host.json(&["status"]);
                status.cluster.is_some_and(|of| of.revision >= revision)
            });
        }
    }
}
