//! What cannot be done is refused through command line and API alike: with the
//! stable code, a message that names the object and the value, and no trace.
//!
//! ```text
//!   web, app ── front, back ── host ──── client
//! ```

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, UdpSocket},
    path::Path,
    time::Duration,
};

use netbpf::model::StatusInfo;
use netbpf_tests::lab::{
    Container, Host, Namespace, Settings, Street, call, street, street_with, street_with_networks,
    within,
};
use serde_json::{Value, json};

/// One thing that cannot be, said in both ways.
struct Case {
    line: Vec<String>,
    method: &'static str,
    path: String,
    body: Value,
    /// Of the command line; where it is 2, it did not ask the daemon.
    exit: i32,
    /// Of HTTP.
    status: u16,
    code: &'static str,
    /// Parts of the message, in both ways.
    says: Vec<String>,
}

/// The usual ways to be refused.
#[derive(Clone, Copy)]
struct Refused {
    exit: i32,
    status: u16,
    code: &'static str,
}

const fn refused(status: u16, code: &'static str) -> Refused {
    Refused {
        exit: 1,
        status,
        code,
    }
}

const INVALID: Refused = refused(400, "invalid_argument");
/// The command line sees by itself that the value is not of that kind.
const NOT_OF_THE_KIND: Refused = Refused { exit: 2, ..INVALID };
const NOT_FOUND: Refused = refused(404, "not_found");
const EXISTS: Refused = refused(409, "already_exists");
const OVERLAP: Refused = refused(409, "subnet_overlap");
const ADDRESS_IN_USE: Refused = refused(409, "address_in_use");
const NOT_IN_SUBNET: Refused = refused(400, "address_not_in_subnet");
const IN_USE: Refused = refused(409, "network_in_use");
const PORT_IN_USE: Refused = refused(409, "port_in_use");
const INTERFACE_EXISTS: Refused = refused(409, "interface_exists");
const EXHAUSTED: Refused = refused(507, "pool_exhausted");
const NOT_YET: Refused = refused(501, "not_implemented");

fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|&word| word.to_owned()).collect()
}

