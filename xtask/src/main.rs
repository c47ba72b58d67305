//! The project's own commands: `cargo xtask --help`.

mod build_ebpf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ebpf_build::Places;
use std::{path::Path, process::ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and shows netbpf")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the eBPF programs and print their instructions and stack
    BuildEbpf {
        /// The programs are always optimised: the verifier takes no other code
        #[arg(long, hide = true)]
        release: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in no workspace")?;
    let places = Places::new(root);
    match arguments.command {
        Command::BuildEbpf { release: _ } => build_ebpf::run(&places),
    }
}
