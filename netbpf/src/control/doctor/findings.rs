//! What a check has found.

use std::fmt::Display;

use crate::{
    model::{Check, Finding, Severity},
    store::EndpointRecord,
};

/// The findings of one check.
pub struct Findings {
    check: Check,
    all: Vec<Finding>,
}

impl Findings {
    pub fn of(check: Check) -> Findings {
        Findings {
            check,
            all: Vec::new(),
        }
    }

    pub fn error(&mut self, object: impl Display, message: impl Display, advice: impl Display) {
        self.add(Severity::Error, object, message, advice);
    }

    pub fn warning(&mut self, object: impl Display, message: impl Display, advice: impl Display) {
        self.add(Severity::Warning, object, message, advice);
    }

    pub fn ok(&mut self, object: impl Display, message: impl Display) {
        self.add(Severity::Ok, object, message, "");
    }

    /// What could not be looked at.
    pub fn unseen(&mut self, object: impl Display, error: impl Display) {
        self.warning(
            object,
            format!("it cannot be looked at: {error}"),
            "run it as root, in the daemon's namespaces",
        );
    }

    fn add(
        &mut self,
        severity: Severity,
        object: impl Display,
        message: impl Display,
        advice: impl Display,
    ) {
        self.all.push(Finding {
            check: self.check,
            severity,
            object: object.to_string(),
            message: message.to_string(),
            advice: advice.to_string(),
        });
    }

    /// All of them; where there is none, that all is well.
    pub fn or_ok(mut self, object: impl Display, message: impl Display) -> Vec<Finding> {
        if self.all.is_empty() {
            self.ok(object, message);
        }
        self.all
    }

    pub fn all(self) -> Vec<Finding> {
        self.all
    }
}

/// An endpoint as findings name it.
pub fn endpoint(record: &EndpointRecord) -> String {
    format!("endpoint {} on {}", record.name, record.network)
}

/// `1 endpoint`, `2 endpoints`.
pub fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// What the daemon does by itself.
pub const PUT_BACK: &str = "the daemon puts it back within half a minute; where it comes undone again, look for who does that";

/// What the daemon does at each start.
pub const RESTART: &str = "restart the daemon, which puts it right: traffic goes on meanwhile";

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Severity and object of each.
    pub fn short(findings: &[Finding]) -> Vec<(Severity, &str)> {
        let each = findings.iter();
        each.map(|f| (f.severity, f.object.as_str())).collect()
    }

    #[test]
    fn nothing_found_is_said_so() {
        let found = Findings::of(Check::Map).or_ok("maps", "as they should be");
        assert_eq!(short(&found), [(Severity::Ok, "maps")]);
        let mut findings = Findings::of(Check::Map);
        findings.error("map ports", "x", "y");
        let found = findings.or_ok("maps", "as they should be");
        assert_eq!(short(&found), [(Severity::Error, "map ports")]);
    }
}
