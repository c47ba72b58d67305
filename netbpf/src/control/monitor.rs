//! What the programs tell, with names instead of numbers, to as many as want to hear
//! it. The programs tell only while somebody listens. One task reads for all; who is
//! too slow loses events and is told how many, so that nobody's slowness becomes the
//! daemon's memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures_util::{StreamExt, stream, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{
    Notify,
    broadcast::{self, error::RecvError},
    mpsc,
};

use super::{Inner, flows, seen::Seen};
use crate::{
    datapath::{self, EventRecord, Events, Happened},
    error::{Code, Error, Result},
    model::{EventFilter, EventInfo, EventKind},
    sys::process,
};

/// Events that wait for a reader; the oldest go when more come.
const WAITING: usize = 4096;

/// Events of the daemon itself that wait to be named.
const TOLD: usize = 1024;

/// Readers at a time.
const READERS: usize = 64;

/// What one reader gets.
pub type EventStream = BoxStream<'static, Arc<EventInfo>>;

type Shared = Arc<EventInfo>;

/// Who listens.
#[derive(Default)]
pub struct Monitor {
    listening: Mutex<Option<Listening>>,
    /// A reader has gone.
    left: Notify,
}

/// There is one while there is a reader.
struct Listening {
    sender: broadcast::Sender<Shared>,
    told: mpsc::Sender<EventRecord>,
    /// Held by each reader's seat as well.
    seats: Arc<()>,
}

impl Listening {
    fn readers(&self) -> usize {
        Arc::strong_count(&self.seats) - 1
    }
}

impl Monitor {
    fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        // Whole whatever panicked beside it.
        let listening = self.listening.lock();
        listening.unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who listen what no program can tell; waits while there is no room.
    /// Not to be called within the runtime.
    pub fn tell(&self, event: EventRecord) {
        let told = self.listening().as_ref().map(|l| l.told.clone());
        if let Some(told) = told {
            // Nobody listens any more: then it is of no use.
            let _ = told.blocking_send(event);
        }
    }
}

/// A reader among those who listen.
struct Seat {
    monitor: Arc<Monitor>,
    place: Option<Arc<()>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Before it is said, so that the last one is seen to be gone.
        self.place = None;
        self.monitor.left.notify_one();
    }
}

/// Listens from now on.
pub fn listen(inner: &Arc<Inner>, filter: EventFilter) -> Result<EventStream> {
    // A misspelt name would hear nothing for ever.
    let (endpoint, network) = (filter.endpoint.as_deref(), filter.network.as_deref());
    inner.seen().found(endpoint, network)?;
    let (receiver, seat) = sit_down(inner)?;
    let reader = (receiver, filter, seat);
    let events = stream::unfold(reader, async |(mut receiver, filter, seat)| {
        let event = next(&mut receiver, &filter).await?;
        Some((event, (receiver, filter, seat)))
    });
    Ok(events.boxed())
}

fn sit_down(inner: &Arc<Inner>) -> Result<(broadcast::Receiver<Shared>, Seat)> {
    let monitor = &inner.monitor;
    let mut listening = monitor.listening();
    let there = match &mut *listening {
        Some(there) if there.readers() >= READERS => {
            return Err(Error::new(
                Code::TooManyRequests,
                format!("{READERS} clients read events already"),
            ));
        }
        Some(there) => there,
        none => {
            let events = inner.datapath.listen()?;
            let (sender, _) = broadcast::channel(WAITING);
            let (told, tell) = mpsc::channel(TOLD);
            let read = read(
                Arc::downgrade(inner),
                monitor.clone(),
                events,
                tell,
                sender.clone(),
            );
            tokio::spawn(read);
            none.insert(Listening {
                sender,
                told,
                seats: Arc::default(),
            })
        }
    };
    let seat = Seat {
        monitor: monitor.clone(),
        place: Some(there.seats.clone()),
    };
    Ok((there.sender.subscribe(), seat))
}

/// The next event that is asked for; `None` at the end.
async fn next(receiver: &mut broadcast::Receiver<Shared>, filter: &EventFilter) -> Option<Shared> {
    loop {
        match receiver.recv().await {
            Ok(event) if is_wanted(&event, filter) => return Some(event),
            Ok(_) => {}
            Err(RecvError::Lagged(events)) => return Some(Arc::new(lost("slow_reader", events))),
            Err(RecvError::Closed) => return None,
        }
    }
}

/// What was lost concerns everybody.
fn is_wanted(event: &EventInfo, filter: &EventFilter) -> bool {
    let is = |wanted: &Option<String>, value: &Option<String>| {
        wanted.is_none() || wanted.as_ref() == value.as_ref()
    };
    event.event == EventKind::Lost
        || (!filter.drops || event.event == EventKind::Drop)
            && is(&filter.endpoint, &event.endpoint)
            && is(&filter.network, &event.network)
}

/// Reads for all who listen, until the last has gone.
async fn read(
    inner: Weak<Inner>,
    monitor: Arc<Monitor>,
    mut events: Events,
    mut told: mpsc::Receiver<EventRecord>,
    sender: broadcast::Sender<Shared>,
) {
    let mut records = VecDeque::new();
    let mut namer = Namer::default();
    loop {
        let lost_events = tokio::select! {
            lost = events.next(&mut records) => match lost {
                Ok(lost) => lost,
                Err(error) => {
                    tracing::error!(%error, "events are read no more");
                    *monitor.listening() = None;
                    return;
                }
            },
            Some(event) = told.recv() => {
                records.push_back(event);
                0
            }
            () = monitor.left.notified() => {
                let mut listening = monitor.listening();
                if listening.as_ref().is_some_and(|l| l.readers() > 0) {
                    continue;
                }
                *listening = None;
                // The programs are silent before anybody can listen anew.
                drop(events);
                return;
            }
        };
        let Some(seen) = inner.upgrade().map(|inner| inner.seen()) else {
            return;
        };
        namer.begin();
        for record in records.drain(..) {
            // Whether or not somebody is left to hear it.
            let _ = sender.send(Arc::new(namer.name(&seen, &record)));
        }
        if lost_events > 0 {
            let _ = sender.send(Arc::new(lost("buffer_full", lost_events)));
        }
    }
}