fn case(
    refused: Refused,
    says: &[&str],
    line: &[&str],
    (method, path, body): (&'static str, &str, Value),
) -> Case {
    Case {
        line: words(line),
        method,
        path: path.into(),
        body,
        exit: refused.exit,
        status: refused.status,
        code: refused.code,
        says: words(says),
    }
}

/// `network create` with these flags.
fn create(refused: Refused, says: &[&str], name: &str, flags: &[&str], spec: Value) -> Case {
    let mut line = vec!["network", "create", name];
    line.extend(flags);
    let mut body = json!({"name": name});
    merge(&mut body, spec);
    case(refused, says, &line, ("POST", "/v1/networks", body))
}

/// `attach` of a namespace with these flags.
fn attach(refused: Refused, says: &[&str], space: &str, flags: &[&str], spec: Value) -> Case {
    attach_as("late", refused, says, space, flags, spec)
}

fn attach_as(
    name: &str,
    refused: Refused,
    says: &[&str],
    space: &str,
    flags: &[&str],
    spec: Value,
) -> Case {
    let mut line = vec!["attach", "--name", name];
    if !flags.contains(&"--pid") {
        line.extend(["--netns", space]);
    }
    line.extend(flags);
    let mut body = json!({"name": name, "netns": {"netns": space}});
    merge(&mut body, spec);
    case(refused, says, &line, ("POST", "/v1/endpoints", body))
}

/// `publish` of one port.
fn publish(refused: Refused, says: &[&str], name: &str, spec: &str) -> Case {
    let path = format!("/v1/endpoints/{name}/ports");
    let body = json!({"publish": [spec]});
    let flag = format!("--publish={spec}");
    case(
        refused,
        says,
        &["publish", name, &flag],
        ("POST", &path, body),
    )
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// What a request could leave behind, as far as it is quick to look at.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    links: String,
    routes: String,
    listings: BTreeMap<&'static str, Value>,
    maps: BTreeMap<String, Option<u64>>,
    programs: Vec<String>,
    pins: Vec<String>,
}

impl Traces {
    #[track_caller]
    fn of(host: &Host) -> Traces {
        let get = |path: &str| call(&host.socket(), "GET", path, b"").body;
        let status: StatusInfo = serde_json::from_value(get("/v1/status")).expect("a status");
        // Those that packets write, not we.
        let ours = |name: &str| {
            let packets = [
                "flows",
                "transient",
                "mappings",
                "outside",
                "drops",
                "stats",
            ];
            !packets.iter().any(|what| name.contains(what))
        };
        let maps = status.maps.into_iter().filter(|map| ours(&map.name));
        let programs = status.programs.into_iter();
        let listing = |path: &str| {
            let mut listing = get(path);
            for endpoint in listing.as_array_mut().into_iter().flatten() {
                if let Some(fields) = endpoint.as_object_mut() {
                    fields
                        .retain(|name, _| !name.ends_with("_packets") && !name.ends_with("_bytes"));
                }
            }
            listing
        };
        Traces {
            links: host.ip("-o link show"),
            routes: host.ip("-4 route show table all") + &host.ip("-6 route show table all"),
            listings: BTreeMap::from([
                ("ps", listing("/v1/endpoints")),
                ("network ls", listing("/v1/networks")),
                ("port", listing("/v1/ports")),
            ]),
            maps: maps.map(|map| (map.name, map.entries)).collect(),
            programs: programs.flat_map(|program| program.attached_to).collect(),
            pins: files(&host.bpffs()),
        }
    }
}

/// Names in a directory, in order.
fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Tries each in both ways; nothing may be left of it, in the daemon, on the host
/// and in these namespaces.
#[track_caller]
fn all_are_refused(host: &Host, spaces: &[&Namespace], cases: &[Case]) {
    let all = || spaces.iter().copied().chain([&**host]);
    let settings: Vec<Settings> = all().map(Settings::of).collect();
    let before = Traces::of(host);
    if let Some(first) = cases.first() {
        by_command_line_in_words(host, first);
    }
    for case in cases {
        by_command_line(host, case);
        by_api(host, case);
        // The kernel frees a device behind the answer.
        let mut after = Traces::of(host);
        netbpf_tests::lab::until(Duration::from_secs(5), || {
            after = Traces::of(host);
            after == before
        });
        assert_eq!(after, before, "{:?} has left something", case.line);
    }
    for (space, before) in all().zip(settings) {
        assert_eq!(Settings::of(space), before, "in {}", space.role());
    }
}

#[track_caller]
fn by_command_line(host: &Host, case: &Case) {
    let mut line = vec!["-j".to_owned()];
    line.extend(case.line.iter().cloned());
    let output = host.netbpf(&line).exits(case.exit);
    assert_eq!(output.stdout, "", "{output}");
    let error: Value = serde_json::from_str(output.stderr.trim())
        .unwrap_or_else(|e| panic!("not an error of one line: {e}\n{output}"));
    assert_eq!(error["error"]["code"], case.code, "{output}");
    let message = error["error"]["message"].as_str().unwrap_or_default();
    for part in &case.says {
        assert!(message.contains(part), "{part:?} is missing: {output}");
    }
}

/// For people it is a line of text.
#[track_caller]
fn by_command_line_in_words(host: &Host, case: &Case) {
    let output = host.netbpf(&case.line).exits(case.exit);
    assert_eq!(output.stderr.lines().count(), 1, "{output}");
    assert!(output.stderr.starts_with("netbpf: "), "{output}");
    for part in &case.says {
        assert!(
            output.stderr.contains(part),
            "{part:?} is missing: {output}"
        );
    }
}

#[track_caller]
fn by_api(host: &Host, case: &Case) {
    let body = match &case.body {
        Value::Null => Vec::new(),
        body => serde_json::to_vec(body).expect("JSON"),
    };
    let answer = call(&host.socket(), case.method, &case.path, &body);
    assert_eq!(
        (answer.status, answer.code()),
        (case.status, case.code),
        "{} {} {}: {}",
        case.method,
        case.path,
        case.body,
        answer.body
    );
    for part in &case.says {
        assert!(
            answer.message().contains(part),
            "{part:?} is missing: {}",
            answer.body
        );
    }
}

#[test]
fn networks() {
    let street = street_with_networks("bad_networks", &[]);
    let _web = street.front("web", &[]);
    let long = "x".repeat(64);
    let none = Value::Null;
    let mut cases = vec![
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["network", "inspect", "nowhere"],
            ("GET", "/v1/networks/nowhere", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["network", "rm", "nowhere"],
            ("DELETE", "/v1/networks/nowhere", none.clone()),
        ),
        case(
            IN_USE,
            &["network \"front\"", "web"],
            &["network", "rm", "front"],
            ("DELETE", "/v1/networks/front", none.clone()),
        ),
        case(
            INVALID,
            &["network \"default\""],
            &["network", "rm", "default"],
            ("DELETE", "/v1/networks/default", none.clone()),
        ),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["drops", "--network", "nowhere"],
            ("GET", "/v1/drops?network=nowhere", none.clone()),
        ),
        create(EXISTS, &["network \"front\""], "front", &[], json!({})),
        create(INVALID, &["\"a b\""], "a b", &[], json!({})),
        create(INVALID, &["\"../x\""], "../x", &[], json!({})),
        create(INVALID, &["\".\""], ".", &[], json!({})),
        create(INVALID, &[&long], &long, &[], json!({})),
        create(NOT_OF_THE_KIND, &[], "", &[], json!({})),
        create(
            NOT_YET,
            &["lan"],
            "n",
            &["--driver", "lan"],
            json!({"driver": "lan"}),
        ),
        create(
            NOT_YET,
            &["overlay"],
            "n",
            &["--driver", "overlay"],
            json!({"driver": "overlay"}),
        ),
        create(NOT_YET, &["vni"], "n", &["--vni", "7"], json!({"vni": 7})),
        create(
            NOT_YET,
            &["parent"],
            "n",
            &["--parent", "up0"],
            json!({"parent": "up0"}),
        ),
        create(
            NOT_OF_THE_KIND,
            &["ring"],
            "n",
            &["--driver", "ring"],
            json!({"driver": "ring"}),
        ),
        create(INVALID, &["67"], "n", &["--mtu", "67"], json!({"mtu": 67})),
        create(
            INVALID,
            &["1279", "1280"],
            "n",
            &["--mtu", "1279", "--ipv6"],
            json!({"mtu": 1279, "ipv6": true}),
        ),
        create(
            NOT_OF_THE_KIND,
            &["70000"],
            "n",
            &["--mtu", "70000"],
            json!({"mtu": 70000}),
        ),
        create(
            INVALID,
            &["10.20.0.0/24", "10.21.0.0/24"],
            "n",
            &["--subnet", "10.20.0.0/24", "--subnet", "10.21.0.0/24"],
            json!({"subnets": ["10.20.0.0/24", "10.21.0.0/24"]}),
        ),
        create(
            NOT_OF_THE_KIND,
            &["10.20.0"],
            "n",
            &["--gateway", "10.20.0"],
            json!({"gateways": ["10.20.0"]}),
        ),
    ];
    // Of a subnet alone.
    let subnets: [(Refused, &[&str], &str); 18] = [
        (
            OVERLAP,
            &["10.10.1.128/25", "network \"front\""],
            "10.10.1.128/25",
        ),
        (OVERLAP, &["10.0.0.0/8", "network"], "10.0.0.0/8"),
        (
            OVERLAP,
            &["fd10:1:0:0:8000::/65", "network \"front\""],
            "fd10:1:0:0:8000::/65",
        ),
        (OVERLAP, &["192.0.2.0/25", "the host's"], "192.0.2.0/25"),
        (OVERLAP, &["192.0.0.0/16", "the host's"], "192.0.0.0/16"),
        (
            OVERLAP,
            &["2001:db8:1::/64", "the host's"],
            "2001:db8:1::/64",
        ),
        (INVALID, &["10.20.0.1/24", "10.20.0.0/24"], "10.20.0.1/24"),
        (INVALID, &["10.20.0.0/31", "30"], "10.20.0.0/31"),
        (INVALID, &["10.20.0.0/32"], "10.20.0.0/32"),
        (INVALID, &["0.0.0.0/0"], "0.0.0.0/0"),
        (INVALID, &["127.8.0.0/16"], "127.8.0.0/16"),
        (INVALID, &["224.0.0.0/24"], "224.0.0.0/24"),
        (INVALID, &["169.254.0.0/24"], "169.254.0.0/24"),
        (INVALID, &["fe80::/64"], "fe80::/64"),
        (INVALID, &["fd00:20::/127"], "fd00:20::/127"),
        (NOT_OF_THE_KIND, &[], "10.20.0.0/33"),
        (NOT_OF_THE_KIND, &[], "10.20.0/24"),
        (NOT_OF_THE_KIND, &[], "everything"),
    ];
    for (refused, says, subnet) in subnets {
        cases.push(create(
            refused,
            says,
            "n",
            &["--subnet", subnet],
            json!({"subnets": [subnet]}),
        ));
    }
    // Of gateway and range in a good subnet.
    let good = "10.20.0.0/24";
    let within_it: [(Refused, &str, &str, &str); 8] = [
        (NOT_IN_SUBNET, "--gateway", "gateways", "10.21.0.1"),
        (INVALID, "--gateway", "gateways", "10.20.0.0"),
        (INVALID, "--gateway", "gateways", "10.20.0.255"),
        (NOT_IN_SUBNET, "--gateway", "gateways", "fd00::1"),
        (NOT_IN_SUBNET, "--ip-range", "ip_ranges", "10.21.0.0/25"),
        (NOT_IN_SUBNET, "--ip-range", "ip_ranges", "10.20.0.0/23"),
        (INVALID, "--ip-range", "ip_ranges", "10.20.0.1/25"),
        (
            NOT_OF_THE_KIND,
            "--ip-range",
            "ip_ranges",
            "10.20.0.0-10.20.0.9",
        ),
    ];
    for (refused, flag, field, value) in within_it {
        let flags = ["--subnet", good, flag, value];
        let says: &[&str] = if refused.exit == 1 { &[value] } else { &[] };
        cases.push(create(
            refused,
            says,
            "n",
            &flags,
            json!({"subnets": [good], field: [value]}),
        ));
    }
    all_are_refused(&street.host, &[], &cases);
}

