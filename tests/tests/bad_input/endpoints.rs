//! Endpoints: names, addresses, interfaces, namespaces.

use std::{fs, path::Path};

use netbpf_tests::lab::{street, street_with_networks};
use serde_json::{Value, json};

use crate::frame::*;

#[test]
fn endpoints() {
    let street = street_with_networks("bad_endpoints", &[]);
    let (host, none) = (&street.host, Value::Null);
    let (web, app, late) = endpoints_of(&street);
    host.netbpf(&["network", "create", "four", "--subnet", "10.44.0.0/24"])
        .ok();
    let space = late.name();
    let front = |flag: &'static str, value: &'static str| ["--network", "front", flag, value];
    let on_front = |field: &str, value: Value| json!({"network": "front", field: value});

    let mut cases = vec![
        attach(
            NOT_FOUND,
            &["network \"nowhere\""],
            space,
            &["--network", "nowhere"],
            json!({"network": "nowhere"}),
        ),
        attach_as(
            "web",
            EXISTS,
            &["endpoint \"web\"", "network \"front\""],
            &web.info.netns,
            &["--network", "front"],
            json!({"network": "front"}),
        ),
        attach_as(
            "web",
            EXISTS,
            &["endpoint \"web\"", "\"front\"", &web.info.netns],
            &app.info.netns,
            &["--network", "back"],
            json!({"network": "back"}),
        ),
        attach_as("a b", INVALID, &["\"a b\""], space, &[], json!({})),
        attach_as("", NOT_OF_THE_KIND, &[], space, &[], json!({})),
        attach(
            INVALID,
            &["\"-x\""],
            space,
            &["--alias=-x"],
            json!({"aliases": ["-x"]}),
        ),
        attach(
            INVALID,
            &["link", "\"y z\""],
            space,
            &["--link", "db:y z"],
            json!({"links": ["db:y z"]}),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"nobody\""],
            &["inspect", "nobody"],
            ("GET", "/v1/endpoints/nobody", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"web\"", "network \"back\""],
            &["inspect", "web", "--network", "back"],
            ("GET", "/v1/endpoints/web?network=back", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["inspect", "web", "--network", "nowhere"],
            ("GET", "/v1/endpoints/web?network=nowhere", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"nobody\""],
            &["port", "nobody"],
            ("GET", "/v1/ports?endpoint=nobody", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"nobody\""],
            &["drops", "--endpoint", "nobody"],
            ("GET", "/v1/drops?endpoint=nobody", none),
        ),
        // Addresses.
        attach(
            ADDRESS_IN_USE,
            &["10.10.1.50", "\"web\"", "network \"front\""],
            space,
            &front("--ip", "10.10.1.50"),
            on_front("ips", json!(["10.10.1.50"])),
        ),
        attach(
            ADDRESS_IN_USE,
            &["10.10.1.1", "gateway", "\"front\""],
            space,
            &front("--ip", "10.10.1.1"),
            on_front("ips", json!(["10.10.1.1"])),
        ),
        attach(
            NOT_IN_SUBNET,
            &["10.99.0.1", "\"front\""],
            space,
            &front("--ip", "10.99.0.1"),
            on_front("ips", json!(["10.99.0.1"])),
        ),
        attach(
            NOT_IN_SUBNET,
            &["fd99::1", "\"front\""],
            space,
            &front("--ip", "fd99::1"),
            on_front("ips", json!(["fd99::1"])),
        ),
        attach(
            NOT_IN_SUBNET,
            &["10.10.1.0"],
            space,
            &front("--ip", "10.10.1.0"),
            on_front("ips", json!(["10.10.1.0"])),
        ),
        attach(
            NOT_IN_SUBNET,
            &["10.10.1.255"],
            space,
            &front("--ip", "10.10.1.255"),
            on_front("ips", json!(["10.10.1.255"])),
        ),
        attach(
            NOT_IN_SUBNET,
            &["fd00:10:1::5", "\"four\""],
            space,
            &["--network", "four", "--ip", "fd00:10:1::5"],
            json!({"network": "four", "ips": ["fd00:10:1::5"]}),
        ),
        attach(
            INVALID,
            &["10.10.1.7", "10.10.1.8"],
            space,
            &[
                "--network",
                "front",
                "--ip",
                "10.10.1.7",
                "--ip",
                "10.10.1.8",
            ],
            on_front("ips", json!(["10.10.1.7", "10.10.1.8"])),
        ),
        attach(
            NOT_OF_THE_KIND,
            &[],
            space,
            &front("--ip", "10.10.1"),
            on_front("ips", json!(["10.10.1"])),
        ),
        attach(
            NOT_OF_THE_KIND,
            &[],
            space,
            &front("--ip", "10.10.1.7/24"),
            on_front("ips", json!(["10.10.1.7/24"])),
        ),
        // Interfaces.
        attach(
            INTERFACE_EXISTS,
            &["\"lo\"", space],
            space,
            &["--ifname", "lo"],
            json!({"ifname": "lo"}),
        ),
        attach(
            INVALID,
            &["\"sixteen-bytes-it\""],
            space,
            &["--ifname", "sixteen-bytes-it"],
            json!({"ifname": "sixteen-bytes-it"}),
        ),
        attach(
            INVALID,
            &["\"a/b\""],
            space,
            &["--ifname", "a/b"],
            json!({"ifname": "a/b"}),
        ),
        attach(
            INVALID,
            &["\"a b\""],
            space,
            &["--ifname", "a b"],
            json!({"ifname": "a b"}),
        ),
        attach(
            INVALID,
            &["\"all\""],
            space,
            &["--ifname", "all"],
            json!({"ifname": "all"}),
        ),
        attach(
            INVALID,
            &["\"\""],
            space,
            &["--ifname", ""],
            json!({"ifname": ""}),
        ),
    ];
    let macs = [
        "",
        "02:42:0a:00:00",
        "02:42:0a:00:00:02:03",
        "02-42-0a-00-00-02",
        "0242.0a00.0002",
        "zz:42:0a:00:00:02",
        "01:00:5e:00:00:01",
        "00:00:00:00:00:00",
        "ff:ff:ff:ff:ff:ff",
        "02:6e:65:74:62:70",
    ];
    for mac in macs {
        cases.push(attach(
            INVALID,
            &["MAC address", &format!("{mac:?}")],
            space,
            &["--mac", mac],
            json!({"mac": mac}),
        ));
    }
    all_are_refused(host, &[&late, &web, &app], &cases);
    // An address that nobody has any more can be had.
    web.detach();
    host.attach(&late, "late", &["--network", "front", "--ip", "10.10.1.50"]);
}

