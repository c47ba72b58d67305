//! The project's own commands: `cargo xtask --help`.

mod bench;
mod build_ebpf;
mod ci;
mod demo;
mod docs;
mod next;
mod package;
mod preflight;
mod privilege;
mod setup;
mod skips;
mod step;
mod summary;
mod test;
mod vm;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use ebpf_build::Places;
use setup::Consent;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};
use summary::Summary;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and shows netbpf")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the BPF compiler and linker under target/tools, install missing commands
    Setup(Agreement),
    /// Build the eBPF programs and print their instructions and stack
    BuildEbpf {
        /// The programs are always optimised: the verifier takes no other code
        #[arg(long, hide = true)]
        release: bool,
    },
    /// Show the main job on namespaces of its own, and leave nothing behind
    Demo {
        #[command(flatten)]
        agreement: Agreement,
        /// For the demo: `--hosts 2` shows a network over two hosts
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure against bridge and iptables, a bare bridge and a bare wire
    #[command(disable_help_flag = true)]
    Bench {
        #[command(flatten)]
        agreement: Agreement,
        /// For the benchmark; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run every test
    Test {
        #[command(flatten)]
        agreement: Agreement,
        /// For each test program, as behind `cargo test --`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Build the later versions that tests of upgrades start
    Next,
    /// Write what of docs/ is made from the sources and the product
    Docs {
        /// Fail when a page is out of date, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// Install the binary, the systemd units, the manual, completions and the group
    Install {
        #[command(flatten)]
        agreement: Agreement,
        #[command(flatten)]
        to: package::Destination,
    },
    /// The part of install that runs as root
    #[command(hide = true)]
    Place {
        #[command(flatten)]
        to: package::Destination,
        #[arg(long)]
        binary: PathBuf,
    },
    /// Remove what install made
    Uninstall {
        #[command(flatten)]
        to: package::Destination,
    },
    /// Build a package for Debian 12 or newer, target/deb/netbpf_VERSION_ARCH.deb
    Deb {
        #[command(flatten)]
        agreement: Agreement,
        #[command(flatten)]
        how: package::Packaging,
    },
    /// Check form and lints, run every test, then the virtual machine
    Ci(Agreement),
    /// Check the product on another kernel, in QEMU
    Vm {
        /// Series of the kernel: 5.10, 6.1, 6.12, or newest, which is Debian testing's
        #[arg(default_value = "6.1")]
        kernel: String,
        #[command(flatten)]
        agreement: Agreement,
    },
}

#[derive(Args)]
struct Agreement {
    /// Install what is missing without asking
    #[arg(short, long)]
    yes: bool,
}

impl Agreement {
    fn consent(&self) -> Consent {
        Consent::new(self.yes)
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in no workspace")?;
    let places = Places::new(root);
    match arguments.command {
        Command::Setup(agreement) => setup::run(&places, agreement.consent())?,
        Command::BuildEbpf { release: _ } => build_ebpf::run(&places)?,
        Command::Next => {
            next::run(&places)?;
            test::build_netbpf(&places, test::Profile::Debug)?;
        }
        Command::Docs { check: false } => docs::run(&places, docs::Mode::Write)?,
        Command::Docs { check: true } => docs::run(&places, docs::Mode::Check)?,
        Command::Demo {
            agreement,
            arguments,
        } => return demo::run(&places, agreement.consent(), &arguments),
        Command::Bench {
            agreement,
            arguments,
        } => return bench::run(&places, agreement.consent(), &arguments),
        Command::Test {
            agreement,
            arguments,
        } => return Ok(close(test::run(&places, agreement.consent(), &arguments)?)),
        Command::Install { agreement, to } => package::install(&places, agreement.consent(), &to)?,
        Command::Place { to, binary } => package::place(&places, &to, &binary)?,
        Command::Uninstall { to } => package::uninstall(&places, &to)?,
        Command::Deb { agreement, how } => package::deb(&places, agreement.consent(), &how)?,
        Command::Ci(agreement) => return Ok(close(ci::run(&places, agreement.consent())?)),
        Command::Vm { kernel, agreement } => {
            return Ok(close(vm::run(&places, agreement.consent(), &kernel)?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the closing line.
fn close(summary: Summary) -> ExitCode {
    println!("{summary}");
    ExitCode::from(u8::from(summary.failed > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
