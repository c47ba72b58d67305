//! Holds the documentation against the sources: the pages that are made of them,
//! and of those written by hand the order of the stages, routes, codes and links.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
};

use netbpf_common::names;
use quote::ToTokens;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn the_pages_are_up_to_date() {
    bring(&root(), pages(&root()).unwrap(), Mode::Check).unwrap();
}

#[test]
fn every_map_of_the_programs_has_a_name() {
    let declared = maps::declared(&root().join("netbpf-ebpf/src")).unwrap();
    let declared: BTreeSet<&str> = declared.keys().map(String::as_str).collect();
    assert_eq!(declared, names::MAPS.iter().copied().collect());
}

/// What is called, in the order of the calls, functions of the same file followed:
/// paths such as `flow::follow`.
struct Calls {
    functions: Vec<(String, Vec<String>)>,
    followed: HashSet<String>,
    paths: Vec<String>,
}

impl Calls {
    fn of(file: &str, entry: &str) -> Vec<String> {
        let file = syn::parse_file(&read(file)).unwrap();
        let functions = file.items.iter().filter_map(|item| match item {
            syn::Item::Fn(item) => {
                let body = item.block.to_token_stream().to_string();
                Some((item.sig.ident.to_string(), paths(&body)))
            }
            _ => None,
        });
        let mut calls = Calls {
            functions: functions.collect(),
            followed: HashSet::new(),
            paths: Vec::new(),
        };
        calls.follow(entry);
        calls.paths
    }

    fn follow(&mut self, name: &str) {
        let body = self.functions.iter().find(|(function, _)| function == name);
        let Some((_, body)) = body.cloned() else {
            return;
        };
        if !self.followed.insert(name.to_owned()) {
            return;
        }
        for path in body {
            self.paths.push(path.clone());
            self.follow(&path);
        }
    }
}

/// The paths and names in the text of tokens.
fn paths(tokens: &str) -> Vec<String> {
    let spaced = tokens.replace("::", " :: ");
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found: Vec<String> = Vec::new();
    let mut continues = false;
    for word in spaced.split_whitespace() {
        if word == "::" {
            continues = true;
            continue;
        }
        // Tokens may stick together, as in `f(x`.
        for (n, name) in word.split(|c| !is_name(c)).enumerate() {
            if name.is_empty() {
                continue;
            }
            match found.last_mut() {
                Some(path) if continues && n == 0 => *path = format!("{path}::{name}"),
                _ => found.push(name.to_owned()),
            }
        }
        continues = false;
    }
    found
}

/// The line with arrows in the documentation of a module.
fn picture(file: &str) -> String {
    let text = read(file);
    let line = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! "))
        .find(|line| line.contains(" → "));
    line.unwrap_or_else(|| panic!("{file} has no picture"))
        .to_owned()
}

/// White space folded, as a picture may go over several lines.
fn folded(path: &str) -> String {
    read(path).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The stages of the picture, each with what is called first there, come in the
/// order of the picture, which also stands in the pages.
fn is_in_order(program: &str, stages: &[(&str, &str)]) {
    let file = format!("netbpf-ebpf/src/programs/{program}.rs");
    let picture = picture(&file);
    for page in ["docs/packet-path.md", "ARCHITECTURE.md"] {
        assert!(folded(page).contains(&picture), "{page} lacks: {picture}");
    }
    let calls = Calls::of(&file, program);
    let mut last = (0, 0, "the beginning");
    for &(stage, call) in stages {
        let place = picture[last.0..].find(stage);
        let place = place.unwrap_or_else(|| panic!("{stage} is not behind {}: {picture}", last.2));
        let called = calls.iter().position(|path| path == call);
        let called = called.unwrap_or_else(|| panic!("{program} calls no {call}"));
        assert!(called >= last.1, "{stage} ({call}) comes before {}", last.2);
        last = (last.0 + place, called, stage);
    }
}

#[test]
fn stages_of_from_container_are_in_the_order_of_the_picture() {
    is_in_order(
        "from_container",
        &[
            ("anti-spoof", "antispoof::mac"),
            ("parse", "parse"),
            ("ARP/ND", "nd::is_nd"),
            ("flow", "follow_by"),
            ("endpoint", "local::endpoint"),
            ("local", "local::host"),
            ("masquerade", "Coded::TO_MASQUERADE"),
            ("route", "route::way"),
        ],
    );
}

#[test]
fn stages_of_host_local_are_in_the_order_of_the_picture() {
    is_in_order(
        "host_local",
        &[
            ("parse", "parse"),
            ("flow", "follow_by"),
            ("port", "F::call_port"),
        ],
    );
}

#[test]
fn stages_of_to_uplink_are_in_the_order_of_the_picture() {
    is_in_order(
        "to_uplink",
        &[
            ("ours", "is_ours"),
            ("outside", "F::call_is_free"),
            ("parse", "parse"),
            ("flow", "follow_by"),
            ("masquerade", "F::call_masquerade"),
        ],
    );
}

/// These pages say of each promise which test shows it.
#[test]
fn tests_that_pages_name_are_there() {
    for (page, many) in [
        ("docs/ports.md", 30),
        ("docs/nat.md", 20),
        ("docs/engines.md", 5),
    ] {
        tests_are_there(page, many);
    }
}

fn tests_are_there(page: &str, many: usize) {
    let page = read(page);
    let named: Vec<&str> = page
        .split('`')
        .filter(|code| {
            code.contains("::")
                && code
                    .bytes()
                    .all(|b| b == b':' || b == b'_' || b.is_ascii_alphanumeric())
        })
        .filter(|code| !code.starts_with(':') && !code.contains(":::"))
        .collect();
    assert!(named.len() > many, "{named:?}");
    for name in named {
        let (file, function) = name.split_once("::").expect("file::function");
        let one = format!("tests/tests/{file}.rs");
        let text = match root().join(&one).exists() {
            true => read(&one),
            false => read(&format!("tests/tests/{file}/main.rs")),
        };
        assert!(
            text.contains(&format!("fn {function}()")),
            "there is no {name}"
        );
    }
}

#[test]
fn stages_of_from_uplink_are_in_the_order_of_the_picture() {
    is_in_order(
        "from_uplink",
        &[
            ("parse", "parse"),
            ("flow", "follow_by"),
            ("local", "local::host"),
            ("port", "Coded::TO_PORT"),
            ("endpoint", "local::endpoint"),
        ],
    );
}

#[test]
fn links_lead_somewhere() {
    let mut pages: Vec<PathBuf> = Vec::new();
    for directory in [".", "docs", "docs/decisions"] {
        let entries = fs::read_dir(root().join(directory)).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    assert!(pages.len() > 8, "{pages:?}");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: {target} leads nowhere", page.display());
            if !anchor.is_empty() {
                let text = fs::read_to_string(&path).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| heading_anchor(line) == anchor),
                    "{}: {target} names no heading",
                    page.display()
                );
            }
        }
    }
}

/// As the usual sites make them.
fn heading_anchor(line: &str) -> String {
    line.trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
