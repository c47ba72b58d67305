//! Tables: columns without borders, as docker and iproute2 print them.

use std::fmt;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

use super::{lines::Lines, plain};

/// Spaces between columns.
const GAP: u16 = 2;

/// Columns of the terminal on stdout, where it is one.
pub fn terminal_width() -> Option<u16> {
    Table::new().width().filter(|width| *width > 0)
}

/// Within a terminal cells are wrapped between words, and where not even the words
/// have room each row becomes a block of lines. Elsewhere a row is a line.
pub struct Columns {
    width: Option<u16>,
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub fn new(width: Option<u16>, header: &[&'static str]) -> Self {
        Columns {
            width,
            header: header.into(),
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// Of each column, the width of its longest word.
    fn least(&self) -> Vec<u16> {
        let words = |index: usize| {
            let cells = self.rows.iter().filter_map(move |row| row.get(index));
            let cells = cells.map(String::as_str);
            cells
                .chain([self.header[index]])
                .flat_map(str::split_whitespace)
        };
        (0..self.header.len())
            .map(|index| {
                let longest = words(index).map(|word| word.chars().count()).max();
                u16::try_from(longest.unwrap_or(0)).unwrap_or(u16::MAX)
            })
            .collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .force_no_tty()
            .set_header(&self.header);
        match self.width {
            Some(width) => table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        let last = self.header.len().saturating_sub(1);
        for (index, (column, least)) in table.column_iter_mut().zip(self.least()).enumerate() {
            // What follows the last column is nothing.
            let gap = if index == last { 0 } else { GAP };
            column.set_padding((0, gap));
            if self.width.is_some() {
                let least = Width::Fixed(least.saturating_add(gap));
                column.set_constraint(ColumnConstraint::LowerBoundary(least));
            }
        }
        table.add_rows(&self.rows);
        table
    }

    fn blocks(&self, width: u16) -> String {
        let block = |row: &Vec<String>| {
            let cells = self.header.iter().zip(row);
            let lines = Lines::within(Some(width)).for_keys(&self.header);
            cells
                .fold(lines, |lines, (key, value)| lines.add(key, value))
                .to_string()
        };
        let blocks: Vec<String> = self.rows.iter().map(block).collect();
        blocks.join("\n")
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gaps = GAP.saturating_mul(self.header.len().saturating_sub(1) as u16);
        let least = self.least().into_iter().fold(gaps, u16::saturating_add);
        if let Some(width) = self.width
            && width < least
            && !self.rows.is_empty()
        {
            return f.write_str(&self.blocks(width));
        }
        for line in self.table().lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(columns(Some(200)), expected);
    }

    #[test]
    fn rows_fit_the_terminal_word_by_word() {
        let expected = "\
NAME      PORTS
web       0.0.0.0:8080->80/tcp,
          0.0.0.0:8443->443/tcp
database
";
        assert_eq!(columns(Some(40)), expected);
    }

    #[test]
    fn a_narrow_terminal_has_blocks_instead() {
        let expected = "\
NAME   web
PORTS  0.0.0.0:8080->80/tcp,
       0.0.0.0:8443->443/tcp

NAME   database
";
        assert_eq!(columns(Some(30)), expected);
        // The words stay whole: who copies an address gets all of it.
        assert!(columns(Some(9)).contains("0.0.0.0:8443->443/tcp"));
    }

    #[test]
    fn an_empty_table_is_its_header() {
        let columns = Columns::new(Some(4), &["NAME", "PORTS"]);
        assert!(columns.to_string().contains("PORTS"));
    }

    proptest! {
        #[test]
        fn nothing_is_cut_and_nothing_is_wider_than_the_terminal(
            width in 1_u16..200,
            rows in proptest::collection::vec(
                proptest::collection::vec("[a-z0-9.:,/>-]{0,12}( [a-z0-9.:]{1,12}){0,4}", 4), 0..5),
        ) {
            let mut columns = Columns::new(Some(width), &["NAME", "IPV4", "HOST INTERFACE", "PORTS"]);
            for row in &rows {
                columns.row(row.clone());
            }
            let text = columns.to_string();
            let words = rows.iter().flatten().flat_map(|cell| cell.split_whitespace());
            for word in words.clone() {
                prop_assert!(text.contains(word), "{word:?} is cut:\n{text}");
            }
            // `INTERFACE`, the longest word of the header, and a block's key.
            let longest = words.map(str::len).max().unwrap_or(0).max(9) + 16;
            if usize::from(width) >= longest && !rows.is_empty() {
                for line in text.lines() {
                    prop_assert!(line.len() <= width.into(), "{line:?} in {width}:\n{text}");
                }
            }
        }
    }
}
