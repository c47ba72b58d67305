//! Time as flows store it: 32 bits of 2^24 nanoseconds.

/// A moment of `CLOCK_MONOTONIC` in units of 2^24 ns (16.8 ms).
///
/// Wraps after 834 days; compare with [`since`], never with `<`.
pub type Ticks = u32;

/// log2 of the nanoseconds in a tick.
pub const TICK_SHIFT: u32 = 24;

/// Ticks in a second, rounded down (59.6).
pub const TICKS_PER_SECOND: u32 = 59;

/// The tick of a `CLOCK_MONOTONIC` time in nanoseconds.
#[inline(always)]
pub const fn ticks(ns: u64) -> Ticks {
    (ns >> TICK_SHIFT) as u32
}

/// Ticks from `then` to `now`; 0 when `then` is up to half the range ahead,
/// which happens when two CPUs read the clock at the same time.
#[inline(always)]
pub const fn since(now: Ticks, then: Ticks) -> u32 {
    let d = now.wrapping_sub(then);
    if d > u32::MAX / 2 { 0 } else { d }
}

/// Milliseconds in so many ticks.
pub const fn ticks_to_millis(ticks: u32) -> u64 {
    ((ticks as u64) << TICK_SHIFT) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_over_the_wrap() {
        assert_eq!(since(3, u32::MAX - 1), 5);
        assert_eq!(since(10, 12), 0);
        assert_eq!(ticks_to_millis(TICKS_PER_SECOND), 989);
    }
}
