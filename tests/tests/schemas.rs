//! What the commands print with `-j` is what docs/schemas promises: no more, no
//! less.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use netbpf_tests::lab::{
    Family, Host, Street, Town, UdpEcho,
    names::{CLIENT, HOST},
    street_with_networks, within,
};
use serde_json::{Value, json};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas")
}

fn schema(name: &str) -> Value {
    let path = docs().join(format!("{name}.json"));
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Of others the schema lets fields pass, as later versions may add some; what this
/// version prints must all be in it.
fn closed(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(closed);
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".into(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(closed),
        _ => {}
    }
}

#[track_caller]
fn is_valid(name: &str, answer: &Value) {
    let mut schema = schema(name);
    closed(&mut schema);
    let validator = jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{name}: {e}"));
    let errors: Vec<String> = validator
        .iter_errors(answer)
        .map(|e| format!("{} at {}", e, e.instance_path()))
        .collect();
    assert!(
        errors.is_empty(),
        "docs/schemas/{name}.json: {}\n{answer:#}",
        errors.join("\n")
    );
}

/// Those that something was held against.
static HELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Runs the command with `-j` and holds what it prints against its schema.
#[track_caller]
fn holds(host: &Host, name: &str, arguments: &[&str]) -> Value {
    let answer: Value = host.json(arguments);
    is_valid(name, &answer);
    HELD.lock().expect("no panic").insert(name.to_owned());
    answer
}

/// Of every command, as the directory has them.
fn all_names() -> BTreeSet<String> {
    let entries = fs::read_dir(docs()).expect("docs/schemas").flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_suffix(".json")?.to_owned())
    });
    names.filter(|name| name != "error").collect()
}

#[track_caller]
fn something(answer: &Value) {
    let items = answer.as_array().expect("an array");
    assert!(!items.is_empty(), "an empty list says nothing of its items");
}

/// Events of each kind that this street has, one an answer.
#[track_caller]
fn monitor_holds(street: &Street) {
    let arguments = ["-j", "-v", "monitor", "--count", "1"];
    let monitor = street.host.netbpf(&arguments).spawn();
    within(std::time::Duration::from_secs(5), "it listens", || {
        monitor.stderr().contains("listening")
    });
    street.client.ask_udp(Family::V4.ip(HOST), 5300);
    let output = monitor.wait();
    let event = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}\n{output}"));
    is_valid("monitor", &event);
    HELD.lock().expect("no panic").insert("monitor".into());
}

/// What is said of nodes, of a cluster of two, one of them away.
#[track_caller]
fn nodes_hold() {
    let Some(town) = Town::new("schemas_of_nodes", 2, Family::V4) else {
        return;
    };
    let host = &town.hosts[0];
    town.overlay("wide", &[]);
    let _web = town.container(0, "wide", "web", &[]);
    something(&holds(host, "node-ls", &["node", "ls"]));
    something(&holds(host, "node-inspect", &["node", "inspect", "n1"])["blocks"]);
    holds(host, "node-drain", &["node", "drain", "n2"]);
    holds(host, "status", &["status"]);
    holds(host, "network-inspect", &["network", "inspect", "wide"]);
    town.hosts[1].kill();
    within(
        std::time::Duration::from_secs(20),
        "the node is away",
        || holds(host, "node-inspect", &["node", "inspect", "n2"])["state"] == "away",
    );
    holds(host, "node-rm", &["node", "rm", "n2"]);
}

