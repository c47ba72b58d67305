//! The TOML file, with errors that name file, line and key.

use std::{ffi::OsString, fs, io, path::Path};

use clap::ArgAction;
use toml::de::{DeTable, DeValue};

use super::{
    check, parser,
    source::{Entry, Origin},
};
use crate::error::{Error, Result};

/// Reads a file that must exist.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(e) => Err(Error::invalid(format!("config {}: {e}", path.display()))),
    }
}

/// Reads a file that may be missing.
pub fn read_if_there(path: &Path) -> Result<Vec<Entry>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        _ => read(path),
    }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Entry>> {
    let line = |at: usize| text.get(..at).unwrap_or(text).matches('\n').count() + 1;
    let wrong = |at: usize, reason: &str| {
        Error::invalid(format!("{}:{}: {reason}", path.display(), line(at)))
    };
    let table = DeTable::parse(text).map_err(|e| {
        let span = e.span().unwrap_or_default();
        let what = text.get(span.clone()).unwrap_or_default();
        match what.contains('\n') || what.is_empty() {
            true => wrong(span.start, e.message()),
            false => wrong(span.start, &format!("{what}: {}", e.message())),
        }
    })?;
    let mut entries = Vec::new();
    for (key, value) in table.get_ref() {
        let at = key.span().start;
        let key = key.get_ref().as_ref();
        let Some(action) = action_of(key) else {
            return Err(wrong(at, &unknown(key)));
        };
        let values = values(value.get_ref());
        let values = values.map_err(|what| wrong(at, &format!("{key}: {what}")))?;
        let is_list = matches!(action, ArgAction::Append);
        match values.len() {
            // An empty list says nothing.
            0 => continue,
            2.. if !is_list => return Err(wrong(at, &format!("{key}: one value is wanted"))),
            _ => {}
        }
        let origin = Origin::File {
            path: path.into(),
            line: line(at),
        };
        entries.push(check(Entry {
            key: key.to_owned(),
            origin,
            values,
        })?);
    }
    Ok(entries)
}

fn action_of(key: &str) -> Option<ArgAction> {
    let parser = parser();
    let mut all = parser.get_arguments();
    let arg = all.find(|arg| arg.get_long() == Some(key))?;
    Some(arg.get_action().clone())
}

fn unknown(key: &str) -> String {
    let known = super::flags();
    let near = known
        .iter()
        .filter(|known| *known != "config")
        .map(|known| (strsim::jaro_winkler(key, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        // As near as the parser of the command line has it.
        Some((likeness, known)) if likeness > 0.8 => {
            format!("unknown key {key:?}: is {known:?} meant?")
        }
        _ => format!("unknown key {key:?}"),
    }
}

/// A value, or those of a list, as they would be typed.
fn values(value: &DeValue<'_>) -> Result<Vec<OsString>, &'static str> {
    match value {
        DeValue::Array(items) => items
            .iter()
            .map(|item| one(item.get_ref()).ok_or("a list is of strings and numbers"))
            .collect(),
        value => match one(value) {
            Some(value) => Ok(vec![value]),
            None => Err("a string, number, boolean or list is wanted"),
        },
    }
}

fn one(value: &DeValue<'_>) -> Option<OsString> {
    match value {
        DeValue::String(text) => Some(text.as_ref().into()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string().into())
        }
        DeValue::Float(number) => Some(number.as_str().into()),
        DeValue::Boolean(value) => Some(value.to_string().into()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
