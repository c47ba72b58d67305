//! The command line: a thin client of the daemon's API, and the way to start
//! the daemon. [`args`] is the one definition of what can be typed.

pub mod args;
mod commands;
mod failure;
pub mod generate;
mod later;
mod logging;
mod output;
mod show;
#[cfg(test)]
mod tests;
mod top;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::integrations;

use self::{
    args::{Cli, Command},
    failure::{Failure, usage_line},
    output::{Mode, Output},
};
pub use self::{
    failure::usage_reason,
    logging::{Log, LogFormat},
};

/// Runs what `arguments` say, the program's own name first, and returns its
/// exit code: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if is_called(&arguments, "netbpf-cni") {
        return integrations::cni::main(None);
    }
    // Asked before parsing, as errors of parsing are told in JSON, too.
    let json = wants_json(&arguments);
    let done = match is_called(&arguments, "netbpf-netavark") {
        true => Err(later::feature("netbpf-netavark")),
        false => match Cli::try_parse_from(&arguments) {
            // It has its own form of answers and errors.
            Ok(Cli {
                command: Some(Command::Cni(_)),
                global,
            }) => {
                return integrations::cni::main(global.socket.as_deref());
            }
            Ok(cli) => command(cli, json),
            Err(error) => return not_parsed(&error, json),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads has seen enough (`netbpf ps | head -1`).
        Err(Failure::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(json);
            failure.exit_code()
        }
    }
}

fn command(cli: Cli, json: bool) -> Result<(), Failure> {
    let Some(command) = cli.command else {
        Cli::command().print_help()?;
        return Ok(());
    };
    let command = later::refuse(command)?;
    let mode = match (json, cli.global.quiet) {
        (true, _) => Mode::Json,
        (false, true) => Mode::Names,
        (false, false) => Mode::Human,
    };
    let output = Output::stdout(mode);
    if let Command::Daemon(args) = command {
        return commands::daemon(args, &cli.global, &output);
    }
    logging::start(LogFormat::Text, &logging::of_client(&cli.global))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(commands::run(command, &cli.global, &output))
}

/// Help and version are no errors; all else is wrong usage.
fn not_parsed(error: &clap::Error, json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is all that can happen here.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !json => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            let failure = Failure::Usage(usage_line(error));
            failure.print(json);
            failure.exit_code()
        }
    }
}

/// Whether `-j` or `--json` stands among the arguments, also in a cluster of
/// short flags such as `-qj`.
fn wants_json(arguments: &[OsString]) -> bool {
    arguments
        .iter()
        .skip(1)
        .filter_map(|argument| argument.to_str())
        .take_while(|argument| *argument != "--")
        .any(|argument| {
            argument == "--json"
                || argument.strip_prefix('-').is_some_and(|cluster| {
                    cluster.contains('j') && cluster.chars().all(|c| "jqvP".contains(c))
                })
        })
}

/// The program is a plug-in of others when it is called by that name.
fn is_called(arguments: &[OsString], plugin: &str) -> bool {
    let path = arguments.first().map(Path::new);
    path.and_then(Path::file_name) == Some(OsStr::new(plugin))
}
