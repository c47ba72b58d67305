//! What is thrown: requests that are right, and what may be done to them.

use proptest::prelude::*;
use serde_json::{Value, json};

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
    "8080:80",
    "9000-9999:1000-1999/udp",
    "1-65535:1-65535",
    "published=9090,target=80,host_ip=192.0.2.7,allow=0.0.0.0/0",
    "[::]:0:80",
];

/// A request that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Network,
    Attach,
    Publish,
    Unpublish,
    /// Of a port that nobody has published.
    Drain,
    Update,
    Detach,
}

impl Request {
    pub fn body(self, space: &str) -> Value {
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
            Request::Unpublish => json!({"network": "front", "publish": ["8080:80"]}),
            Request::Drain => json!({"publish": ["9099:99"], "drain": 3}),
            Request::Update => json!({
                "network": "front", "publish": ["published=8080,target=80,allow=192.0.2.0/24,weight=3"],
            }),
            Request::Detach => json!({"engine": "oci", "container_id": "0123456789ab"}),
        }
    }

    pub fn line(self) -> (&'static str, &'static str) {
        match self {
            Request::Network => ("POST", "/v1/networks"),
            Request::Attach => ("POST", "/v1/endpoints"),
            Request::Publish => ("POST", "/v1/endpoints/web/ports"),
            Request::Unpublish | Request::Drain => ("DELETE", "/v1/endpoints/web/ports"),
            Request::Update => ("PATCH", "/v1/endpoints/web"),
            Request::Detach => ("POST", "/v1/detach"),
        }
    }
}

/// What is done to it.
#[derive(Clone, Debug)]
pub enum Mutation {
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
pub enum Thrown {
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

pub fn thrown() -> impl Strategy<Value = Thrown> {
    use Request::{Attach, Detach, Drain, Network, Publish, Unpublish, Update};

    let request = prop::sample::select(vec![
        Network, Network, Attach, Attach, Attach, Publish, Unpublish, Drain, Update, Detach,
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

pub fn mutate(mut body: Value, mutations: &[Mutation]) -> Vec<u8> {
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
