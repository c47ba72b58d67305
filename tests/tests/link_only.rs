//! What means something on one link only is not translated: tagged frames, link-local
//! addresses, multicast, broadcast, neighbour discovery.
//!
//! ```text
//!   web 10.10.1.x :53 :80 ── host 192.0.2.1 :5300 :8080 ──── 192.0.2.2 client :53 :80
//! ```

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream},
};

use netbpf::datapath::GATEWAY_MAC;
use netbpf_tests::{
    lab::{
        Container, Family, Http, Namespace, SOON, Street, UdpEcho, Wiretap, answer_of,
        names::{CLIENT, HOST},
        street_with_networks, within,
    },
    packets::{
        BROADCAST, Mac, Way, addresses, describe, has_payload, icmp_type_code,
        neighbour_solicitation, vlan_tagged,
    },
};

const ETHER_TYPES: [i32; 2] = [libc::ETH_P_IP, libc::ETH_P_IPV6];

/// Of an IPv6 packet behind an Ethernet header.
const HOP_LIMIT: usize = 14 + 7;

/// A street with `web`, two ports of which are published.
fn shop(test: &str) -> (Street, Container) {
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &["-p", "5300:53/udp", "-p", "8080:80"]);
    (street, web)
}

#[test]
fn tagged_frames_are_left_to_the_host_untranslated() {
    let (street, web) = shop("tagged_untranslated");
    let _server = UdpEcho::start(&street.client, 53);
    let inside = Wiretap::open(&web, "eth0");
    let outside = Wiretap::open(&street.client, "eth0");
    let drops = street.host.drops();
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let (own, to_host) = (street.client.mac("eth0"), street.host.mac("up0"));
        let coming = Way::new(own, to_host, client, host);
        let leaving = Way::new(to_host, own, host, client);
        // Behind the programs, where a VLAN device would take it.
        let behind = Wiretap::behind(&street.host, "up0", family.of(ETHER_TYPES));
        let question = coming.udp(1000, 5300, b"coming in a VLAN");
        outside.send(&vlan_tagged(&question, 7));
        let found = behind.find(SOON, |frame| has_payload(frame, b"coming in a VLAN"));
        // The kernel has put the tag beside the frame.
        assert_eq!(found.as_ref(), Some(&question), "{family:?}");
        // With a priority and no VLAN it is the host's like an untagged one.
        let marker = coming.udp(1000, 5300, b"the marker");
        outside.send(&vlan_tagged(&marker, 5 << 13));
        let marker = inside.find(SOON, |frame| {
            let strays = has_payload(frame, b"coming in a VLAN");
            assert!(!strays, "delivered:\n{}", describe(frame));
            has_payload(frame, b"the marker")
        });
        assert!(marker.is_some(), "{family:?}: no marker");
        // The same tuple as a container's is another one within a VLAN.
        let of_web = web.bind_udp((family.any(), 5000));
        of_web.connect((client, 53)).expect("connect");
        assert_eq!(answer_of(&of_web).port(), 5000);
        let datagram = leaving.udp(5000, 53, b"leaving in a VLAN");
        let from_host = Wiretap::open(&street.host, "up0");
        from_host.send(&vlan_tagged(&datagram, 7));
        let found = outside.find(SOON, |frame| has_payload(frame, b"leaving in a VLAN"));
        assert_eq!(found, Some(datagram), "{family:?}");
    }
    drops.none();
}

/// A device's own address that means something on its link only.
fn link_local(space: &Namespace, device: &str, family: Family) -> IpAddr {
    let flag = family.of(["-4", "-6"]);
    let shown = space.ip_json(&format!("{flag} addr show dev {device} scope link"));
    let all = shown[0]["addr_info"].as_array().into_iter().flatten();
    let mut own = all.filter_map(|address| address["local"].as_str()?.parse().ok());
    own.next()
        .unwrap_or_else(|| panic!("no link-local address: {shown}"))
}

/// Gives both ends of the wire link-local addresses of IPv4; those of IPv6 are there.
fn with_link_local(street: &Street) {
    for (space, device, address) in [
        (&*street.host, "up0", "169.254.7.1/16"),
        (&street.client, "eth0", "169.254.7.2/16"),
    ] {
        space.ip(&format!("addr add {address} dev {device} scope link"));
    }
}

