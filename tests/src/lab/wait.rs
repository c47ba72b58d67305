//! Waiting for what becomes true, with an end.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Longer than anything takes that comes at once, on a machine that has much to do, too.
/// It is no promise: where something is promised, a test says within which time.
pub const SOON: Duration = Duration::from_secs(10);

/// Whether `condition` becomes true within that time.
pub fn until(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        // One look may take all of the time: what became true meanwhile counts.
        let is_last = Instant::now() >= deadline;
        if condition() {
            return true;
        }
        if is_last {
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
