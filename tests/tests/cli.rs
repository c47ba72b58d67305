//! The command line: exit codes, error codes, names of fields.
//!
//! ```text
//!   web, app ── front ── host ──── client
//! ```

use netbpf::model::{EndpointInfo, NetworkInfo, StatusInfo};
use netbpf_tests::lab::{
    Cmd, has_tools, names::FRONT, street, street_with_networks, street_without_daemon,
};

#[test]
fn exit_codes_tell_what_went_wrong() {
    let street = street_without_daemon("exit_codes");
    let output = street.host.netbpf(&["ps"]).exits(3);
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
    street.host.netbpf(&["no-such-command"]).exits(2);
    street.host.netbpf(&["attach"]).exits(2);
    street.host.start(&[]);
    let output = street
        .host
        .netbpf(&["network", "inspect", "nowhere"])
        .exits(1);
    assert!(output.stderr.starts_with("netbpf: "), "{output}");
    assert!(output.stderr.contains("nowhere"), "{output}");
}

#[test]
fn a_network_lives_from_create_to_rm() {
    let street = street("a_network_lives");
    let create = [
        "network",
        "create",
        "front",
        "--subnet",
        "10.10.1.0/24",
        "--label",
        "a=b",
    ];
    street.host.netbpf(&create).ok();
    let network: NetworkInfo = street.host.json(&["network", "inspect", "front"]);
    assert_eq!(network.subnets.len(), 1);
    assert_eq!(network.subnets[0].gateway.to_string(), "10.10.1.1");
    assert_eq!(
        (network.mtu, network.icc, network.masquerade),
        (1500, true, true)
    );
    assert_eq!(network.labels["a"], "b");
    assert_eq!(street.host.refused(&create).0, "already_exists");
    let overlap = ["network", "create", "other", "--subnet", "10.10.1.128/25"];
    assert_eq!(street.host.refused(&overlap).0, "subnet_overlap");
    let hosts = ["network", "create", "other", "--subnet", "192.0.2.0/25"];
    assert_eq!(street.host.refused(&hosts).0, "subnet_overlap");

    let web = street
        .host
        .container(&street.lab, "web", &["--network", "front"]);
    assert_eq!(
        street.host.refused(&["network", "rm", "front"]).0,
        "network_in_use"
    );
    web.detach();
    street.host.netbpf(&["network", "rm", "front"]).ok();
    assert_eq!(
        street.host.refused(&["network", "rm", "front"]).0,
        "not_found"
    );
}

#[test]
fn subnets_come_from_the_pools_and_avoid_what_the_host_routes() {
    let street = street_without_daemon("pools");
    street.host.ip("route add 172.20.0.0/20 via 192.0.2.2");
    street.host.start(&[]);
    street.host.netbpf(&["network", "create", "one"]).ok();
    street
        .host
        .netbpf(&["network", "create", "six", "--ipv6"])
        .ok();
    // A subnet of IPv6 implies that, and is beside one of IPv4, not in its place.
    let given = ["network", "create", "given", "--subnet", "fd77::/64"];
    street.host.netbpf(&given).ok();
    let networks: Vec<NetworkInfo> = street.host.json(&["network", "ls"]);
    let mut subnets: Vec<String> = Vec::new();
    for network in &networks {
        subnets.extend(network.subnets.iter().map(|s| s.subnet.to_string()));
    }
    assert!(
        !subnets.contains(&"172.20.0.0/20".to_owned()),
        "{subnets:?}"
    );
    let v4: Vec<&String> = subnets.iter().filter(|s| !s.contains(':')).collect();
    assert!(
        v4.iter()
            .all(|s| s.starts_with("172.2") && s.ends_with("/20")),
        "{subnets:?}"
    );
    assert_eq!(v4.len(), 4, "{subnets:?}");
    let v6: Vec<&String> = subnets.iter().filter(|s| s.contains(':')).collect();
    assert!(
        v6.iter().all(|s| s.starts_with("fd") && s.ends_with("/64")),
        "{subnets:?}"
    );
    assert_eq!(v6.len(), 3, "{subnets:?}");
    let removed: Vec<String> = street.host.json(&["network", "prune"]);
    assert_eq!(removed.len(), 3, "{removed:?}");
}

#[test]
fn each_subnet_is_held_by_an_unreachable_route() {
    let street = street("unreachable_routes");
    street.host.network(&FRONT, &[]);
    let routes = street.host.ip("-4 route") + &street.host.ip("-6 route");
    for subnet in FRONT.subnets {
        assert!(
            routes.contains(&format!("unreachable {subnet}")),
            "{routes}"
        );
    }
}

