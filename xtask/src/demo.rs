//! `cargo xtask demo`: the main job, shown on namespaces of its own.

use crate::{
    preflight,
    privilege::as_root,
    setup::{self, Consent},
    step::Step,
    test::{self, Profile, SCENARIOS},
};
use anyhow::{Context, Result};
use ebpf_build::Places;
use std::process::ExitCode;

/// Builds the product and the demo, runs it as root and returns its exit code.
pub fn run(places: &Places, consent: Consent, arguments: &[String]) -> Result<ExitCode> {
    preflight::check()?;
    setup::run(places, consent)?;
    let binary = test::build_netbpf(places, Profile::Release)?;
    let step = Step::new(&places.root, "build the demo")?;
    let demo = test::executables(
        &step,
        test::cargo(places)
            .args(["build", "--package", SCENARIOS, "--bin", "netbpf-demo"])
            .args(Profile::Release.arguments()),
    )?
    .into_iter()
    .next()
    .context("cargo built no demo")?;
    // Straight to the terminal: what it prints is the point.
    let status = as_root(&demo, &[("NETBPF_BIN", binary.as_os_str())])
        .args(arguments)
        .current_dir(&places.root)
        .status()
        .with_context(|| format!("cannot run {}", demo.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
