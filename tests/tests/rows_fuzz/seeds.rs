//! Real packets of every kind of flow, to begin with.

use netbpf::datapath::{GATEWAY_MAC, Service};
use netbpf_common::packet::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, FAR, FRONT, HOST, NOWHERE},
    },
    packets::{
        Body, Way, Whole, arp_reply, arp_request, behind_options, fragments,
        neighbour_advertisement, neighbour_solicitation, tiny_fragment, vlan_tagged, vxlan,
    },
    rows::{Rig, backend, service},
};

use crate::{frame::ETHERNET, range::Lane};

/// Port of what the containers have outside, and of whom they ask.
const FLOW: (u16, u16) = (5000, 7);
/// What only FAR may ask for, and what leads to a network that the asker is not in.
const LIMITED: u16 = 5301;
const ELSEWHERE: u16 = 8090;

pub fn publish(rig: &Rig) {
    rig.publish(1, IPPROTO_TCP, 8080, &rig.web, 80);
    rig.publish(2, IPPROTO_UDP, 5300, &rig.web, 53);
    rig.publish(3, IPPROTO_SCTP, 3868, &rig.web, 3868);
    rig.publish(4, IPPROTO_TCP, ELSEWHERE, &rig.other, 80);
    let far = ["203.0.113.0/24", "2001:db8:3::/64"].map(|net| net.parse().unwrap());
    rig.publish_service(&Service {
        allow: far.into(),
        ..service(IPPROTO_UDP, LIMITED, vec![backend(5, &rig.app, 53, 1)])
    });
}

