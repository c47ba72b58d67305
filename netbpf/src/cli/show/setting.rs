//! The daemon's configuration, and what became of it when it was read anew.

use serde_json::Value;

use crate::{
    cli::output::{Columns, Show},
    model::{ReloadInfo, SettingChange, SettingInfo},
};

impl Show for Vec<SettingInfo> {
    fn human(&self, width: Option<u16>) -> String {
        let mut columns = Columns::new(width, &["KEY", "VALUE", "FROM"]);
        for setting in self {
            let from = setting.from.as_deref().unwrap_or("default");
            columns.row([setting.key.clone(), value(&setting.value), from.into()]);
        }
        columns.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|setting| setting.key.clone()).collect()
    }
}

impl Show for ReloadInfo {
    fn human(&self, width: Option<u16>) -> String {
        let mut columns = Columns::new(width, &["KEY", "BEFORE", "AFTER", ""]);
        let mut rows = |changes: &[SettingChange], what: &str| {
            for change in changes {
                let (before, after) = (value(&change.before), value(&change.after));
                columns.row([change.key.clone(), before, after, what.into()]);
            }
        };
        rows(&self.applied, "applied");
        rows(&self.needs_restart, "needs a restart");
        match self.applied.is_empty() && self.needs_restart.is_empty() {
            true => "nothing has changed\n".into(),
            false => columns.to_string(),
        }
    }

    fn names(&self) -> Vec<String> {
        let all = self.applied.iter().chain(&self.needs_restart);
        all.map(|change| change.key.clone()).collect()
    }
}

/// As it is written in the file, more or less.
fn value(value: &Value) -> String {
    match value {
        // The help says of each what that means.
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(self::value).collect();
            items.join(", ")
        }
        other => other.to_string(),
    }
}