#[test]
fn link_local_addresses_of_the_host_publish_nothing() {
    let (street, web) = shop("link_local_publishes_nothing");
    with_link_local(&street);
    let _inside = Http::start(&web, 80);
    let _own = Http::start(&street.host, 22);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let address = link_local(&street.host, "up0", family);
        let connect = |port| {
            street.client.enter(|| {
                let index = nix::net::if_::if_nametoindex("eth0").expect("eth0");
                let to = match address {
                    IpAddr::V4(_) => SocketAddr::new(address, port),
                    IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, index).into(),
                };
                TcpStream::connect_timeout(&to, SOON)
            })
        };
        connect(22).unwrap_or_else(|e| panic!("the host's own at {address}: {e}"));
        let refused = connect(8080).expect_err("nothing is published there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}");
    }
    drops.none();
}

/// The MAC that goes with a multicast address.
fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

#[test]
fn what_is_for_the_link_reaches_no_container() {
    let (street, web) = shop("for_the_link");
    with_link_local(&street);
    let inside = Wiretap::open(&web, "eth0");
    let outside = Wiretap::open(&street.client, "eth0");
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        let (own, to_host) = (street.client.mac("eth0"), street.host.mac("up0"));
        let way = |to_mac, from, to| Way::new(own, to_mac, from, to);
        let group = family.ip(["224.0.0.1", "ff02::1"]);
        let mut rows = vec![
            way(to_host, client, link_local(&street.host, "up0", family)),
            way(to_host, link_local(&street.client, "eth0", family), host),
            way(group_mac(group), client, group),
        ];
        if family == Family::V4 {
            for all in ["192.0.2.255", "255.255.255.255"] {
                rows.push(way(BROADCAST, client, all.parse().expect("an address")));
            }
        }
        for row in rows {
            outside.send(&row.udp(1000, 5300, b"for the link"));
        }
        // What comes after arrives, so what came before would have.
        outside.send(&way(to_host, client, host).udp(1000, 5300, b"the marker"));
        let marker = inside.find(SOON, |frame| {
            let strays = has_payload(frame, b"for the link");
            assert!(!strays, "delivered:\n{}", describe(frame));
            has_payload(frame, b"the marker")
        });
        assert!(marker.is_some(), "{family:?}: no marker");
    }
}

#[test]
fn what_a_container_sends_to_a_link_ends_there() {
    let (street, web) = shop("containers_link_local");
    with_link_local(&street);
    let inside = Wiretap::open(&web, "eth0");
    let outside = Wiretap::open(&street.client, "eth0");
    for family in Family::BOTH {
        let client = family.ip(CLIENT);
        let way = |from, to| Way::new(web.mac("eth0"), GATEWAY_MAC, from, to);
        let own = family.ip(["169.254.9.9", "fe80::9"]);
        let beyond = link_local(&street.client, "eth0", family);
        let drops = street.host.drops();
        for row in [way(web.addr(family), beyond), way(own, client)] {
            inside.send(&row.udp(1000, 53, b"for the link"));
        }
        within(SOON, "both are counted", || {
            let since = drops.since();
            let count = |reason| since.get(reason).copied().unwrap_or(0);
            count("link_local") + count("spoofed_address") >= 2
        });
        inside.send(&way(web.addr(family), client).udp(1000, 53, b"the marker"));
        let marker = outside.find(SOON, |frame| {
            let strays = has_payload(frame, b"for the link");
            assert!(!strays, "left:\n{}", describe(frame));
            has_payload(frame, b"the marker")
        });
        assert!(marker.is_some(), "{family:?}: no marker");
    }
}

#[test]
fn neighbours_find_each_other_as_without_us() {
    let (street, web) = shop("neighbours");
    let (_inside, _outside) = (Http::start(&web, 80), Http::start(&street.client, 80));
    let (IpAddr::V6(host), IpAddr::V6(client)) = (Family::V6.ip(HOST), Family::V6.ip(CLIENT))
    else {
        unreachable!()
    };
    let drops = street.host.drops();
    // Told as it was asked, over no hop (RFC 4861 section 7.1).
    let tap = Wiretap::open(&street.client, "eth0");
    tap.send(&neighbour_solicitation(
        street.client.mac("eth0"),
        client,
        host,
    ));
    let told = tap.find(SOON, |frame| {
        icmp_type_code(frame) == Some((136, 0))
            && addresses(frame) == Some((host.into(), client.into()))
    });
    let told = told.expect("an advertisement");
    assert_eq!(told[HOP_LIMIT], 255);
    // Whoever has forgotten all others asks anew.
    for family in Family::BOTH {
        for (space, device) in [
            (&*street.host, "up0"),
            (&street.client, "eth0"),
            (&*web, "eth0"),
        ] {
            space.ip(&format!("neigh flush dev {device}"));
        }
        web.fetch(family.ip(CLIENT), 80);
        street.client.fetch(family.ip(HOST), 8080);
    }
    drops.none();
}
