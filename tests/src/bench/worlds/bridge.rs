//! A bridge with two containers and nothing else: no rule, no br_netfilter, no
//! way outside.

use super::{Path, Town, Way, World, bridged_packets_pass_iptables};
use crate::lab::{Lab, Namespace};

/// The bridge's subnet.
pub const SUBNET: &str = "172.17.0.0/16";
pub const GATEWAY: &str = "172.17.0.1";
pub const WEB: &str = "172.17.0.2";
pub const APP: &str = "172.17.0.3";

struct Bridge(Town);

pub fn build(lab: &Lab, tag: &str) -> impl World + use<> {
    let host = lab.space(&format!("host-{tag}"));
    let client = lab.space(&format!("client-{tag}"));
    let [web, app] = containers(lab, tag, &host);
    bridged_packets_pass_iptables(&host, false);
    Bridge(Town {
        host,
        client,
        web,
        web_address: WEB.parse().expect("an address"),
        app,
    })
}

/// The bridge `docker0` with two containers, as Docker makes it.
pub fn containers(lab: &Lab, tag: &str, host: &Namespace) -> [Namespace; 2] {
    host.ip("link add docker0 type bridge");
    host.address("docker0", &[&format!("{GATEWAY}/16")]);
    [("web", WEB), ("app", APP)].map(|(name, address)| {
        let space = lab.space(&format!("{name}-{tag}"));
        let outer = format!("veth-{name}");
        host.ip(&format!(
            "link add {outer} type veth peer name eth0 netns {}",
            space.name()
        ));
        host.ip(&format!("link set {outer} master docker0 up"));
        space.address("eth0", &[&format!("{address}/16")]);
        space.route("default", &format!("via {GATEWAY}"));
        space
    })
}

impl World for Bridge {
    fn path(&self, way: Way) -> Option<Path> {
        (way == Way::Sibling).then(|| self.0.path(way)).flatten()
    }
}