#[test]
fn attach_prints_the_endpoint_and_refuses_what_cannot_be() {
    let street = street_with_networks("attach_prints", &[]);
    let flags = [
        "--ip",
        "10.10.1.50",
        "--mac",
        "02:00:00:00:00:50",
        "--ifname",
        "net0",
        "--alias",
        "www",
        "--link",
        "db:database",
        "--label",
        "a=b",
    ];
    let web = street.front("web", &flags);
    let info = &web.info;
    assert_eq!(info.ipv4.as_deref(), Some("10.10.1.50/24"));
    assert_eq!(
        (info.mac.as_str(), info.ifname.as_str()),
        ("02:00:00:00:00:50", "net0")
    );
    assert_eq!(
        (info.aliases.as_slice(), info.mtu),
        (["www".to_owned()].as_slice(), 1500)
    );
    assert_eq!(info.container_id, None);
    assert!(info.netns.contains(web.name()));
    assert_eq!(web.mac("net0"), [2, 0, 0, 0, 0, 0x50]);
    let raw: serde_json::Value = street.host.json(&["inspect", "web"]);
    for field in [
        "name",
        "network",
        "container_id",
        "netns",
        "ifname",
        "host_ifname",
        "host_ifindex",
        "mac",
        "ipv4",
        "ipv6",
        "gateway",
        "gateway6",
        "mtu",
        "aliases",
        "links",
        "ports",
        "labels",
        "rx_bytes",
        "rx_packets",
        "tx_bytes",
        "tx_packets",
        "dropped_packets",
        "created_at",
    ] {
        assert!(raw.get(field).is_some(), "{field} is missing: {raw}");
    }

    let late = street.lab.space("late");
    let refused = |flags: &[&str]| {
        let mut arguments = vec!["attach", "--name", "late", "--netns", late.name()];
        arguments.extend(flags);
        let (code, _) = street.host.refused(&arguments);
        assert!(
            !late.ip("link show").contains("eth0"),
            "half done after {code}"
        );
        code
    };
    assert_eq!(
        refused(&["--network", "front", "--ip", "10.10.1.50"]),
        "address_in_use"
    );
    assert_eq!(
        refused(&["--network", "front", "--ip", "10.99.0.1"]),
        "address_not_in_subnet"
    );
    assert_eq!(refused(&["--network", "nowhere"]), "not_found");
    assert_eq!(
        refused(&["--network", "front", "--ifname", "lo"]),
        "interface_exists"
    );
    let missing = ["attach", "--name", "late", "--netns", "no-such-namespace"];
    assert_eq!(street.host.refused(&missing).0, "not_found");
    let twice = [
        "attach",
        "--name",
        "web",
        "--netns",
        late.name(),
        "--network",
        "front",
    ];
    assert_eq!(street.host.refused(&twice).0, "already_exists");
    assert_eq!(street.host.endpoints().len(), 1);
}

#[test]
fn attach_takes_a_pid_too() {
    let street = street_with_networks("attach_by_pid", &[]);
    let space = street.lab.space("by-pid");
    let mut sleeper = space.run(&["sleep", "60"]).spawn();
    assert!(sleeper.is_running());
    // nsenter has entered the namespace once it has become the command.
    let comm = format!("/proc/{}/comm", sleeper.pid());
    netbpf_tests::lab::within(netbpf_tests::lab::SOON, "sleep runs", || {
        std::fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() == "sleep")
    });
    let pid = sleeper.pid().to_string();
    let info: EndpointInfo = street
        .host
        .json(&["attach", "--name", "by-pid", "--pid", &pid]);
    assert_eq!(info.network, "default");
    space.ping(info.gateway.expect("a gateway").into());
}

#[test]
fn a_small_subnet_runs_out() {
    let street = street("runs_out");
    let create = ["network", "create", "tiny", "--subnet", "10.10.3.0/30"];
    street.host.netbpf(&create).ok();
    let _one = street
        .host
        .container(&street.lab, "one", &["--network", "tiny"]);
    let late = street.lab.space("late");
    let attach = [
        "attach",
        "--name",
        "late",
        "--netns",
        late.name(),
        "--network",
        "tiny",
    ];
    assert_eq!(street.host.refused(&attach).0, "pool_exhausted");
}

#[test]
fn status_says_what_is_there() {
    let street = street_with_networks("status", &[]);
    let web = street.front("web", &[]);
    let status: StatusInfo = street.host.json(&["status"]);
    assert_eq!((status.node.as_str(), status.endpoints), ("host", 1));
    assert_eq!(status.networks, 3);
    let uplinks: Vec<&str> = status.uplinks.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(uplinks, ["up0"]);
    let places = status.programs.iter().flat_map(|p| &p.attached_to);
    let places: Vec<&String> = places.collect();
    for device in ["up0", web.info.host_ifname.as_str()] {
        assert!(
            places.iter().any(|place| place.contains(device)),
            "{places:?}"
        );
    }
    // For people, too.
    for command in ["status", "ps", "port", "drops", "flows"] {
        street.host.netbpf(&[command]).ok();
    }
}

