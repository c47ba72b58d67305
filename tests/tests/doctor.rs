//! What `netbpf doctor` finds, one thing broken at a time.
//!
//! ```text
//!   web ── front ── host ──── client
//! ```

use std::fs;

use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use netbpf::model::{Check, Finding, Severity};
use netbpf_common::names;
use netbpf_tests::lab::{
    Cmd, Family, Host, Http, SOON, Street, firewall, has_tools,
    names::{FRONT, HOST, HOST_WIRE_B},
    skipped, street_with, street_with_networks, street_without_daemon, until, within,
};

/// What the doctor says, whatever its exit code; which must be 1 with an error, else 0.
#[track_caller]
fn findings(host: &Host) -> Vec<Finding> {
    let output = host.netbpf(&["-j", "doctor"]).output();
    let found: Vec<Finding> =
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}\n{output}"));
    let is_ill = found.iter().any(|f| f.severity == Severity::Error);
    assert_eq!(output.status.code(), Some(is_ill.into()), "{output}");
    assert_eq!(output.stderr, "", "{output}");
    found
}

/// What is not as it should be.
#[track_caller]
fn wrong(host: &Host) -> Vec<Finding> {
    let found = findings(host).into_iter();
    found.filter(|f| f.severity != Severity::Ok).collect()
}

