//! What is on the wire between the nodes of an overlay network, and who else reads and
//! writes it; the town is drawn at [`netbpf_tests::lab::Town`].

use std::time::Duration;

use netbpf_tests::lab::{
    Cmd, Family, Http, SOON, Town, UdpEcho, Wiretap, has_tools, names::SUBNETS, within,
};

#[test]
fn a_plain_vxlan_device_of_linux_is_a_peer() {
    let Some(town) = Town::new("overlay_linux_peer", 1, Family::V4) else {
        return;
    };
    let made = town.overlay("wide", &["--subnet", "10.30.0.0/16", "--vni", "4242"]);
    let web = town.container(0, "wide", "web", &[]);
    let _http = Http::start(&web, 80);
    // The client has an address of the network, by a device of its own.
    let peer = &town.client;
    let own = Town::addresses(0)[0].clone();
    peer.ip(&format!(
        "link add vx0 type vxlan id 4242 dstport 4789 local 192.0.2.2 remote {own} nolearning"
    ));
    peer.ip(&format!("link set vx0 mtu {}", made.mtu));
    peer.address("vx0", &["10.30.200.1/16"]);
    let mac = peer.mac("vx0").map(|b| format!("{b:02x}")).join(":");
    peer.ip(&format!(
        "neigh add {} lladdr 02:6e:65:74:62:70 dev vx0 nud permanent",
        web.addr(Family::V4)
    ));
    // And is registered by hand, as docs/cluster.md says.
    let node = format!(
        r#"{{"v":1,"name":"linux","id":"by hand","address":"192.0.2.2","mtu":1500,"port":4789,"mac":"{mac}","version":""}}"#
    );
    town.etcd.ctl(&["put", "/netbpf/v1/nodes/linux", &node]);
    town.etcd.ctl(&[
        "put",
        "/netbpf/v1/addresses/wide/10.30.200.1",
        r#"{"v":1,"node":"linux","endpoint":"linux"}"#,
    ]);
    let address = "10.30.200.1".parse().unwrap();
    within(Duration::from_secs(5), "the peer is known", || {
        web.ping_with(address, &[]).status.success()
    });
    peer.ping(web.addr(Family::V4));
    assert_eq!(peer.fetch(web.addr(Family::V4), 80).peer, address);
    let _back = Http::start(peer, 81);
    assert_eq!(web.fetch(address, 81).peer, web.addr(Family::V4));
    web.fetch_big(address, 81);
    peer.fetch_big(web.addr(Family::V4), 80);
}

#[test]
fn a_smaller_way_between_nodes_is_learned() {
    let Some(town) = Town::without_daemons("overlay_path_mtu", 2, Family::V4) else {
        return;
    };
    // The second node is behind a router whose wire to it is smaller.
    let router = town.lab.space("router");
    router.sysctl("net.ipv4.ip_forward", "1");
    town.lab.wire(
        (&town.lan, "router", &[]),
        (&router, "lan", &["192.0.2.9/24"]),
    );
    town.lan.ip("link set router master br0");
    town.lab.wire(
        (&router, "far", &["198.51.100.1/24"]),
        (&town.hosts[1], "up1", &["198.51.100.2/24"]),
    );
    router.ip("link set far mtu 1400");
    town.hosts[1].ip("link set up1 mtu 1400");
    town.hosts[1].ip("addr del 192.0.2.12/24 dev up0");
    town.hosts[1].ip("link set up0 down");
    town.hosts[1].ip("route replace default via 198.51.100.1");
    for space in [&*town.hosts[0], &town.lan] {
        space.ip("route add 198.51.100.0/24 via 192.0.2.9");
    }
    town.start(0, &[]);
    let url = town.etcd.url();
    town.hosts[1].start(&["--etcd", &url, "--node-ip", "198.51.100.2"]);
    town.wait_for_nodes();
    town.overlay("wide", &SUBNETS);
    let web = town.container(0, "wide", "web", &[]);
    let app = town.container(1, "wide", "app", &[]);
    let _http = [Http::start(&web, 80), Http::start(&app, 80)];
    for family in Family::BOTH {
        web.fetch_big(app.addr(family), 80);
        app.fetch_big(web.addr(family), 80);
        let header = if family == Family::V4 { 28 } else { 48 };
        let sized =
            |size: usize| web.ping_with(app.addr(family), &["-M", "do", "-s", &size.to_string()]);
        // Told by our program, which the router has told.
        within(SOON, "the MTU of the way is known", || {
            let output = sized(1450 - header);
            output.stdout.contains("mtu") || output.stderr.contains("too long")
        });
        assert!(
            sized(1350 - header).status.success(),
            "{}",
            sized(1350 - header)
        );
    }
}

/// A capture file of these frames (draft-ietf-opsawg-pcap).
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_ne_bytes());
    }
    for frame in frames {
        let length = frame.len() as u32;
        for word in [0, 0, length, length] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    file
}

#[test]
fn others_decode_what_goes_between_nodes() {
    if !has_tools("others_decode_what_goes_between_nodes", &["tshark"]) {
        return;
    }
    for outer in Family::BOTH {
        let test = format!("overlay_decoded_{outer:?}").to_lowercase();
        let Some(town) = Town::new(&test, 2, outer) else {
            return;
        };
        town.overlay("wide", &[&SUBNETS[..], &["--vni", "4711"]].concat());
        let web = town.container(0, "wide", "web", &[]);
        let app = town.container(1, "wide", "app", &[]);
        let (_http, _udp) = (Http::start(&web, 80), UdpEcho::start(&web, 7777));
        let wire = Wiretap::open(&town.lan, "n1");
        for family in Family::BOTH {
            app.ping(web.addr(family));
            app.fetch(web.addr(family), 80);
            app.ask_udp(web.addr(family), 7777);
            app.ping_with(web.addr(family), &["-s", "4000"]);
        }
        let file = town.lab.dir().join("wire.pcap");
        std::fs::write(&file, pcap(&wire.seen())).expect("write the capture");
        let file = file.display().to_string();
        let tshark = |arguments: &[&str]| {
            // Those of UDP and TCP inside are left to the card, which these wires lack.
            let base = [
                "tshark",
                "-r",
                &file,
                "-o",
                "ip.check_checksum:TRUE",
                "-o",
                "udp.ignore_ipv6_zero_checksum:TRUE",
            ];
            Cmd::new(&[&base[..], arguments].concat()).ok()
        };
        let wrong =
            "vxlan && (_ws.malformed || ip.checksum.status == 0 || _ws.expert.severity == error)";
        assert_eq!(tshark(&["-Y", wrong]), "", "{outer:?}");
        let numbers = tshark(&["-Y", "vxlan", "-T", "fields", "-e", "vxlan.vni"]);
        assert!(numbers.lines().count() > 20, "{numbers}");
        assert!(numbers.lines().all(|vni| vni == "4711"), "{numbers}");
        for inside in ["icmp", "icmpv6", "http", "udp.dstport == 7777"] {
            let found = tshark(&["-Y", &format!("vxlan && {inside}")]);
            assert!(!found.is_empty(), "no {inside} in the capture, {outer:?}");
        }
    }
}
