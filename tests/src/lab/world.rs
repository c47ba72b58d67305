//! A picture of all that is of us on a host, to compare one whose daemon was killed with one
//! whose never was.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use netbpf::model::{EndpointInfo, Severity, StatusInfo};
use netbpf_common::names;
use serde_json::Value;

use super::{Host, Namespace, sysctls};

/// Maps whose entries come with traffic, and the one that copies also what was noted once.
const NOT_COMPARED: [&str; 19] = [
    names::RECORDS,
    names::FLOWS4,
    names::FLOWS6,
    names::EVICTABLE4,
    names::EVICTABLE6,
    names::OCCUPANCY,
    names::MAPPINGS4,
    names::MAPPINGS6,
    names::OUTSIDE4,
    names::OUTSIDE6,
    names::FRAGMENTS4,
    names::FRAGMENTS6,
    names::CLIENTS,
    names::HOST_CONNS,
    names::HOST_PEERS,
    names::HOST_ASKED,
    names::HANDED,
    names::ANSWERED,
    names::ENDPOINT_DROPS,
];

/// What `ip` is asked in a namespace.
const QUESTIONS: [(&str, &[&str]); 2] = [
    (
        "-4",
        &[
            "link show",
            "address show",
            "route show table all",
            "rule show",
            "neigh show nud permanent",
        ],
    ),
    (
        "-6",
        &[
            "address show",
            "route show table all",
            "rule show",
            "neigh show nud permanent",
        ],
    ),
];

/// Devices, addresses, routes, rules, neighbours, settings, pins, attached programs, map
/// entries, what the daemon lists and what its doctor finds: a line each. Numbers and names
/// that are drawn by lot go by whom they are of; each line with how often it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct World(BTreeMap<String, usize>);

impl World {
    /// Of a host and of its containers' namespaces.
    #[track_caller]
    pub fn of(host: &Host, containers: &[&Namespace]) -> World {
        let endpoints: Vec<EndpointInfo> = host.json(&["ps"]);
        let mut lines = Vec::new();
        let mut add = |what: &str, text: &str| {
            let text = text.lines().map(|line| format!("{what}: {}", line.trim()));
            lines.extend(text.filter(|line| !line.ends_with(": ")));
        };
        for (role, space) in [("host", &**host)]
            .into_iter()
            .chain(containers.iter().map(|space| (space.role(), *space)))
        {
            for (family, questions) in QUESTIONS {
                let batch = questions.join("\n");
                let ip = ["ip", "-o", family, "-batch", "-"];
                let answers = space.run(&ip).stdin(&batch).ok();
                add(&format!("{role} ip"), &numberless(&answers));
            }
        }
        for (name, value) in sysctls(host) {
            add("sysctl", &format!("{name} = {value}"));
        }
        let mut pins = Vec::new();
        files(&host.bpffs(), &host.bpffs(), &mut pins);
        let own = host.ip("-o link show up0");
        let up0 = own.split(':').next().unwrap_or_default();
        for pin in pins {
            add("pin", &of_device(&pin, &endpoints, up0));
        }
        let status: StatusInfo = host.json(&["status"]);
        for program in status.programs {
            for to in program.attached_to {
                add("program", &format!("{} on {to}", program.name));
            }
        }
        for map in status.maps {
            if let Some(entries) = map.entries
                && !NOT_COMPARED.contains(&map.name.as_str())
            {
                add("map", &format!("{} has {entries}", map.name));
            }
        }
        // What was found at this start alone.
        let is_lasting = |note: &str| !note.contains("are restored from the kernel");
        let notes = status.notes.iter().filter(|note| is_lasting(note));
        notes.for_each(|note| add("note", note));
        for listing in [["network", "ls"].as_slice(), &["ps"], &["port"]] {
            let listed: Vec<Value> = host.json(listing);
            for mut one in listed {
                forget_times(&mut one);
                add(listing[0], &one.to_string());
            }
        }
        let doctor = host.netbpf(&["-j", "doctor"]).output();
        let findings: Vec<netbpf::model::Finding> =
            serde_json::from_str(&doctor.stdout).unwrap_or_else(|e| panic!("{e}: {doctor}"));
        let findings = findings.iter().filter(|f| f.severity != Severity::Ok);
        for finding in findings.filter(|f| is_lasting(&f.message)) {
            add(
                "doctor",
                &format!("{:?} {}", finding.check, finding.message),
            );
        }
        let named = lines.into_iter().map(|line| {
            endpoints.iter().fold(line, |line, endpoint| {
                let whose = format!("<{} on {}>", endpoint.name, endpoint.network);
                line.replace(&endpoint.host_ifname, &whose)
            })
        });
        let mut counted = BTreeMap::new();
        named.for_each(|line| *counted.entry(line).or_default() += 1);
        World(counted)
    }

    /// What there is here and is not there, and the other way round.
    pub fn differences(&self, other: &World) -> String {
        let only = |sign: &str, a: &World, b: &World| -> String {
            let lines =
                a.0.iter()
                    .filter(|(line, times)| b.0.get(*line) != Some(times));
            lines
                .map(|(line, times)| match times {
                    1 => format!("{sign} {line}\n"),
                    _ => format!("{sign} {times} times {line}\n"),
                })
                .collect()
        };
        only("-", self, other) + &only("+", other, self)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

/// Without the numbers of devices, which stand in front of their names and behind `@if`.
fn numberless(text: &str) -> String {
    let line = |line: &str| {
        let line = match line.split_once(": ") {
            Some((number, rest)) if number.parse::<u32>().is_ok() => rest,
            _ => line,
        };
        let mut words: Vec<String> = Vec::new();
        for word in line.split_whitespace() {
            let (name, end) = word.split_once("@if").unwrap_or((word, ""));
            let is_number = end.trim_end_matches(':').parse::<u32>().is_ok();
            words.push(if is_number {
                format!("{name}@")
            } else {
                word.into()
            });
        }
        words.join(" ")
    };
    let lines = text.lines().map(line);
    lines.map(|line| line + "\n").collect()
}

/// Paths below `dir`, from `root` on.
fn files(dir: &Path, root: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let below = path.strip_prefix(root).expect("below it");
        found.push(below.display().to_string());
        if path.is_dir() {
            files(&path, root, found);
        }
    }
}

/// A pin whose device is called by name, and the note of which object programs are of.
fn of_device(pin: &str, endpoints: &[EndpointInfo], up0: &str) -> String {
    if pin.starts_with("programs/of_") {
        return "programs/of_…".into();
    }
    let Some(link) = pin.strip_prefix("links/") else {
        return pin.into();
    };
    let (number, rest) = link.split_once('_').unwrap_or((link, ""));
    let endpoint = endpoints
        .iter()
        .find(|e| e.host_ifindex.to_string() == number);
    let name = match endpoint {
        Some(endpoint) => &endpoint.host_ifname,
        None if number == up0 => "up0",
        None => number,
    };
    format!("links/{name}_{rest}")
}

/// Takes out what no two have alike.
fn forget_times(value: &mut Value) {
    let Value::Object(fields) = value else { return };
    fields.retain(|name, _| {
        let counts = name.ends_with("_bytes") || name.ends_with("_packets");
        !counts && name != "created_at" && name != "host_ifindex"
    });
}
