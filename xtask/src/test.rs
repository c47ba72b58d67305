//! `cargo xtask test`: every test. What needs no privilege runs as the calling
//! user; the scenarios of `netbpf-tests` are built as that user and run as root.

use crate::{
    preflight,
    privilege::as_root,
    setup::{self, Consent},
    step::Step,
    summary::Summary,
};
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The package whose tests run as root.
pub const PRIVILEGED: &str = "netbpf-tests";

/// Brings what is missing, builds and runs everything; `arguments` go to each
/// test program. An error means that tests could not be run at all.
pub fn run(places: &Places, consent: Consent, arguments: &[String]) -> Result<Summary> {
    preflight::check()?;
    setup::run(places, consent)?;
    setup::engines(places, consent)?;
    let binary = build_netbpf(places, Profile::Debug)?;
    let plain = unprivileged(places, arguments)?;
    let scenarios = privileged(places, &binary, arguments)?;
    Ok(plain + scenarios)
}

/// How the product is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Debug,
    Release,
}

impl Profile {
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }
}

/// The cargo that runs us.
pub fn cargo(places: &Places) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&places.root);
    command
}

/// Builds the product and says where it is.
pub fn build_netbpf(places: &Places, profile: Profile) -> Result<PathBuf> {
    let step = Step::new(&places.root, "build")?;
    let found = executables(
        &step,
        cargo(places)
            .args(["build", "--package", "netbpf", "--bin", "netbpf"])
            .args(profile.arguments()),
    )?;
    found
        .into_iter()
        .next()
        .context("cargo built no netbpf binary")
}

/// Runs a cargo command that builds, and returns the executables it names.
pub fn executables(step: &Step, command: &mut Command) -> Result<Vec<PathBuf>> {
    Ok(parse_executables(&messages(step, command)?, |_| true))
}

/// The same for tests alone: the package's own programs are built along.
fn test_executables(step: &Step, command: &mut Command) -> Result<Vec<PathBuf>> {
    Ok(parse_executables(&messages(step, command)?, is_test))
}

fn messages(step: &Step, command: &mut Command) -> Result<String> {
    command.arg("--message-format=json-render-diagnostics");
    step.run(
        command,
        "mend what the compiler says, or run `cargo xtask setup`",
    )
}

fn is_test(message: &serde_json::Value) -> bool {
    message["profile"]["test"] == true
}

/// Executables among cargo's JSON messages.
fn parse_executables(messages: &str, wanted: fn(&serde_json::Value) -> bool) -> Vec<PathBuf> {
    messages
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && wanted(message))
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .collect()
}

fn unprivileged(places: &Places, arguments: &[String]) -> Result<Summary> {
    let step = Step::new(&places.root, "unit tests")?;
    let mut command = cargo(places);
    command
        .args([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--exclude",
            PRIVILEGED,
        ])
        .arg("--")
        .args(arguments);
    summarise(&step, &mut command)
}

fn privileged(places: &Places, binary: &Path, arguments: &[String]) -> Result<Summary> {
    let build = Step::new(&places.root, "build scenarios")?;
    let programs = test_executables(
        &build,
        cargo(places).args(["test", "--package", PRIVILEGED, "--no-run"]),
    )?;
    let mut total = Summary::default();
    for program in programs {
        let name = scenario_name(&program);
        let step = Step::new(&places.root, &format!("scenarios {name}"))?;
        let variables = [
            ("NETBPF_BIN", binary.as_os_str()),
            ("NETBPF_TOOLS_DIR", places.tools.as_os_str()),
        ];
        let mut command = as_root(&program, &variables);
        command
            .args(arguments)
            .current_dir(places.root.join("tests"));
        total = total + summarise(&step, &mut command)?;
    }
    Ok(total)
}

/// `…/deps/publish-0a1b2c3d4e5f6789` -> `publish`.
fn scenario_name(program: &Path) -> String {
    let name = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    name.rsplit_once('-')
        .map_or(name.clone(), |(stem, _)| stem.to_owned())
}

/// Runs test programs to their end; failed tests are counted, not an error.
fn summarise(step: &Step, command: &mut Command) -> Result<Summary> {
    let done = step.try_run(command)?;
    let mut summary = Summary::parse(&done.output);
    if !done.status.success() {
        if summary.is_empty() {
            bail!(step.failure(&format!("no test ran ({})", done.status), ""));
        }
        // A program that died in the middle has no result line to count.
        summary.failed = summary.failed.max(1);
        eprintln!(
            "{}",
            step.failure(
                &done.status.to_string(),
                "each failed test says above what it saw"
            )
        );
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_messages() {
        let messages = concat!(
            "   Compiling x\n",
            r#"{"reason":"compiler-artifact","executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/deps/publish-0a1b","profile":{"test":true}}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/bench","profile":{"test":false}}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        let (publish, bench) = ("/t/deps/publish-0a1b", "/t/bench");
        assert_eq!(
            parse_executables(messages, |_| true),
            [Path::new(publish), Path::new(bench)]
        );
        assert_eq!(parse_executables(messages, is_test), [Path::new(publish)]);
    }

    #[test]
    fn scenarios_are_named_after_their_file() {
        assert_eq!(
            scenario_name(Path::new("/t/deps/port_hold-0a1b2c3d4e5f6789")),
            "port_hold"
        );
    }
}
