//! Engines that call netbpf themselves: by CNI and by the hook of OCI runtimes, as
//! docs/engines.md and packaging/ say. Pods are in `cri.rs`.
//!
//! ```text
//!   host (netbpf, an engine)  up0 ──── eth0  client
//!     web  a container of the engine, :80 published as :8080
//! ```

use std::{collections::BTreeSet, net::IpAddr, thread, time::Duration};

use netbpf::model::{EndpointInfo, Engine};
use netbpf_tests::{
    clients::{Containerd, Podman, Runc, image, plugins},
    lab::{
        Cmd, Family, Http, Street,
        names::{CLIENT, HOST},
        street, url, within,
    },
};
use serde_json::json;

#[track_caller]
fn endpoint(street: &Street, name: &str) -> EndpointInfo {
    street.host.json(&["inspect", name])
}

/// From outside, under the client's own address, and on the host itself.
#[track_caller]
fn is_reached(street: &Street, port: u16) {
    for family in Family::BOTH {
        let seen = image::ask(&street.client, family.ip(HOST), port);
        assert_eq!(seen, family.ip(CLIENT));
        let seen = image::ask(&street.host, family.ip(HOST), port);
        assert_eq!(seen, family.ip(HOST), "as the host");
    }
}

/// A container fetches from outside, in both families, under the host's address.
#[track_caller]
fn reaches_out(street: &Street, within: impl Fn(&str) -> Cmd) {
    let outside = Http::start(&street.client, 8000);
    for family in Family::BOTH {
        let page = url(family.ip(CLIENT), 8000, "");
        within(&format!("/bin/busybox wget -qO- '{page}'")).ok();
        assert_eq!(outside.peers().last(), Some(&family.ip(HOST)));
    }
}

/// Fifty at once, by whatever starts them and ends them; each with a port of its own.
#[track_caller]
fn fifty_at_once(
    street: &Street,
    start: impl Fn(u16) -> Cmd + Sync,
    end: impl Fn(u16) -> Cmd + Sync,
) {
    let all = |one: &(dyn Fn(u16) -> Cmd + Sync)| {
        thread::scope(|scope| {
            for i in 0..50 {
                scope.spawn(move || one(i).timeout(Duration::from_secs(120)).ok());
            }
        });
    };
    all(&start);
    let endpoints = street.host.endpoints();
    let addresses: BTreeSet<_> = endpoints.iter().filter_map(|e| e.ipv4.clone()).collect();
    assert_eq!((endpoints.len(), addresses.len()), (50, 50));
    for i in [0, 23, 49] {
        let seen = image::ask(&street.client, Family::V4.ip(HOST), 9000 + i);
        assert_eq!(seen, Family::V4.ip(CLIENT));
    }
    all(&end);
    nothing_is_left(street);
}

#[track_caller]
fn nothing_is_left(street: &Street) {
    within(Duration::from_secs(5), "nothing is left", || {
        street.host.endpoints().is_empty()
    });
    let ports: Vec<serde_json::Value> = street.host.json(&["port"]);
    assert!(ports.is_empty(), "{ports:?}");
}

