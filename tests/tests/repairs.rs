//! What others undo on the host is put back while the daemon runs, and told of.
//!
//! ```text
//!   web, app ── front ── host ──── client
//! ```

use std::{fs, path::PathBuf, time::Duration};

use netbpf::model::{Finding, Severity, StatusInfo};
use netbpf_common::names;
use netbpf_tests::lab::{
    Cmd, Container, Family, Host, Http, Street, has_tools,
    names::{FRONT, HOST},
    street_with, within,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const METRICS: &str = "127.0.0.1:9464";

/// Between two looks of the daemon, and as much again.
const TWO_LOOKS: Duration = Duration::from_secs(60);

fn start(test: &str) -> (Street, Container, Container) {
    let street = street_with(test, &["--metrics", METRICS]);
    street.host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let app = street.front("app", &[]);
    (street, web, app)
}

/// How much of a kind was put back.
fn repaired(host: &Host, kind: &str) -> u64 {
    counted(host, &format!("netbpf_repairs_total{{kind=\"{kind}\"}} "))
}

fn counted(host: &Host, sample: &str) -> u64 {
    let url = format!("http://{METRICS}/metrics");
    let text = host.run(&["curl", "-sS", "--fail", "-m", "5", &url]).ok();
    let value = text.lines().find_map(|line| line.strip_prefix(sample));
    let value = value.unwrap_or_else(|| panic!("no {sample} in {text}"));
    value.parse().expect("a number")
}

fn is_healthy(host: &Host) -> bool {
    let output = host.netbpf(&["-j", "doctor"]).output();
    let found: Vec<Finding> = serde_json::from_str(&output.stdout).expect("JSON");
    found.iter().all(|f| f.severity == Severity::Ok)
}

#[track_caller]
fn works(street: &Street, web: &Container, app: &Container) {
    for family in Family::BOTH {
        let host = family.ip(HOST);
        street.client.fetch(host, 8080);
        street.host.fetch(host, 8080);
        app.fetch(host, 8080);
        app.fetch(web.addr(family), 80);
        street.host.fetch(web.addr(family), 80);
        app.ping(family.ip(FRONT.gateways));
    }
}

/// A pin of an attachment whose name ends so.
fn link(host: &Host, end: &str) -> Option<PathBuf> {
    let all = fs::read_dir(host.bpffs().join("links")).expect("pins");
    let mut all = all.flatten().map(|pin| pin.path());
    all.find(|path| path.display().to_string().ends_with(end))
}

#[test]
fn a_gateway_address_is_back_at_once() {
    let (street, web, app) = start("repair_gateway");
    let host = &street.host;
    let _web = Http::start(&web, 80);
    let gateways = FRONT.gateways.into_iter().zip([32, 128]);
    for (gateway, prefix) in gateways {
        host.ip(&format!("address del {gateway}/{prefix} dev lo"));
        within(Duration::from_secs(5), "the address is back", || {
            host.ip("address show dev lo").contains(gateway)
        });
    }
    within(Duration::from_secs(5), "it is counted", || {
        repaired(host, "address") == 2
    });
    let log = host.log();
    for gateway in FRONT.gateways {
        let line = format!("address {gateway} on lo");
        assert!(log.contains(&line), "{line} is not in {log}");
    }
    within(Duration::from_secs(5), "all is well", || is_healthy(host));
    works(&street, &web, &app);
}

/// Changes that the daemon could not be told of, as the socket's buffer was full.
#[test]
fn what_was_not_heard_of_is_looked_for() {
    // More than the socket holds: 8 MiB (socket(7): twice of what the daemon asks for) of
    // messages of more than 1 KiB each.
    const CHANGES: usize = 12_000;
    let (street, web, app) = start("repair_unheard");
    let host = &street.host;
    let _web = Http::start(&web, 80);
    let overruns = || counted(host, "netbpf_netlink_overruns_total ");
    assert_eq!(overruns(), 0);
    host.ip("link add noise type veth peer name noise2");
    let pid = Pid::from_raw(host.pid().expect("it runs") as i32);
    kill(pid, Signal::SIGSTOP).expect("stop the daemon for a while");
    let changes = (0..CHANGES).map(|n| format!("link set noise mtu {}\n", 1400 + n % 2));
    let batch: String = changes.collect();
    let noise = host.run(&["ip", "-batch", "-"]).stdin(&batch);
    noise.timeout(Duration::from_secs(30)).ok();
    host.ip(&format!("link del {}", app.info.host_ifname));
    host.ip(&format!("address del {}/32 dev lo", FRONT.gateways[0]));
    host.ip("link set up0 down");
    host.ip("link set up0 name up7");
    host.ip("link set up7 up");
    kill(pid, Signal::SIGCONT).expect("let it go on");
    within(Duration::from_secs(5), "it is counted", || overruns() > 0);
    let uplinks = || {
        let status: StatusInfo = host.json(&["status"]);
        status.uplinks.into_iter().map(|u| u.name)
    };
    within(Duration::from_secs(5), "all is followed", || {
        let endpoints = host.endpoints();
        endpoints.iter().all(|e| e.name != "app") && uplinks().eq(["up7"])
    });
    within(Duration::from_secs(5), "the address is back", || {
        host.ip("address show dev lo").contains(FRONT.gateways[0])
    });
    within(Duration::from_secs(5), "all is well", || is_healthy(host));
    street.client.fetch(Family::V4.ip(HOST), 8080);
}

#[test]
fn what_was_undone_is_back_within_two_looks_and_stays() {
    let test = "repair_all";
    if !has_tools(test, &["bpftool"]) {
        return;
    }
    let (street, web, app) = start(test);
    let host = &street.host;
    let pid = host.pid();
    let _web = Http::start(&web, 80);
    let (web_device, app_device) = (&web.info.host_ifname, &app.info.host_ifname);
    let [web4, web6] = Family::BOTH.map(|family| web.addr(family));
    let app4 = app.addr(Family::V4);
    for undo in [
        format!("route del {web4}/32 dev {web_device}"),
        format!("route del {web6}/128 dev {web_device}"),
        format!("route del unreachable {}", FRONT.subnets[0]),
        format!("route del unreachable {}", FRONT.subnets[1]),
        format!("neighbour del {app4} dev {app_device}"),
    ] {
        host.ip(&undo);
    }
    let third = street.front("third", &[]);
    host.ip(&format!("link set {} down", third.info.host_ifname));
    let filter = ["tc", "filter", "del", "dev", web_device, "ingress"];
    host.run(&filter).ok();
    // Of TCX and of the cgroup the pin is all that holds the program.
    for end in ["_ingress_tcx", "1_egress_tcx", "_host_bind4"] {
        if let Some(pin) = link(host, end) {
            fs::remove_file(pin).expect("remove the pin");
        }
    }
    if let Some(pin) = link(host, "_host_connect4") {
        let pin = pin.display().to_string();
        Cmd::new(&["bpftool", "link", "detach", "pinned", &pin]).ok();
    }
    let maps = [names::PORTS, names::EVENTS].map(|name| host.bpffs().join(name));
    let program = host.bpffs().join("programs").join(names::FROM_CONTAINER);
    for pin in maps.iter().chain([&program]) {
        fs::remove_file(pin).expect("remove the pin");
    }
    within(TWO_LOOKS, "all is as it was", || is_healthy(host));
    works(&street, &web, &app);
    assert_eq!(host.pid(), pid, "it is the same daemon");
    for kind in ["route", "neighbour", "interface", "program", "pin"] {
        assert_ne!(repaired(host, kind), 0, "{kind}");
    }
    // What is pinned again is what is used.
    let dump = ["bpftool", "map", "dump", "pinned"].map(str::to_owned);
    let mut dump: Vec<String> = dump.into();
    dump.push(maps[0].display().to_string());
    assert!(Cmd::new(&dump).ok().contains("8080"));
    host.stop();
    host.restart();
    assert!(is_healthy(host));
    works(&street, &web, &app);
}