fn lost(why: &str, events: u64) -> EventInfo {
    EventInfo {
        time: shown(Timestamp::now()),
        event: EventKind::Lost,
        reason: Some(why.into()),
        endpoint: None,
        network: None,
        device: None,
        kind: None,
        family: None,
        protocol: None,
        src: None,
        dst: None,
        reply_src: None,
        reply_dst: None,
        length: None,
        lost: Some(events),
    }
}

fn shown(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// Finds the names that belong to numbers.
#[derive(Default)]
struct Namer {
    /// What was found once: the end of a flow may be told when its endpoint is gone.
    /// As many as there can be indexes.
    endpoints: HashMap<u32, (String, String)>,
    /// Of this batch: devices come and go.
    devices: HashMap<u32, Option<String>>,
    /// From `CLOCK_MONOTONIC` to the time of day, as of this batch.
    clock: Option<Timestamp>,
}

impl Namer {
    fn begin(&mut self) {
        self.devices.clear();
        let since_boot = process::monotonic().map(SignedDuration::try_from);
        self.clock = match since_boot {
            Ok(Ok(since)) => Timestamp::now().checked_sub(since).ok(),
            _ => None,
        };
    }

    fn name(&mut self, seen: &Seen, record: &EventRecord) -> EventInfo {
        if let Some(found) = seen.endpoints.get(&record.endpoint) {
            let names = self.endpoints.get(&record.endpoint);
            if names.is_none_or(|(n, on)| (n, on) != (&found.name, &found.network)) {
                let names = (found.name.clone(), found.network.clone());
                self.endpoints.insert(record.endpoint, names);
            }
        }
        let names = self.endpoints.get(&record.endpoint).cloned();
        let (endpoint, network) = names.unzip();
        let device = self.devices.entry(record.ifindex);
        let device = device.or_insert_with(|| datapath::device_name(record.ifindex));
        let tuple = record.tuple;
        let text = |address: std::net::SocketAddr| address.to_string();
        let new = tuple.and_then(|t| t.new);
        let (event, reason) = match record.happened {
            Happened::New => (EventKind::New, None),
            Happened::Close(how) => (EventKind::Close, Some(how.label())),
            Happened::Drop(why) => (EventKind::Drop, Some(why.label())),
        };
        let since_boot = SignedDuration::from_nanos(record.time.try_into().unwrap_or(i64::MAX));
        let time = self.clock.and_then(|c| c.checked_add(since_boot).ok());
        EventInfo {
            time: shown(time.unwrap_or_else(Timestamp::now)),
            event,
            reason: reason.map(str::to_owned),
            endpoint,
            network,
            device: device.clone(),
            kind: record.kind.map(str::to_owned),
            family: tuple.map(|t| if t.src.is_ipv6() { "ipv6" } else { "ipv4" }.into()),
            protocol: tuple.map(|t| flows::protocol(t.protocol)),
            src: tuple.map(|t| text(t.src)),
            dst: tuple.map(|t| text(t.dst)),
            reply_src: new.map(|(_, dst)| text(dst)),
            reply_dst: new.map(|(src, _)| text(src)),
            length: (record.length > 0).then_some(record.length),
            lost: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_of(endpoint: &str, network: &str) -> EventInfo {
        EventInfo {
            event: EventKind::Drop,
            endpoint: Some(endpoint.into()),
            network: Some(network.into()),
            lost: None,
            ..lost("", 0)
        }
    }

    #[test]
    fn filters_let_through_what_is_asked_for_and_what_was_lost() {
        let drop = drop_of("web", "front");
        let new = EventInfo {
            event: EventKind::New,
            ..drop.clone()
        };
        let filter = |drops, endpoint: Option<&str>, network: Option<&str>| EventFilter {
            drops,
            endpoint: endpoint.map(str::to_owned),
            network: network.map(str::to_owned),
        };
        assert!(is_wanted(&new, &filter(false, None, None)));
        assert!(!is_wanted(&new, &filter(true, None, None)));
        assert!(is_wanted(&drop, &filter(true, Some("web"), Some("front"))));
        assert!(!is_wanted(&drop, &filter(true, Some("web"), Some("back"))));
        assert!(!is_wanted(&drop, &filter(false, Some("db"), None)));
        let lost = lost("buffer_full", 3);
        assert!(is_wanted(&lost, &filter(true, Some("db"), None)));
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_many_it_lost() {
        let (sender, mut receiver) = broadcast::channel(4);
        for _ in 0..10 {
            sender.send(Arc::new(drop_of("web", "front"))).unwrap();
        }
        let filter = EventFilter::default();
        let first = next(&mut receiver, &filter).await.unwrap();
        assert_eq!((first.event, first.lost), (EventKind::Lost, Some(6)));
        for _ in 0..4 {
            let event = next(&mut receiver, &filter).await.unwrap();
            assert_eq!(event.event, EventKind::Drop);
        }
        drop(sender);
        assert!(next(&mut receiver, &filter).await.is_none());
    }
}