#[test]
fn namespaces() {
    let street = street("bad_namespaces");
    let host = &street.host;
    let dir = street.lab.dir();
    let file = dir.join("file");
    fs::write(&file, "no namespace").expect("write a file");
    let fifo = dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("make a FIFO");
    // One that was there, a process that has ended.
    let gone = street.lab.space("gone");
    gone.delete();
    let mut ended = std::process::Command::new("true").spawn().expect("true");
    let pid = ended.id().to_string();
    ended.wait().expect("it ends");
    let own = host.path().display().to_string();
    let shown = |path: &Path| path.display().to_string();

    let mut cases = Vec::new();
    let rows: [(Refused, String); 8] = [
        (INVALID, shown(&file)),
        (INVALID, shown(&fifo)),
        (INVALID, shown(dir)),
        (INVALID, format!("/proc/{}/ns/mnt", std::process::id())),
        (INVALID, "/dev/null".into()),
        (INVALID, own),
        (NOT_FOUND, shown(gone.path())),
        (NOT_FOUND, "/nonexistent/netns".into()),
    ];
    for (refused, path) in &rows {
        cases.push(attach(*refused, &[path], path, &[], json!({})));
    }
    let name = gone.name();
    cases.push(attach(
        NOT_FOUND,
        &[&format!("namespace {name:?}")],
        name,
        &[],
        json!({}),
    ));
    cases.push(attach(NOT_OF_THE_KIND, &[], "", &[], json!({})));
    let by_pid = |refused, says: &[&str], pid: &str| {
        let number: i64 = pid.parse().expect("a number");
        let spec = json!({"netns": {"pid": number}});
        attach(refused, says, "", &["--pid", pid], spec)
    };
    cases.push(by_pid(NOT_FOUND, &[&format!("process {pid}")], &pid));
    cases.push(by_pid(NOT_OF_THE_KIND, &[], "0"));
    cases.push(by_pid(NOT_OF_THE_KIND, &[], "-7"));
    cases.push(by_pid(NOT_OF_THE_KIND, &[], "4294967296"));
    all_are_refused(host, &[], &cases);
}
