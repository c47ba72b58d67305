//! The TOML file, with errors that name file, line and key.

use std::{fs, io, path::Path};

use super::Options;
use crate::error::{Error, Result};

/// Reads a file that must exist.
pub fn read(path: &Path) -> Result<Options> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(e) => Err(Error::invalid(format!("config {}: {e}", path.display()))),
    }
}

/// Reads a file that may be missing.
pub fn read_if_there(path: &Path) -> Result<Options> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Options::default()),
        _ => read(path),
    }
}

fn parse(path: &Path, text: &str) -> Result<Options> {
    toml::from_str(text).map_err(|e| {
        let start = e.span().map_or(0, |span| span.start.min(text.len()));
        let line = text[..start].matches('\n').count() + 1;
        let key = match key_at(text, line) {
            Some(key) => format!("{key}: "),
            None => String::new(),
        };
        Error::invalid(format!("{}:{line}: {key}{}", path.display(), e.message()))
    })
}

/// The key that the value on this line belongs to; an array may begin some
/// lines above.
fn key_at(text: &str, line: usize) -> Option<&str> {
    let lines: Vec<&str> = text.lines().take(line).collect();
    lines.into_iter().rev().find_map(|line| {
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (!key.is_empty() && key.chars().all(plain)).then_some(key)
    })
}
