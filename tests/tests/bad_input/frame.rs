//! A case is said once, and tried in both ways.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use netbpf::model::StatusInfo;
use netbpf_tests::lab::{Container, Host, Namespace, Settings, Street, call, until, words};
use serde_json::{Value, json};

/// One thing that cannot be, said in both ways.
pub struct Case {
    pub line: Vec<String>,
    pub method: &'static str,
    pub path: String,
    pub body: Value,
    /// Of the command line; where it is 2, it did not ask the daemon.
    pub exit: i32,
    /// Of HTTP.
    pub status: u16,
    pub code: &'static str,
    /// Parts of the message, in both ways.
    pub says: Vec<String>,
}

/// The usual ways to be refused.
#[derive(Clone, Copy)]
pub struct Refused {
    pub exit: i32,
    pub status: u16,
    pub code: &'static str,
}

pub const fn refused(status: u16, code: &'static str) -> Refused {
    Refused {
        exit: 1,
        status,
        code,
    }
}

pub const INVALID: Refused = refused(400, "invalid_argument");
/// The command line sees by itself that the value is not of that kind.
pub const NOT_OF_THE_KIND: Refused = Refused { exit: 2, ..INVALID };
pub const NOT_FOUND: Refused = refused(404, "not_found");
pub const EXISTS: Refused = refused(409, "already_exists");
pub const OVERLAP: Refused = refused(409, "subnet_overlap");
pub const ADDRESS_IN_USE: Refused = refused(409, "address_in_use");
pub const NOT_IN_SUBNET: Refused = refused(400, "address_not_in_subnet");
pub const IN_USE: Refused = refused(409, "network_in_use");
pub const PORT_IN_USE: Refused = refused(409, "port_in_use");
pub const INTERFACE_EXISTS: Refused = refused(409, "interface_exists");
pub const EXHAUSTED: Refused = refused(507, "pool_exhausted");
pub const NO_CLUSTER: Refused = refused(503, "cluster_unavailable");
pub const NOT_YET: Refused = refused(501, "not_implemented");

fn owned(line: &[&str]) -> Vec<String> {
    line.iter().map(|&word| word.to_owned()).collect()
}

pub fn case(
    refused: Refused,
    says: &[&str],
    line: &[&str],
    (method, path, body): (&'static str, &str, Value),
) -> Case {
    Case {
        line: owned(line),
        method,
        path: path.into(),
        body,
        exit: refused.exit,
        status: refused.status,
        code: refused.code,
        says: owned(says),
    }
}

/// `network create` with these flags.
pub fn create(refused: Refused, says: &[&str], name: &str, flags: &[&str], spec: Value) -> Case {
    let mut line = vec!["network", "create", name];
    line.extend(flags);
    let mut body = json!({"name": name});
    merge(&mut body, spec);
    case(refused, says, &line, ("POST", "/v1/networks", body))
}

/// `attach` of a namespace with these flags.
pub fn attach(refused: Refused, says: &[&str], space: &str, flags: &[&str], spec: Value) -> Case {
    attach_as("late", refused, says, space, flags, spec)
}

pub fn attach_as(
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
pub fn publish(refused: Refused, says: &[&str], name: &str, spec: &str) -> Case {
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

pub fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// What a request could leave behind, as far as it is quick to look at.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces {
    links: String,
    routes: String,
    listings: [Value; 3],
    maps: BTreeMap<String, Option<u64>>,
    programs: Vec<String>,
    pins: Vec<String>,
}

impl Traces {
    #[track_caller]
    pub fn of(host: &Host) -> Traces {
        let get = |path: &str| call(&host.socket(), "GET", path, b"").body;
        let status: StatusInfo = serde_json::from_value(get("/v1/status")).expect("a status");
        // Those that packets write, not we.
        let ours = |name: &str| {
            let packets = [
                "flows",
                "evictable",
                "occupancy",
                "mappings",
                "outside",
                "drops",
                "stats",
            ];
            !packets.iter().any(|what| name.contains(what))
        };
        let maps = status.maps.into_iter().filter(|map| ours(&map.name));
        let programs = status.programs.into_iter();
        Traces {
            links: host.ip("-o link show"),
            routes: host.ip("-4 route show table all") + &host.ip("-6 route show table all"),
            listings: listings(host),
            maps: maps.map(|map| (map.name, map.entries)).collect(),
            programs: programs.flat_map(|program| program.attached_to).collect(),
            pins: files(&host.bpffs()),
        }
    }
}

/// What a request could change, as far as it costs nothing to look at: endpoints, networks
/// and ports, without what packets count.
pub fn listings(host: &Host) -> [Value; 3] {
    ["/v1/endpoints", "/v1/networks", "/v1/ports"].map(|path| {
        let mut listing = call(&host.socket(), "GET", path, b"").body;
        for one in listing.as_array_mut().into_iter().flatten() {
            if let Some(fields) = one.as_object_mut() {
                fields.retain(|name, _| !name.ends_with("_packets") && !name.ends_with("_bytes"));
            }
        }
        listing
    })
}

/// Names in a directory, in order.
pub fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Tries each in both ways; nothing may be left of it, in the daemon, on the host
/// and in these namespaces.
#[track_caller]
pub fn all_are_refused(host: &Host, spaces: &[&Namespace], cases: &[Case]) {
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
        until(Duration::from_secs(5), || {
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
pub fn by_command_line(host: &Host, case: &Case) {
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
pub fn by_command_line_in_words(host: &Host, case: &Case) {
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
pub fn by_api(host: &Host, case: &Case) {
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

/// Web on `front`, app on `back`, and a namespace that waits to be attached.
pub fn endpoints_of(street: &Street) -> (Container, Container, Namespace) {
    let web = street.front("web", &["--ip", "10.10.1.50", "-p", "8080:80"]);
    // What is noted once, by who is first, is noted before anybody compares: numbers, the
    // node's prefix, ports reserved against the kernel's choice.
    for line in [
        "network create first --ipv6",
        "network rm first",
        "publish web -p 40000:80",
        "unpublish web -p 40000:80",
    ] {
        street.host.netbpf(&words(line)).ok();
    }
    (web, street.back("app", &[]), street.lab.space("late"))
}
