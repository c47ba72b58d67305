//! What the doctor found.

use super::or_dash;
use crate::{
    cli::output::{Columns, Show},
    model::{Finding, Severity},
};

impl Show for Vec<Finding> {
    fn human(&self, width: Option<u16>) -> String {
        let header = ["SEVERITY", "CHECK", "OBJECT", "FINDING", "WHAT TO DO"];
        let mut columns = Columns::new(width, &header);
        for finding in self {
            columns.row([
                finding.severity.label().into(),
                finding.check.label(),
                finding.object.clone(),
                finding.message.clone(),
                or_dash(finding.advice.clone()),
            ]);
        }
        columns.to_string()
    }

    /// Of what is not as it should be.
    fn names(&self) -> Vec<String> {
        self.iter()
            .filter(|finding| finding.severity != Severity::Ok)
            .map(|finding| {
                let (severity, check) = (finding.severity.label(), finding.check.label());
                format!("{severity} {check} {}", finding.object)
            })
            .collect()
    }
}
