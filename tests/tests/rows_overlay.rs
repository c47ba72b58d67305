//! Packets into VXLAN and out of it, through the real programs by the kernel's test-run:
//! each family inside over each family outside. The surroundings are drawn at
//! [`netbpf_tests::rows::Rig`]; the client is another node there.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netbpf::datapath::{GATEWAY_MAC, NetworkFlags, NodeEntry, Overlay, TunnelEntry};
use netbpf_common::{
    drop::DropReason,
    names::{FROM_CONTAINER, FROM_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, FRONT, HOST, NOBODY},
    },
    packets::{Way, arp_request, fragments, icmp_type_code, vxlan, with_class},
    rows::{
        Action, Out, Rig, Row,
        overlay::{self, NODE_MAC, PORT, VNI, flags},
        with_rig,
    },
};

/// A container on the other node.
const FAR: [&str; 2] = ["10.10.1.70", "fd10:1::f000"];
const FAR_BLOCKS: [&str; 2] = ["10.10.1.64/26", "fd10:1::f000/122"];

/// Makes an overlay of the first network, by VTEPs of that family.
fn make_overlay(rig: &Rig, outer: Family, change: impl FnOnce(&mut Overlay)) {
    rig.set_network_flags(flags());
    let mut wanted = overlay::overlay(1, outer, &FAR_BLOCKS);
    change(&mut wanted);
    rig.datapath
        .set_overlay(&wanted)
        .unwrap_or_else(|e| panic!("overlay: {e}"));
}

fn each(rows: impl Fn(&Rig, Family, Family) + Sync, test: &str) {
    with_rig(test, |rig| {
        for outer in Family::BOTH {
            make_overlay(rig, outer, |_| ());
            for inner in Family::BOTH {
                rows(rig, outer, inner);
            }
        }
    });
}

fn title(what: &str, inner: Family, outer: Family) -> String {
    format!("{what}, {inner:?} over {outer:?}")
}

/// Fails unless `frame` is `inside` from its network header on, in VXLAN from this host to
/// the other node.
#[track_caller]
fn assert_tunnelled(frame: &[u8], inside: &[u8], outer: Family, class: u8) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a packet");
    let (from, to, hops, marks): (IpAddr, IpAddr, u8, u8) = match packet.net.expect("IP") {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header();
            assert!(ip.dont_fragment(), "may be fragmented");
            let (from, to) = (ip.source_addr(), ip.destination_addr());
            (from.into(), to.into(), ip.ttl(), frame[15])
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header();
            let (from, to) = (ip.source_addr(), ip.destination_addr());
            (
                from.into(),
                to.into(),
                ip.hop_limit(),
                frame[14] << 4 | frame[15] >> 4,
            )
        }
        other => panic!("not IP: {other:?}"),
    };
    assert_eq!((from, to), (outer.ip(HOST), outer.ip(CLIENT)));
    assert_eq!((hops, marks), (64, class), "TTL and class");
    let Some(TransportSlice::Udp(udp)) = packet.transport else {
        panic!("not UDP");
    };
    assert_eq!((udp.destination_port(), udp.checksum()), (PORT, 0));
    assert!(udp.source_port() >= 49_152, "{}", udp.source_port());
    let payload = udp.payload();
    assert_eq!(payload[..8], vxlan(VNI, &[])[..], "the VXLAN header");
    assert_eq!(payload[8..14], NODE_MAC, "destination inside");
    assert_eq!(payload[14..20], GATEWAY_MAC, "source inside");
    assert_eq!(payload[20..], inside[12..], "what is inside");
}

#[test]
fn what_is_for_another_node_goes_into_vxlan() {
    each(
        |rig, outer, inner| {
            let way = rig.from(&rig.web, inner.ip(FAR)).hops(1);
            let packets = [
                way.tcp(1000, 80, "A", b"x"),
                way.udp(1000, 53, b"x"),
                way.echo_request(1, 1, b"x"),
                way.protocol(47, b"GRE and the like"),
            ];
            for packet in packets {
                for class in [0, 1, 2, 3, 0xb8 | 1] {
                    let packet = with_class(packet.clone(), class);
                    let inside = packet.clone();
                    let such = move |frame: &[u8]| {
                        assert_tunnelled(frame, &inside, outer, class & 3);
                    };
                    let ifindex = rig.web.ifindex();
                    let name = title("into the tunnel", inner, outer);
                    Row::new(name, FROM_CONTAINER, ifindex, packet, Action::Redirect)
                        .out(Out::Such(&such))
                        .check(rig);
                }
            }
        },
        "into_vxlan",
    );
}

