//! Waiting for what becomes true, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Whether `condition` becomes true within that time.
pub fn until(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Fails when `condition` does not become true within that time.
#[track_caller]
pub fn within(time: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(until(time, condition), "not within {time:?}: {what}");
}
