//! ICMP errors about packets of flows, through the real programs by the kernel's
//! test-run: outside and inside they become errors about the packet that their receiver
//! has sent (RFC 5508 section 4). Each row for both families.

use std::net::IpAddr;

use netbpf_common::{
    drop::DropReason,
    names::{FROM_CONTAINER, FROM_UPLINK},
    packet::{IPPROTO_TCP, IPPROTO_UDP},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, FAR, FRONT, HOST},
    },
    packets::{Way, addresses, describe},
    rows::{Action, Out, Rig, Row, with_rig},
};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Kinds of errors, with code, of each family: port unreachable, too big, time
/// exceeded, parameter problem, and such that nobody has heard of.
const ERRORS: [[(u8, u8); 2]; 5] = [
    [(3, 3), (1, 4)],
    [(3, 4), (2, 0)],
    [(11, 0), (3, 0)],
    [(12, 1), (4, 1)],
    [(3, 99), (100, 7)],
];

/// One packet of each protocol that has flows.
fn packets(way: &Way, ports: (u16, u16)) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("tcp", way.tcp(ports.0, ports.1, "S", b"")),
        ("udp", way.udp(ports.0, ports.1, b"question")),
    ]
}

/// What of a packet an error quotes: all, or the least (RFC 792).
fn quotes(family: Family, packet: &[u8]) -> [Vec<u8>; 2] {
    let header = family.of([20, 40]);
    let packet = &packet[ETHERNET..];
    [packet.to_vec(), packet[..header + 8].to_vec()]
}

/// What follows the checksum: the MTU where the error says one.
fn head(kind: u8, code: u8) -> [u8; 4] {
    match (kind, code) {
        (3, 4) | (2, 0) => [0, 0, 5, 0],
        _ => [0; 4],
    }
}

/// A quote without what a router changes on the way: hop limit, and with IPv4 the
/// header's checksum.
fn blind(family: Family, quote: &[u8]) -> Vec<u8> {
    let mut quote = quote.to_vec();
    for at in family.of([&[8, 10, 11][..], &[7][..]]) {
        quote[*at] = 0;
    }
    quote
}

/// An error comes out as one from `ends.0` to `ends.1` about a packet of theirs, and
/// says the same.
#[track_caller]
fn translated(rig: &Rig, row: Row<'_>, family: Family, ends: (IpAddr, IpAddr), sent: &[u8]) {
    let error = row.packet.clone();
    row.out(Out::Such(&|frame| {
        let header = ETHERNET + family.of([20, 40]);
        assert_eq!(addresses(frame), Some(ends), "{}", describe(frame));
        let said = |frame: &[u8]| [frame[header], frame[header + 1]];
        assert_eq!(said(frame), said(&error), "{}", describe(frame));
        assert_eq!(frame[header + 4..header + 8], error[header + 4..header + 8]);
        let quote = &frame[header + 8..];
        assert_eq!(
            blind(family, quote),
            blind(family, &sent[..quote.len()]),
            "the quote of {}-- of the packet\n{}",
            describe(frame),
            describe(sent)
        );
        if family == Family::V4 {
            assert_eq!(ones_complement(&quote[..20]), 0xffff, "{}", describe(frame));
        }
    }))
    .check(rig);
}

fn ones_complement(bytes: &[u8]) -> u16 {
    netbpf_common::packet::checksum::sum(bytes, 0) as u16
}

