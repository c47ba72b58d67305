//! Lines of a key and its value: one thing in full.

use std::fmt;

use super::plain;

/// Those without a value are left out. Within a terminal values are wrapped
/// between words.
#[derive(Default)]
pub struct Lines {
    width: Option<u16>,
    /// Of the keys, at least.
    key_width: usize,
    lines: Vec<(&'static str, String)>,
}

impl Lines {
    /// `width` is that of the terminal, if there is one.
    pub fn within(width: Option<u16>) -> Self {
        Lines {
            width,
            ..Lines::default()
        }
    }

    /// Aligned for these keys, whether or not each has a value.
    pub fn for_keys(mut self, keys: &[&str]) -> Self {
        self.key_width = keys.iter().map(|key| key.len()).max().unwrap_or(0);
        self
    }

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
        let keys = self.lines.iter().map(|(key, _)| key.len());
        let key_width = keys.max().unwrap_or(0).max(self.key_width);
        for (key, value) in &self.lines {
            let room = self
                .width
                .map(|width| usize::from(width).saturating_sub(key_width + 2));
            for (index, part) in wrap(value, room).into_iter().enumerate() {
                let key = if index == 0 { key } else { "" };
                writeln!(f, "{key:key_width$}  {part}")?;
            }
        }
        Ok(())
    }
}

/// Parts of at most `room` characters, words whole.
fn wrap(text: &str, room: Option<usize>) -> Vec<String> {
    let Some(room) = room.filter(|room| text.chars().count() > *room) else {
        return vec![text.into()];
    };
    let mut parts: Vec<String> = Vec::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let more = word.chars().count();
        match parts.last_mut() {
            Some(part) if length + 1 + more <= room => {
                part.push(' ');
                part.push_str(word);
                length += 1 + more;
            }
            _ => {
                parts.push(word.into());
                length = more;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_steer_the_terminal() {
        let text = Lines::default().add("label", "a\u{1b}[2Jb\nc").to_string();
        assert_eq!(text, "label  a [2Jb c\n");
    }

    #[test]
    fn long_values_are_wrapped_in_a_terminal_alone() {
        let lines = |width| {
            Lines::within(width)
                .add("note", "there is no uplink on this host")
                .to_string()
        };
        assert_eq!(lines(None), "note  there is no uplink on this host\n");
        assert_eq!(
            lines(Some(24)),
            "note  there is no uplink\n      on this host\n"
        );
    }
}
