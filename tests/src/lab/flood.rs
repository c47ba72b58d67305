//! Many frames from one device, in a thread, at a bounded rate and for a bounded time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Namespace, Wiretap};

/// Frames between two pauses of a millisecond.
const BURST: usize = 25;

/// The longest that a flood goes on.
const LONGEST: Duration = Duration::from_secs(20);

/// A running flood; ends when dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends these frames over and over, some 20,000 a second.
    #[track_caller]
    pub fn start(space: &Namespace, device: &str, frames: Vec<Vec<u8>>) -> Flood {
        let wire = Wiretap::sender(space, device);
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (stop, sent) = (stop.clone(), sent.clone());
            move || {
                let end = Instant::now() + LONGEST;
                for burst in frames.chunks(BURST).cycle() {
                    if stop.load(Ordering::Relaxed) || Instant::now() > end {
                        return;
                    }
                    for frame in burst {
                        wire.send(frame);
                    }
                    sent.fetch_add(burst.len() as u64, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Flood {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Frames so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}
