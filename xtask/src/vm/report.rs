//! Reads the console of a virtual machine.

use crate::summary::Summary;
use std::fmt;

/// What the machine's init said.
#[derive(Debug, Default)]
pub struct Report {
    pub checks: Vec<Check>,
    /// It came to its end.
    pub done: bool,
}

/// A line `VM-RESULT name ok`, `VM-RESULT name failed why` or `… skipped why`.
#[derive(Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub outcome: Outcome,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// The console has carriage returns, and the kernel's own lines in between.
pub fn parse(console: &str) -> Report {
    let mut report = Report::default();
    for line in console.lines().map(str::trim) {
        if line == "VM-DONE" {
            report.done = true;
        } else if let Some(check) = line.strip_prefix("VM-RESULT ").and_then(parse_check) {
            report.checks.push(check);
        }
    }
    report
}

fn parse_check(text: &str) -> Option<Check> {
    let mut words = text.splitn(3, ' ');
    let name = words.next()?.to_owned();
    let outcome = match words.next()? {
        "ok" => Outcome::Passed,
        "skipped" => Outcome::Skipped,
        // Whatever else it is, it did not pass.
        _ => Outcome::Failed,
    };
    let why = words.next().unwrap_or_default().to_owned();
    Some(Check { name, outcome, why })
}

/// The end of the console, where a panic or a hang shows.
pub fn tail(console: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

impl Report {
    pub fn summary(&self) -> Summary {
        let count = |outcome| self.checks.iter().filter(|c| c.outcome == outcome).count();
        Summary {
            passed: count(Outcome::Passed),
            failed: count(Outcome::Failed),
            skipped: self
                .checks
                .iter()
                .filter(|check| check.outcome == Outcome::Skipped)
                .map(|check| (format!("vm {}", check.name), check.why.clone()))
                .collect(),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        write!(f, "{} {outcome}", self.name)?;
        if !self.why.is_empty() {
            write!(f, " ({})", self.why)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_from_the_kernels_noise() {
        let console = "[    0.1] Booting\r\nVM-RESULT load ok\r\nVM-RESULT publish-v6 failed wget: timed out\r\n\
            VM-RESULT tun skipped no module\r\nVM-DONE\r\n[   9.0] reboot: Power down\r\n";
        let report = parse(console);
        assert!(report.done);
        assert_eq!(
            report.summary().to_string(),
            "1 passed, 1 failed, 1 skipped"
        );
        assert_eq!(
            report.checks[1].to_string(),
            "publish-v6 FAILED (wget: timed out)"
        );
    }

    #[test]
    fn a_machine_that_stopped_is_not_done() {
        let report = parse("VM-RESULT load ok\nKernel panic - not syncing\n");
        assert!(!report.done);
    }

    #[test]
    fn tail_is_short() {
        let console = "line\n".repeat(200);
        assert_eq!(tail(&console).lines().count(), 60);
        assert_eq!(tail("one"), "one");
    }
}
