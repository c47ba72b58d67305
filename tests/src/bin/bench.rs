//! Measures netbpf against what people have, and leaves nothing behind.

use std::{fs, os::unix::fs::chown, panic, path::Path, process::ExitCode, thread};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use netbpf_tests::{
    bench::{self, Options, report},
    lab::remove_of,
};
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    let options = Options::parse();
    clean_up_when_interrupted();
    // The lab panics when something is not as it must be, and cleans up on its way.
    match panic::catch_unwind(|| run(&options)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("netbpf-bench: {error:#}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(options: &Options) -> Result<()> {
    let results = bench::run(options)?;
    print!("{}", report::table(&results));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&results)? + "\n";
        write(path, &text)?;
    }
    if let Some(path) = &options.svg {
        write(path, &report::chart(&results))?;
    }
    if let Some(path) = &options.markdown {
        let text = report::markdown(&results, options.svg.as_deref());
        write(path, &text)?;
    }
    Ok(())
}

/// Writes a file that belongs to who called sudo.
fn write(path: &Path, text: &str) -> Result<()> {
    let name = || format!("cannot write {}", path.display());
    fs::write(path, text).with_context(name)?;
    let id = |name| std::env::var(name).ok()?.parse().ok();
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        chown(path, Some(user), Some(group)).with_context(name)?;
    }
    Ok(())
}

/// Ctrl-C and SIGTERM remove what the benchmark has made, then end it.
fn clean_up_when_interrupted() {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().expect("block signals");
    thread::spawn(move || {
        let signal = signals.wait().expect("wait for a signal");
        eprintln!("\n{signal}: removing what the benchmark has made");
        // The daemons and all commands end with this process.
        remove_of(std::process::id());
        std::process::exit(128 + signal as i32);
    });
}
