//! The host and its containers.
//!
//! ```text
//!   web 10.10.1.x ── 10.10.1.1 host 192.0.2.1 ──── client
//! ```

use netbpf_tests::lab::{
    Family, Http, UdpEcho,
    names::{BACK, HOST, HOST_B},
    street_with_networks,
};

#[test]
fn the_host_reaches_containers_under_an_address_of_its_own() {
    let street = street_with_networks("the_host_reaches_containers", &[]);
    let web = street.front("web", &[]);
    let _http = Http::start(&web, 80);
    let _udp = UdpEcho::start(&web, 53);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let address = web.addr(family);
        street.host.ping(address);
        street.host.fetch_big(address, 80);
        let own = [web.gateway(family), family.ip(HOST)];
        assert!(own.contains(&street.host.fetch(address, 80).peer));
        assert!(own.contains(&street.host.ask_udp(address, 53)));
    }
    drops.none();
}

#[test]
fn host_services_answer_at_the_gateway_and_see_the_containers_own_address() {
    let street = street_with_networks("host_services_at_the_gateway", &[]);
    let web = street.front("web", &[]);
    let _http = Http::start(&street.host, 90);
    let drops = street.host.drops();
    for family in Family::BOTH {
        let gateway = web.gateway(family);
        let _udp = UdpEcho::start_on(
            &street.host,
            &format!("{}", std::net::SocketAddr::new(gateway, 53)),
        );
        web.ping(gateway);
        assert_eq!(web.fetch(gateway, 90).peer, web.addr(family));
        web.fetch_big(gateway, 90);
        assert_eq!(web.ask_udp(gateway, 53), web.addr(family));
    }
    drops.none();
}

#[test]
fn host_services_answer_at_every_other_address_too() {
    let street = street_with_networks("host_services_everywhere", &[]);
    street
        .host
        .ip("link add spare type veth peer name spare-peer");
    street.host.ip("link set spare-peer up");
    street
        .host
        .gain("spare", &netbpf_tests::lab::names::HOST_WIRE_B);
    let web = street.front("web", &[]);
    let _http = Http::start(&street.host, 90);
    for family in Family::BOTH {
        let others = [family.ip(HOST), family.ip(HOST_B), family.ip(BACK.gateways)];
        for address in others {
            web.ping(address);
            assert_eq!(web.fetch(address, 90).peer, web.addr(family), "{address}");
        }
    }
}

#[test]
fn the_hosts_own_loopback_is_not_reached_from_a_container() {
    let street = street_with_networks("loopback", &[]);
    let web = street.front("web", &[]);
    let _http = Http::start(&street.host, 90);
    let sender = netbpf_tests::lab::Wiretap::open(&web, "eth0");
    for family in Family::BOTH {
        let drops = street.host.drops();
        let way = netbpf_tests::packets::Way::new(
            web.mac("eth0"),
            netbpf::datapath::GATEWAY_MAC,
            web.addr(family),
            family.loopback(),
        );
        sender.send(&way.tcp(1000, 90, "S", b""));
        drops.only(&["martian"]);
    }
}
