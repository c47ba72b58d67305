//! Log lines on stderr: of the daemon, and of the client under `-v`.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::args::Global;
use crate::{
    config::{Config, LogLevel, Origin},
    error::{Error, Result},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// The log of this process.
pub struct Log {
    change: Change,
}

type Change = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

impl Log {
    /// What is told from now on.
    pub fn set(&self, directives: &str) -> Result<()> {
        (self.change)(filter(directives)?).map_err(Error::internal)
    }
}

/// Starts logging.
pub fn start(format: LogFormat, directives: &str) -> Result<Log> {
    let filter = filter(directives)?;
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !no_color());
    // There is one already where a test runs several commands in one process.
    let change: Change = match format {
        LogFormat::Text => {
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()))
        }
        LogFormat::Json => {
            let builder = builder.json().with_env_filter(filter);
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string()))
        }
    };
    Ok(Log { change })
}

fn filter(directives: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(directives)
        .map_err(|e| Error::invalid(format!("RUST_LOG {directives:?}: {e}")))
}

/// What the daemon tells: `-v` and `-q` beat `--log-level` and its variable, which
/// beat `RUST_LOG`, which beats the file.
pub fn of_daemon(global: &Global, config: &Config) -> String {
    let from_environment = std::env::var("RUST_LOG").ok();
    daemon_directives(
        global.verbose,
        global.quiet,
        (config.log_level, config.origin("log-level")),
        from_environment.as_deref(),
    )
}

/// What a client tells.
pub fn of_client(global: &Global) -> String {
    let from_environment = std::env::var("RUST_LOG").ok();
    let from_environment = from_environment.filter(|text| !text.is_empty());
    match global.verbose {
        0 => from_environment.unwrap_or_else(|| "warn".into()),
        1 => of_level(LogLevel::Debug).into(),
        _ => of_level(LogLevel::Trace).into(),
    }
}

fn daemon_directives(
    verbose: u8,
    quiet: bool,
    configured: (LogLevel, &Origin),
    from_environment: Option<&str>,
) -> String {
    let from_environment = from_environment.filter(|text| !text.is_empty());
    let (level, origin) = configured;
    let own = match (verbose, quiet, origin, from_environment) {
        (0, true, ..) => of_level(LogLevel::Warn),
        (0, false, Origin::Flag | Origin::Environment(_), _) => of_level(level),
        (0, false, _, Some(directives)) => directives,
        (0, false, _, None) => of_level(level),
        (1, ..) => of_level(LogLevel::Debug),
        _ => of_level(LogLevel::Trace),
    };
    own.into()
}

/// Of what others in this process tell, one level less.
fn of_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "info,netbpf=debug",
        LogLevel::Trace => "debug,netbpf=trace",
    }
}

/// <https://no-color.org>: set, and not empty.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = Origin::File {
            path: "f".into(),
            line: 1,
        };
        let variable = Origin::Environment("NETBPF_LOG_LEVEL".into());
        let default = (LogLevel::Info, &Origin::Default);
        let set = |origin| (LogLevel::Error, origin);
        let rows = [
            ((0, false), default, None, "info"),
            ((0, false), default, Some(""), "info"),
            ((0, false), default, Some("trace"), "trace"),
            ((0, false), set(&file), None, "error"),
            ((0, false), set(&file), Some("trace"), "trace"),
            ((0, false), set(&variable), Some("trace"), "error"),
            ((0, false), set(&Origin::Flag), Some("trace"), "error"),
            ((0, true), set(&Origin::Flag), Some("trace"), "warn"),
            (
                (1, false),
                set(&Origin::Flag),
                Some("error"),
                "info,netbpf=debug",
            ),
            ((2, true), default, None, "debug,netbpf=trace"),
        ];
        for ((verbose, quiet), configured, environment, expected) in rows {
            let directives = daemon_directives(verbose, quiet, configured, environment);
            assert_eq!(directives, expected, "{configured:?} {environment:?}");
        }
    }
}