#[test]
fn pools_and_subnets_that_have_run_out() {
    // Room for `default` and one more.
    let street = street_with("bad_pools", &["--pool", "10.50.0.0/29:30"]);
    let host = &street.host;
    host.netbpf(&["network", "create", "last"]).ok();
    let _one = host.container(&street.lab, "one", &["--network", "last"]);
    let late = street.lab.space("late");
    let cases = [
        create(EXHAUSTED, &["10.50.0.0/29"], "n", &[], json!({})),
        attach(
            EXHAUSTED,
            &["10.50.0.4/30", "network \"last\""],
            late.name(),
            &["--network", "last"],
            json!({"network": "last"}),
        ),
    ];
    all_are_refused(host, &[&late], &cases);
}

/// Web on `front`, app on `back`, and a namespace that waits to be attached.
fn endpoints_of(street: &Street) -> (Container, Container, Namespace) {
    let web = street.front("web", &["--ip", "10.10.1.50", "-p", "8080:80"]);
    (web, street.back("app", &[]), street.lab.space("late"))
}

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

#[test]
fn ports() {
    let street = street_with_networks("bad_ports", &[]);
    let host = &street.host;
    let (web, app, late) = endpoints_of(&street);
    host.netbpf(&["network", "create", "vault", "--internal"])
        .ok();
    let vault = street.lab.space("vault");
    host.attach(&vault, "vaulted", &["--network", "vault"]);
    // Programs of the host.
    let tcp = |address: &str| host.enter(|| TcpListener::bind(address)).expect("listen");
    let udp = |address: &str| host.enter(|| UdpSocket::bind(address)).expect("bind");
    let _programs = (
        tcp("127.0.0.1:7001"),
        tcp("0.0.0.0:7002"),
        tcp("[::]:7003"),
        tcp("192.0.2.1:7004"),
    );
    let _udp = udp("0.0.0.0:7005");

    let rows: [(Refused, &[&str], &str); 27] = [
        (INVALID, &[], "0:80"),
        (INVALID, &[], "80:0"),
        (INVALID, &[], "0"),
        (INVALID, &[], "65536:80"),
        (INVALID, &[], "8080:65536"),
        (INVALID, &[], "99999999999999999999:80"),
        (INVALID, &["backwards"], "82-80:82-80"),
        (INVALID, &["backwards"], "8082-8080:80"),
        (INVALID, &["differ in number"], "8000-8001:80-82"),
        (INVALID, &["differ in number"], "8000:80-82"),
        (INVALID, &[], "60000-70000:60000-70000"),
        (INVALID, &["more than there are"], "1-65535"),
        (INVALID, &[], "-80:80"),
        (INVALID, &[], "x:80"),
        (INVALID, &[], ":80"),
        (INVALID, &[], "8080:"),
        (INVALID, &[], ""),
        (INVALID, &["icmp"], "80:80/icmp"),
        (INVALID, &["1.2.3"], "1.2.3:80:80"),
        (INVALID, &["198.51.100.77"], "198.51.100.77:80:80"),
        (INVALID, &["target"], "published=80"),
        (INVALID, &["colour"], "published=80,target=80,colour=red"),
        (
            PORT_IN_USE,
            &["8080/tcp", "\"web\"", "\"front\""],
            "8080:81",
        ),
        (
            PORT_IN_USE,
            &["8080/tcp", "\"web\"", "\"front\""],
            "8070-8090:8070-8090",
        ),
        (PORT_IN_USE, &["7001/tcp", "127.0.0.1"], "7001:80"),
        (PORT_IN_USE, &["7002/tcp"], "7002:80"),
        (PORT_IN_USE, &["7005/udp"], "7005:80/udp"),
    ];
    let mut cases = Vec::new();
    for (refused, says, spec) in rows {
        // An error of a spec names it as it was typed.
        let quoted = format!("{spec:?}");
        let mut says = says.to_vec();
        if refused.code == "invalid_argument" {
            says.push(&quoted);
        }
        cases.push(publish(refused, &says, "app", spec));
        let flags = ["--network", "back", &format!("--publish={spec}")];
        let spec = json!({"network": "back", "publish": [spec]});
        cases.push(attach(refused, &says, late.name(), &flags, spec));
    }
    cases.extend([
        publish(PORT_IN_USE, &["7003/tcp"], "app", "[::1]:7003:80"),
        publish(PORT_IN_USE, &["7004/tcp", "192.0.2.1"], "app", "7004:80"),
        publish(
            PORT_IN_USE,
            &["7004/tcp", "192.0.2.1"],
            "app",
            "192.0.2.1:7004:80",
        ),
        // What is published already, whoever has it.
        publish(PORT_IN_USE, &["8080/tcp", "\"web\""], "web", "8080:80"),
        publish(
            PORT_IN_USE,
            &["8080/tcp", "\"web\""],
            "app",
            "192.0.2.1:8080:80",
        ),
        publish(
            INVALID,
            &["\"8081:80\"", "\"vault\"", "internal"],
            "vaulted",
            "8081:80",
        ),
        publish(NOT_FOUND, &["endpoint \"nobody\""], "nobody", "8081:80"),
        case(
            NOT_FOUND,
            &["network \"nowhere\""],
            &["publish", "web", "--network", "nowhere", "-p", "1:1"],
            (
                "POST",
                "/v1/endpoints/web/ports",
                json!({"network": "nowhere", "publish": ["1:1"]}),
            ),
        ),
        case(
            NOT_FOUND,
            &["\"8081:80\"", "\"web\""],
            &["unpublish", "web", "-p", "8081:80"],
            (
                "DELETE",
                "/v1/endpoints/web/ports",
                json!({"publish": ["8081:80"]}),
            ),
        ),
        case(
            NOT_FOUND,
            &["endpoint \"nobody\""],
            &["unpublish", "nobody", "-p", "1:1"],
            (
                "DELETE",
                "/v1/endpoints/nobody/ports",
                json!({"publish": ["1:1"]}),
            ),
        ),
        // The first of several would have been possible.
        case(
            PORT_IN_USE,
            &["8080/tcp"],
            &["publish", "app", "-p", "8099:80", "-p", "8080:80"],
            (
                "POST",
                "/v1/endpoints/app/ports",
                json!({"publish": ["8099:80", "8080:80"]}),
            ),
        ),
        case(
            PORT_IN_USE,
            &["8099/tcp", "\"app\""],
            &["publish", "app", "-p", "8099:80", "-p", "8099:81"],
            (
                "POST",
                "/v1/endpoints/app/ports",
                json!({"publish": ["8099:80", "8099:81"]}),
            ),
        ),
        case(
            NOT_FOUND,
            &["\"8081:80\""],
            &["unpublish", "web", "-p", "8080:80", "-p", "8081:80"],
            (
                "DELETE",
                "/v1/endpoints/web/ports",
                json!({"publish": ["8080:80", "8081:80"]}),
            ),
        ),
        attach(
            INVALID,
            &["\"0/tcp\""],
            late.name(),
            &["-P", "--expose", "0/tcp"],
            json!({"publish_all": true, "expose": ["0/tcp"]}),
        ),
        attach(
            INVALID,
            &["icmp"],
            late.name(),
            &["-P", "--expose", "80/icmp"],
            json!({"publish_all": true, "expose": ["80/icmp"]}),
        ),
    ]);
    all_are_refused(host, &[&late, &web, &app], &cases);
}

