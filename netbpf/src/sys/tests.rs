//! Against the real kernel: each test in a thread with a namespace of its own,
//! which ends with the thread.

use std::{io::Write as _, net::UdpSocket, path::Path, thread, time::Duration};

use nix::sched::{CloneFlags, unshare};

use super::{
    bpffs,
    netlink::{
        AddressKind, Event, Events, Hear, Netlink, Route, RouteKind, RouteTarget, Rule, VethPair,
    },
    netns::{self, Namespace},
    sockets::{self, Transport},
    sysctl::Sysctls,
};

const LO: u32 = 1;

/// Runs a test in a new namespace; skipped, by name, without the right to one.
pub fn isolated(name: &str, test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
                // Not captured by the harness.
                let mut stderr = std::io::stderr();
                _ = writeln!(stderr, "skipped: {name}: no network namespace ({e})");
                return;
            }
            let mut netlink = Netlink::open().unwrap();
            netlink.set_up(LO).unwrap();
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A namespace that lives as long as this.
fn another_namespace() -> Namespace {
    thread::scope(|scope| {
        let made = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Namespace::own().unwrap()
        });
        made.join().unwrap()
    })
}

fn veth(netlink: &mut Netlink, peer: &Namespace) -> u32 {
    use std::os::fd::AsFd;
    netlink
        .add_veth(&VethPair {
            name: "nb00000001",
            mac: [2, 0, 0, 0, 0, 1],
            peer_name: "eth0",
            peer_mac: [2, 0, 0, 0, 0, 2],
            peer_namespace: peer.as_fd(),
            mtu: 1400,
        })
        .unwrap();
    netlink.link("nb00000001").unwrap().unwrap().ifindex
}

#[test]
fn a_veth_has_its_other_end_in_the_other_namespace() {
    isolated("a veth pair", || {
        let mut host = Netlink::open().unwrap();
        let peer = another_namespace();
        let ifindex = veth(&mut host, &peer);
        let mut inside = peer.run(Netlink::open).unwrap().unwrap();
        let eth0 = inside.link("eth0").unwrap().unwrap();
        assert_eq!(
            (eth0.mtu, eth0.mac.as_slice()),
            (1400, &[2, 0, 0, 0, 0, 2][..])
        );
        assert!(eth0.ethernet && !eth0.up && !eth0.loopback);
        assert!(host.link("eth0").unwrap().is_none());

        host.mark_host_end(ifindex, "netbpf web front", true)
            .unwrap();
        host.set_up(ifindex).unwrap();
        inside.set_up(eth0.ifindex).unwrap();
        host.wait_running(ifindex, Duration::from_secs(2)).unwrap();
        let link = host.link_by_index(ifindex).unwrap().unwrap();
        assert_eq!(link.alias.as_deref(), Some("netbpf web front"));
        // No link-local address on our end.
        let addresses = host.addresses().unwrap();
        assert!(addresses.iter().all(|a| a.ifindex != ifindex));

        host.delete_our_links().unwrap();
        assert!(host.link("nb00000001").unwrap().is_none());
        assert!(inside.link("eth0").unwrap().is_none());
        host.delete_link(ifindex).unwrap();
    });
}

#[test]
fn addresses_routes_and_rules_are_read_as_they_were_written() {
    isolated("routes", || {
        let mut host = Netlink::open().unwrap();
        let peer = another_namespace();
        let ifindex = veth(&mut host, &peer);
        host.mark_host_end(ifindex, "netbpf web front", true)
            .unwrap();
        host.set_up(ifindex).unwrap();
        for (gateway, subnet, address) in [
            ("10.0.0.1/32", "10.0.0.0/24", "10.0.0.2/32"),
            ("fd00::1/128", "fd00::/64", "fd00::2/128"),
        ] {
            let (gateway, subnet) = (gateway.parse().unwrap(), subnet.parse().unwrap());
            // Twice: what is there already is no error.
            for _ in 0..2 {
                host.add_address(LO, gateway, AddressKind::Gateway).unwrap();
                host.set_route(&Route::unreachable(subnet, 4_278_198_272))
                    .unwrap();
            }
            let target = RouteTarget {
                ifindex,
                gateway: None,
                source: Some(gateway.addr()),
            };
            let route = Route::via_device(address.parse().unwrap(), target);
            host.set_route(&route).unwrap();
            host.set_neighbour(ifindex, route.destination.addr(), [2, 0, 0, 0, 0, 2])
                .unwrap();
            let rule = Rule {
                source: route.destination.addr(),
                table: 0x6e62_0001,
                priority: 28_000,
            };
            host.add_rule(&rule).unwrap();
            host.add_rule(&rule).unwrap();

            let addresses = host.addresses().unwrap();
            let found = addresses
                .iter()
                .find(|a| a.address == gateway.addr())
                .unwrap();
            assert!(found.ours && !found.tentative && found.ifindex == LO);
            let routes = host.routes().unwrap();
            let found = routes.iter().find(|r| r.destination == subnet).unwrap();
            assert_eq!((found.kind, found.ours), (RouteKind::Unreachable, true));
            let found = routes
                .iter()
                .find(|r| r.destination == route.destination)
                .unwrap();
            assert_eq!((found.kind, found.ours), (RouteKind::Unicast(target), true));

            for _ in 0..2 {
                host.delete_rule(&rule).unwrap();
                host.delete_route(&route).unwrap();
                host.delete_route(&Route::unreachable(subnet, 4_278_198_272))
                    .unwrap();
                host.delete_address(LO, gateway).unwrap();
            }
            let left = host.routes().unwrap();
            assert!(!left.iter().any(|r| r.ours), "{left:?}");
        }
    });
}