#[test]
fn errors_from_outside_reach_the_container_that_sent() {
    with_rig("errors_from_outside", |rig| {
        for family in Family::BOTH {
            let (host, client, far) = (family.ip(HOST), family.ip(CLIENT), family.ip(FAR));
            let way = rig.from(&rig.web, client);
            let mut sent = packets(&way, (4000, 53));
            sent.push(("echo", way.echo_request(77, 1, b"hello")));
            for (name, packet) in sent {
                let (_, outside) = rig.run(FROM_CONTAINER, rig.web.ifindex(), &packet);
                for quote in quotes(family, &outside) {
                    for (kind, code) in ERRORS.map(|error| family.of(error)) {
                        // The peer itself says so, or a router on the way.
                        for from in [client, far] {
                            let error = rig.by_uplink(from, host).icmp(
                                kind,
                                code,
                                head(kind, code),
                                &quote,
                            );
                            let title = format!("{name} {kind}/{code} from {from}");
                            let uplink = rig.uplink.entry.device.ifindex;
                            let row = Row::new(title, FROM_UPLINK, uplink, error, Action::Redirect);
                            let ends = (from, rig.web.ip(family));
                            translated(rig, row, family, ends, &packet[ETHERNET..]);
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn errors_of_a_container_reach_its_client_under_the_hosts_address() {
    with_rig("errors_of_a_container", |rig| {
        rig.publish(1, IPPROTO_TCP, 8080, &rig.web, 80);
        rig.publish(2, IPPROTO_UDP, 8080, &rig.web, 80);
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            for (name, packet) in packets(&rig.by_uplink(client, host), (4000, 8080)) {
                let (_, inside) = rig.run(FROM_UPLINK, uplink, &packet);
                let way = rig.from(&rig.web, client);
                for quote in quotes(family, &inside) {
                    for (kind, code) in ERRORS.map(|error| family.of(error)) {
                        let error = way.icmp(kind, code, head(kind, code), &quote);
                        let title = format!("{name} {kind}/{code}");
                        let web = rig.web.ifindex();
                        let row = Row::new(title, FROM_CONTAINER, web, error, Action::Redirect);
                        translated(rig, row, family, (host, client), &packet[ETHERNET..]);
                    }
                }
                // And the client's own about what the container answers.
                let answer = match name {
                    "tcp" => way.tcp(80, 4000, "SA", b""),
                    _ => way.udp(80, 4000, b"answer"),
                };
                let (_, outside) = rig.run(FROM_CONTAINER, rig.web.ifindex(), &answer);
                let (kind, code) = family.of(ERRORS[0]);
                for quote in quotes(family, &outside) {
                    let error = rig.by_uplink(client, host).icmp(kind, code, [0; 4], &quote);
                    let row = Row::new(name, FROM_UPLINK, uplink, error, Action::Redirect);
                    let ends = (client, rig.web.ip(family));
                    translated(rig, row, family, ends, &answer[ETHERNET..]);
                }
            }
        }
    });
}

#[test]
fn errors_about_nothing_of_ours_are_the_hosts_or_dropped() {
    with_rig("errors_about_nothing", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let (kind, code) = family.of(ERRORS[0]);
            let of_host = rig.out(host, client).udp(5000, 53, b"the host's own");
            let error = rig
                .by_uplink(client, host)
                .icmp(kind, code, [0; 4], &of_host[ETHERNET..]);
            Row::new("the host's", FROM_UPLINK, uplink, error, Action::Pass).check(rig);
            // Cut short, or no packet at all.
            for quote in [&of_host[ETHERNET..ETHERNET + 12], &[0xff; 64]] {
                let error = rig.by_uplink(client, host).icmp(kind, code, [0; 4], quote);
                Row::new("garbage", FROM_UPLINK, uplink, error, Action::Pass).check(rig);
            }
            // A container cannot end what is not its own.
            let mut forged = Vec::new();
            for (_, packet) in packets(&rig.from(&rig.app, client), (4000, 53)) {
                let (_, outside) = rig.run(FROM_CONTAINER, rig.app.ifindex(), &packet);
                forged.push(outside[ETHERNET..].to_vec());
                forged.push(packet[ETHERNET..].to_vec());
            }
            for quote in forged {
                let error = rig.from(&rig.web, client).icmp(kind, code, [0; 4], &quote);
                let web = rig.web.ifindex();
                Row::new("forged", FROM_CONTAINER, web, error, Action::Drop)
                    .drops(&[(DropReason::NoFlow, 1)])
                    .check(rig);
            }
        }
    });
}

#[test]
fn errors_that_nobody_can_have_sent_reach_no_container() {
    with_rig("errors_nobody_sent", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let sent = rig.from(&rig.web, client).udp(4000, 53, b"question");
            let (_, outside) = rig.run(FROM_CONTAINER, rig.web.ifindex(), &sent);
            let (kind, code) = family.of(ERRORS[0]);
            let error = |from, to| {
                rig.by_uplink(from, to)
                    .icmp(kind, code, [0; 4], &outside[ETHERNET..])
            };
            // Under a sibling's address.
            let sibling = error(rig.app.ip(family), host);
            Row::new("sibling", FROM_UPLINK, uplink, sibling, Action::Drop)
                .drops(&[(DropReason::SpoofedSubnet, 1)])
                .check(rig);
            // To whom the packet did not come from.
            let gateway = error(client, family.ip(FRONT.gateways));
            Row::new("gateway", FROM_UPLINK, uplink, gateway, Action::Drop)
                .drops(&[(DropReason::GatewayAddress, 1)])
                .check(rig);
            let inside = error(client, rig.web.ip(family));
            Row::new("inside", FROM_UPLINK, uplink, inside, Action::Drop)
                .drops(&[(DropReason::ContainerAddress, 1)])
                .check(rig);
        }
    });
}

#[test]
fn errors_keep_no_flow_alive_and_end_none() {
    with_rig("errors_keep_no_flow", |rig| {
        let uplink = rig.uplink.entry.device.ifindex;
        for family in Family::BOTH {
            let (host, client) = (family.ip(HOST), family.ip(CLIENT));
            let sent = rig.from(&rig.web, client).udp(4000, 53, b"question");
            let (_, outside) = rig.run(FROM_CONTAINER, rig.web.ifindex(), &sent);
            let flow = || {
                let flows = rig.datapath.flows().expect("flows");
                let mut ours = flows.into_iter().filter(|f| f.src.0 == rig.web.ip(family));
                let flow = ours.next().expect("a flow");
                (flow.state.label(), flow.packets, flow.reply_packets)
            };
            let before = flow();
            let (kind, code) = family.of(ERRORS[0]);
            let error = rig
                .by_uplink(client, host)
                .icmp(kind, code, [0; 4], &outside[ETHERNET..]);
            Row::new("error", FROM_UPLINK, uplink, error, Action::Redirect)
                .out(Out::Any)
                .check(rig);
            assert_eq!(flow(), before, "{family:?}");
        }
    });
}
