//! What a start of another version, or this one, would do to the datapath that is there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a program or map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpgradeInfo {
    pub kind: UpgradeKind,
    pub name: String,
    pub outcome: UpgradeOutcome,
    /// Why, where there is something to say.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeKind {
    Program,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeOutcome {
    /// Goes on as it is.
    Kept,
    /// Another takes its place wherever it is attached, each atomically.
    Replaced,
    /// There is none yet.
    Made,
    /// Another version's; it is neither used nor removed.
    Left,
    /// Its layout is another: the daemon would not start, and the datapath go on.
    Refused,
}

impl UpgradeKind {
    pub const fn label(self) -> &'static str {
        match self {
            UpgradeKind::Program => "program",
            UpgradeKind::Map => "map",
        }
    }
}

impl UpgradeOutcome {
    pub const fn label(self) -> &'static str {
        match self {
            UpgradeOutcome::Kept => "kept",
            UpgradeOutcome::Replaced => "replaced",
            UpgradeOutcome::Made => "made",
            UpgradeOutcome::Left => "left",
            UpgradeOutcome::Refused => "refused",
        }
    }
}
