//! What was put back, and when it may be again: whoever undoes it over and over is not
//! fought.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What it was that others had undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Address,
    Forwarding,
    Interface,
    Neighbour,
    Pin,
    Program,
    Route,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::Address,
        Kind::Forwarding,
        Kind::Interface,
        Kind::Neighbour,
        Kind::Pin,
        Kind::Program,
        Kind::Route,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Kind::Address => "address",
            Kind::Forwarding => "forwarding",
            Kind::Interface => "interface",
            Kind::Neighbour => "neighbour",
            Kind::Pin => "pin",
            Kind::Program => "program",
            Kind::Route => "route",
        }
    }
}

/// So often it is tried at once.
const AT_ONCE: u32 = 3;
/// Until it is tried once more, then.
const FIRST: Duration = Duration::from_secs(1);
/// It doubles up to this.
const LONGEST: Duration = Duration::from_secs(600);
/// What stayed for so long has nobody who undoes it.
const CALM: Duration = Duration::from_secs(1200);

#[derive(Clone, Copy, Debug)]
struct Tried {
    at: Instant,
    times: u32,
}

impl Tried {
    fn next(self) -> Instant {
        let wait = match self.times.checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(doubled) => FIRST * (1 << doubled.min(16)),
        };
        self.at + wait.min(LONGEST)
    }
}

#[derive(Default)]
struct Notes {
    counts: BTreeMap<Kind, u64>,
    tried: HashMap<String, Tried>,
}

/// Of this daemon, since it started.
#[derive(Default)]
pub struct Repairs(Mutex<Notes>);

impl Repairs {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Whole whatever panicked meanwhile.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to put this back.
    pub fn may(&self, what: &str, now: Instant) -> bool {
        let notes = self.notes();
        let tried = notes.tried.get(what);
        tried.is_none_or(|tried| now >= tried.next())
    }

    /// It was tried, with or without success.
    pub fn tried(&self, what: &str, now: Instant) {
        let mut notes = self.notes();
        notes.tried.retain(|_, tried| now < tried.at + CALM);
        let times = notes.tried.get(what).map_or(0, |tried| tried.times);
        let times = times.saturating_add(1);
        notes.tried.insert(what.into(), Tried { at: now, times });
    }

    pub fn count(&self, kind: Kind) {
        *self.notes().counts.entry(kind).or_default() += 1;
    }

    /// How much of each kind was put back.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let notes = self.notes();
        let count = |kind: Kind| notes.counts.get(&kind).copied().unwrap_or(0);
        Kind::ALL.map(|kind| (kind.label(), count(kind))).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_undone_again_is_put_back_less_and_less_often() {
        let repairs = Repairs::default();
        let start = Instant::now();
        // Somebody undoes it as soon as it is there, for an hour.
        let mut times = Vec::new();
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            if repairs.may("route x", now) {
                repairs.tried("route x", now);
                times.push(second);
            }
        }
        assert_eq!(times[..7], [0, 1, 2, 3, 5, 9, 17]);
        assert!(times.len() < 18, "{times:?}");
        let [.., last, end] = times[..] else { panic!() };
        assert_eq!(end - last, LONGEST.as_secs());
        // Nobody else waits for it.
        assert!(repairs.may("route y", start));
    }

    #[test]
    fn what_stayed_for_long_is_put_back_at_once() {
        let repairs = Repairs::default();
        let start = Instant::now();
        let mut now = start;
        for _ in 0..8 {
            repairs.tried("route x", now);
            now += Duration::from_secs(300);
        }
        now += CALM;
        repairs.tried("route y", now);
        assert!(repairs.may("route x", now));
        repairs.tried("route x", now);
        assert!(repairs.may("route x", now));
    }

    #[test]
    fn every_kind_is_counted_from_the_start() {
        let repairs = Repairs::default();
        repairs.count(Kind::Route);
        let counts = repairs.counts();
        assert_eq!(counts.len(), Kind::ALL.len());
        assert!(counts.contains(&("route", 1)) && counts.contains(&("pin", 0)));
    }
}
