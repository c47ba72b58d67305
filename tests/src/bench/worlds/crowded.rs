//! Worlds in which much else is there: what is measured is the way of [`Way::Published`], among
//! 10,000 published ports or a million flows.

use std::fmt::Write as _;

use ::netbpf::datapath::GATEWAY_MAC;
use netbpf_common::{
    maps::evictable::established_index,
    names::{FROM_CONTAINER, FROM_UPLINK, OCCUPANCY},
};

use super::{Path, Way, World, bridge, iptables, netbpf};
use crate::{
    lab::{
        Container, Family, Lab,
        names::{CLIENT, FRONT, HOST},
    },
    packets,
    rows::{Opened, pinned_array},
};

/// Published besides the one that is asked.
const PORTS: u16 = 9_999;

/// The first of them.
const FIRST: u16 = 20_000;

/// Flows besides those that are measured.
const FLOWS: usize = 1_000_000;

/// Of so many remote ports each, as [`super::super::flows`] has them.
const REMOTE_PORTS: usize = 60_000;

/// Flows that are begun before they are answered: all have a place among those that may be
/// evicted until then.
const OPENING: usize = 10_000;

/// A world that is measured as a crowded one alone.
struct Crowded<W>(W);

impl<W: World> World for Crowded<W> {
    fn path(&self, way: Way) -> Option<Path> {
        (way == Way::Crowded)
            .then(|| self.0.path(Way::Published))
            .flatten()
    }
}

/// Host port and container port of each: none follows the one before in both, so that they are
/// no range.
fn ports() -> impl Iterator<Item = (u16, u16)> {
    (0..PORTS).map(|number| (FIRST + number, 81 + number * 2))
}

/// As Docker writes them, in front of the one that is asked.
pub fn iptables_ports(lab: &Lab, tag: &str) -> impl World + use<> {
    let world = iptables::build(lab, tag, iptables::Bridged::PassIptables);
    let (mut nat, mut filter) = (String::from("*nat\n"), String::from("*filter\n"));
    let app = bridge::APP;
    for (host, inside) in ports() {
        _ = writeln!(
            nat,
            "-I DOCKER 2 ! -i docker0 -p tcp -m tcp --dport {host} -j DNAT --to-destination {app}:{inside}"
        );
        _ = writeln!(
            filter,
            "-I DOCKER 1 -d {app}/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport {inside} -j ACCEPT"
        );
    }
    let rules = format!("{nat}COMMIT\n{filter}COMMIT\n");
    let host = world.host();
    host.run(&["iptables-restore", "--wait", "--noflush"])
        .stdin(&rules)
        .ok();
    Crowded(world)
}

pub fn netbpf_ports(lab: &Lab, tag: &str) -> impl World + use<> {
    let world = netbpf::build(lab, tag, None, &[], false);
    let specs: Vec<String> = ports()
        .flat_map(|(host, inside)| ["-p".into(), format!("{host}:{inside}")])
        .collect();
    let mut flags = vec!["--network", FRONT.name];
    flags.extend(specs.iter().map(String::as_str));
    let many = world.host.container(lab, &format!("many-{tag}"), &flags);
    Crowded(world.with(many))
}

/// A million flows of UDP that are established, by the real programs, which the kernel's
/// test-run gives their packets.
pub fn netbpf_flows(lab: &Lab, tag: &str) -> impl World + use<> {
    let flags = ["--max-flows", "1100000"].map(String::from);
    let world = netbpf::build(lab, tag, None, &flags, false);
    let container = world
        .host
        .container(lab, &format!("talker-{tag}"), &["--network", FRONT.name]);
    let host = &world.host;
    host.enter(|| establish(&world, &container));
    let counts = pinned_array::<u64>(&host.bpffs(), OCCUPANCY);
    let there = counts.get(&established_index(false), 0).expect("a count");
    // The daemon counts as well, and may miss those of that moment.
    assert!(there >= FLOWS as u64 / 100 * 99, "{there} flows");
    Crowded(world.with(container))
}

fn establish(world: &netbpf::Netbpf, container: &Container) {
    let host = &world.host;
    let open = |program| Opened::open(&host.bpffs(), program);
    let (from_container, from_uplink) = (open(FROM_CONTAINER), open(FROM_UPLINK));
    let ifindex = |links: &serde_json::Value, field: &str| {
        links[0][field].as_u64().expect("an ifindex") as u32
    };
    let veth = ifindex(&container.ip_json("link show dev eth0"), "link_index");
    let uplink = ifindex(&host.ip_json("link show dev up0"), "ifindex");
    let (client, own) = (Family::V4.ip(CLIENT), Family::V4.ip(HOST));
    let out = packets::Way::new(
        container.mac("eth0"),
        GATEWAY_MAC,
        container.addr(Family::V4),
        client,
    );
    let back = packets::Way::new(GATEWAY_MAC, host.mac("up0"), client, own);
    let ports = |number: usize| {
        let own = FIRST as usize + number / REMOTE_PORTS;
        (own as u16, (1 + number % REMOTE_PORTS) as u16)
    };
    let redirected = |program: &Opened, ifindex, packet: Vec<u8>| {
        let code = program.run(ifindex, ifindex, &packet).map(|(code, _)| code);
        assert_eq!(code, Some(7), "{}: not redirected", program.name);
    };
    for first in (0..FLOWS).step_by(OPENING) {
        let some = || (first..FLOWS.min(first + OPENING)).map(ports);
        let speak = || {
            for (own, remote) in some() {
                redirected(&from_container, veth, out.udp(own, remote, b"question"));
            }
        };
        // Answered, and spoken once more, they are established.
        speak();
        for (own, remote) in some() {
            redirected(&from_uplink, uplink, back.udp(remote, own, b"answer"));
        }
        speak();
    }
}
