//! Where a value comes from: flag, environment or file.

use std::{ffi::OsString, fmt, marker::PhantomData, path::PathBuf};

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

/// Who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    /// The variable.
    Environment(String),
    File {
        path: PathBuf,
        line: usize,
    },
    Default,
}

impl Origin {
    /// The reason why a key's value is refused, with the place to look at.
    pub fn blame(&self, key: &str, reason: &str) -> String {
        match self {
            Origin::Flag | Origin::Default => reason.into(),
            Origin::Environment(variable) => {
                format!("environment variable {variable}: {reason}")
            }
            Origin::File { path, line } => {
                format!("{}:{line}: {key}: {reason}", path.display())
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// What one place says of one key, as it would be typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub origin: Origin,
    pub values: Vec<OsString>,
}

impl Entry {
    pub fn flag(key: &str, values: Vec<OsString>) -> Entry {
        Entry {
            key: key.into(),
            origin: Origin::Flag,
            values,
        }
    }

    /// `--key=value`, for each value.
    pub fn as_flags(&self) -> impl Iterator<Item = OsString> + '_ {
        self.values.iter().map(|value| {
            let mut flag = OsString::from(format!("--{}=", self.key));
            flag.push(value);
            flag
        })
    }
}

/// The flags of `A` that were typed. To the parser, the help and the manual it is
/// `A` itself.
pub struct Given<A> {
    entries: Vec<Entry>,
    of: PhantomData<fn() -> A>,
}

impl<A> Given<A> {
    pub fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}

impl<A> fmt::Debug for Given<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

impl<A: Args> FromArgMatches for Given<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let parser = A::augment_args(Command::new("netbpf"));
        let typed = |arg: &&clap::Arg| {
            matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        };
        let entries = parser.get_arguments().filter(typed).filter_map(|arg| {
            let values = matches.get_raw(arg.get_id().as_str())?;
            let values = values.map(ToOwned::to_owned).collect();
            Some(Entry::flag(arg.get_long()?, values))
        });
        Ok(Given {
            entries: entries.collect(),
            of: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Given::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<A: Args> Args for Given<A> {
    fn augment_args(command: Command) -> Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        A::augment_args_for_update(command)
    }
}
