//! `cargo xtask test`: every test. What needs no privilege runs as the calling
//! user; what needs it is built as that user and run as root.

use crate::{
    next, preflight,
    privilege::as_root,
    setup::{self, Consent},
    step::{Done, Step},
    summary::Summary,
};
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The package of the scenarios, the demo and the benchmark, which run as root.
pub const SCENARIOS: &str = "netbpf-tests";

/// Packages whose tests run as root.
const PRIVILEGED: [&str; 2] = ["netbpf", SCENARIOS];

/// Brings what is missing, builds and runs everything; `arguments` go to each
/// test program. An error means that tests could not be run at all.
pub fn run(places: &Places, consent: Consent, arguments: &[String]) -> Result<Summary> {
    preflight::check()?;
    setup::run(places, consent)?;
    setup::engines(places, consent)?;
    // Before that of this version, which takes its place in the target directory.
    let next = next::run(places)?;
    let binary = build_netbpf(places, Profile::Debug)?;
    let mut total = documentation(places, arguments)?;
    for program in test_programs(places)? {
        total = total + program.run(places, &binary, &next, arguments)?;
    }
    Ok(total)
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
    // What it tells us of our own package would make it build crates anew that ask for it
    // (ring), and again when it is called by hand.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_MANIFEST_", "CARGO_PKG_"]
            .iter()
            .any(|of| text.starts_with(of))
        {
            command.env_remove(&name);
        }
    }
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
    Ok(parse_executables(&messages(step, command)?))
}

fn messages(step: &Step, command: &mut Command) -> Result<String> {
    command.arg("--message-format=json-render-diagnostics");
    step.run(
        command,
        "mend what the compiler says, or run `cargo xtask setup`",
    )
}

/// Programs among cargo's JSON messages.
fn artifacts(messages: &str) -> impl Iterator<Item = serde_json::Value> {
    messages
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["executable"].is_string())
}

fn parse_executables(messages: &str) -> Vec<PathBuf> {
    artifacts(messages)
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .collect()
}

/// The packages' own programs are built along with the tests.
fn parse_test_programs(messages: &str) -> Vec<TestProgram> {
    artifacts(messages)
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| {
            let directory = Path::new(message["manifest_path"].as_str()?).parent()?;
            Some(TestProgram {
                path: PathBuf::from(message["executable"].as_str()?),
                directory: directory.to_owned(),
                package: package_name(message["package_id"].as_str()?)?.to_owned(),
            })
        })
        .collect()
}

/// `path+file:///w/netbpf/tests#netbpf-tests@0.1.0`; without a name in front of the
/// version where it is the directory's.
fn package_name(id: &str) -> Option<&str> {
    let (place, rest) = id.split_once('#')?;
    match rest.split_once('@') {
        Some((name, _)) => Some(name),
        None => place.rsplit('/').next(),
    }
}

/// Examples in the documentation.
fn documentation(places: &Places, arguments: &[String]) -> Result<Summary> {
    let step = Step::new(&places.root, "examples in the documentation")?;
    let mut command = cargo(places);
    command.args(["test", "--workspace", "--doc", "--no-fail-fast", "--"]);
    let done = step.try_run(command.args(arguments))?;
    judge(&step, &done, Summary::parse(&done.output))
}

/// A program of tests.
#[derive(Debug, PartialEq, Eq)]
struct TestProgram {
    path: PathBuf,
    /// The directory of its package, where cargo would run it.
    directory: PathBuf,
    package: String,
}

/// Builds all of them, as the calling user and in one go.
fn test_programs(places: &Places) -> Result<Vec<TestProgram>> {
    let step = Step::new(&places.root, "build tests")?;
    let mut command = cargo(places);
    let messages = messages(&step, command.args(["test", "--workspace", "--no-run"]))?;
    let mut programs = parse_test_programs(&messages);
    if programs.is_empty() {
        bail!(step.failure("cargo built no tests", ""));
    }
    // What is quick and needs nothing first.
    programs.sort_by_key(|program| (program.is_privileged(), program.package == SCENARIOS));
    Ok(programs)
}

impl TestProgram {
    fn is_privileged(&self) -> bool {
        PRIVILEGED.contains(&self.package.as_str())
    }

    fn run(
        &self,
        places: &Places,
        binary: &Path,
        next: &Path,
        arguments: &[String],
    ) -> Result<Summary> {
        let name = format!("{} {}", self.package, name_of(&self.path));
        let step = Step::new(&places.root, &format!("tests {name}"))?;
        let mut command = match self.is_privileged() {
            true => {
                let variables = [
                    ("NETBPF_BIN", binary.as_os_str()),
                    ("NETBPF_NEXT", next.as_os_str()),
                    ("NETBPF_TOOLS_DIR", places.tools.as_os_str()),
                ];
                as_root(&self.path, &variables)
            }
            false => Command::new(&self.path),
        };
        summarise(&step, command.args(arguments).current_dir(&self.directory))
    }
}

/// `…/deps/publish-0a1b2c3d4e5f6789` -> `publish`.
fn name_of(program: &Path) -> String {
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
    let summary = Summary::parse(&done.output);
    if !done.status.success() && summary.is_empty() {
        bail!(step.failure(&format!("no test ran ({})", done.status), ""));
    }
    judge(step, &done, summary)
}

/// Counts the end of the program, too.
fn judge(step: &Step, done: &Done, mut summary: Summary) -> Result<Summary> {
    if !done.status.success() {
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
    fn programs_are_read_from_messages() {
        let messages = concat!(
            "   Compiling x\n",
            r#"{"reason":"compiler-artifact","executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/deps/publish-0a1b","profile":{"test":true},"manifest_path":"/w/tests/Cargo.toml","package_id":"path+file:///w/tests#netbpf-tests@0.1.0"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/bench","profile":{"test":false}}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n",
        );
        let (publish, bench) = ("/t/deps/publish-0a1b", "/t/bench");
        assert_eq!(
            parse_executables(messages),
            [Path::new(publish), Path::new(bench)]
        );
        let tests = TestProgram {
            path: publish.into(),
            directory: "/w/tests".into(),
            package: SCENARIOS.into(),
        };
        assert!(tests.is_privileged());
        assert_eq!(parse_test_programs(messages), [tests]);
    }

    #[test]
    fn packages_are_named_by_their_number() {
        let named = "path+file:///w/tests#netbpf-tests@0.1.0";
        assert_eq!(package_name(named), Some("netbpf-tests"));
        assert_eq!(package_name("path+file:///w/netbpf#0.1.0"), Some("netbpf"));
    }

    #[test]
    fn programs_are_named_after_their_file() {
        assert_eq!(
            name_of(Path::new("/t/deps/port_hold-0a1b2c3d4e5f6789")),
            "port_hold"
        );
    }
}
