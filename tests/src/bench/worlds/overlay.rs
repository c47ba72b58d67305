//! Two hosts on a wire with a container on each, in a network over both:
//!
//! ```text
//!   app ── one 192.0.2.1 ──── 192.0.2.2 two ── web :80
//! ```
//!
//! Once by netbpf, once by what the kernel has: a bridge on each host, and a VXLAN device
//! in it with static tables.

use std::net::SocketAddr;

use super::{Path, Way, World};
use crate::lab::{
    Container, Etcd, EtcdPrograms, Family, Host, Lab, Namespace,
    names::{CLIENT, CLIENT_WIRE, HOST, HOST_WIRE},
    within,
};

const SUBNET: &str = "10.40.0.0/16";

/// Two containers that talk, with all that has to live as long as they do.
pub struct Pair {
    app: Namespace,
    web: Namespace,
    connect: SocketAddr,
    wire: Vec<(Namespace, &'static str)>,
    _containers: Vec<Container>,
    _hosts: Vec<Host>,
    _etcd: Option<Etcd>,
}

impl Pair {
    pub fn path(&self) -> Path {
        Path {
            client: self.app.clone(),
            server: self.web.clone(),
            listen: SocketAddr::from(([0, 0, 0, 0], 80)),
            connect: self.connect,
            wire: self.wire.clone(),
        }
    }
}

/// By netbpf; `None` without an etcd.
pub fn netbpf(
    lab: &Lab,
    tag: &str,
    binary: Option<&std::path::Path>,
    flags: &[String],
) -> Option<Pair> {
    let programs = EtcdPrograms::find("overlay in the benchmark")?;
    let hosts = ["one", "two"].map(|role| lab.host(&format!("{role}-{tag}")));
    let [one, two] = &hosts;
    lab.wire((one, "up0", &HOST_WIRE), (two, "up0", &CLIENT_WIRE));
    let dir = lab.dir().join(format!("etcd-{tag}"));
    std::fs::create_dir_all(&dir).expect("make etcd's directory");
    let etcd = Etcd::start_in(&programs, one, &dir, HOST[0]);
    let url = etcd.url();
    for (host, address) in [(one, HOST[0]), (two, CLIENT[0])] {
        if let Some(binary) = binary {
            host.set_binary(binary.into());
        }
        let mut all = vec!["--etcd", &url, "--node-ip", address];
        all.extend(flags.iter().map(String::as_str));
        host.start(&all);
    }
    let create = [
        "network", "create", "wide", "--driver", "overlay", "--subnet", SUBNET,
    ];
    within(
        std::time::Duration::from_secs(10),
        "the cluster is there",
        || one.netbpf(&create).output().status.success(),
    );
    let inspect = ["network", "inspect", "wide"];
    within(
        std::time::Duration::from_secs(10),
        "the network is there",
        || two.netbpf(&inspect).output().status.success(),
    );
    let wide = ["--network", "wide"];
    let app = one.container(lab, &format!("app-{tag}"), &wide);
    let web = two.container(lab, &format!("web-{tag}"), &wide);
    // The way is known once the other node's block is.
    let address = web.addr(Family::V4);
    within(
        std::time::Duration::from_secs(10),
        "the way is there",
        || app.ping_with(address, &[]).status.success(),
    );
    Some(Pair {
        app: Namespace::clone(&app),
        web: Namespace::clone(&web),
        connect: SocketAddr::new(address, 80),
        wire: wire_of([one, two].map(|host| &**host)),
        _containers: vec![app, web],
        _hosts: hosts.into(),
        _etcd: Some(etcd),
    })
}

fn wire_of(hosts: [&Namespace; 2]) -> Vec<(Namespace, &'static str)> {
    hosts.map(|host| (host.clone(), "up0")).into()
}

struct Vxlan(Pair);

/// By the kernel's own devices.
pub fn vxlan(lab: &Lab, tag: &str) -> impl World + use<> {
    let hosts = ["one", "two"].map(|role| lab.space(&format!("{role}-{tag}")));
    let [one, two] = &hosts;
    lab.wire((one, "up0", &HOST_WIRE), (two, "up0", &CLIENT_WIRE));
    let sides = [(one, HOST[0], CLIENT[0]), (two, CLIENT[0], HOST[0])];
    let containers = sides.map(|(host, local, remote)| {
        let role = if local == HOST[0] { "app" } else { "web" };
        let number = if local == HOST[0] { 2 } else { 3 };
        let space = lab.space(&format!("{role}-{tag}"));
        host.ip("link add br0 type bridge");
        host.ip(&format!(
            "link add vxlan0 type vxlan id 42 dstport 4789 local {local} remote {remote} nolearning"
        ));
        host.ip("link set vxlan0 master br0 up mtu 1450");
        host.ip("link set br0 up mtu 1450");
        host.ip(&format!(
            "link add veth0 type veth peer name eth0 netns {}",
            space.name()
        ));
        host.ip("link set veth0 master br0 up mtu 1450");
        space.ip("link set eth0 mtu 1450");
        space.address("eth0", &[&format!("10.40.0.{number}/16")]);
        super::bridged_packets_pass_iptables(host, false);
        space
    });
    let wire = wire_of([one, two]);
    let [app, web] = containers;
    Vxlan(Pair {
        app,
        web,
        connect: SocketAddr::from(([10, 40, 0, 3], 80)),
        wire,
        _containers: Vec::new(),
        _hosts: Vec::new(),
        _etcd: None,
    })
}

impl World for Vxlan {
    fn path(&self, way: Way) -> Option<Path> {
        (way == Way::Overlay).then(|| self.0.path())
    }
}
