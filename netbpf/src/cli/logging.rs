//! Log lines on stderr: of the daemon, and of the client under `-v`.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// How much is told; the number is how often `-v` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Daemon { verbose: u8, quiet: bool },
    Client(u8),
}

/// Starts logging. `-v` and `-q` beat `RUST_LOG`, which beats the default.
pub fn start(format: LogFormat, level: Level) -> Result<()> {
    let from_environment = std::env::var("RUST_LOG").ok();
    let directives = directives(level, from_environment.as_deref());
    let filter = EnvFilter::try_new(&directives)
        .map_err(|e| Error::invalid(format!("RUST_LOG {directives:?}: {e}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !no_color());
    // There is one already where a test runs several commands in one process.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

/// <https://no-color.org>: set, and not empty.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn directives(level: Level, from_environment: Option<&str>) -> String {
    let (verbose, quiet, default) = match level {
        Level::Daemon { verbose, quiet } => (verbose, quiet, "info"),
        Level::Client(verbose) => (verbose, false, "warn"),
    };
    let own = match (verbose, quiet) {
        (0, false) => from_environment
            .filter(|text| !text.is_empty())
            .unwrap_or(default),
        (0, true) => "warn",
        (1, _) => "info,netbpf=debug",
        (_, _) => "debug,netbpf=trace",
    };
    own.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_beats_environment_beats_default() {
        let daemon = |verbose, quiet| Level::Daemon { verbose, quiet };
        assert_eq!(directives(daemon(0, false), None), "info");
        assert_eq!(directives(daemon(0, false), Some("")), "info");
        assert_eq!(directives(daemon(0, false), Some("trace")), "trace");
        assert_eq!(directives(daemon(0, true), Some("trace")), "warn");
        assert_eq!(
            directives(daemon(1, false), Some("error")),
            "info,netbpf=debug"
        );
        assert_eq!(directives(Level::Client(0), None), "warn");
    }
}
