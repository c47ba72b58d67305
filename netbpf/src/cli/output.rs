//! Where answers go: text for people, JSON for programs, names for scripts.

use std::{
    cell::RefCell,
    fmt,
    io::{self, IsTerminal, Write},
};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

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
    terminal: bool,
    to: RefCell<Box<dyn Write>>,
}

impl Output {
    pub fn stdout(mode: Mode) -> Self {
        Output {
            mode,
            terminal: io::stdout().is_terminal(),
            to: RefCell::new(Box::new(io::stdout())),
        }
    }

    /// Not a terminal.
    #[cfg(test)]
    pub fn to(mode: Mode, to: impl Write + 'static) -> Self {
        Output {
            mode,
            terminal: false,
            to: RefCell::new(Box::new(to)),
        }
    }

    pub fn show(&self, value: &impl Show) -> io::Result<()> {
        let text = self.render(value)?;
        let mut to = self.to.borrow_mut();
        to.write_all(text.as_bytes())?;
        to.flush()
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
        self.terminal.then(|| Table::new().width()).flatten()
    }
}

/// Columns without borders, as docker and iproute2 print them. Within a
/// terminal long cells are wrapped, elsewhere a row is a line.
pub struct Columns {
    table: Table,
}

impl Columns {
    pub fn new(width: Option<u16>, header: &[&str]) -> Self {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .force_no_tty()
            .set_header(header);
        match width {
            Some(width) => table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Columns { table }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| plain(&cell)).collect();
        self.table.add_row(cells);
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Lines of a key and its value; those without a value are left out.
#[derive(Default)]
pub struct Lines {
    lines: Vec<(&'static str, String)>,
}

impl Lines {
    pub fn add(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        let value = plain(&value.to_string());
        if !value.is_empty() {
            self.lines.push((key, value));
        }
        self
    }

    /// One line for each value, the key before the first.
    pub fn each(mut self, key: &'static str, values: impl IntoIterator<Item = String>) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            let key = if index == 0 { key } else { "" };
            self.lines.push((key, plain(&value)));
        }
        self
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|(key, _)| key.len()).max();
        for (key, value) in &self.lines {
            writeln!(f, "{key:width$}  {value}", width = width.unwrap_or(0))?;
        }
        Ok(())
    }
}

/// Without control characters: a label must not be able to steer a terminal.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(width: Option<u16>) -> String {
        let mut columns = Columns::new(width, &["NAME", "PORTS"]);
        columns.row([
            "web".into(),
            "0.0.0.0:8080->80/tcp, 0.0.0.0:8443->443/tcp".into(),
        ]);
        columns.row(["database".into(), String::new()]);
        columns.to_string()
    }

    #[test]
    fn rows_are_lines_where_there_is_no_terminal() {
        let expected = "\
NAME      PORTS
web       0.0.0.0:8080->80/tcp, 0.0.0.0:8443->443/tcp
database
";
        assert_eq!(columns(None), expected);
    }

    #[test]
    fn rows_fit_the_terminal() {
        let text = columns(Some(40));
        assert!(
            text.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
        assert!(text.lines().count() > 3, "{text}");
    }

    #[test]
    fn values_cannot_steer_the_terminal() {
        let text = Lines::default().add("label", "a\u{1b}[2Jb\nc").to_string();
        assert_eq!(text, "label  a [2Jb c\n");
    }
}
