//! Counters of dropped packets: those that a test does not name must not move.

use std::collections::BTreeMap;

use netbpf::model::DropInfo;

use super::{
    Host,
    wait::{SOON, until},
};

/// What the kernel in a container sends on its own – router solicitations and
/// multicast listener reports – ends here at any time.
const HOUSEKEEPING: [&str; 2] = ["multicast", "link_local"];

/// The counters of a host at one moment.
pub struct Drops {
    host: Host,
    before: BTreeMap<String, u64>,
}

impl Drops {
    #[track_caller]
    pub(super) fn take(host: &Host) -> Drops {
        Drops {
            host: host.clone(),
            before: read(host),
        }
    }

    /// What was counted under a reason then, from the beginning.
    pub fn total(&self, reason: &str) -> u64 {
        self.before.get(reason).copied().unwrap_or(0)
    }

    /// What has been counted since, reasons that did not move left out.
    #[track_caller]
    pub fn since(&self) -> BTreeMap<String, u64> {
        let now = read(&self.host).into_iter();
        let moved = now.map(|(reason, count)| {
            let before = self.before.get(&reason).copied().unwrap_or(0);
            (reason, count - before)
        });
        moved.filter(|&(_, count)| count > 0).collect()
    }

    /// Waits until each of these reasons has been counted; fails when they are
    /// not, or when another one has.
    #[track_caller]
    pub fn only(&self, reasons: &[&str]) {
        let all = || {
            reasons
                .iter()
                .all(|&reason| self.since().contains_key(reason))
        };
        let complete = until(SOON, all);
        let since = self.since();
        assert!(complete, "expected drops for {reasons:?}, got {since:?}");
        self.only_among(reasons);
    }

    /// Fails when a reason other than these has been counted.
    #[track_caller]
    pub fn only_among(&self, reasons: &[&str]) {
        let mut others = self.since();
        others.retain(|reason, _| {
            !reasons.contains(&reason.as_str()) && !HOUSEKEEPING.contains(&reason.as_str())
        });
        assert!(others.is_empty(), "dropped besides {reasons:?}: {others:?}");
    }

    /// Fails when anything has been dropped.
    #[track_caller]
    pub fn none(&self) {
        self.only_among(&[]);
    }
}

#[track_caller]
fn read(host: &Host) -> BTreeMap<String, u64> {
    let drops: Vec<DropInfo> = host.json(&["drops"]);
    drops.into_iter().map(|d| (d.reason, d.packets)).collect()
}