/// `podman run --network pods -p …`: start, restart, stop, kill -9 of the daemon; a port
/// that is taken is said and leaves nothing.
#[test]
fn podman_by_cni() {
    let test = "podman_by_cni";
    let street = street(test);
    let Some(podman) = Podman::start(test, &street.lab, &street.host) else {
        return;
    };
    podman.write("etc/cni/net.d/10-netbpf.conflist", plugins::CONFLIST);
    let run = "podman run -d --network pods --network-alias shop --name";
    podman.shell(&format!("{run} web -p 8080:80 nginx")).ok();
    is_reached(&street, 8080);
    let web = endpoint(&street, "web");
    assert_eq!(
        (web.network.as_str(), web.engine),
        ("pods", Some(Engine::Cni))
    );
    let id = podman.shell("podman inspect -f '{{.Id}}' web").ok();
    assert_eq!(web.container_id.as_deref(), Some(id.trim()));
    assert!(
        web.aliases.contains(&"shop".to_owned()),
        "{:?}",
        web.aliases
    );
    let address = "{{.NetworkSettings.Networks.pods.IPAddress}}";
    let shown = podman
        .shell(&format!("podman inspect -f '{address}' web"))
        .ok();
    let ipv4 = web.ipv4.as_deref().and_then(|net| net.split('/').next());
    assert_eq!(Some(shown.trim()), ipv4);
    reaches_out(&street, |command| {
        podman.shell(&format!("podman exec web {command}"))
    });
    let resolvers = podman.shell("podman exec web cat /etc/resolv.conf").ok();
    let gateway = web.gateway.expect("IPv4").to_string();
    assert!(
        !resolvers.contains(&gateway),
        "nobody answers there: {resolvers}"
    );
    // conmon listens on the port itself: it is not held against it.
    let listeners = street.host.run(&["ss", "-Hltnp", "sport = :8080"]).ok();
    assert!(listeners.contains("conmon"), "{listeners:?}");

    // A second one on the same port: refused by name, and nothing of it stays.
    let second = podman
        .shell(&format!("{run} web2 -p 8080:80 nginx"))
        .fails();
    assert!(second.stderr.contains("8080"), "{second}");
    assert_eq!(street.host.endpoints().len(), 1);
    podman.shell("podman rm -f web2").ok();

    podman.shell("podman restart -t 0 web").ok();
    is_reached(&street, 8080);
    assert_ne!(endpoint(&street, "web").host_ifindex, web.host_ifindex);

    street.host.kill();
    is_reached_without_daemon(&street);
    street.host.start(&[]);
    is_reached(&street, 8080);

    podman.shell("podman stop -t 0 web").ok();
    nothing_is_left(&street);
    podman.shell("podman start web").ok();
    is_reached(&street, 8080);

    // Without a daemon it stops all the same, and what is left goes with its namespace.
    street.host.kill();
    podman.shell("podman rm -f -t 0 web").ok();
    street.host.start(&[]);
    nothing_is_left(&street);

    // What was asked for is what it has.
    let asked = format!("{run} fixed --ip 10.90.7.7 --mac-address 02:11:22:33:44:55 nginx");
    podman.shell(&asked).ok();
    let fixed = endpoint(&street, "fixed");
    assert_eq!(fixed.ipv4.as_deref(), Some("10.90.7.7/16"));
    assert_eq!(fixed.mac, "02:11:22:33:44:55");
    podman.shell("podman rm -f -t 0 fixed").ok();
    nothing_is_left(&street);

    fifty_at_once(
        &street,
        |i| podman.shell(&format!("{run} c{i} -p {}:80 nginx", 9000 + i)),
        |i| podman.shell(&format!("podman rm -f -t 0 c{i}")),
    );
}

#[track_caller]
fn is_reached_without_daemon(street: &Street) {
    for family in Family::BOTH {
        let seen = image::ask(&street.client, family.ip(HOST), 8080);
        assert_eq!(seen, family.ip(CLIENT));
    }
}

/// `ctr run --cni`, which has no port mappings: reached by address from the host, and it
/// reaches out. Its end is noticed also where ctr calls nobody.
#[test]
fn ctr_by_cni() {
    let test = "ctr_by_cni";
    let street = street(test);
    let Some(containerd) = Containerd::start(test, &street.lab, &street.host) else {
        return;
    };
    containerd.write("etc/cni/net.d/10-netbpf.conflist", plugins::CONFLIST);
    containerd.shadow("/var/lib");
    containerd.shadow("/opt");
    let bin = plugins::lay_out(&containerd).display().to_string();
    containerd
        .shell(&format!("mkdir -p /opt/cni && ln -s {bin} /opt/cni/bin"))
        .ok();
    containerd.run_with("web", "--cni");
    let all = street.host.endpoints();
    let [web] = &all[..] else { panic!("{all:?}") };
    assert_eq!(
        (web.network.as_str(), web.engine),
        ("pods", Some(Engine::Cni))
    );
    let address = |text: &Option<String>| -> IpAddr {
        let text = text.as_deref().and_then(|net| net.split('/').next());
        text.expect("an address").parse().expect("an address")
    };
    for (family, ip) in Family::BOTH.into_iter().zip([&web.ipv4, &web.ipv6]) {
        let gateway: IpAddr = match family {
            Family::V4 => web.gateway.expect("v4").into(),
            Family::V6 => web.gateway6.expect("v6").into(),
        };
        let seen = image::ask(&street.host, address(ip), 80);
        assert!(seen == gateway || seen == family.ip(HOST), "{seen}");
    }
    let exec = std::cell::Cell::new(0);
    reaches_out(&street, |command| {
        exec.set(exec.get() + 1);
        let id = exec.get();
        containerd.shell(&format!("ctr task exec --exec-id e{id} web {command}"))
    });
    containerd.kill_and_start();
    image::ask(&street.host, address(&web.ipv4), 80);
    containerd.shell("ctr task kill -s KILL web").ok();
    nothing_is_left(&street);
}

