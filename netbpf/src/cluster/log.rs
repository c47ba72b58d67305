//! Which keys have changed lately: who follows the picture need not compare all of it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::{View, keys::Key};

/// Keys that are remembered; who lags further behind compares all.
const REMEMBERED: usize = 10_000;

/// A picture, and what is new in it.
#[derive(Clone, Debug)]
pub struct Changed {
    pub view: Arc<View>,
    /// To be handed in the next time.
    pub seen: u64,
    /// `None`: all may have changed.
    pub keys: Option<BTreeSet<Key>>,
}

#[derive(Debug)]
pub struct Log {
    keys: VecDeque<Key>,
    /// Number of the first of them.
    first: u64,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            keys: VecDeque::new(),
            // Who has seen nothing hands in 0.
            first: 1,
        }
    }
}

impl Log {
    pub fn add(&mut self, keys: Vec<Key>) {
        self.keys.extend(keys);
        let surplus = self.keys.len().saturating_sub(REMEMBERED);
        self.keys.drain(..surplus);
        self.first += surplus as u64;
    }

    /// All may have changed.
    pub fn restart(&mut self) {
        self.first = self.end() + 1;
        self.keys.clear();
    }

    pub fn end(&self) -> u64 {
        self.first + self.keys.len() as u64
    }

    pub fn since(&self, seen: u64) -> Option<BTreeSet<Key>> {
        let skip = usize::try_from(seen.checked_sub(self.first)?).ok()?;
        let known = skip <= self.keys.len();
        known.then(|| self.keys.iter().skip(skip).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: std::ops::Range<u32>) -> Vec<Key> {
        numbers.map(Key::Vni).collect()
    }

    #[test]
    fn what_is_new_is_known_until_it_is_too_much_or_all_is_listed_anew() {
        let mut log = Log::default();
        assert_eq!(log.since(0), None);
        log.restart();
        assert_eq!(log.since(0), None);
        let seen = log.end();
        assert_eq!(log.since(seen), Some(BTreeSet::new()));
        log.add(keys(1..3));
        log.add(keys(2..4));
        assert_eq!(log.since(seen), Some(keys(1..4).into_iter().collect()));
        let later = log.end();
        log.add(keys(7..8));
        assert_eq!(log.since(later), Some(keys(7..8).into_iter().collect()));
        log.add(keys(0..REMEMBERED as u32));
        assert_eq!(log.since(later), None);
        assert_eq!(
            log.since(later + 1).map(|keys| keys.len()),
            Some(REMEMBERED)
        );
        let last = log.end();
        log.restart();
        assert_eq!((log.since(last), log.since(u64::MAX)), (None, None));
    }
}
