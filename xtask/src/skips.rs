//! Which tests may be left out on a machine that can run them all. Every other
//! skip there is a failure, so that a missing tool hides no test for long.

use crate::summary::Summary;

/// Name of the test, and why it may be skipped.
const MAY_BE_SKIPPED: [(&str, &str); 1] = [(
    "daemon::tests::life_in_a_process",
    "is the process that the tests of signals start",
)];

/// Counts skips that are not on the list as failures, and says so.
pub fn hold(summary: Summary) -> Summary {
    let (summary, unexpected) = judge(summary, &MAY_BE_SKIPPED);
    for (test, why) in &unexpected {
        eprintln!(
            "skipped, which is a failure here: {test}: {why}\n  remedy: bring what it lacks \
             (`cargo xtask setup`), or name it in xtask/src/skips.rs with its reason"
        );
    }
    summary
}

type Skip = (String, String);

fn judge(mut summary: Summary, allowed: &[(&str, &str)]) -> (Summary, Vec<Skip>) {
    let may = |test: &str| allowed.iter().any(|(name, _)| *name == test);
    let unexpected: Vec<Skip> = summary
        .skipped
        .iter()
        .filter(|(test, _)| !may(test))
        .map(|(test, why)| (test.clone(), why.clone()))
        .collect();
    for (test, _) in &unexpected {
        summary.skipped.remove(test);
    }
    summary.failed += unexpected.len();
    (summary, unexpected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_that_nobody_named_is_a_failure() {
        let summary = Summary::parse(
            "skipped: known: no IPv6\nskipped: maps: bpftool is not installed\n\
             test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        let (summary, unexpected) = judge(summary, &[("known", "there is none in CI")]);
        assert_eq!(summary.to_string(), "3 passed, 1 failed, 1 skipped");
        assert_eq!(unexpected.len(), 1);
        assert_eq!(unexpected[0].0, "maps");
    }

    #[test]
    fn each_on_the_list_has_a_reason() {
        for (test, why) in MAY_BE_SKIPPED {
            assert!(!why.is_empty(), "{test}");
        }
    }
}
