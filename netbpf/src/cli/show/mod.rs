//! What each answer looks like.

mod endpoint;
mod event;
mod finding;
mod network;
mod node;
mod observe;
mod port;
mod setting;
mod upgrade;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::{
    endpoint::{Detached, Details},
    network::Named,
    port::PortsOf,
};
use super::output::Show;
use crate::model::Labels;

/// Done, and there is nothing to say; `{}` with `-j`.
#[derive(Serialize, JsonSchema)]
pub struct Nothing {}

impl Show for Nothing {
    fn human(&self, _: Option<u16>) -> String {
        String::new()
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

fn labels(labels: &Labels) -> impl Iterator<Item = String> + '_ {
    labels.iter().map(|(key, value)| format!("{key}={value}"))
}

/// A value, or nothing.
fn or_empty(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// A dash where a column has nothing to say.
fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}
