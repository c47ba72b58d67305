//! Why a command did not do what was asked: one line on stderr and an exit code.

use std::{io, process::ExitCode};

use clap::error::ErrorKind;

use crate::{
    client::ClientError,
    error::{Code, Error, shown},
    model::{ErrorBody, ErrorInfo},
};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Refused(#[from] Error),
    /// What was typed cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// One line for each; what did not fail is done.
    #[error("{} things failed", .0.len())]
    Several(Vec<Failure>),
    /// Errors that were looked for, and are told of on standard output.
    #[error("{0} errors found")]
    Found(usize),
    /// Of standard output, or of the runtime.
    #[error("{0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The number that [`Failure::exit_code`] is made of.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Client(ClientError::Unreachable { .. } | ClientError::Lost { .. }) => 3,
            Failure::Several(all) => all.iter().map(Failure::status).max().unwrap_or(1),
            Failure::Client(_) | Failure::Refused(_) | Failure::Found(_) | Failure::Output(_) => 1,
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    /// Code and message, the message on one line.
    pub fn info(&self) -> ErrorInfo {
        let code = match self {
            Failure::Client(ClientError::Refused(info) | ClientError::Busy { info, .. }) => {
                info.code.clone()
            }
            Failure::Client(ClientError::Unreachable { .. } | ClientError::Lost { .. }) => {
                Code::Unavailable.as_str().into()
            }
            Failure::Client(_) | Failure::Output(_) | Failure::Found(_) | Failure::Several(_) => {
                Code::Internal.as_str().into()
            }
            Failure::Refused(error) => error.code.as_str().into(),
            Failure::Usage(_) => Code::InvalidArgument.as_str().into(),
        };
        ErrorInfo {
            code,
            message: one_line(&self.to_string()),
        }
    }

    /// The line that is printed, as text or JSON.
    pub fn line(&self, json: bool) -> String {
        let error = self.info();
        if json {
            // Two strings cannot fail to be JSON.
            serde_json::to_string(&ErrorBody { error }).unwrap_or_default()
        } else {
            format!("netbpf: {}", error.message)
        }
    }

    pub fn print(&self, json: bool) {
        use io::Write;
        match self {
            Failure::Several(all) => return all.iter().for_each(|failure| failure.print(json)),
            Failure::Found(_) => return,
            _ => {}
        }
        // Nobody is left to be told that stderr is closed.
        let _ = writeln!(io::stderr(), "{}", self.line(json));
    }
}

/// A text of several lines, as parsers write them, in one ([`shown`]).
pub fn one_line(text: &str) -> String {
    shown(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The parser's error in one line, with the command whose help says more.
pub fn usage_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing (see netbpf --help)".into();
    }
    let text = error.render().to_string();
    let (_, usage) = text.split_once("\n\nUsage:").unwrap_or((&text, "netbpf"));
    // The usage line begins with the command's words.
    let command: Vec<&str> = usage
        .split_whitespace()
        .take_while(|word| !word.starts_with(['-', '<', '[']))
        .collect();
    format!("{} (see {} --help)", usage_reason(error), command.join(" "))
}

/// The parser's error in one line.
pub fn usage_reason(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more information"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .unwrap_or(text.len());
    one_line(&text[..end])
}
