//! What a start would do to the datapath that is there.

use super::{or_dash, or_empty};
use crate::{
    cli::output::{Columns, Show},
    model::{UpgradeInfo, UpgradeOutcome},
};

impl Show for Vec<UpgradeInfo> {
    fn human(&self, width: Option<u16>) -> String {
        if self.is_empty() {
            return "there is no datapath: a start makes one\n".into();
        }
        let mut columns = Columns::new(width, &["KIND", "NAME", "OUTCOME", "REASON"]);
        for one in self {
            columns.row([
                one.kind.label().into(),
                one.name.clone(),
                one.outcome.label().into(),
                or_dash(or_empty(one.reason.as_ref())),
            ]);
        }
        columns.to_string()
    }

    /// Of what does not stay as it is.
    fn names(&self) -> Vec<String> {
        self.iter()
            .filter(|one| one.outcome != UpgradeOutcome::Kept)
            .map(|one| format!("{} {} {}", one.outcome.label(), one.kind.label(), one.name))
            .collect()
    }
}