#[test]
fn what_comes_on_the_socket() {
    let street = street_with_networks("bad_requests", &[]);
    let host = &street.host;
    let before = Traces::of(host);
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(netbpf::api::MAX_BODY));
    let rows: [(&str, &str, &str, u16, &str); 17] = [
        ("POST", "/v1/networks", "", 400, "line 1"),
        ("POST", "/v1/networks", "name=n", 400, "line 1"),
        ("POST", "/v1/networks", "[]", 400, "body"),
        ("POST", "/v1/networks", "null", 400, "body"),
        ("POST", "/v1/networks", r#"{"name":"n""#, 400, "EOF"),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n"} {}"#,
            400,
            "trailing",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n","subnt":[]}"#,
            400,
            "unknown field `subnt`",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n","name":"m"}"#,
            400,
            "duplicate field `name`",
        ),
        (
            "POST",
            "/v1/networks",
            r#"{"name":"n","labels":{"a":1}}"#,
            400,
            "labels",
        ),
        ("POST", "/v1/networks", &large, 413, "1048576"),
        (
            "POST",
            "/v1/endpoints",
            r#"{"name":"n","netns":{"pid":1,"netns":"a"}}"#,
            400,
            "netns",
        ),
        (
            "POST",
            "/v1/endpoints",
            r#"{"name":"n","netns":"a"}"#,
            400,
            "netns",
        ),
        (
            "POST",
            "/v1/endpoints/web/ports",
            r#"{"publish":[]}"#,
            400,
            "no port",
        ),
        (
            "POST",
            "/v1/endpoints/web/ports",
            r#"{"publish":[80]}"#,
            400,
            "publish[0]",
        ),
        (
            "GET",
            "/v1/drops?endpont=web",
            "",
            400,
            "unknown field `endpont`",
        ),
        ("GET", "/v2/networks", "", 404, "/v2/networks"),
        ("PATCH", "/v1/networks/front", "{}", 405, "PATCH"),
    ];
    for (method, path, body, status, says) in rows {
        let answer = call(&host.socket(), method, path, body.as_bytes());
        let wanted = if status == 404 {
            "not_found"
        } else {
            "invalid_argument"
        };
        let shown = body.get(..60).unwrap_or(body);
        assert_eq!(
            (answer.status, answer.code()),
            (status, wanted),
            "{method} {path} {shown}: {}",
            answer.body
        );
        assert!(
            answer.message().contains(says),
            "{says:?} is missing: {}",
            answer.body
        );
        assert!(!answer.message().contains('\n'), "{}", answer.body);
    }
    assert_eq!(Traces::of(host), before);
}