/// What the other node sends: `inside` in VXLAN.
fn sent(rig: &Rig, outer: Family, vni: u32, inside: &[u8]) -> Vec<u8> {
    let way = rig.by_uplink(outer.ip(CLIENT), outer.ip(HOST));
    way.udp(50_000, PORT, &vxlan(vni, inside))
}

fn arrived<'a>(rig: &Rig, name: String, packet: Vec<u8>, verdict: Action) -> Row<'a> {
    let ifindex = rig.uplink.entry.device.ifindex;
    Row::new(name, FROM_UPLINK, ifindex, packet, verdict)
}

#[test]
fn what_comes_in_vxlan_reaches_its_container() {
    each(
        |rig, outer, inner| {
            // Whatever the MACs inside are.
            let to = rig.web.ip(inner);
            let inside = Way::new(NODE_MAC, [2, 0, 0, 0, 0, 1], inner.ip(FAR), to);
            let out = rig.into(&rig.web, inner.ip(FAR));
            for (packet, wanted) in [
                (
                    inside.tcp(80, 1000, "SA", b""),
                    out.tcp(80, 1000, "SA", b""),
                ),
                (inside.udp(53, 1000, b"x"), out.udp(53, 1000, b"x")),
                (inside.echo_reply(1, 1, b"x"), out.echo_reply(1, 1, b"x")),
                (inside.protocol(47, b"x"), out.protocol(47, b"x")),
            ] {
                let packet = sent(rig, outer, VNI, &packet);
                arrived(rig, title("out", inner, outer), packet, Action::Redirect)
                    .out(Out::Frame(wanted))
                    .check(rig);
            }
        },
        "out_of_vxlan",
    );
}

#[test]
fn congestion_is_carried_over() {
    each(
        |rig, outer, inner| {
            let inside = Way::new(NODE_MAC, GATEWAY_MAC, inner.ip(FAR), rig.web.ip(inner));
            let out = rig.into(&rig.web, inner.ip(FAR));
            let dscp = 0x48;
            // RFC 6040, figure 4: inside, outside, and what comes out.
            let table = [
                (0, 0, Some(0)),
                (0, 1, Some(0)),
                (0, 2, Some(0)),
                (0, 3, None),
                (2, 1, Some(1)),
                (2, 3, Some(3)),
                (1, 2, Some(1)),
                (1, 3, Some(3)),
                (3, 0, Some(3)),
            ];
            for (within, without, left) in table {
                let packet = with_class(inside.udp(53, 1000, b"x"), dscp | within);
                let packet = with_class(sent(rig, outer, VNI, &packet), without);
                let name = title(&format!("marks {within} in {without}"), inner, outer);
                match left {
                    Some(left) => {
                        let wanted = with_class(out.udp(53, 1000, b"x"), dscp | left);
                        arrived(rig, name, packet, Action::Redirect)
                            .out(Out::Frame(wanted))
                            .check(rig);
                    }
                    None => arrived(rig, name, packet, Action::Drop)
                        .out(Out::Any)
                        .drops(&[(DropReason::Congested, 1)])
                        .check(rig),
                }
            }
        },
        "congestion_is_carried",
    );
}

