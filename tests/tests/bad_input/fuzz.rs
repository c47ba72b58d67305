//! Bodies and names that were mutated, at a real daemon: whatever comes is answered with a
//! stable code and leaves nothing, or is done and can be undone. What fails is made small
//! and printed; `PROPTEST_RNG_SEED` throws the same again, `NETBPF_FUZZ_CASES` so many.

use std::{cell::RefCell, collections::BTreeMap, env};

use netbpf::error::{Code, LONGEST_MESSAGE};
use netbpf_tests::lab::{Answer, Host, Namespace, SOON, call, street_with_networks, until};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestCaseResult, TestRunner},
};
use serde_json::{Value, json};

use crate::frame::{Traces, endpoints_of};

/// Requests that are thrown where nobody says how many.
const CASES: u32 = 300;

/// What a value may become: what is special to addresses, names, paths, devices, numbers.
const STRINGS: [&str; 44] = [
    "",
    " ",
    ".",
    "..",
    "../../../tmp/x",
    "a/b",
    "/",
    "-x",
    "--help",
    "%s%n",
    "a\0b",
    "a\nb",
    "ü",
    "\u{202e}x",
    "front",
    "web",
    "default",
    "lo",
    "eth0",
    "all",
    "abcdefghijklmnop",
    "0.0.0.0",
    "255.255.255.255",
    "127.0.0.1",
    "224.0.0.1",
    "10.10.1.0",
    "10.10.1.1",
    "10.10.1.9",
    "::",
    "::1",
    "::ffff:10.10.1.9",
    "fe80::1",
    "ff02::1",
    "0.0.0.0/0",
    "::/0",
    "10.99.0.0/31",
    "10.99.0.0/16",
    "fd99::/127",
    "ff:ff:ff:ff:ff:ff",
    "8088:80",
    "9000-9999:1000-1999/udp",
    "1-65535:1-65535",
    "published=9090,target=80,host_ip=192.0.2.7,allow=0.0.0.0/0",
    "[::]:0:80",
];

/// A request that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Network,
    Attach,
    Publish,
    Unpublish,
    Update,
    Detach,
}

impl Request {
    fn body(self, space: &str) -> Value {
        match self {
            Request::Network => json!({
                "name": "made", "subnets": ["10.77.0.0/24", "fd77::/64"],
                "gateways": ["10.77.0.9"], "ip_ranges": ["10.77.0.128/25"], "ipv6": false,
                "internal": false, "icc": true, "masquerade": true, "mtu": 1400,
                "labels": {"a": "b"},
            }),
            Request::Attach => json!({
                "name": "late", "network": "front", "netns": {"netns": space},
                "ifname": "eth7", "ips": ["10.10.1.77"], "mac": "02:00:00:00:00:77",
                "publish": ["9090:90", "127.0.0.1:9091:91/udp"], "share": false,
                "publish_all": true, "expose": ["92/tcp"], "aliases": ["l"],
                "links": ["web:w"], "labels": {"a": "b"},
                "engine": {"kind": "oci", "container_id": "0123456789ab"},
            }),
            Request::Publish => json!({
                "network": "front", "publish": ["9100-9102:100-102/tcp"], "share": false,
            }),
            Request::Unpublish => json!({"publish": ["9099:99"], "drain": 3}),
            Request::Update => json!({
                "network": "front", "publish": ["published=8080,target=80,allow=192.0.2.0/24,weight=3"],
            }),
            Request::Detach => json!({"engine": "oci", "container_id": "0123456789ab"}),
        }
    }

    fn line(self) -> (&'static str, &'static str) {
        match self {
            Request::Network => ("POST", "/v1/networks"),
            Request::Attach => ("POST", "/v1/endpoints"),
            Request::Publish => ("POST", "/v1/endpoints/web/ports"),
            Request::Unpublish => ("DELETE", "/v1/endpoints/web/ports"),
            Request::Update => ("PATCH", "/v1/endpoints/web"),
            Request::Detach => ("POST", "/v1/detach"),
        }
    }
}

/// What is done to it.
#[derive(Clone, Debug)]
enum Mutation {
    /// The n-th of its values becomes another.
    Replace(usize, Value),
    /// A list gets one more.
    Add(usize, Value),
    Remove(usize),
    /// A field that is not known, or is there twice in another spelling.
    Field(String, Value),
    /// A byte of its text.
    Byte(usize, u8),
}

