//! Daemons end, start, are killed; endpoints and everything else go without a
//! trace.
//!
//! ```text
//!   web, app ── front ── host ──── client
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use netbpf::model::{EndpointInfo, NetworkInfo, StatusInfo, UpgradeInfo, UpgradeOutcome};
use netbpf_common::names;
use netbpf_tests::{
    lab::{
        Cmd, Family, Host, Http, Lab, SOON, Settings, binary, firewall, has_tools,
        names::{CLIENT, CLIENT_WIRE, FRONT, HOST, HOST_WIRE},
        next, street_with_networks, street_without_daemon, sysctls, within,
    },
    scenes::{self, End},
};
use nix::sys::signal::Signal;

#[test]
fn traffic_runs_on_while_the_daemon_is_stopped_and_started() {
    scenes::restart_under_traffic("restart_after_sigterm", &[], End::Stop);
}

#[test]
fn traffic_runs_on_while_the_daemon_is_killed_and_started() {
    scenes::restart_under_traffic("restart_after_kill", &[], End::Kill);
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let street = street_with_networks("acknowledged", &[]);
    let web = street.front(
        "web",
        &["-p", "8080:80", "--alias", "www", "--label", "a=b"],
    );
    let before: EndpointInfo = street.host.json(&["inspect", "web"]);
    street.host.kill();
    street.host.restart();
    let after: EndpointInfo = street.host.json(&["inspect", "web"]);
    let still = |e: &EndpointInfo| {
        (
            e.ipv4.clone(),
            e.ipv6.clone(),
            e.ports.clone(),
            e.aliases.clone(),
            e.labels.clone(),
        )
    };
    assert_eq!(still(&after), still(&before));
    let networks: Vec<NetworkInfo> = street.host.json(&["network", "ls"]);
    let names: Vec<&str> = networks.iter().map(|n| n.name.as_str()).collect();
    for name in ["back", "default", "front"] {
        assert!(names.contains(&name), "{names:?}");
    }
    web.detach();
    assert_eq!(street.host.endpoints(), []);
}