#[test]
fn answers_are_those_of_their_schemas() {
    let street = street_with_networks("schemas", &[]);
    let host = &street.host;
    let create = [
        "network", "create", "extra", "--ipv6", "--label", "team=web",
    ];
    holds(host, "network-create", &create);
    holds(host, "network-create", &["network", "create", "spare"]);
    let web = street.front("web", &["-p", "5300:53/udp", "--label", "a=b"]);
    let attach = |network: &str, more: &[&str]| {
        let mut line = vec!["attach", "--name", "web", "--netns", &web.info.netns];
        line.extend(["--network", network]);
        line.extend(more);
        holds(host, "attach", &line)
    };
    attach(
        "back",
        &[
            "--alias",
            "www",
            "--link",
            "db:d",
            "-p",
            "7000-7003:7000-7003",
        ],
    );
    attach(
        "extra",
        &["-P", "--expose", "80/tcp", "-p", "192.0.2.1:81:81"],
    );
    something(&holds(host, "network-ls", &["network", "ls"]));
    holds(host, "network-inspect", &["network", "inspect", "front"]);
    something(&holds(host, "ps", &["ps"]));
    assert!(holds(host, "inspect", &["inspect", "web"]).is_array());
    assert!(holds(host, "inspect", &["inspect", "web", "--network", "front"]).is_object());
    let long = "published=8443,target=443,allow=198.51.100.0/24,weight=3,affinity=client";
    holds(host, "publish", &["publish", "web", "-p", long]);
    let long = "published=8443,target=443,weight=5";
    holds(host, "update", &["update", "web", "-p", long]);
    holds(host, "unpublish", &["unpublish", "web", "-p", "8443:443"]);
    something(&holds(host, "port", &["port"]));
    holds(host, "status", &["status"]);
    something(&holds(host, "doctor", &["doctor"]));
    let top = ["top", "--count", "1", "--interval", "100ms"];
    something(&holds(host, "top", &top)["endpoints"]);

    let _inside = UdpEcho::start(&web, 53);
    for family in Family::BOTH {
        street.client.ask_udp(family.ip(HOST), 5300);
        web.ping(family.ip(CLIENT));
    }
    something(&holds(host, "flows", &["flows"]));
    let flushed = holds(
        host,
        "flows-flush",
        &["flows", "flush", "--protocol", "icmp"],
    );
    assert_ne!(flushed["flows"], 0);
    // To nobody: it is dropped, and counted.
    let nobody = web.run(&["ping", "-c", "1", "-W", "1", "10.10.1.77"]);
    nobody.fails();
    within(
        std::time::Duration::from_secs(5),
        "a drop is counted",
        || {
            let drops = holds(host, "drops", &["drops"]);
            !drops.as_array().expect("an array").is_empty()
        },
    );

    monitor_holds(&street);
    nodes_hold();
    something(&holds(host, "detach", &["detach", "web"]));
    holds(host, "network-rm", &["network", "rm", "front"]);
    something(&holds(
        host,
        "network-rm",
        &["network", "rm", "back", "spare"],
    ));
    something(&holds(host, "network-prune", &["network", "prune"]));
    holds(host, "reload", &["reload"]);
    let check = ["daemon", "--check-config", "--pool", "10.0.0.0/8:24"];
    something(&holds(host, "daemon-check-config", &check));
    let directories = host.directory_flags();
    let mut check = vec!["daemon", "--upgrade-check"];
    check.extend(directories.iter().map(String::as_str));
    something(&holds(host, "daemon-upgrade-check", &check));
    holds(host, "teardown", &["teardown"]);
    host.wait_ended();
    let held = HELD.lock().expect("no panic").clone();
    assert_eq!(held, all_names(), "every command has its turn");
}

#[test]
fn errors_are_those_of_their_schema() {
    let street = netbpf_tests::lab::street("schema_of_errors");
    for (arguments, status) in [
        (&["network", "rm", "nobody"][..], 1),
        (&["network", "create", "n", "--driver", "overlay"], 1),
        (&["network", "create", "n", "--mtu", "x"], 2),
    ] {
        let mut all = vec!["-j"];
        all.extend(arguments);
        let output = street.host.netbpf(&all).exits(status);
        assert_eq!(output.stdout, "");
        let error = serde_json::from_str(output.stderr.trim()).expect("JSON");
        is_valid("error", &error);
    }
}