#[track_caller]
fn is_healthy(host: &Host) {
    let wrong = wrong(host);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The same where the daemon hears of what has changed a little later.
#[track_caller]
fn becomes_healthy(host: &Host) {
    until(SOON, || wrong(host).is_empty());
    is_healthy(host);
}

/// The same of what the daemon puts back by itself, unless it was quicker.
#[track_caller]
fn finds_or_put_back(host: &Host, check: Check, object: &str) {
    let wrong = wrong(host);
    let named = |f: &Finding| format!("{} {}", f.object, f.message).contains(object);
    let found = wrong.iter().any(|f| f.check == check && named(f));
    let is_back = host.log().contains("put back");
    assert!(found || is_back, "no {check:?} names {object}: {wrong:#?}");
}

/// Something of that check and severity that names the object in its text or title.
#[track_caller]
fn finds(host: &Host, check: Check, severity: Severity, object: &str) {
    let wrong = wrong(host);
    let is_it = |f: &Finding| {
        let text = format!("{} {}", f.object, f.message);
        (f.check, f.severity) == (check, severity) && text.contains(object) && !f.advice.is_empty()
    };
    assert!(
        wrong.iter().any(is_it),
        "no {check:?} names {object}: {wrong:#?}"
    );
}

/// A start of the daemon puts everything right.
#[track_caller]
fn restart_heals(host: &Host) {
    host.stop();
    host.restart();
    is_healthy(host);
}

fn tc(host: &Host, arguments: &str) {
    let mut argv = vec!["tc"];
    argv.extend(arguments.split(' '));
    host.run(&argv).ok();
}

#[test]
fn a_healthy_host_has_nothing_wrong_and_says_what_was_looked_at() {
    let street = street_with_networks("doctor_healthy", &[]);
    let ports = ["-p", "8080:80", "-p", "40500-40503:81-84"];
    let _web = street.front("web", &ports);
    let one = "published=9090,target=90,allow=192.0.2.0/24,weight=2";
    let app = street.front("app", &["-p", one]);
    let _back = street.back("both", &[]);
    let shared = ["publish", "web", "--share", "-p", one];
    street.host.netbpf(&shared).ok();
    app.attach(&["--network", "back"]);
    is_healthy(&street.host);
    let all = findings(&street.host);
    for check in [
        Check::Daemon,
        Check::Kernel,
        Check::Store,
        Check::Endpoint,
        Check::Program,
        Check::Map,
        Check::Overlap,
        Check::RpFilter,
        Check::Drops,
    ] {
        assert!(all.iter().any(|f| f.check == check), "{check:?}: {all:#?}");
    }
    // People see the same.
    let shown = street.host.netbpf(&["doctor"]).ok();
    assert!(shown.starts_with("SEVERITY"), "{shown}");
    assert_eq!(shown.lines().count(), all.len() + 1, "{shown}");
    assert_eq!(street.host.netbpf(&["doctor", "-q"]).ok(), "");
    restart_heals(&street.host);
}

#[test]
fn the_same_where_programs_hang_by_clsact() {
    let street = street_with("doctor_clsact", &["--as-kernel", "6.1"]);
    street.host.network(&FRONT, &[]);
    let _web = street.front("web", &["-p", "8080:80"]);
    is_healthy(&street.host);
    tc(&street.host, "filter del dev up0 ingress");
    finds_or_put_back(&street.host, Check::Program, "up0 ingress");
    restart_heals(&street.host);
}

#[test]
fn what_is_gone_from_the_host_is_named() {
    let street = street_with_networks("doctor_host", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let host = &street.host;
    let device = &web.info.host_ifname;
    let [web4, web6] = Family::BOTH.map(|family| web.addr(family));
    let [gateway4, gateway6] = FRONT.gateways;
    let [subnet4, subnet6] = FRONT.subnets;
    for (undo, check, object) in [
        (
            format!("address del {gateway4}/32 dev lo"),
            Check::Network,
            format!("address {gateway4}"),
        ),
        (
            format!("address del {gateway6}/128 dev lo"),
            Check::Network,
            format!("address {gateway6}"),
        ),
        (
            format!("route del unreachable {subnet4}"),
            Check::Network,
            format!("route {subnet4}"),
        ),
        (
            format!("route del unreachable {subnet6}"),
            Check::Network,
            format!("route {subnet6}"),
        ),
        (
            format!("route del {web4}/32 dev {device}"),
            Check::Endpoint,
            format!("{web4}/32 by {device}"),
        ),
        (
            format!("route del {web6}/128 dev {device}"),
            Check::Endpoint,
            format!("{web6}/128 by {device}"),
        ),
        (
            format!("neighbour del {web4} dev {device}"),
            Check::Endpoint,
            format!("neighbour entry on {device}"),
        ),
        (
            format!("link set {device} down"),
            Check::Endpoint,
            format!("interface {device} is down"),
        ),
    ] {
        host.ip(&undo);
        finds_or_put_back(host, check, &object);
        restart_heals(host);
    }
}

#[test]
fn what_was_changed_in_a_container_is_named() {
    let street = street_with_networks("doctor_container", &[]);
    let web = street.front("web", &[]);
    let host = &street.host;
    let web4 = web.addr(Family::V4);
    web.ip("route del default");
    finds(
        host,
        Check::Endpoint,
        Severity::Error,
        "endpoint web on front",
    );
    web.ip(&format!("address del {web4}/24 dev eth0"));
    finds(host, Check::Endpoint, Severity::Error, &web4.to_string());
    let device = &web.info.host_ifname;
    host.ip(&format!("link set {device} address 02:00:00:00:00:99"));
    finds(host, Check::Endpoint, Severity::Error, "02:00:00:00:00:99");
    // It is the container's own business, and done anew with it.
    web.detach();
    is_healthy(host);
}

#[test]
fn programs_that_were_taken_off_are_named() {
    let street = street_with_networks("doctor_programs", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let host = &street.host;
    let device = &web.info.host_ifname;
    tc(host, &format!("filter del dev {device} ingress"));
    let place = format!("{device} ingress");
    finds_or_put_back(host, Check::Program, &place);
    restart_heals(host);

    tc(host, &format!("qdisc del dev {device} clsact"));
    finds_or_put_back(host, Check::Program, &format!("{device} egress"));
    restart_heals(host);

    let links = host.bpffs().join("links");
    let pins = fs::read_dir(&links).expect("pins").flatten();
    let pins: Vec<_> = pins.map(|pin| pin.path()).collect();
    let of = |end: &str| {
        let mut all = pins.iter();
        let is_it = |pin: &&std::path::PathBuf| pin.display().to_string().ends_with(end);
        all.find(is_it).cloned()
    };
    // Of TCX and of the cgroup the pin is all that holds the program.
    for end in ["_ingress_tcx", "_egress_tcx", "_host_bind4"] {
        let Some(pin) = of(end) else {
            skipped("doctor_programs", &format!("no {end} on this kernel"));
            continue;
        };
        fs::remove_file(&pin).expect("remove the pin");
        let wrong = wrong(host);
        let is_it = |f: &Finding| (f.check, f.severity) == (Check::Program, Severity::Error);
        let is_back = host.log().contains("put back");
        assert!(is_back || wrong.iter().any(is_it), "{end}: {wrong:#?}");
        restart_heals(host);
    }
    // Of a filter it is only its name.
    let pin = of("_ingress_clsact").expect("the veth's");
    fs::remove_file(&pin).expect("remove the pin");
    finds_or_put_back(host, Check::Program, &pin.display().to_string());
    restart_heals(host);
}

#[test]
fn a_link_that_was_detached_is_named() {
    let test = "doctor_detached_link";
    if !has_tools(test, &["bpftool"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let host = &street.host;
    let links = host.bpffs().join("links");
    let all = fs::read_dir(&links).expect("pins").flatten();
    let mut pins = all.map(|pin| pin.path().display().to_string());
    let Some(pin) = pins.find(|pin| pin.ends_with("_host_connect4")) else {
        return skipped(test, "no cgroup v2");
    };
    Cmd::new(&["bpftool", "link", "detach", "pinned", &pin]).ok();
    finds_or_put_back(host, Check::Program, "host_connect4");
    restart_heals(host);
}

#[test]
fn map_entries_that_are_missing_stale_or_different_are_named() {
    let test = "doctor_maps";
    if !has_tools(test, &["bpftool"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let _web = street.front("web", &["-p", "8080:80"]);
    let host = &street.host;
    let bpftool = |arguments: &str, name: &str, rest: &[String]| {
        let pin = host.bpffs().join(name).display().to_string();
        let mut argv: Vec<String> = ["bpftool", "-j", "map"].map(Into::into).into();
        argv.extend([arguments.to_owned(), "pinned".into(), pin]);
        argv.extend_from_slice(rest);
        Cmd::new(&argv).ok()
    };
    let bytes = |value: &serde_json::Value| -> Vec<String> {
        let all = value.as_array().expect("bytes").iter();
        all.map(|b| b.as_str().expect("a byte").to_owned())
            .collect()
    };
    let found_and_healed = |what: &str| {
        finds(host, Check::Map, Severity::Error, what);
        restart_heals(host);
    };
    let dump = |name| -> serde_json::Value {
        serde_json::from_str(&bpftool("dump", name, &[])).expect("JSON")
    };
    let entry = |key: &[String], value: &[String]| {
        [&["key".to_owned()], key, &["value".to_owned()], value].concat()
    };
    for name in [
        names::ENDPOINTS,
        names::VETHS,
        names::LOCALS,
        names::SUBNETS,
        names::UPLINKS,
        names::PORTS,
    ] {
        let dump = dump(name);
        let key = bytes(&dump[0]["key"]);
        let value = bytes(&dump[0]["value"]);
        let mut other = value.clone();
        other[0] = "0x7f".into();
        bpftool("update", name, &entry(&key, &other));
        finds(host, Check::Map, Severity::Error, &format!("map {name}"));

        bpftool("delete", name, &[&["key".to_owned()], &key[..]].concat());
        found_and_healed("is missing");
    }
    // Of arrays: the place of a device, whose ifindex is there behind what `veths` says of it.
    let dump = dump(names::VETH_SLOTS);
    let slots = dump.as_array().expect("slots").iter();
    let mut slots = slots.map(|slot| (bytes(&slot["key"]), bytes(&slot["value"])));
    let ifindex = size_of::<netbpf_common::maps::Veth>();
    let is_taken = |(_, value): &(_, Vec<String>)| value[ifindex] != "0x00";
    let (key, value) = slots.find(is_taken).expect("a device");
    let mut other = value.clone();
    other[0] = "0x7f".into();
    bpftool("update", names::VETH_SLOTS, &entry(&key, &other));
    found_and_healed("map veth_slots");
    // One that is gone, of an endpoint that is there.
    let (mut free, mut stale) = (key, value);
    free[0] = "0xf0".into();
    stale[ifindex] = "0xf0".into();
    bpftool("update", names::VETH_SLOTS, &entry(&free, &stale));
    found_and_healed("of nothing that is there");
    let empty = vec!["0".to_owned(); size_of::<netbpf_common::maps::Pool>()];
    let first = ["0"; 4].map(str::to_owned);
    bpftool("update", names::AREAS, &entry(&first, &empty));
    found_and_healed("map areas");

    let key = ["0xff", "0", "0", "0"].map(str::to_owned);
    let stale = vec!["0x01".to_owned(); ifindex];
    bpftool("update", names::VETHS, &entry(&key, &stale));
    found_and_healed("of nothing that is there");
}

#[test]
fn routes_and_addresses_within_our_subnets_are_named() {
    let street = street_with_networks("doctor_overlap", &[]);
    let web = street.front("web", &[]);
    let host = &street.host;
    let (web4, device) = (web.addr(Family::V4), &web.info.host_ifname);
    host.ip("route add 10.10.1.128/25 via 192.0.2.2");
    finds(
        host,
        Check::Overlap,
        Severity::Warning,
        "route 10.10.1.128/25",
    );
    host.ip("route del 10.10.1.128/25 via 192.0.2.2");
    is_healthy(host);

    // As a bridge of another engine brings them.
    host.ip("link add docker0 type bridge");
    host.address("docker0", &["10.10.1.1/24"]);
    finds(host, Check::Overlap, Severity::Warning, "address 10.10.1.1");
    finds(host, Check::Overlap, Severity::Warning, "docker0");
    host.ip("link del docker0");
    becomes_healthy(host);

    // Rules of others send the host's packets elsewhere.
    host.ip("route add default via 192.0.2.2 table 77");
    host.ip("rule add to 10.10.1.0/24 lookup 77");
    finds(
        host,
        Check::Overlap,
        Severity::Error,
        &format!("{web4} by up0"),
    );
    host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
    finds(host, Check::RpFilter, Severity::Error, device);
    host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0");
    host.ip("rule del to 10.10.1.0/24 lookup 77");
    is_healthy(host);
}

/// What is said of it, tried: a strict filter everywhere is in nobody's way.
#[test]
fn strict_filters_of_source_addresses_drop_nothing_of_ours() {
    let street = street_with_networks("doctor_rp_filter", &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let app = street.front("app", &[]);
    let host = &street.host;
    for device in [
        "all",
        "lo",
        "up0",
        &web.info.host_ifname,
        &app.info.host_ifname,
    ] {
        host.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1");
    }
    let _web = Http::start(&web, 80);
    let _ssh = Http::start(host, 22);
    let v4 = Family::V4;
    let address = v4.ip(HOST);
    street.client.fetch(address, 8080);
    for place in [address, v4.loopback()] {
        host.fetch(place, 8080);
    }
    app.fetch(address, 8080);
    web.fetch(address, 8080);
    host.fetch(web.addr(v4), 80);
    app.fetch(web.addr(v4), 80);
    web.fetch(address, 22);
    web.fetch(v4.ip(FRONT.gateways), 22);
    web.ping(v4.ip(netbpf_tests::lab::names::CLIENT));
    is_healthy(host);
}

#[test]
fn a_firewall_that_drops_by_policy_is_named() {
    let test = "doctor_firewall";
    if !has_tools(test, &["nft"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let host = &street.host;
    let before = firewall(host);
    host.run(&["nft", "add table inet filter"]).ok();
    let chain = "add chain inet filter in { type filter hook input priority 0; policy drop; }";
    host.run(&["nft", chain]).ok();
    let chain = "add chain inet filter fw { type filter hook forward priority 0; policy drop; }";
    host.run(&["nft", chain]).ok();
    finds(
        host,
        Check::Firewall,
        Severity::Warning,
        "chain inet filter in",
    );
    let forward = |f: &Finding| f.object.contains(" fw");
    assert!(
        !wrong(host).iter().any(forward),
        "it concerns nothing of ours"
    );
    host.run(&["nft", "delete table inet filter"]).ok();
    assert_eq!(firewall(host), before);
    is_healthy(host);
}

#[test]
fn settings_of_the_host_are_looked_at() {
    let street = street_with_networks("doctor_settings", &[]);
    let web = street.front("web", &["-p", "40500:81"]);
    let host = &street.host;
    host.sysctl("net.ipv4.ip_local_reserved_ports", "50000");
    finds(host, Check::ReservedPorts, Severity::Warning, "40500");
    restart_heals(host);

    let mtu = |mtu: &str| host.ip(&format!("link set up0 mtu {mtu}"));
    mtu("1400");
    within(SOON, "the daemon knows the MTU", || {
        let is_it = |f: &Finding| f.check == Check::Mtu && f.message.contains("up0");
        wrong(host).iter().any(is_it)
    });
    mtu("1500");
    becomes_healthy(host);
    drop(web);
}

/// The daemon puts it back within seconds; with it stopped nobody does. What a doctor
/// says of it is tested by its check.
#[test]
fn forwarding_is_on_again_after_a_start() {
    let street = street_with_networks("doctor_forwarding", &[]);
    let web = street.front("web", &[]);
    let host = &street.host;
    let device = &web.info.host_ifname;
    host.sysctl(&format!("net.ipv4.conf.{device}.forwarding"), "0");
    let off = |f: &Finding| f.check == Check::Forwarding && f.object.ends_with(device.as_str());
    // Either it is found, or it was put right before.
    let found = wrong(host).iter().any(off);
    assert!(found || host.log().contains("forwarding was switched off"));
    within(SOON, "it is on again", || wrong(host).is_empty());
}

#[test]
fn programs_of_others_before_ours_are_named() {
    let test = "doctor_foreign";
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &[]);
    let host = &street.host;
    let device = web.info.host_ifname.clone();
    let pin = host.bpffs().join("programs").join(names::FROM_UPLINK_L3);
    let pin = match pin.exists() {
        true => pin,
        false => host.bpffs().join("programs").join(names::FROM_UPLINK),
    };
    let mut foreign = SchedClassifier::from_pin(&pin).expect("a program to play another's");
    let name = ProgramInfo::from_pin(&pin).expect("its name");
    let name = name.name_as_str().unwrap_or_default().to_owned();
    let attached = host.enter(|| {
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        foreign.attach_with_options(&device, TcAttachType::Ingress, first)
    });
    let Ok(link) = attached else {
        return skipped(test, "no TCX on this kernel");
    };
    let text = format!("{device} ingress {name} (tcx) runs before from_container");
    finds(host, Check::ForeignProgram, Severity::Warning, &text);
    foreign.detach(link).expect("detach");
    is_healthy(host);

    let pin = host.bpffs().join("programs").join(names::EARLY_DROP);
    let pin = pin.display().to_string();
    host.ip(&format!("link set dev up0 xdpgeneric pinned {pin}"));
    finds(host, Check::ForeignProgram, Severity::Warning, "device up0");
    host.ip("link set dev up0 xdpgeneric off");
    is_healthy(host);
}

#[test]
fn an_uplink_that_is_awaited_is_named() {
    let street = street_with("doctor_uplinks", &["--uplink", "up0", "--uplink", "up1"]);
    let host = &street.host;
    finds(host, Check::Uplink, Severity::Warning, "device up1");
    let other = street.lab.space("client-b");
    street
        .lab
        .wire((host, "up1", &HOST_WIRE_B), (&other, "eth0", &[]));
    becomes_healthy(host);
}

#[test]
fn without_a_daemon_it_prints_what_can_be_seen_and_fails() {
    let street: Street = street_without_daemon("doctor_alone");
    let host = &street.host;
    let binary = netbpf_tests::lab::binary().display().to_string();
    let doctor = |mode: &str| {
        let mut argv = vec![binary.clone(), mode.into(), "doctor".into()];
        argv.extend(host.directory_flags());
        host.run(&argv).exits(1)
    };
    let output = doctor("-j");
    assert_eq!(output.stderr, "", "{output}");
    let found: Vec<Finding> = serde_json::from_str(&output.stdout).expect("JSON");
    let [first, rest @ ..] = &found[..] else {
        panic!("nothing found: {output}");
    };
    assert_eq!(
        (first.check, first.severity),
        (Check::Daemon, Severity::Error)
    );
    assert!(first.object.contains("netbpf.sock"), "{first:?}");
    let ill: Vec<_> = rest.iter().filter(|f| f.severity != Severity::Ok).collect();
    assert!(ill.is_empty(), "{ill:#?}");
    for check in [Check::Kernel, Check::Capabilities, Check::ForeignProgram] {
        assert!(rest.iter().any(|f| f.check == check), "{check:?}");
    }
    let output = doctor("-q");
    assert!(
        output.stdout.starts_with("error daemon socket "),
        "{output}"
    );

    // What a daemon has left goes on, and is ours.
    host.start(&[]);
    host.network(&FRONT, &[]);
    let _web = street.front("web", &["-p", "8080:80"]);
    host.stop();
    let found: Vec<Finding> = serde_json::from_str(&doctor("-j").stdout).expect("JSON");
    let ill = found.iter().filter(|f| f.severity != Severity::Ok);
    assert_eq!(ill.count(), 1, "{found:#?}");
}

#[test]
fn a_port_on_an_address_that_the_host_has_lost_is_named() {
    let street = street_with_networks("doctor_lost_address", &[]);
    let host = &street.host;
    host.gain("up0", &["192.0.2.77/24"]);
    let _web = street.front(
        "web",
        &["-p", "192.0.2.77:8095:80", "-p", "127.0.0.5:8096:80"],
    );
    is_healthy(host);
    host.ip("addr del 192.0.2.77/24 dev up0");
    let lost = |f: &Finding| {
        f.check == Check::Port
            && f.severity == Severity::Warning
            && f.message
                .contains("port 8095/tcp is published on 192.0.2.77")
    };
    within(SOON, "it is named", || wrong(host).iter().any(lost));
    host.gain("up0", &["192.0.2.77/24"]);
    becomes_healthy(host);
}