/// A bundle of ours with real runc: reached, started anew, refused with the reason, ended
/// in every way.
#[test]
fn runc_with_the_hook() {
    let test = "runc_with_the_hook";
    let street = street(test);
    let Some(runc) = Runc::start(test, &street.lab, &street.host) else {
        return;
    };
    let front = ["--subnet", "10.10.1.0/24", "--subnet", "fd10:1::/64"];
    let create = [&["network", "create", "front"][..], &front].concat();
    street.host.netbpf(&create).ok();
    street
        .host
        .netbpf(&["network", "create", "back", "--subnet", "10.10.2.0/24"])
        .ok();

    // The example as it is.
    runc.bundle("web", json!(null));
    runc.run("web").ok();
    is_reached(&street, 8080);
    let web = endpoint(&street, "web");
    assert_eq!(
        (web.network.as_str(), web.engine),
        ("front", Some(Engine::Oci))
    );
    assert_eq!(web.container_id.as_deref(), Some("web"));

    reaches_out(&street, |command| runc.runc(&format!("exec web {command}")));

    // The same call once more is refused and takes nothing from the container.
    let state = runc.runc("state web").ok();
    let again = street.host.netbpf(&["oci-hook", "createRuntime"]);
    let again = again.stdin(&state).fails();
    assert!(again.stderr.contains("exists already"), "{again}");
    is_reached(&street, 8080);

    // A failure stops the container, with the reason, and nothing is left of the network
    // that was attached before.
    runc.bundle(
        "web2",
        json!({"netbpf.network": "back front", "netbpf.publish": "8080:80"}),
    );
    let refused = runc.run("web2").fails();
    assert!(refused.stderr.contains("8080"), "{refused}");
    runc.bundle("web3", json!({"netbpf.network": "front nowhere"}));
    let refused = runc.run("web3").fails();
    assert!(refused.stderr.contains("nowhere"), "{refused}");
    runc.bundle("web4", json!({"netbpf.ports": "80"}));
    let refused = runc.run("web4").fails();
    assert!(refused.stderr.contains("netbpf.ports"), "{refused}");
    let names: Vec<serde_json::Value> = street.host.json(&["network", "ls"]);
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(street.host.endpoints().len(), 1);
    assert!(runc.runc("list -q").ok().trim() == "web");

    runc.runc("kill web KILL").ok();
    within(Duration::from_secs(5), "it has ended", || {
        runc.runc("state web").ok().contains("\"stopped\"")
    });
    runc.runc("delete web").ok();
    nothing_is_left(&street);

    // Two networks, and all that can be said.
    runc.bundle(
        "web",
        json!({
            "netbpf.network": "front, back", "netbpf.name": "shop",
            "netbpf.publish": "8080:80 published=8443,target=80,allow=198.51.100.0/24",
            "netbpf.ip": "10.10.1.50 fd10:1::50", "netbpf.mac": "02:11:22:33:44:55",
            "netbpf.ifname": "net0", "netbpf.alias": "store", "netbpf.label": "a=b",
        }),
    );
    runc.run("web").ok();
    is_reached(&street, 8080);
    let shop: Vec<EndpointInfo> = street.host.json(&["inspect", "shop"]);
    assert_eq!(shop.len(), 2);
    assert_eq!(shop[0].ipv4.as_deref(), Some("10.10.1.50/24"));
    assert_eq!((shop[0].ifname.as_str(), shop[0].ports.len()), ("net0", 2));
    assert_eq!((shop[1].network.as_str(), shop[1].ports.len()), ("back", 0));
    assert_eq!(
        (&shop[1].aliases[..], &shop[1].labels["a"][..]),
        (&["store".to_owned()][..], "b")
    );

    // Without a daemon it is removed all the same.
    street.host.kill();
    runc.runc("delete --force web").ok();
    street.host.start(&[]);
    nothing_is_left(&street);
    street.host.kill();
    let refused = runc.run("web").fails();
    assert!(refused.stderr.contains("no daemon answers"), "{refused}");
    assert_eq!(runc.runc("list -q").ok().trim(), "");

    street.host.start(&[]);
    for i in 0..50 {
        let port = format!("{}:80", 9000 + i);
        let annotations = json!({"netbpf.network": "front", "netbpf.publish": port});
        runc.bundle(&format!("c{i}"), annotations);
    }
    fifty_at_once(
        &street,
        |i| runc.run(&format!("c{i}")),
        |i| runc.runc(&format!("delete --force c{i}")),
    );
}
