//! A steady stream of numbered datagrams, to see whether one gets lost while
//! something is done to the datapath.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Namespace, SOON, within};

/// A datagram every 10 ms to [`super::UdpEcho`].
pub struct Pulse {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    handle: JoinHandle<BTreeSet<u64>>,
}

impl Pulse {
    /// Starts and waits for the first answers.
    #[track_caller]
    pub fn start(space: &Namespace, address: IpAddr, port: u16) -> Pulse {
        let socket = space.udp(SocketAddr::new(address, port));
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, answered) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let handle = thread::spawn({
            let (stop, sent, answered) = (stop.clone(), sent.clone(), answered.clone());
            move || beat(&socket, &stop, &sent, &answered)
        });
        let pulse = Pulse {
            stop,
            sent,
            answered,
            handle,
        };
        pulse.wait_for_more("the pulse's first answers");
        pulse
    }

    /// Waits until ten more datagrams have been answered.
    #[track_caller]
    pub fn wait_for_more(&self, what: &str) {
        let goal = self.answered.load(Ordering::Relaxed) + 10;
        within(SOON, what, || self.answered.load(Ordering::Relaxed) >= goal);
    }

    /// Waits until that many more have been sent, answered or not.
    #[track_caller]
    pub fn wait_for_beats(&self, beats: u64) {
        let goal = self.sent.load(Ordering::Relaxed) + beats;
        within(SOON, "the pulse beats", || {
            self.sent.load(Ordering::Relaxed) >= goal
        });
    }

    /// Ends it; the numbers of those that were not answered.
    pub fn finish(self) -> BTreeSet<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.handle.join().expect("the pulse's thread")
    }

    /// Ends it; fails when one datagram was not answered.
    #[track_caller]
    pub fn finish_whole(self) {
        self.wait_for_more("the pulse goes on");
        let lost = self.finish();
        assert!(lost.is_empty(), "lost {} datagrams: {lost:?}", lost.len());
    }
}

fn beat(
    socket: &UdpSocket,
    stop: &AtomicBool,
    sent: &AtomicU64,
    answered: &AtomicU64,
) -> BTreeSet<u64> {
    const BEAT: Duration = Duration::from_millis(10);
    let mut waiting = BTreeSet::new();
    let take = |waiting: &mut BTreeSet<u64>, end: Instant| {
        let mut buffer = [0; 256];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            _ = socket.set_read_timeout(Some(left));
            let Ok(length) = socket.recv(&mut buffer) else {
                continue;
            };
            let text = String::from_utf8_lossy(&buffer[..length]);
            let number = text.split(' ').nth(1).and_then(|n| n.parse().ok());
            if number.is_some_and(|number: u64| waiting.remove(&number)) {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            if stop.load(Ordering::Relaxed) && waiting.is_empty() {
                return;
            }
        }
    };
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        waiting.insert(number);
        // A refusal (ICMP error for an earlier one) counts as not answered.
        _ = socket.send(number.to_string().as_bytes());
        sent.store(number, Ordering::Relaxed);
        take(&mut waiting, Instant::now() + BEAT);
    }
    if !waiting.is_empty() {
        take(&mut waiting, Instant::now() + Duration::from_secs(5));
    }
    waiting
}