#[test]
fn changes_are_heard() {
    isolated("netlink events", || {
        let mut host = Netlink::open().unwrap();
        let mut events = Events::open(Hear::Nothing).unwrap();
        let peer = another_namespace();
        let ifindex = veth(&mut host, &peer);
        host.delete_link(ifindex).unwrap();
        let mut heard = Vec::new();
        while !heard.contains(&Event::LinkGone { ifindex }) {
            let more = events.wait(Duration::from_secs(2)).unwrap();
            assert!(!more.is_empty(), "only heard {heard:?}");
            heard.extend(more);
        }
        let name = "nb00000001".to_owned();
        assert!(heard.contains(&Event::Link { ifindex, name }));
        assert!(events.wait(Duration::from_millis(1)).unwrap().is_empty());
    });
}

#[test]
fn work_in_a_namespace_leaves_the_thread_where_it_was() {
    isolated("entering a namespace", || {
        let own = Namespace::own().unwrap().id();
        let other = another_namespace();
        assert_ne!(other.id(), own);
        let inside = other.run(|| Namespace::own().unwrap().id()).unwrap();
        assert_eq!(inside, other.id());
        assert_eq!(Namespace::own().unwrap().id(), own);
        let forwarding = ["conf", "lo", "forwarding"];
        let here = Sysctls::open().unwrap().ipv4;
        let there = other.run(Sysctls::open).unwrap().unwrap().ipv4;
        // What was opened there stays there.
        there.write(&forwarding, "1").unwrap();
        assert_eq!(there.read(&forwarding).unwrap().as_deref(), Some("1"));
        assert_eq!(here.read(&forwarding).unwrap().as_deref(), Some("0"));
    });
}

#[test]
fn a_long_list_of_ports_is_read_whole() {
    isolated("reserved ports", || {
        let name = ["ip_local_reserved_ports"];
        let ipv4 = Sysctls::open().unwrap().ipv4;
        for ports in [1, 10, 1000, 20_000_usize] {
            let list: Vec<String> = (0..ports).map(|n| (1024 + 3 * n).to_string()).collect();
            let list = list.join(",");
            ipv4.write(&name, &list).unwrap();
            assert_eq!(ipv4.read(&name).unwrap().unwrap(), list);
        }
    });
}

#[test]
fn a_namespace_without_a_free_port_has_its_cookie() {
    isolated("the cookie", || {
        let ipv4 = Sysctls::open().unwrap().ipv4;
        let reserved = ["ip_local_reserved_ports"];
        ipv4.write(&reserved, "1024-65535").unwrap();
        UdpSocket::bind("127.0.0.1:0").expect_err("there is no port");
        assert_ne!(netns::cookie().unwrap(), 0);
    });
}

#[test]
fn a_fifo_is_no_namespace_and_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = Namespace::open(&path).unwrap_err().to_string();
    assert!(error.contains("not a network namespace"), "{error}");
}

#[test]
fn what_is_no_namespace_is_refused() {
    for (path, missing) in [("/dev/null", false), ("/run/netns/not-there", true)] {
        let error = Namespace::open(Path::new(path)).unwrap_err();
        assert_eq!(error.is_gone(), missing, "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
    let error = Namespace::open(Path::new("/proc/self/ns/uts")).unwrap_err();
    assert!(
        error.to_string().contains("not a network namespace"),
        "{error}"
    );
}

#[test]
fn bound_ports_are_seen_as_programs_bind_them() {
    isolated("listing sockets", || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let any = std::net::Ipv4Addr::UNSPECIFIED.into();
        let any6 = std::net::Ipv6Addr::UNSPECIFIED.into();
        assert!(!sockets::is_free(Transport::Tcp, any, port));
        assert!(sockets::is_free(Transport::Tcp, any6, port));
        assert!(sockets::is_free(Transport::Udp, any, port));
        let bound = sockets::bound(Transport::Tcp).unwrap();
        assert_eq!(bound, [(listener.local_addr().unwrap().ip(), port)]);
        let both = UdpSocket::bind("[::]:0").unwrap();
        let port = both.local_addr().unwrap().port();
        assert!(!sockets::is_free(Transport::Udp, any, port));
        assert!(!sockets::is_free(Transport::Udp, any6, port));
        drop((listener, both));
        assert!(sockets::is_free(Transport::Udp, any, port));
    });
}

#[test]
fn a_directory_with_something_in_it_is_not_mounted_over() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "x").unwrap();
    let error = bpffs::prepare(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("neither in a bpffs nor an empty directory"),
        "{error}"
    );
    let file = bpffs::prepare(&dir.path().join("precious"))
        .unwrap_err()
        .to_string();
    assert!(file.contains("not a directory"), "{file}");
    assert!(bpffs::prepare(Path::new("relative")).is_err());
}