#[test]
fn what_is_forged_is_dropped_under_its_reason() {
    each(
        |rig, outer, inner| {
            let to = rig.web.ip(inner);
            let right = Way::new(NODE_MAC, GATEWAY_MAC, inner.ip(FAR), to);
            let dropped = |what: &str, packet: Vec<u8>, reason| {
                arrived(rig, title(what, inner, outer), packet, Action::Drop)
                    .out(Out::Any)
                    .drops(&[(reason, 1)])
                    .check(rig);
            };
            let packet = right.udp(53, 1000, b"x");
            let other = sent(rig, outer, VNI + 1, &packet);
            dropped("another network", other, DropReason::UnknownVni);
            let stranger = rig.by_uplink(outer.ip(NOBODY), outer.ip(HOST));
            let from = stranger.udp(50_000, PORT, &vxlan(VNI, &packet));
            dropped("no node", from, DropReason::UnknownNode);
            // This host's own address, on the wire.
            let itself = rig.by_uplink(outer.ip(HOST), outer.ip(HOST));
            let from = itself.udp(50_000, PORT, &vxlan(VNI, &packet));
            dropped("its own address", from, DropReason::UnknownNode);
            for source in [
                rig.app.ip(inner),
                inner.ip(FRONT.gateways),
                inner.ip(CLIENT),
            ] {
                let way = Way::new(NODE_MAC, GATEWAY_MAC, source, to);
                let packet = sent(rig, outer, VNI, &way.udp(53, 1000, b"x"));
                dropped(
                    "another's address inside",
                    packet,
                    DropReason::OverlaySource,
                );
            }
            let way = Way::new(NODE_MAC, GATEWAY_MAC, inner.ip(FAR), inner.ip(FRONT.absent));
            let packet = sent(rig, outer, VNI, &way.udp(53, 1000, b"x"));
            dropped("to nobody", packet, DropReason::OverlayAddress);
            // The other network's containers are in another scope, whatever their address.
            let way = Way::new(NODE_MAC, GATEWAY_MAC, inner.ip(FAR), inner.ip(HOST));
            let packet = sent(rig, outer, VNI, &way.udp(53, 1000, b"x"));
            dropped("to the host", packet, DropReason::OverlayAddress);
            let packet = sent(rig, outer, VNI, &right.udp(53, 1000, &[0; 400]));
            let pieces = fragments(&packet, 160, 7);
            let first = pieces[0].clone();
            dropped("in pieces", first, DropReason::Fragment);
            let mut packet = sent(rig, outer, VNI, &right.udp(53, 1000, b"x"));
            let header = packet.windows(4).position(|w| w == [8, 0, 0, 0]).unwrap();
            packet[header] = 0;
            dropped("without a network", packet, DropReason::Malformed);
        },
        "forged_vxlan",
    );
}

/// Of the first node's block, on a second one.
const MOVED: [&str; 2] = ["10.10.1.71", "fd10:1::f001"];

#[test]
fn a_single_address_lives_elsewhere_than_its_block() {
    with_rig("single_vxlan", |rig| {
        for outer in Family::BOTH {
            let second = outer.ip(NOBODY);
            make_overlay(rig, outer, |overlay| {
                overlay.nodes.push(NodeEntry {
                    vtep: second,
                    ..overlay.nodes[0]
                });
                overlay.tunnels.extend(MOVED.map(|ip| TunnelEntry {
                    network: 1,
                    block: ip.parse::<IpAddr>().expect("an address").into(),
                    node: Some(second),
                }));
            });
            for inner in Family::BOTH {
                for (at, node) in [(FAR, outer.ip(CLIENT)), (MOVED, second)] {
                    let place = if outer == Family::V4 { 30..34 } else { 38..54 };
                    let wanted = match node {
                        IpAddr::V4(ip) => ip.octets().to_vec(),
                        IpAddr::V6(ip) => ip.octets().to_vec(),
                    };
                    let such = |frame: &[u8]| assert_eq!(frame[place.clone()], wanted);
                    let packet = rig.from(&rig.web, inner.ip(at)).udp(1000, 53, b"x");
                    let (name, ifindex) = (title("to a node", inner, outer), rig.web.ifindex());
                    Row::new(name, FROM_CONTAINER, ifindex, packet, Action::Redirect)
                        .out(Out::Such(&such))
                        .check(rig);
                }
                // Each node sends what lives on it, and nothing of the other's.
                for (source, node, comes_in) in [
                    (FAR, outer.ip(CLIENT), true),
                    (MOVED, second, true),
                    (FAR, second, false),
                    (MOVED, outer.ip(CLIENT), false),
                ] {
                    let to = rig.web.ip(inner);
                    let inside = Way::new(NODE_MAC, GATEWAY_MAC, inner.ip(source), to);
                    let inside = inside.udp(53, 1000, b"x");
                    let by = rig.by_uplink(node, outer.ip(HOST));
                    let packet = by.udp(50_000, PORT, &vxlan(VNI, &inside));
                    let name = title("from a node", inner, outer);
                    let (verdict, drops): (_, &[_]) = match comes_in {
                        true => (Action::Redirect, &[]),
                        false => (Action::Drop, &[(DropReason::OverlaySource, 1)]),
                    };
                    arrived(rig, name, packet, verdict)
                        .out(Out::Any)
                        .drops(drops)
                        .check(rig);
                }
            }
        }
    });
}