/// Real packets, in an order in which they begin flows and go on with them.
pub fn seeds(rig: &Rig, family: Family) -> Vec<(Lane, Vec<u8>)> {
    let (host, client, far) = (family.ip(HOST), family.ip(CLIENT), family.ip(FAR));
    let (web, app) = (&rig.web, &rig.app);
    let (kind, code) = family.of([(3, 3), (1, 4)]);
    let (out, back) = (rig.from(web, client), rig.by_uplink(client, host));
    let (own, of_app) = (rig.out(host, client), rig.from(app, client));
    let large: Vec<u8> = (0..1400).map(|n| n as u8).collect();
    let mut seeds = Vec::new();
    let mut add = |lane, packets: Vec<Vec<u8>>| {
        seeds.extend(packets.into_iter().map(|packet| (lane, packet)));
    };
    let whole = |way: Way, class: u8, options: u8, body: Body| {
        let packet = Whole {
            way,
            class,
            id: 0x1234,
            dont_fragment: class & 1 == 0,
            options,
            body,
        };
        packet.bytes()
    };
    let bare = |ports| Body::Udp {
        ports,
        summed: family == Family::V6,
        payload: b"bare".into(),
    };
    // Masqueraded, and what comes back.
    let datagram = out.udp(FLOW.0, FLOW.1, b"question");
    let left = rig
        .out(host, client)
        .hops(63)
        .udp(FLOW.0, FLOW.1, b"question");
    let inside = rig.into(web, client).udp(FLOW.1, FLOW.0, b"answer");
    add(
        Lane::Container(0),
        vec![
            out.tcp(FLOW.0, FLOW.1, "S", b""),
            datagram.clone(),
            out.echo_request(FLOW.0, 1, b"hello"),
            out.protocol(47, b"\x00\x00\x08\x00 in GRE"),
            out.sctp(FLOW.0, FLOW.1, 1),
            whole(out, 0xb9, 2, bare((FLOW.0 + 1, FLOW.1))),
        ],
    );
    add(
        Lane::Uplink,
        vec![
            back.tcp(FLOW.1, FLOW.0, "SA", b""),
            back.udp(FLOW.1, FLOW.0, b"answer"),
            back.echo_reply(FLOW.0, 1, b"hello"),
            back.protocol(47, b"\x00\x00\x08\x00 in GRE"),
            back.sctp(FLOW.1, FLOW.0, 2),
            whole(back, 3, 1, bare((FLOW.1, FLOW.0 + 1))),
            back.icmp(kind, code, [0; 4], &left[ETHERNET..]),
            rig.by_uplink(far, host).icmp(
                kind,
                code,
                [0; 4],
                &left[ETHERNET..ETHERNET + family.of([28, 48])],
            ),
        ],
    );
    add(
        Lane::Container(0),
        vec![
            out.tcp(FLOW.0, FLOW.1, "A", &large),
            out.icmp(kind, code, [0; 4], &inside[ETHERNET..]),
        ],
    );
    add(
        Lane::Container(0),
        fragments(&out.udp(FLOW.0, FLOW.1, &large), 600, 77),
    );
    add(
        Lane::Uplink,
        fragments(&back.udp(FLOW.1, FLOW.0, &large), 600, 78),
    );
    // By published ports, and the answers.
    add(
        Lane::Uplink,
        vec![
            back.tcp(1000, 8080, "S", b""),
            back.udp(1000, 5300, b"question"),
            back.sctp(1000, 3868, 1),
            back.tcp(1001, ELSEWHERE, "S", b""),
            rig.by_uplink(far, host).udp(1000, LIMITED, b"question"),
            back.udp(1000, LIMITED, b"not allowed"),
        ],
    );
    add(
        Lane::Uplink,
        fragments(&back.udp(1000, 5300, &large), 600, 79),
    );
    add(
        Lane::Container(0),
        vec![
            out.tcp(80, 1000, "SA", b""),
            out.udp(53, 1000, b"answer"),
            rig.from(web, host).tcp(2000, ELSEWHERE, "S", b""),
            rig.from(web, host).tcp(2001, 8080, "S", b""),
        ],
    );
    add(
        Lane::Container(2),
        vec![
            rig.from(&rig.other, web.ip(family))
                .tcp(80, 2000, "SA", b""),
            rig.from(&rig.other, client).tcp(80, 1001, "SA", b""),
        ],
    );
    // Containers at each other's outside ports.
    add(
        Lane::Container(1),
        vec![
            of_app.udp(6000, FLOW.1, b"question"),
            rig.from(app, host).udp(6000, FLOW.0, b"hello"),
        ],
    );
    add(
        Lane::Container(0),
        vec![
            rig.from(web, host).udp(FLOW.0, 6000, b"hello"),
            rig.from(web, host).hops(2).udp(FLOW.0, 6000, b"hello"),
        ],
    );
    // The host's own.
    add(
        Lane::Host,
        vec![
            own.tcp(FLOW.0, FLOW.1, "S", b""),
            own.udp(FLOW.0, FLOW.1, b"of the host"),
            own.echo_request(FLOW.0, 1, b"of the host"),
            own.udp(9, 9, b"another"),
            own.icmp(
                kind,
                code,
                [0; 4],
                &back.udp(FLOW.1, FLOW.0, b"answer")[ETHERNET..],
            ),
        ],
    );
    add(Lane::Left, vec![own.udp(FLOW.0, FLOW.1, b"of a container")]);
    let to_lo = |to| Way::new([0; 6], [0; 6], family.loopback(), to);
    add(
        Lane::Local,
        vec![
            to_lo(family.loopback()).tcp(3000, 8080, "S", b""),
            to_lo(host).udp(3000, 5300, b"question"),
            Way::new([0; 6], [0; 6], host, host).udp(3001, 5300, b"question"),
        ],
    );
    let gateway = family.ip(FRONT.gateways);
    add(
        Lane::Container(0),
        vec![
            rig.from(web, gateway).udp(53, 3000, b"answer"),
            rig.from(web, gateway).tcp(80, 3000, "SA", b""),
            rig.from(web, host).udp(53, 3001, b"answer"),
        ],
    );
    // What is of no flow.
    let nowhere = family.ip(NOWHERE);
    for to in [app.ip(family), rig.other.ip(family), host, gateway, nowhere] {
        let way = rig.from(web, to);
        add(
            Lane::Container(0),
            vec![
                way.udp(1, 53, b"x"),
                way.tcp(1, 22, "S", b""),
                way.hops(1).echo_request(1, 1, b"x"),
            ],
        );
    }
    let group = family.ip(["224.0.0.251", "ff02::fb"]);
    let frame = rig.from(app, client).udp(1, 2, b"in a tunnel");
    add(
        Lane::Container(0),
        vec![
            rig.from(web, group).udp(5353, 5353, b"mDNS"),
            out.udp(49_152, 4789, &vxlan(7, &frame)),
            out.protocol(51, b"signed with the addresses"),
            out.echo_reply(1, 1, b"unasked"),
            vlan_tagged(&datagram, 5),
        ],
    );
    add(
        Lane::Uplink,
        vec![
            back.udp(49_152, 4789, &vxlan(7, &frame)),
            back.udp(1, 53, b"the host's"),
            rig.by_uplink(client, web.ip(family))
                .udp(1, 53, b"straight"),
            rig.by_uplink(app.ip(family), host).udp(1, 5300, b"forged"),
            vlan_tagged(&back.udp(1000, 5300, b"tagged"), 5),
        ],
    );
    match family {
        Family::V4 => {
            add(Lane::Container(0), vec![tiny_fragment(&out)]);
            add(Lane::Uplink, vec![tiny_fragment(&back)]);
        }
        Family::V6 => {
            add(Lane::Container(0), vec![behind_options(&out)]);
            add(Lane::Uplink, vec![behind_options(&back)]);
        }
    }
    add(
        Lane::ToContainer { forwarded: false },
        vec![rig.into(web, host).tcp(22, 1, "SA", b"")],
    );
    seeds
}

pub fn seeds_of_neighbours(rig: &Rig) -> Vec<(Lane, Vec<u8>)> {
    let web = &rig.web;
    let [gateway, far] = [FRONT.gateways, CLIENT].map(|ips| ips[0].parse().unwrap());
    let [gateway6, far6] = [FRONT.gateways, CLIENT].map(|ips| ips[1].parse().unwrap());
    let neighbour = rig.uplink.neighbour;
    vec![
        (
            Lane::Container(0),
            arp_request(web.mac(), web.ipv4(), gateway),
        ),
        (
            Lane::Container(0),
            arp_reply(web.mac(), web.ipv4(), GATEWAY_MAC, gateway),
        ),
        (
            Lane::Container(0),
            neighbour_solicitation(web.mac(), web.ipv6(), gateway6),
        ),
        (
            Lane::Container(0),
            neighbour_advertisement(web.mac(), web.ipv6(), GATEWAY_MAC, gateway6, web.ipv6()),
        ),
        (
            Lane::Uplink,
            arp_request(neighbour, far, HOST[0].parse().unwrap()),
        ),
        (
            Lane::Uplink,
            neighbour_solicitation(neighbour, far6, HOST[1].parse().unwrap()),
        ),
    ]
}
