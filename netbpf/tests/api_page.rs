//! docs/api.md has all routes and codes, and its examples are what the API takes
//! and answers.

use netbpf::{
    api::{TeardownSpec, VersionInfo, routes},
    control::Control,
    error::Code,
    model::*,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
    std::fs::read_to_string(path).unwrap()
}

/// Name of the type and text of each block that begins with ```` ```json TYPE ````.
fn examples() -> Vec<(String, String)> {
    page()
        .split("```json ")
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once('\n').unwrap();
            let (text, _) = rest.split_once("```").unwrap();
            (name.to_owned(), text.to_owned())
        })
        .collect()
}

/// It is one, and says no more and no less than the type does.
fn is_whole<T: DeserializeOwned + Serialize>(name: &str, text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let parsed: T = serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(serde_json::to_value(parsed).unwrap(), value, "{name}");
}

#[test]
fn examples_are_what_the_api_takes_and_answers() {
    let examples = examples();
    assert_eq!(examples.len(), 25);
    for (name, text) in &examples {
        match name.as_str() {
            "NetworkSpec" => is_whole::<NetworkSpec>(name, text),
            "NetworkInfo" => is_whole::<NetworkInfo>(name, text),
            "AttachSpec" => is_whole::<AttachSpec>(name, text),
            "EndpointInfo" => is_whole::<EndpointInfo>(name, text),
            "DetachSpec" => is_whole::<DetachSpec>(name, text),
            "CheckSpec" => is_whole::<CheckSpec>(name, text),
            "Difference" => is_whole::<Difference>(name, text),
            "PublishSpec" => is_whole::<PublishSpec>(name, text),
            "UnpublishSpec" => is_whole::<UnpublishSpec>(name, text),
            "UpdateSpec" => is_whole::<UpdateSpec>(name, text),
            "PortOf" => is_whole::<PortOf>(name, text),
            "FlowInfo" => is_whole::<FlowInfo>(name, text),
            "FlowFilter" => is_whole::<FlowFilter>(name, text),
            "FlushInfo" => is_whole::<FlushInfo>(name, text),
            "DropInfo" => is_whole::<DropInfo>(name, text),
            "EventInfo" => is_whole::<EventInfo>(name, text),
            "StatusInfo" => is_whole::<StatusInfo>(name, text),
            "ClusterInfo" => is_whole::<ClusterInfo>(name, text),
            "NodeInfo" => is_whole::<NodeInfo>(name, text),
            "DrainSpec" => is_whole::<DrainSpec>(name, text),
            "Finding" => is_whole::<Finding>(name, text),
            "ReloadInfo" => is_whole::<ReloadInfo>(name, text),
            "TeardownSpec" => is_whole::<TeardownSpec>(name, text),
            "VersionInfo" => is_whole::<VersionInfo>(name, text),
            "ErrorBody" => is_whole::<ErrorBody>(name, text),
            other => panic!("docs/api.md has an example of {other}, which is no type of the API"),
        }
    }
}

#[test]
fn every_route_is_in_the_table() {
    let page = page();
    for route in routes::<Control>().iter().filter(|route| !route.is_alias) {
        let row = format!("| `/v1{}` | {} |", route.path, route.verb.method());
        assert!(page.contains(&row), "docs/api.md lacks {row}");
    }
}

#[test]
fn every_code_is_beside_its_status() {
    let page = page();
    let (_, table) = page.split_once("| status | code |").unwrap();
    for code in Code::ALL {
        let row = table
            .lines()
            .find(|line| line.starts_with(&format!("| {}", code.http_status())));
        let row = row.unwrap_or_else(|| panic!("no status {}", code.http_status()));
        assert!(
            row.contains(&format!("`{}`", code.as_str())),
            "{} is not at {row}",
            code.as_str()
        );
    }
}