#[test]
fn arp_in_vxlan_is_not_answered() {
    with_rig("arp_in_vxlan", |rig| {
        make_overlay(rig, Family::V4, |_| ());
        let asks = arp_request(NODE_MAC, FAR[0].parse().unwrap(), rig.web.ipv4());
        let packet = sent(rig, Family::V4, VNI, &asks);
        arrived(rig, "ARP".into(), packet, Action::Drop)
            .out(Out::Any)
            .drops(&[(DropReason::Multicast, 1)])
            .check(rig);
    });
}

#[test]
fn a_shared_port_leaves_other_networks_to_the_others() {
    with_rig("a_shared_port", |rig| {
        make_overlay(rig, Family::V4, |overlay| overlay.shared = true);
        let inside = rig.into(&rig.web, Family::V4.ip(FAR)).udp(1, 2, b"x");
        let packet = sent(rig, Family::V4, VNI + 1, &inside);
        arrived(rig, "not ours".into(), packet, Action::Pass).check(rig);
        // Another port is not VXLAN, nor is another address of the host.
        let way = rig.by_uplink(Family::V4.ip(CLIENT), Family::V4.ip(HOST));
        let packet = way.udp(50_000, PORT + 1, &vxlan(VNI, &inside));
        arrived(rig, "another port".into(), packet, Action::Pass).check(rig);
    });
}

#[test]
fn containers_send_no_vxlan_to_nodes() {
    each(
        |rig, outer, _| {
            // Containers on other networks of the host do not either.
            for member in [&rig.web, &rig.other] {
                for to in [CLIENT, HOST] {
                    let way = rig.from(member, outer.ip(to));
                    let packet = way.udp(50_000, PORT, &vxlan(VNI, b"anything"));
                    Row::new(
                        "forged",
                        FROM_CONTAINER,
                        member.ifindex(),
                        packet,
                        Action::Drop,
                    )
                    .out(Out::Any)
                    .drops(&[(DropReason::VxlanFromContainer, 1)])
                    .check(rig);
                }
                let way = rig.from(member, outer.ip(NOBODY));
                let packet = way.udp(50_000, PORT, b"no node");
                let ifindex = member.ifindex();
                Row::new(
                    "elsewhere",
                    FROM_CONTAINER,
                    ifindex,
                    packet,
                    Action::Redirect,
                )
                .out(Out::Any)
                .check(rig);
            }
        },
        "no_vxlan_from_containers",
    );
}

#[test]
fn what_is_vxlan_depends_on_the_nodes_port() {
    with_rig("vxlan_ports", |rig| {
        for outer in Family::BOTH {
            for port in [PORT, 8472] {
                make_overlay(rig, outer, |overlay| overlay.nodes[0].port = port);
                for (to, at, forged) in [
                    (CLIENT, port, true),
                    (CLIENT, PORT + 8472 - port, false),
                    (HOST, PORT, true),
                    (NOBODY, PORT, false),
                ] {
                    let packet = rig.from(&rig.web, outer.ip(to)).udp(50_000, at, b"x");
                    let name = format!("{} port {at}, the node's is {port}", outer.ip(to));
                    let action = if forged {
                        Action::Drop
                    } else {
                        Action::Redirect
                    };
                    let row = Row::new(name, FROM_CONTAINER, rig.web.ifindex(), packet, action);
                    let row = row.out(Out::Any);
                    match forged {
                        true => row.drops(&[(DropReason::VxlanFromContainer, 1)]).check(rig),
                        false => row.check(rig),
                    }
                }
            }
        }
    });
}

#[test]
fn without_icc_nothing_passes_between_nodes() {
    with_rig("overlay_without_icc", |rig| {
        let closed = NetworkFlags {
            icc: false,
            ..flags()
        };
        make_overlay(rig, Family::V4, |overlay| {
            overlay.networks[0].flags = closed
        });
        rig.set_network_flags(closed);
        for inner in Family::BOTH {
            let packet = rig.from(&rig.web, inner.ip(FAR)).udp(1000, 53, b"x");
            let ifindex = rig.web.ifindex();
            Row::new("out", FROM_CONTAINER, ifindex, packet, Action::Drop)
                .drops(&[(DropReason::IccDisabled, 1)])
                .check(rig);
            let inside = Way::new(NODE_MAC, GATEWAY_MAC, inner.ip(FAR), rig.web.ip(inner));
            let packet = sent(rig, Family::V4, VNI, &inside.udp(53, 1000, b"x"));
            arrived(rig, "in".into(), packet, Action::Drop)
                .drops(&[(DropReason::IccDisabled, 1)])
                .check(rig);
        }
    });
}

