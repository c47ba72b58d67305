//! `cargo xtask bench`: netbpf against what people have, in one run.

use crate::{
    preflight,
    privilege::as_root,
    setup::{self, Consent},
    step::Step,
    test::{self, Profile, SCENARIOS},
};
use anyhow::{Context, Result};
use ebpf_build::Places;
use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
};

/// Builds the product and the benchmark for release, runs it as root and returns
/// its exit code.
pub fn run(places: &Places, consent: Consent, arguments: &[OsString]) -> Result<ExitCode> {
    preflight::check()?;
    setup::run(places, consent)?;
    let binary = test::build_netbpf(places, Profile::Release)?;
    let step = Step::new(&places.root, "build the benchmark")?;
    let bench = test::executables(
        &step,
        test::cargo(places)
            .args(["build", "--package", SCENARIOS, "--bin", "netbpf-bench"])
            .args(Profile::Release.arguments()),
    )?
    .into_iter()
    .next()
    .context("cargo built no benchmark")?;
    let variables = [
        ("NETBPF_BIN", binary.as_os_str()),
        ("NETBPF_TOOLS_DIR", places.tools.as_os_str()),
        // As users run it; the tests log more.
        ("RUST_LOG", OsStr::new("info")),
    ];
    let status = as_root(&bench, &variables)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {}", bench.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
