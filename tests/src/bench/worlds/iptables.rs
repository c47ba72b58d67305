//! Bridge and iptables, with the rules that Docker 24 writes for one bridge
//! network and one published port.

use super::{Path, Town, Way, World, bridge, bridged_packets_pass_iptables};
use crate::lab::{
    Lab, Namespace,
    names::{CLIENT_WIRE, HOST_WIRE},
};

/// What br_netfilter does with bridged packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridged {
    PassIptables,
    Pass,
}

pub fn build(lab: &Lab, tag: &str, bridged: Bridged) -> Iptables {
    let host = lab.space(&format!("host-{tag}"));
    let client = lab.space(&format!("client-{tag}"));
    lab.wire((&host, "up0", &HOST_WIRE), (&client, "eth0", &CLIENT_WIRE));
    let [web, app] = bridge::containers(lab, tag, &host);
    host.sysctl("net.ipv4.ip_forward", "1");
    bridged_packets_pass_iptables(&host, bridged == Bridged::PassIptables);
    for rule in rules() {
        iptables(&host, &rule);
    }
    Iptables {
        town: Town {
            host,
            client,
            web,
            web_address: bridge::WEB.parse().expect("an address"),
            app,
        },
        routes_localnet: false,
    }
}

/// As Docker has it without its proxy: the kernel routes 127.0.0.0/8 to the bridge.
pub fn with_localnet(lab: &Lab, tag: &str) -> Iptables {
    let mut world = build(lab, tag, Bridged::PassIptables);
    let host = &world.town.host;
    for device in ["all", "docker0"] {
        host.sysctl(&format!("net.ipv4.conf.{device}.route_localnet"), "1");
    }
    for rule in [
        "-t nat -D OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -I POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE",
    ] {
        iptables(host, rule);
    }
    world.routes_localnet = true;
    world
}

pub struct Iptables {
    town: Town,
    /// Its ways besides are those of one that does not.
    routes_localnet: bool,
}

impl Iptables {
    pub fn host(&self) -> &Namespace {
        &self.town.host
    }
}

impl World for Iptables {
    fn path(&self, way: Way) -> Option<Path> {
        let has = (way == Way::Loopback) == self.routes_localnet;
        has.then(|| self.town.path(way)).flatten()
    }
}

#[track_caller]
fn iptables(host: &Namespace, rule: &str) {
    let mut argv = vec!["iptables", "-w"];
    argv.extend(rule.split_whitespace());
    host.run(&argv).ok();
}

/// `iptables-save` of a host with Docker, as commands.
fn rules() -> Vec<String> {
    let (subnet, web) = (bridge::SUBNET, bridge::WEB);
    [
        "-t nat -N DOCKER",
        "-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -A POSTROUTING -s SUBNET ! -o docker0 -j MASQUERADE",
        "-t nat -A POSTROUTING -s WEB/32 -d WEB/32 -p tcp -m tcp --dport 80 -j MASQUERADE",
        "-t nat -A DOCKER -i docker0 -j RETURN",
        "-t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination WEB:80",
        "-P FORWARD DROP",
        "-N DOCKER",
        "-N DOCKER-ISOLATION-STAGE-1",
        "-N DOCKER-ISOLATION-STAGE-2",
        "-N DOCKER-USER",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -o docker0 -j DOCKER",
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
        "-A DOCKER -d WEB/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT",
        "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
        "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
        "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
        "-A DOCKER-ISOLATION-STAGE-2 -j RETURN",
        "-A DOCKER-USER -j RETURN",
    ]
    .iter()
    .flat_map(|rule| match rule.contains("-p tcp -m tcp") {
        // Docker writes one for each port of each protocol.
        true => vec![rule.to_string(), rule.replace("tcp", "udp")],
        false => vec![rule.to_string()],
    })
    .map(|rule| rule.replace("SUBNET", subnet).replace("WEB", web))
    .collect()
}