#[derive(Clone, Debug)]
enum Thrown {
    Body(Request, Vec<Mutation>),
    /// A name in the path.
    Name(&'static str, String),
}

fn strings() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(STRINGS.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,20}",
        1 => "[a-z0-9.:/,=-]{0,24}",
        1 => (1_usize..5000).prop_map(|length| "x".repeat(length)),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        6 => strings().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => prop::sample::select(vec![0_u64, 1, 67, 68, 1280, 65535, 65536, u64::MAX])
            .prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((strings(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn mutations() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        6 => (any::<usize>(), values()).prop_map(|(at, value)| Mutation::Replace(at, value)),
        2 => (any::<usize>(), values()).prop_map(|(at, value)| Mutation::Add(at, value)),
        2 => any::<usize>().prop_map(Mutation::Remove),
        1 => (strings(), values()).prop_map(|(name, value)| Mutation::Field(name, value)),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
    ]
}

fn thrown() -> impl Strategy<Value = Thrown> {
    use Request::{Attach, Detach, Network, Publish, Unpublish, Update};

    let request = prop::sample::select(vec![
        Network, Network, Attach, Attach, Attach, Publish, Unpublish, Update, Detach,
    ]);
    let bodies = (request, prop::collection::vec(mutations(), 0..4))
        .prop_map(|(request, mutations)| Thrown::Body(request, mutations));
    let method = prop::sample::select(vec!["GET", "DELETE"]);
    let names = (method, strings()).prop_map(|(method, name)| Thrown::Name(method, name));
    prop_oneof![8 => bodies, 1 => names]
}

/// The places of all values in it that may be mutated, as RFC 6901 pointers. Where the
/// container is stays as it is: any other namespace is none of the test's.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    if at == "/netns" {
        return;
    }
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                places(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn mutate(mut body: Value, mutations: &[Mutation]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mutation in mutations {
        let mut all = Vec::new();
        places(&body, "", &mut all);
        let place = |at: &usize| all[at % all.len()].clone();
        match mutation {
            Mutation::Replace(at, new) => {
                // The whole would be without its namespace.
                if let Some(old) = body.pointer_mut(&place(at)).filter(|old| !is_whole(old)) {
                    *old = new.clone();
                }
            }
            Mutation::Add(at, new) => {
                if let Some(Value::Array(items)) = body.pointer_mut(&place(at)) {
                    items.push(new.clone());
                }
            }
            Mutation::Remove(at) => remove(&mut body, &place(at)),
            Mutation::Field(name, new) => {
                if let Some(fields) = body.as_object_mut().filter(|_| name != "netns") {
                    fields.insert(name.clone(), new.clone());
                }
            }
            Mutation::Byte(at, byte) => bytes.push((*at, *byte)),
        }
    }
    let text = body.to_string();
    let kept = text.find("\"netns\"").map_or(0..0, |from| {
        let length = text[from..].find('}').unwrap_or(text.len() - from);
        from..from + length
    });
    let mut text = text.into_bytes();
    for (at, byte) in bytes {
        let at = at % text.len();
        if !kept.contains(&at) {
            text[at] = byte;
        }
    }
    text
}

fn is_whole(value: &Value) -> bool {
    value.get("netns").is_some()
}

fn remove(body: &mut Value, place: &str) {
    let Some((parent, last)) = place.rsplit_once('/') else {
        return;
    };
    match body.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.remove(last);
        }
        Some(Value::Array(items)) => {
            last.parse()
                .ok()
                .filter(|&index: &usize| index < items.len())
                .map(|index| items.remove(index));
        }
        _ => {}
    }
}