/// What is right is left alone by a start; what was undone meanwhile is not.
#[test]
fn what_was_undone_by_hand_is_there_again_after_a_start() {
    let street = street_with_networks("undone_by_hand", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _server = Http::start(&web, 80);
    let host = &street.host;
    let device = &web.info.host_ifname;
    let works = |after: &str| {
        for family in Family::BOTH {
            street.client.fetch(family.ip(HOST), 8080);
            // By which address the host itself goes there.
            let (to, gateway) = (web.addr(family), family.ip(FRONT.gateways));
            let route = host.ip(&format!("route get {to}"));
            let from = route.contains(&format!("src {gateway} "));
            assert!(from, "after {after}: {route}");
        }
    };
    let [gateway4, gateway6] = FRONT.gateways;
    let [web4, web6] = Family::BOTH.map(|family| web.addr(family));
    for undo in [
        format!("address del {gateway4}/32 dev lo"),
        // Without it the route stays, and loses its source address.
        format!("address del {gateway6}/128 dev lo"),
        format!("route del {web4}/32 dev {device}"),
        format!("route del {web6}/128 dev {device}"),
        format!("neighbour del {web4} dev {device}"),
        format!("link set {device} down"),
    ] {
        host.stop();
        host.ip(&undo);
        host.restart();
        works(&undo);
    }
}

/// Numbers of the programs in the kernel, by name.
fn programs(host: &Host) -> BTreeMap<String, u32> {
    let status: StatusInfo = host.json(&["status"]);
    let programs = status.programs.into_iter();
    programs.map(|program| (program.name, program.id)).collect()
}

/// The kernel's check of the programs is most of a start.
#[test]
fn a_start_loads_no_program_that_is_there() {
    let street = street_with_networks("start_keeps_programs", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let host = &street.host;
    let works = |what: &str| {
        for family in Family::BOTH {
            assert_eq!(
                street.client.fetch(family.ip(HOST), 8080).server,
                "web",
                "{what}"
            );
            assert_eq!(host.fetch(family.loopback(), 8080).server, "web", "{what}");
            web.ping(family.ip(CLIENT));
        }
        host.netbpf(&["doctor"]).ok();
    };
    let first = programs(host);
    host.stop();
    host.restart();
    assert_eq!(programs(host), first);
    works("as they were");

    // Of one that is gone nobody knows what else is, and a program whose map has lost its
    // pin would look at one that nobody writes to.
    let pins = host.bpffs();
    let object = || -> PathBuf {
        let notes = fs::read_dir(pins.join("programs")).expect("pins");
        let mut notes = notes.map(|entry| entry.expect("a pin").path());
        notes.find(|path| path.is_dir()).expect("a note")
    };
    let damages: [(&str, &dyn Fn()); 4] = [
        ("a program's pin is gone", &|| {
            fs::remove_file(pins.join("programs/to_container")).expect("a pin");
        }),
        ("another's is in its place", &|| {
            let (from, to) = ("programs/from_container", "programs/to_container");
            fs::remove_file(pins.join(to)).expect("a pin");
            fs::rename(pins.join(from), pins.join(to)).expect("a pin");
        }),
        ("a map's pin is gone", &|| {
            fs::remove_file(pins.join(names::PORTS)).expect("a pin");
        }),
        ("they are of another object", &|| {
            let other = pins.join("programs/of_0123456789abcdef");
            fs::rename(object(), other).expect("a note");
        }),
    ];
    for (what, damage) in damages {
        let before = programs(host);
        host.stop();
        damage();
        host.restart();
        let after = programs(host);
        assert!(before.iter().all(|(name, id)| after[name] != *id), "{what}");
        works(what);
    }

    // Another version that knows nothing of notes was here meanwhile.
    let (note, before) = (object(), programs(host));
    host.stop();
    host.set_binary(next("programs"));
    host.start(&[]);
    let others = programs(host);
    host.stop();
    fs::remove_dir(object()).expect("a note");
    fs::create_dir(note).expect("a note");
    host.set_binary(binary());
    host.start(&[]);
    let after = programs(host);
    for earlier in [&before, &others] {
        assert!(earlier.iter().all(|(name, id)| after[name] != *id));
    }
    works("of another version");

    // All attachments are gone with their pins; the programs are what they were.
    host.stop();
    fs::remove_dir_all(pins.join("links")).expect("pins");
    host.restart();
    assert_eq!(programs(host), after);
    works("without the links");
}

/// What the binary says before it is started, beside the daemon that runs.
fn upgrade_check(host: &Host, status: i32, flags: &[&str]) -> Vec<UpgradeInfo> {
    let directories = host.directory_flags();
    let mut arguments = vec!["-j", "daemon", "--upgrade-check"];
    // The socket is said before.
    arguments.extend(directories.iter().map(String::as_str));
    arguments.extend(flags);
    let output = host.netbpf(&arguments).exits(status);
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
}

fn outcomes(found: &[UpgradeInfo], outcome: UpgradeOutcome) -> Vec<&str> {
    let found = found.iter().filter(|one| one.outcome == outcome);
    found.map(|one| one.name.as_str()).collect()
}

#[test]
fn what_a_start_would_do_is_said_beforehand() {
    let test = "upgrade_check";
    if !has_tools(test, &["bpftool"]) {
        return;
    }
    let street = street_without_daemon(test);
    let host = &street.host;
    assert_eq!(upgrade_check(host, 0, &[]), []);
    host.start(&[]);
    let all = upgrade_check(host, 0, &[]);
    assert_eq!(outcomes(&all, UpgradeOutcome::Kept).len(), all.len());
    let more = upgrade_check(host, 0, &["--max-flows", "131072"]);
    let flows = more.iter().find(|one| one.name == names::FLOWS4);
    let reason = flows.and_then(|flows| flows.reason.as_deref());
    let reason = reason.expect("another size");
    assert!(
        reason.contains("262144") && reason.contains("393216"),
        "{reason}"
    );

    // As another version would have left it.
    let pins = host.bpffs();
    for note in fs::read_dir(pins.join("programs")).expect("pins").flatten() {
        if note.path().is_dir() {
            fs::remove_dir(note.path()).expect("a note");
        }
    }
    let map = |name: &str, value: &str| {
        let pin = pins.join(name).display().to_string();
        let make = "bpftool map create PIN type hash key 4 value VALUE entries 16 name other";
        let make = make.replace("PIN", &pin).replace("VALUE", value);
        Cmd::new(&make.split(' ').collect::<Vec<_>>()).ok();
    };
    map("of_old", "8");
    let program = |name: &str| pins.join("programs").join(name).display().to_string();
    let (to, by) = (program("by_old"), program(names::TO_CONTAINER));
    Cmd::new(&["bpftool", "prog", "pin", "pinned", &by, &to]).ok();
    let found = upgrade_check(host, 0, &[]);
    let programs = outcomes(&found, UpgradeOutcome::Replaced);
    assert!(programs.contains(&names::FROM_CONTAINER) && programs.contains(&"host_connect4"));
    assert_eq!(outcomes(&found, UpgradeOutcome::Left), ["by_old", "of_old"]);
    fs::remove_file(pins.join(names::VETHS)).expect("a pin");
    map(names::VETHS, "8");
    // Also where what says the layout is gone.
    let (config, aside) = (pins.join(names::CONFIG), pins.join("aside"));
    for (from, to) in [(&config, &aside), (&aside, &config)] {
        let found = upgrade_check(host, 1, &[]);
        assert_eq!(outcomes(&found, UpgradeOutcome::Refused), [names::VETHS]);
        fs::rename(from, to).expect("a pin");
    }

    // It is as it was said.
    host.stop();
    let refused = host.start_refused(&[]).to_string();
    assert!(
        refused.contains("veths") && refused.contains("netbpf teardown"),
        "{refused}"
    );
}

#[test]
fn detach_is_idempotent_and_leaves_nothing() {
    let street = street_with_networks("detach", &[]);
    let links = || street.host.ip("-o link show");
    let (before, routes) = (
        links(),
        street.host.ip("-4 route") + &street.host.ip("-6 route"),
    );
    let web = street.front("web", &["-p", "8080:80"]);
    web.detach();
    within(SOON, "the device is gone", || links() == before);
    assert_eq!(
        street.host.ip("-4 route") + &street.host.ip("-6 route"),
        routes
    );
    assert!(!web.ip("link show").contains("eth0"));
    street.host.netbpf(&["detach", "web"]).ok();
    street.host.netbpf(&["detach", "never-there"]).ok();
}

#[test]
fn a_namespace_that_dies_is_cleaned_up_and_its_address_free() {
    let street = street_with_networks("a_namespace_dies", &[]);
    let flags = ["--ip", "10.10.1.77", "--ip", "fd10:1::77", "-p", "8080:80"];
    let web = street.front("web", &flags);
    let device = web.info.host_ifname.clone();
    web.delete();
    within(SOON, "noticed", || street.host.endpoints().is_empty());
    within(SOON, "the device is gone", || {
        !street.host.ip("-o link show").contains(&device)
    });
    let next = street.front("next", &flags);
    let _http = Http::start(&next, 80);
    for family in Family::BOTH {
        assert_eq!(street.client.fetch(family.ip(HOST), 8080).server, "next");
    }
}

#[test]
fn a_namespace_that_dies_without_a_daemon_is_cleaned_up_at_start() {
    let street = street_with_networks("a_namespace_dies_unseen", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    street.host.stop();
    web.delete();
    street.host.restart();
    within(SOON, "noticed", || street.host.endpoints().is_empty());
    let ports: Vec<netbpf::model::PortOf> = street.host.json(&["port"]);
    assert_eq!(ports, []);
}

fn files_below(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let found = Cmd::new(&["find", &dir, "-mindepth", "1", "-not", "-name", "*.debug"]).ok();
    found.lines().map(str::to_owned).collect()
}

#[test]
fn teardown_leaves_nothing() {
    let street = street_without_daemon("teardown");
    let before = Settings::of(&street.host);
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "40500:81"]);
    let _app = street.host.container(&street.lab, "app", &[]);
    web.ping(Family::V4.ip(CLIENT));
    street.host.netbpf(&["teardown", "--purge"]).ok();
    street.host.wait_ended();
    assert_eq!(files_below(&street.host.bpffs()), Vec::<String>::new());
    assert_eq!(files_below(&street.host.state_dir()), Vec::<String>::new());
    within(SOON, "everything is as before", || {
        Settings::of(&street.host) == before
    });
    assert!(!web.ip("link show").contains("eth0"));
}

#[test]
fn teardown_works_without_a_daemon_and_networks_stay() {
    let street = street_without_daemon("teardown_offline");
    let before = Settings::of(&street.host);
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let _web = street.front("web", &["-p", "8080:80"]);
    street.host.kill();
    street.host.teardown_offline(&[]);
    assert_eq!(files_below(&street.host.bpffs()), Vec::<String>::new());
    within(SOON, "everything is as before", || {
        Settings::of(&street.host) == before
    });
    street.host.restart();
    let network: NetworkInfo = street.host.json(&["network", "inspect", "front"]);
    assert_eq!(network.endpoints, Vec::<String>::new());
    let again = street.front("again", &[]);
    again.ping(Family::V6.ip(CLIENT));
}

#[test]
fn the_hosts_settings_stay_as_they_are() {
    let street = street_without_daemon("settings");
    let before = sysctls(&street.host);
    let rules = firewall(&street.host);
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "40500:81"]);
    web.ping(Family::V4.ip(CLIENT));
    let after = sysctls(&street.host);

    let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let changed: BTreeMap<_, _> = before
        .iter()
        .filter(|(name, value)| *name != reserved && after.get(*name) != Some(value))
        .collect();
    assert!(changed.is_empty(), "changed: {changed:?}");
    let ours = format!("/{}/", web.info.host_ifname);
    let new: Vec<_> = after
        .keys()
        .filter(|name| !before.contains_key(*name) && !name.contains(&ours))
        .collect();
    assert!(new.is_empty(), "new: {new:?}");
    assert_eq!(after["/proc/sys/net/ipv4/ip_forward"], "0");
    assert_eq!(after["/proc/sys/net/ipv6/conf/all/forwarding"], "0");
    assert_eq!(firewall(&street.host), rules, "no firewall rule is made");
    let bridges = street.host.ip("link show type bridge");
    assert_eq!(bridges, "", "no bridge is made");
}

