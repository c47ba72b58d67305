//! Sums up what test programs say of themselves.

use std::{fmt, iter::Sum, ops::Add};

/// Counts of tests. Prints as the closing line that scripts read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl Summary {
    /// From everything that some test programs printed: their `test result:`
    /// lines, and `skipped: TEST: WHY` from tests that found out at run time that
    /// the machine lacks something. Those end well, so the programs count them
    /// as passed; a test may skip several parts and counts once.
    pub fn parse(output: &str) -> Self {
        let mut sum: Self = output.lines().filter_map(result_line).sum();
        let mut skips: Vec<&str> = output
            .lines()
            .filter_map(|line| line.strip_prefix("skipped: "))
            .map(|rest| rest.split(": ").next().unwrap_or(rest))
            .collect();
        skips.sort_unstable();
        skips.dedup();
        let moved = skips.len().min(sum.passed);
        sum.passed -= moved;
        sum.skipped += moved;
        sum
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
        skipped: count("ignored"),
    })
}

impl Add for Summary {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
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
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let output = "running 3 tests\n\
            test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            noise\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 1.00s\n";
        assert_eq!(
            Summary::parse(output).to_string(),
            "15 passed, 2 failed, 1 skipped"
        );
    }

    #[test]
    fn skips_at_run_time_are_counted_once_and_not_as_passed() {
        let output = "skipped: udp_v6: no IPv6\nskipped: udp_v6: no IPv6 again\nskipped: vlan: no 802.1Q\n\
            test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n";
        assert_eq!(
            Summary::parse(output).to_string(),
            "3 passed, 0 failed, 2 skipped"
        );
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(Summary::parse(""), Summary::default());
    }
}