/// The largest segment that a SYN says in its options.
fn segment_size(frame: &[u8], tcp: usize) -> u16 {
    assert_eq!(frame[tcp + 20..tcp + 22], [2, 4], "the first option");
    u16::from_be_bytes([frame[tcp + 22], frame[tcp + 23]])
}

#[test]
fn what_does_not_fit_is_told_so() {
    each(
        |rig, outer, inner| {
            let overhead = if outer == Family::V4 { 50 } else { 70 };
            let header = if inner == Family::V4 { 20 } else { 40 };
            let way = rig.from(&rig.web, inner.ip(FAR));
            let ifindex = rig.web.ifindex();
            let of_size = |size: usize| way.udp(1000, 53, &vec![0; size - header - 8]);
            let fits = |most: usize| {
                let name = title("fits", inner, outer);
                Row::new(
                    name,
                    FROM_CONTAINER,
                    ifindex,
                    of_size(most),
                    Action::Redirect,
                )
                .out(Out::Any)
                .check(rig);
                let told = move |frame: &[u8]| {
                    let (kind, code) = icmp_type_code(frame).expect("ICMP");
                    let at = 14 + header;
                    let mtu = match inner {
                        Family::V4 => {
                            assert_eq!((kind, code), (3, 4));
                            u32::from(u16::from_be_bytes([frame[at + 6], frame[at + 7]]))
                        }
                        Family::V6 => {
                            assert_eq!((kind, code), (2, 0));
                            u32::from_be_bytes(frame[at + 4..at + 8].try_into().unwrap())
                        }
                    };
                    assert_eq!(mtu as usize, most, "the MTU told");
                };
                let name = title("too big", inner, outer);
                Row::new(
                    name,
                    FROM_CONTAINER,
                    ifindex,
                    of_size(most + 1),
                    Action::Redirect,
                )
                .out(Out::Such(&told))
                .drops(&[(DropReason::TooBig, 1)])
                .check(rig);
            };
            fits(1500 - overhead);

            // A router on the way lets less through.
            let sent = rig.out(outer.ip(HOST), outer.ip(CLIENT));
            let quote = sent.udp(50_000, PORT, &vxlan(VNI, &[0; 100]))[14..].to_vec();
            let router = rig.by_uplink(outer.ip(NOBODY), outer.ip(HOST));
            let learned = 1400;
            let error = match outer {
                Family::V4 => router.icmp(3, 4, [0, 0, 0x05, 0x78], &quote),
                Family::V6 => router.icmp(2, 0, [0, 0, 0x05, 0x78], &quote),
            };
            arrived(rig, title("frag needed", inner, outer), error, Action::Pass).check(rig);
            fits(learned - overhead);

            // A SYN says that no more is to be sent back.
            let syn = netbpf_tests::packets::Segment {
                flags: "S",
                scale: Some(7),
                ..Default::default()
            };
            let packet = way.segment((1000, 80), &syn);
            let tcp = if outer == Family::V4 { 64 } else { 84 } + header;
            let clamped = move |frame: &[u8]| {
                let most = learned - overhead - header - 20;
                assert_eq!(segment_size(frame, tcp) as usize, most);
                let inside = &frame[tcp - header - 14..];
                netbpf_tests::packets::assert_checksums(inside);
            };
            let name = title("SYN", inner, outer);
            Row::new(name, FROM_CONTAINER, ifindex, packet, Action::Redirect)
                .out(Out::Such(&clamped))
                .check(rig);

            // Nobody but a router on the way to a node changes that.
            let strange = rig.out(outer.ip(HOST), outer.ip(NOBODY));
            let quote = strange.udp(50_000, PORT, &vxlan(VNI, &[0; 100]))[14..].to_vec();
            let error = match outer {
                Family::V4 => router.icmp(3, 4, [0, 0, 0x05, 0x14], &quote),
                Family::V6 => router.icmp(2, 0, [0, 0, 0x05, 0x14], &quote),
            };
            arrived(rig, "of no node".into(), error, Action::Pass).check(rig);
            fits(learned - overhead);

            // Forgotten and known anew, it has a way of its own.
            make_overlay(rig, outer, |overlay| overlay.nodes.clear());
            make_overlay(rig, outer, |_| ());
            fits(1500 - overhead);
        },
        "too_big_for_the_tunnel",
    );
}