/// A name as a segment of a path (RFC 3986 section 2.1).
fn encoded(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// What a request could change, as far as it costs nothing to look at.
fn listings(host: &Host) -> [Value; 3] {
    let listing = |path| call(&host.socket(), "GET", path, b"").body;
    let mut endpoints = listing("/v1/endpoints");
    for endpoint in endpoints.as_array_mut().into_iter().flatten() {
        if let Some(fields) = endpoint.as_object_mut() {
            fields.retain(|name, _| !name.ends_with("_packets") && !name.ends_with("_bytes"));
        }
    }
    [endpoints, listing("/v1/networks"), listing("/v1/ports")]
}

/// Takes away what a request that fitted has made.
fn undo(host: &Host, request: Request, body: &[u8], answer: &Answer) -> TestCaseResult {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ask = |method, path: &str, body: &[u8]| {
        let undone = call(&host.socket(), method, path, body);
        let done = undone.status < 300;
        prop_assert!(done, "{method} {path} to undo {answer:?}: {undone:?}");
        Ok(())
    };
    match request {
        Request::Network => {
            let name = encoded(&text(&answer.body["name"]));
            ask("DELETE", &format!("/v1/networks/{name}"), b"")
        }
        Request::Attach => {
            let name = encoded(&text(&answer.body["name"]));
            let network = encoded(&text(&answer.body["network"]));
            ask(
                "DELETE",
                &format!("/v1/endpoints/{name}?network={network}"),
                b"",
            )
        }
        // What was published is taken back in the same words.
        Request::Publish => {
            let mut same: Value = serde_json::from_slice(body).expect("it was understood");
            let same = same.as_object_mut().expect("an object");
            same.remove("share");
            let same = Value::Object(same.clone()).to_string();
            ask("DELETE", "/v1/endpoints/web/ports", same.as_bytes())
        }
        // Terms are there until the port is taken back.
        Request::Update => {
            let port = json!({"publish": ["8080:80"]}).to_string();
            let ports = "/v1/endpoints/web/ports";
            ask("DELETE", ports, port.as_bytes())?;
            ask("POST", ports, port.as_bytes())
        }
        // Nothing there is of an engine, and no other port is published.
        Request::Detach | Request::Unpublish => Ok(()),
    }
}

/// How often requests were done and refused, so that both are seen to have been tried.
#[derive(Debug, Default)]
struct Count(RefCell<BTreeMap<String, [usize; 2]>>);

impl Count {
    fn add(&self, thrown: &Thrown, done: bool) {
        let what = match thrown {
            Thrown::Body(request, _) => format!("{request:?}"),
            Thrown::Name(method, _) => format!("{method} by name"),
        };
        self.0.borrow_mut().entry(what).or_default()[usize::from(done)] += 1;
    }

    fn of(&self, request: Request) -> [usize; 2] {
        let counts = self.0.borrow();
        counts
            .get(&format!("{request:?}"))
            .copied()
            .unwrap_or_default()
    }
}

fn is_answered(host: &Host, space: &Namespace, count: &Count, thrown: &Thrown) -> TestCaseResult {
    let (method, path, body) = match thrown {
        Thrown::Body(request, mutations) => {
            let (method, path) = request.line();
            let body = mutate(request.body(space.name()), mutations);
            (method, path.to_owned(), body)
        }
        Thrown::Name(method, name) => {
            // The street's own.
            if ["web", "app", "front", "back", "default"].contains(&name.as_str()) {
                return Ok(());
            }
            (
                *method,
                format!("/v1/endpoints/{}", encoded(name)),
                Vec::new(),
            )
        }
    };
    let before = listings(host);
    let answer = call(&host.socket(), method, &path, &body);
    count.add(thrown, answer.status < 300);
    let shown = String::from_utf8_lossy(&body).into_owned();
    let asked = format!("{method} {path} {shown}: {answer:?}");
    if answer.status < 300 {
        if let Thrown::Body(request, _) = thrown {
            undo(host, *request, &body, &answer)?;
        }
    } else {
        let code = Code::ALL.iter().find(|code| code.as_str() == answer.code());
        let code = code.ok_or_else(|| TestCaseError::fail(format!("no code: {asked}")))?;
        prop_assert!(*code != Code::Internal, "{asked}");
        prop_assert!(!answer.message().is_empty(), "{asked}");
        // A message is for a terminal.
        prop_assert!(!answer.message().contains(char::is_control), "{asked}");
        let length = answer.message().chars().count();
        prop_assert!(length <= LONGEST_MESSAGE, "{asked}");
    }
    prop_assert_eq!(listings(host), before, "{}", asked);
    Ok(())
}

#[test]
fn mutated_requests_are_refused_or_can_be_undone() {
    let street = street_with_networks("mutated", &[]);
    let host = &street.host;
    let (_web, _app, late) = endpoints_of(&street);
    let cases = env::var("NETBPF_FUZZ_CASES").map_or(CASES, |n| n.parse().expect("a number"));
    let before = Traces::of(host);
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let count = Count::default();
    let run = TestRunner::new(config).run(&thrown(), |thrown| {
        is_answered(host, &late, &count, &thrown)
    });
    if let Err(error) = run {
        panic!("{error}\n{}", host.log());
    }
    // The kernel frees a device behind the answer.
    until(SOON, || Traces::of(host) == before);
    assert_eq!(Traces::of(host), before);
    eprintln!("refused, done: {count:?}");
    for request in [
        Request::Network,
        Request::Attach,
        Request::Publish,
        Request::Update,
    ] {
        let [refused, done] = count.of(request);
        assert!(refused > 0 && done > 0, "{count:?}");
    }
    assert!(!host.log().contains("panicked"), "{}", host.log());
}