#[test]
fn several_daemons_side_by_side() {
    let lab = Lab::new("side_by_side");
    let (one, other) = (lab.host("one"), lab.host("other"));
    lab.wire((&one, "up0", &HOST_WIRE), (&other, "up0", &CLIENT_WIRE));
    one.start(&[]);
    other.start(&[]);
    let web = one.container(&lab, "web", &["-p", "8080:80"]);
    let app = other.container(&lab, "app", &["-p", "8080:80"]);
    let _web = Http::start(&web, 80);
    let _app = Http::start(&app, 80);
    for family in Family::BOTH {
        let (host_one, host_other) = (family.ip(HOST), family.ip(CLIENT));
        let seen = app.fetch(host_one, 8080);
        assert_eq!((seen.peer, seen.server.as_str()), (host_other, "web"));
        let seen = web.fetch(host_other, 8080);
        assert_eq!((seen.peer, seen.server.as_str()), (host_one, "app"));
    }
    one.netbpf(&["teardown"]).ok();
    one.wait_ended();
    for family in Family::BOTH {
        assert_eq!(one.fetch(family.ip(CLIENT), 8080).server, "app");
    }
    let names: Vec<String> = other.endpoints().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["app"]);
}

#[test]
fn every_map_is_pinned_and_reads_well_in_bpftool() {
    let test = "bpftool_reads_every_map";
    if !has_tools(test, &["bpftool"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    web.ping(Family::V4.ip(CLIENT));
    let pins = files_below(&street.host.bpffs());
    let pin = |name: &str| {
        let is_it = |path: &&String| Path::new(path).file_name().is_some_and(|file| file == name);
        let found = pins.iter().find(is_it);
        found.unwrap_or_else(|| panic!("{name} is not pinned: {pins:?}"))
    };
    let at_once = |name: &&&str| !names::AT_NEED.contains(name);
    let programs = names::PROGRAMS.iter().chain(names::HOST_PROGRAMS);
    for name in programs.filter(at_once) {
        Cmd::new(&["bpftool", "prog", "show", "pinned", pin(name)]).ok();
    }
    for name in names::MAPS {
        let shown = Cmd::new(&["bpftool", "map", "show", "pinned", pin(name)]).ok();
        assert!(shown.contains(name), "{shown}");
        // What belongs to sockets is listed by nobody.
        if ![names::EVENTS, names::SCRATCH, names::HOST_MARKS].contains(name) {
            Cmd::new(&["bpftool", "map", "dump", "pinned", pin(name)]).ok();
        }
    }
    let dump = Cmd::new(&["bpftool", "map", "dump", "pinned", pin(names::ENDPOINTS)]).ok();
    for field in ["\"addr\"", "\"network\"", "\"ifindex\"", "\"mac\""] {
        assert!(dump.contains(field), "{field} is missing: {dump}");
    }
    let status: StatusInfo = street.host.json(&["status"]);
    for name in names::PROGRAMS.iter().filter(at_once) {
        assert!(
            status.programs.iter().any(|program| program.name == *name),
            "{name}"
        );
    }
}

#[test]
fn counters_are_as_the_container_sees_them() {
    let street = street_with_networks("counters", &[]);
    let (web, app) = (street.front("web", &[]), street.front("app", &[]));
    let ours = || -> [u64; 4] {
        let web: EndpointInfo = street.host.json(&["inspect", "web"]);
        [web.rx_packets, web.rx_bytes, web.tx_packets, web.tx_bytes]
    };
    let its_own = || {
        let links = web.ip("-json -statistics link show dev eth0");
        let links: serde_json::Value = serde_json::from_str(&links).expect("JSON");
        let figure = |side: &str, what: &str| {
            let value = &links[0]["stats64"][side][what];
            value.as_u64().unwrap_or_else(|| panic!("{links}"))
        };
        let side = |side| (figure(side, "packets"), figure(side, "bytes"));
        let ((rx_packets, rx_bytes), (tx_packets, tx_bytes)) = (side("rx"), side("tx"));
        [rx_packets, rx_bytes, tx_packets, tx_bytes]
    };
    // The kernel sends on its own, reports of multicast groups for one: both are of one
    // moment when nothing has come by meanwhile.
    let look = || {
        for _ in 0..20 {
            let (at_eth0, counted) = (its_own(), ours());
            if its_own() == at_eth0 {
                return [counted, at_eth0];
            }
        }
        panic!("eth0 does not come to rest: {:?}", its_own());
    };
    // Its device has sent before a program was there to count.
    let since = |before: &[[u64; 4]; 2]| {
        let mut delta = look();
        for (delta, before) in delta.iter_mut().zip(before) {
            *delta = std::array::from_fn(|at| delta[at] - before[at]);
        }
        delta
    };
    let equal = |before: &[[u64; 4]; 2], what: &str| {
        let mut last = since(before);
        for _ in 0..20 {
            if last[0] == last[1] {
                return last[0];
            }
            last = since(before);
        }
        panic!("{what}: {:?} counted, {:?} at eth0", last[0], last[1]);
    };
    let before = look();

    for family in Family::BOTH {
        // Into and out of another container, of the host's stack, and from outside.
        let echoes = web.ping_stream(app.addr(family), 5).wait();
        assert!(echoes.status.success(), "{echoes}");
        let echoes = web.ping_stream(family.ip(CLIENT), 5).wait();
        assert!(echoes.status.success(), "{echoes}");
        // Answered by us: neighbours, and what nobody has.
        web.ip("neighbour flush dev eth0");
        let nobody = match family {
            Family::V4 => "172.30.0.77",
            Family::V6 => "fd00:30::77",
        };
        web.run(&["ping", "-c", "1", "-W", "1", nobody]).fails();
    }
    let so_far = equal(&before, "what is answered");
    assert!(so_far[0] >= 22 && so_far[2] >= 22, "{so_far:?}");

    // Dropped.
    web.ip("address add 10.10.1.77/32 dev lo");
    let app = app.addr(Family::V4).to_string();
    web.run(&[
        "ping",
        "-c",
        "3",
        "-i",
        "0.2",
        "-W",
        "1",
        "-I",
        "10.10.1.77",
        &app,
    ])
    .fails();
    let at_last = equal(&before, "what is dropped");
    assert!(at_last[2] >= so_far[2] + 3, "{so_far:?}, {at_last:?}");
}

#[test]
fn teardown_with_other_directories_touches_nothing() {
    let street = street_with_networks("teardown_elsewhere", &[]);
    let web = street.front("web", &[]);
    street.host.stop();
    let elsewhere = street.host.run_dir().join("elsewhere");
    let elsewhere = elsewhere.to_str().expect("a path");
    let binary = binary();
    let binary = binary.to_str().expect("a path");
    let teardown = [
        binary,
        "teardown",
        "--socket",
        elsewhere,
        "--state-dir",
        elsewhere,
        "--run-dir",
        elsewhere,
        "--bpffs",
        elsewhere,
    ];
    let refused = street.host.run(&teardown).fails();
    let said = refused.to_string();
    assert!(said.contains(&web.info.host_ifname), "{said}");
    assert!(!Path::new(elsewhere).exists());
    // Another daemon's socket alone does not mean the default directories.
    let unnamed = [binary, "teardown", "--purge", "--socket", elsewhere];
    let refused = street.host.run(&unnamed).exits(2);
    assert!(refused.stderr.contains("--state-dir"), "{refused}");
    street.host.restart();
    web.ping(Family::V4.ip(CLIENT));
}

/// A mask of signals is inherited, and not everybody who starts daemons clears theirs.
#[test]
fn it_ends_also_where_signals_were_blocked() {
    let street = street_without_daemon("signals_blocked");
    let host = &street.host;
    let daemon = host
        .daemon(&["env", "--block-signal=TERM,INT,HUP"], &[])
        .spawn();
    host.netbpf(&["status", "--wait", "10s"]).ok();
    daemon.signal(Signal::SIGTERM);
    let output = daemon.wait();
    assert!(output.status.success(), "{output}");
}