#[test]
fn requests_that_are_no_http() {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    let street = street("no_http");
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n",
        &[b'A'; 100_000],
    ] {
        let mut stream = UnixStream::connect(street.host.socket()).expect("connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a limit");
        _ = stream.write_all(bytes);
        _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    street.host.netbpf(&["status"]).ok();
    assert!(
        !street.host.log().contains("panicked"),
        "{}",
        street.host.log()
    );
}

#[test]
fn more_than_the_daemon_takes_at_a_time_is_told_and_waited_for() {
    use std::{
        io::{BufRead as _, BufReader, Read as _, Write as _},
        os::unix::net::UnixStream,
    };

    let street = street("too_many");
    let host = &street.host;
    // A flood on one connection, until the daemon has had enough.
    let stream = UnixStream::connect(host.socket()).expect("connect");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a limit");
    let mut answers = BufReader::new(stream.try_clone().expect("dup"));
    let mut stream = stream;
    let mut ask = || {
        let request = b"DELETE /v1/networks/nobody HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request).expect("ask");
        let (mut status, mut length, mut retry) = (String::new(), 0, false);
        answers.read_line(&mut status).expect("an answer");
        loop {
            let mut line = String::new();
            answers.read_line(&mut line).expect("a header");
            let line = line.to_lowercase();
            if line.trim().is_empty() {
                break;
            }
            retry |= line.starts_with("retry-after: ");
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        answers.read_exact(&mut body).expect("a body");
        (status, retry, body)
    };
    let refused = (0..200_000).find_map(|_| {
        let (status, retry, body) = ask();
        status.contains(" 429 ").then_some((retry, body))
    });
    let (retry, body) = refused.expect("there is a limit");
    assert!(retry, "it says when to come again");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["error"]["code"], "too_many_requests");
    // The command line waits for its turn.
    host.netbpf(&["network", "create", "patient"]).ok();
}

