//! A line on stderr while something takes long.

use std::{
    future::Future,
    io::{self, Write},
    pin::pin,
    time::Duration,
};

use super::table::terminal_width;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// What is quicker is not worth a word.
const PATIENCE: Duration = Duration::from_millis(400);
const STEP: Duration = Duration::from_millis(100);

/// Does the work; while it takes longer than a moment, a line says what it is and
/// for how long it has run. The line is gone when the work is done.
pub async fn during<T>(what: &str, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let mut ticks = interval_at(began + PATIENCE, STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut work = pin!(work);
    // A line that is wrapped could not be taken back.
    let room = usize::from(terminal_width().unwrap_or(80)) - 1;
    let mut shown = false;
    let mut turns = ['|', '/', '-', '\\'].into_iter().cycle();
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = ticks.tick() => {
                let turn = turns.next().unwrap_or('|');
                let seconds = began.elapsed().as_secs();
                let line = format!("{turn} {what} ({seconds} s)");
                let line: String = line.chars().take(room).collect();
                write(&format!("\r\u{1b}[K{line}"));
                shown = true;
            }
        }
    };
    if shown {
        write("\r\u{1b}[K");
    }
    done
}

/// Nobody has to see it.
fn write(text: &str) {
    let mut stderr = io::stderr();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}
