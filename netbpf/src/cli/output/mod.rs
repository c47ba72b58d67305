//! Where answers go: text for people, JSON for programs, names for scripts.

mod lines;
mod progress;
mod table;

use std::{
    cell::RefCell,
    future::Future,
    io::{self, IsTerminal, Write},
};

use serde::Serialize;

pub use self::{lines::Lines, table::Columns};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Human,
    Json,
    Names,
}

/// Something that a command can print.
pub trait Show: Serialize {
    /// For people, each line with its end; `width` is that of the terminal, if
    /// it is one.
    fn human(&self, width: Option<u16>) -> String;
    /// What `-q` leaves of it.
    fn names(&self) -> Vec<String>;
}

pub struct Output {
    mode: Mode,
    /// Whether it goes to a terminal.
    terminal: bool,
    /// Whether a person watches stderr.
    progress: bool,
    to: RefCell<Box<dyn Write>>,
}

impl Output {
    pub fn stdout(mode: Mode) -> Self {
        Output {
            mode,
            terminal: io::stdout().is_terminal(),
            progress: mode == Mode::Human && io::stderr().is_terminal(),
            to: RefCell::new(Box::new(io::stdout())),
        }
    }

    /// Not a terminal.
    #[cfg(test)]
    pub fn to(mode: Mode, to: impl Write + 'static) -> Self {
        Output {
            mode,
            terminal: false,
            progress: false,
            to: RefCell::new(Box::new(to)),
        }
    }

    pub fn show(&self, value: &impl Show) -> io::Result<()> {
        self.write(&self.render(value)?)
    }

    /// One of many values that come one by one: a line each, JSON too.
    pub fn show_line(&self, value: &impl Show) -> io::Result<()> {
        match self.mode {
            Mode::Json => self.write(&(serde_json::to_string(value)? + "\n")),
            Mode::Human | Mode::Names => self.show(value),
        }
    }

    /// Whether a person looks at it on a terminal.
    pub fn is_for_eyes(&self) -> bool {
        self.terminal && self.mode == Mode::Human
    }

    /// Between things of several lines.
    pub fn blank_line(&self) -> io::Result<()> {
        match self.mode {
            Mode::Human => self.write("\n"),
            Mode::Json | Mode::Names => Ok(()),
        }
    }

    /// Text that is the same for everybody.
    pub fn write(&self, text: &str) -> io::Result<()> {
        let mut to = self.to.borrow_mut();
        to.write_all(text.as_bytes())?;
        to.flush()
    }

    /// Does the work; when that takes long, a person is told what is waited for.
    pub async fn during<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        match self.progress {
            true => progress::during(what, work).await,
            false => work.await,
        }
    }

    fn render(&self, value: &impl Show) -> io::Result<String> {
        Ok(match self.mode {
            Mode::Human => value.human(self.width()),
            Mode::Names => value
                .names()
                .iter()
                .map(|name| plain(name) + "\n")
                .collect(),
            // A program reads lines, a person reads indentation.
            Mode::Json if self.terminal => serde_json::to_string_pretty(value)? + "\n",
            Mode::Json => serde_json::to_string(value)? + "\n",
        })
    }

    fn width(&self) -> Option<u16> {
        self.terminal.then(table::terminal_width).flatten()
    }
}

/// Without control characters: a label must not be able to steer a terminal.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
