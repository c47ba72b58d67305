//! Sums up what test programs say of themselves.

use std::{collections::BTreeMap, fmt, iter::Sum, ops::Add};

/// Counts of tests. Prints as the closing line that scripts read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
    /// Tests that were left out, and why.
    pub skipped: BTreeMap<String, String>,
}

impl Summary {
    /// From everything that some test programs printed: their `test result:`
    /// lines, the tests that they name as ignored, and `skipped: TEST: WHY` from
    /// tests that found out at run time that the machine lacks something. Those end
    /// well, so the programs count them as passed; a test may skip several parts and
    /// counts once.
    pub fn parse(output: &str) -> Self {
        let mut sum: Self = output.lines().filter_map(result_line).sum();
        let found: BTreeMap<_, _> = output.lines().filter_map(skipped_line).collect();
        sum.passed = sum.passed.saturating_sub(found.len());
        sum.skipped = found;
        sum.skipped.extend(output.lines().filter_map(ignored_line));
        sum
    }

    /// Whether nothing was run.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn result_line(line: &str) -> Option<Summary> {
    let counts = line.split_once("test result: ")?.1;
    let count = |what: &str| {
        counts
            .split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
            .unwrap_or(0)
    };
    Some(Summary {
        passed: count("passed"),
        failed: count("failed"),
        skipped: BTreeMap::new(),
    })
}

/// `skipped: TEST: WHY`
fn skipped_line(line: &str) -> Option<(String, String)> {
    let (test, why) = named(line.strip_prefix("skipped: ")?, ": ");
    Some((test, why))
}

/// `test TEST ... ignored, WHY`
fn ignored_line(line: &str) -> Option<(String, String)> {
    let (test, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let (word, why) = named(rest, ", ");
    (word == "ignored").then(|| (test.to_owned(), why))
}

fn named(text: &str, separator: &str) -> (String, String) {
    let (name, why) = text.split_once(separator).unwrap_or((text, ""));
    (name.to_owned(), why.to_owned())
}

impl Add for Summary {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self
    }
}

impl Sum for Summary {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        let skipped = skipped.len();
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let output = "running 3 tests\n\
            test daemon::life ... ignored, runs within another\n\
            test daemon::ignored ... ok\n\
            test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            noise\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.00s\n";
        let summary = Summary::parse(output);
        assert_eq!(summary.to_string(), "15 passed, 2 failed, 1 skipped");
        assert_eq!(summary.skipped["daemon::life"], "runs within another");
    }

    #[test]
    fn skips_at_run_time_are_counted_once_and_not_as_passed() {
        let output = "skipped: udp_v6: no IPv6\nskipped: udp_v6: no IPv6 again\nskipped: vlan: no 802.1Q\n\
            test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        let summary = Summary::parse(output);
        assert_eq!(summary.to_string(), "3 passed, 0 failed, 2 skipped");
        assert_eq!(summary.skipped["vlan"], "no 802.1Q");
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(Summary::parse("").is_empty());
    }
}
