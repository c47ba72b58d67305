//! `cargo xtask setup`: brings what is missing, and nothing else. Compiler,
//! linker and virtual machine go under `target/tools`; what must be installed
//! is listed and asked for first.

mod apt;
mod commands;
mod engines;
mod manual;
mod suite;
mod toolchain;
mod vm;

use crate::privilege::as_root;
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
};

pub use vm::{Machine, Series, series};

/// Whether the user has agreed to installing packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// By `--yes`, or since it is CI's own machine.
    Given,
    Ask,
}

impl Consent {
    pub fn new(yes: bool) -> Self {
        if yes || std::env::var_os("CI").is_some_and(|value| !value.is_empty()) {
            Self::Given
        } else {
            Self::Ask
        }
    }
}

/// What building, the demo and the tests need.
pub fn run(places: &Places, consent: Consent) -> Result<()> {
    let toolchain = toolchain::is_ready(places);
    let missing = commands::missing();
    if toolchain && missing.is_empty() {
        return Ok(());
    }
    let _lock = lock(places)?;
    if !missing.is_empty() {
        commands::install(&missing, consent)?;
    }
    if !toolchain {
        toolchain::bring(places, consent)?;
    }
    Ok(())
}

/// What `vm` needs besides: QEMU, a kernel and a static busybox, all unpacked only.
pub fn machine(places: &Places, kernel: &Series, consent: Consent) -> Result<Machine> {
    if let Some(machine) = Machine::find(places, kernel) {
        return Ok(machine);
    }
    let _lock = lock(places)?;
    vm::bring(places, kernel, consent)
}

pub use engines::etcd;

/// Container engines for the tests, unpacked only.
pub fn engines(places: &Places, consent: Consent) -> Result<()> {
    if engines::is_ready(places) {
        return Ok(());
    }
    let _lock = lock(places)?;
    engines::bring(places, consent)
}

/// Held by one setup at a time; released when dropped or when the process ends.
fn lock(places: &Places) -> Result<File> {
    let path = places.tools.join(".lock");
    let open = || -> io::Result<File> {
        fs::create_dir_all(&places.tools)?;
        let file = File::create(&path)?;
        if file.try_lock().is_err() {
            eprintln!("setup: waiting for another setup to end");
            file.lock()?;
        }
        Ok(file)
    };
    open().with_context(|| format!("cannot lock {}", path.display()))
}

/// Goes on where the user agrees to the command; without a terminal to ask on it
/// fails and names the command.
fn ask(consent: Consent, what: &str, command: &str) -> Result<()> {
    eprintln!("setup: {what}\n  {command}");
    if consent == Consent::Given {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        bail!("not done without consent: run the command above, or this one with --yes");
    }
    eprint!("Run it? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("not done: run the command above yourself and come back");
    }
    Ok(())
}

/// Makes sure that apt knows packages.
fn lists(consent: Consent) -> Result<()> {
    if apt::has_lists() {
        return Ok(());
    }
    refresh(consent, "apt has no package lists on this system")
}

/// Does what downloads packages; once more with new lists where the old ones name what
/// is no longer there: Debian drops a package's old version as soon as there is a new one.
fn with_lists<T>(consent: Consent, mut bring: impl FnMut() -> Result<T>) -> Result<T> {
    lists(consent)?;
    match bring() {
        Err(error) if error.is::<apt::Download>() => {
            refresh(consent, &format!("{error}; apt's package lists may be old"))?;
            bring()
        }
        done => done,
    }
}

/// Fetches apt's lists anew.
fn refresh(consent: Consent, why: &str) -> Result<()> {
    ask(
        consent,
        &format!("{why}; this fetches them (10 MB):"),
        "sudo apt-get update",
    )?;
    install_step(&["update"])
}

/// Runs apt-get as root, in sight of the user.
fn install_step(arguments: &[&str]) -> Result<()> {
    let mut command = as_root("apt-get", &[("DEBIAN_FRONTEND", "noninteractive".as_ref())]);
    command.args(arguments);
    // Its output is no result of ours.
    let status = command
        .stdout(io::stderr())
        .status()
        .context("cannot run apt-get; is sudo installed?")?;
    if !status.success() {
        bail!(
            "apt-get {} failed ({status}); what it said stands above. Without a network \
             nothing can be brought; old lists are renewed by `sudo apt-get update`",
            arguments.join(" ")
        );
    }
    Ok(())
}

const MEGABYTE: u64 = 1_000_000;