#[test]
fn flows_show_both_sides_of_the_translation() {
    use netbpf_tests::lab::{
        Family, UdpEcho,
        names::{CLIENT, HOST},
    };
    let street = street_with_networks("flows", &[]);
    let web = street.front("web", &["-p", "5300:53/udp"]);
    let _inside = UdpEcho::start(&web, 53);
    let _outside = UdpEcho::start(&street.client, 53);
    for family in Family::BOTH {
        street.client.ask_udp(family.ip(HOST), 5300);
        web.ask_udp(family.ip(CLIENT), 53);
    }
    let flows: Vec<netbpf::model::FlowInfo> = street.host.json(&["flows"]);
    for kind in ["publish", "masquerade"] {
        for family in Family::BOTH {
            let is_it = |flow: &&netbpf::model::FlowInfo| {
                let v6 = flow.src.starts_with('[');
                flow.kind == kind && flow.protocol == "udp" && v6 == (family == Family::V6)
            };
            let flow = flows.iter().find(is_it);
            let flow = flow.unwrap_or_else(|| panic!("no {kind} flow of {family:?}: {flows:?}"));
            assert_eq!(flow.endpoint.as_deref(), Some("web"));
            assert_eq!((flow.packets, flow.reply_packets), (1, 1), "{flow:?}");
            assert_eq!(flow.state, "established");
        }
    }
}

#[test]
fn what_comes_later_says_so() {
    let street = street("later");
    let native = [
        "network", "create", "far", "--driver", "overlay", "--encap", "none",
    ];
    assert_eq!(street.host.refused(&native).0, "not_implemented");
    let lan = [
        "network", "create", "lan", "--driver", "lan", "--parent", "up0",
    ];
    assert_eq!(street.host.refused(&lan).0, "not_implemented");
}

#[test]
fn a_name_is_one_containers() {
    let street = street_with_networks("a_name_is_one_containers", &[]);
    let web = street.front("web", &[]);
    let app = street.front("app", &[]);
    let attach = |netns: &str| {
        [
            "attach",
            "--name",
            "web",
            "--network",
            "back",
            "--netns",
            netns,
        ]
        .map(str::to_owned)
    };
    let other = attach(&app.info.netns);
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let (code, message) = street.host.refused(&other);
    assert_eq!(code, "already_exists");
    assert!(message.contains("\"front\""), "{message}");
    street.host.netbpf(&attach(&web.info.netns)).ok();
}

#[test]
fn tables_fit_the_terminal_and_are_whole_elsewhere() {
    if !has_tools("tables_fit", &["script", "stty"]) {
        return;
    }
    let street = street_with_networks("tables_fit", &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "8443:443"]);
    let _db = street.back("database", &[]);
    let ipv6 = web.info.ipv6.as_deref().expect("IPv6");
    let binary = netbpf_tests::lab::binary();
    let socket = street.host.socket();
    let whole = street.host.netbpf(&["ps"]).ok();
    assert_eq!(whole.lines().count(), 3, "{whole}");
    for columns in [200, 80, 40] {
        for command in ["ps", "network ls", "port", "status", "inspect web"] {
            let line = format!(
                "stty cols {columns}; {} --socket {} {command}",
                binary.display(),
                socket.display()
            );
            let script = ["script", "-qec", &line, "/dev/null"];
            let text = Cmd::new(&script).ok();
            for line in text.lines() {
                let width = line.trim_end().chars().count();
                // A key and a word that is too long stay together.
                let words = line.split_whitespace().count();
                assert!(
                    width <= columns || words <= 2,
                    "{command} in {columns}: {line:?}\n{text}"
                );
                assert!(!line.contains('\u{1b}'), "{text}");
            }
            if command == "ps" {
                // Whole, so that it can be copied.
                assert!(text.contains(ipv6), "{text}");
            }
        }
    }
}

#[test]
fn progress_and_colour_are_for_terminals() {
    if !has_tools("progress_and_colour", &["script"]) {
        return;
    }
    let street = street_without_daemon("progress_and_colour");
    let (binary, socket) = (netbpf_tests::lab::binary(), street.host.socket());
    let typed = |line: &str| {
        let line = format!("{} --socket {} {line}", binary.display(), socket.display());
        Cmd::new(&["script", "-qec", &line, "/dev/null"])
    };
    let wait = "status --wait 2s";
    let seen = typed(wait).exits(3).stdout;
    assert!(seen.contains("waiting for the daemon on"), "{seen}");
    // The line is gone when the error is told.
    let last = seen.rsplit("\u{1b}[K").next().unwrap_or_default();
    assert!(
        last.starts_with("netbpf: ") && !last.contains("waiting"),
        "{seen:?}"
    );
    for quietly in ["-j status --wait 2s", "-q status --wait 2s"] {
        let seen = typed(quietly).exits(3).stdout;
        assert!(!seen.contains('\u{1b}'), "{seen:?}");
    }
    let output = street.host.netbpf(&["status", "--wait", "1s"]).exits(3);
    assert_eq!(output.stderr.lines().count(), 1, "{output}");

    assert!(typed("help attach").ok().contains("\u{1b}["));
    let plain = typed("help attach").env("NO_COLOR", "1").ok();
    assert!(
        plain.contains("--netns") && !plain.contains('\u{1b}'),
        "{plain:?}"
    );
}
