//! What is made of the program itself: of the definition of the command line the
//! manual and the completions, of the types of its answers the schemas, of the
//! table of routes the OpenAPI document. Installation, packages and
//! `cargo xtask docs` take them from here (`netbpf generate DIR`), so that they
//! cannot drift from the code.

mod man;
mod schemas;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Command, CommandFactory, ValueEnum};

use super::args::{Cli, Shell};

/// A file that is made of the program itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Below the directory that it is written to.
    pub path: PathBuf,
    pub text: String,
}

/// The manual as `man/netbpf*.1`; the completions as `completions/netbpf.bash`,
/// `completions/_netbpf` and `completions/netbpf.fish`; `openapi.json`,
/// `metrics.md` and `schemas/COMMAND.json`.
pub fn files() -> Vec<File> {
    let pages = man::pages().into_iter().map(|(name, text)| File {
        path: format!("man/{name}.1").into(),
        text,
    });
    let completions = Shell::value_variants().iter().map(|&shell| File {
        path: format!("completions/{}", file_name(shell)).into(),
        text: completions(shell),
    });
    let schemas = schemas::all().into_iter().map(|(name, schema)| File {
        path: format!("schemas/{name}.json").into(),
        text: pretty(&schema),
    });
    let document = File {
        path: "openapi.json".into(),
        text: pretty(&crate::api::openapi()),
    };
    let metrics = File {
        path: "metrics.md".into(),
        text: crate::metrics::page(),
    };
    let pages = pages.chain(completions).chain(schemas);
    pages.chain([document, metrics]).collect()
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// The script that a shell reads.
pub fn completions(shell: Shell) -> String {
    use clap_complete::shells;

    let mut script = Vec::new();
    let (command, name) = (&mut visible(), "netbpf");
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, command, name, &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, command, name, &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, command, name, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// As each shell looks for it.
fn file_name(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => "netbpf.bash",
        Shell::Zsh => "_netbpf",
        Shell::Fish => "netbpf.fish",
    }
}

/// The definition without what is hidden: the generators of completions offer
/// hidden commands too.
fn visible() -> Command {
    fn without_hidden(command: &Command) -> Command {
        let mut copy = Command::new(command.get_name().to_owned())
            .disable_help_subcommand(true)
            .args(
                command
                    .get_arguments()
                    .filter(|arg| !arg.is_hide_set())
                    .cloned(),
            )
            .subcommands(
                command
                    .get_subcommands()
                    .filter(|sub| !sub.is_hide_set())
                    .map(without_hidden),
            );
        if let Some(about) = command.get_about() {
            copy = copy.about(about.clone());
        }
        if let Some(version) = command.get_version() {
            copy = copy.version(version.to_owned());
        }
        copy
    }
    without_hidden(&Cli::command())
}