#[test]
fn a_socket_without_a_daemon_or_without_permission() {
    let street = street("bad_sockets");
    let host = &street.host;
    let nobody = |line: &[&str]| {
        let mut argv = vec![
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
        ];
        let (binary, socket) = (netbpf_tests::lab::binary(), host.socket());
        let (binary, socket) = (binary.display().to_string(), socket.display().to_string());
        argv.extend([binary.as_str(), "--socket", &socket]);
        argv.extend(line);
        netbpf_tests::lab::Cmd::new(&argv).output()
    };
    if !netbpf_tests::lab::has_tools("bad_sockets", &["setpriv"]) {
        return;
    }
    let mut path = host.socket();
    // Whoever may not look into the directories on the way is refused there already.
    while path.pop() && path.starts_with(street.lab.dir()) {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("open a directory");
    }
    let output = nobody(&["-j", "ps"]);
    assert_eq!(output.status.code(), Some(3), "{output}");
    let error: Value = serde_json::from_str(output.stderr.trim()).expect("one line");
    let message = error["error"]["message"].as_str().expect("a message");
    assert!(
        message.contains("no permission") && message.contains("group netbpf"),
        "{message}"
    );
    assert!(
        message.contains(&host.socket().display().to_string()),
        "{message}"
    );

    host.stop();
    let output = host.netbpf(&["ps"]).exits(3);
    assert!(output.stderr.contains("netbpf daemon"), "{output}");
    // What a killed daemon leaves.
    host.restart();
    host.kill();
    within(Duration::from_secs(5), "its socket is stale", || {
        host.socket().exists()
    });
    let output = host.netbpf(&["ps"]).exits(3);
    assert!(
        output.stderr.contains(&host.socket().display().to_string()),
        "{output}"
    );
}
