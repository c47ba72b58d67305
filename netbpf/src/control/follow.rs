//! Reacts to what changes by itself: devices and addresses that come and go,
//! namespaces that die, flows that end.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{
    Inner, blocking, detach,
    devices::{self, Watch},
    plan, publish, repair, sources,
    state::State,
    uplinks,
};
use crate::{
    error::{Code, Error, Result},
    sys::{
        netlink::{Event, Events, Hear},
        process,
    },
};

/// Events that come in this time after others are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// That events were lost is said as often at most.
const TELL: Duration = Duration::from_secs(60);
/// Events can be lost; a look at everything finds what they did not tell.
const CHECK: Duration = Duration::from_secs(3);
/// Nothing is drained, or for longer than that.
const CHECK_DRAINS: Duration = Duration::from_secs(3600);
const COLLECT: Duration = Duration::from_secs(10);
/// With many flows it takes long: then it rests for so many times as long.
const COLLECT_SHARE: u32 = 20;

/// Starts the tasks; they end with the last strong reference.
pub fn spawn(inner: &Arc<Inner>) -> Result<()> {
    let (sender, receiver) = mpsc::channel(64);
    let (forwarding, switched_off) = mpsc::channel(64);
    // Before anything can change unheard.
    let besides = match inner.datapath.wants_sources() {
        true => Hear::Routes,
        false => Hear::Nothing,
    };
    let events = Events::open(besides)?;
    let weak = Arc::downgrade(inner);
    let thread = std::thread::Builder::new().name("netlink-events".into());
    let (alive, checked) = (weak.clone(), forwarding.clone());
    thread
        .spawn(move || listen(events, &sender, &forwarding, &alive))
        .map_err(|e| Error::internal(format!("start a thread: {e}")))?;
    tokio::spawn(follow(weak.clone(), receiver));
    tokio::spawn(keep_forwarding(weak.clone(), switched_off));
    tokio::spawn(check(weak.clone(), Watch::open()?, checked));
    tokio::spawn(drain(weak.clone()));
    tokio::spawn(repair::watch(weak.clone()));
    tokio::spawn(collect(weak));
    Ok(())
}

/// Devices whose forwarding is to be looked at.
enum Look {
    At(BTreeSet<u32>),
    AtAll,
}

impl Look {
    fn and(self, more: Look) -> Look {
        match (self, more) {
            (Look::At(mut devices), Look::At(more)) => {
                devices.extend(more);
                Look::At(devices)
            }
            _ => Look::AtAll,
        }
    }
}

/// Hands on what the kernel tells, in a thread as the socket blocks.
fn listen(
    mut events: Events,
    sender: &Sender<Vec<Event>>,
    forwarding: &Sender<Look>,
    alive: &Weak<Inner>,
) {
    while alive.strong_count() > 0 && !sender.is_closed() {
        match events.wait(Duration::from_secs(1)) {
            Ok(mut batch) => {
                batch.retain(concerns_us);
                let look = take_not_forwarding(&mut batch);
                // First, as it waits for no change.
                if let Some(look) = look
                    && forwarding.blocking_send(look).is_err()
                {
                    return;
                }
                if !batch.is_empty() && sender.blocking_send(batch).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "netlink events");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

/// Our own veths coming up are no news, and there may be thousands.
fn concerns_us(event: &Event) -> bool {
    match event {
        Event::Link { name, .. } => !plan::is_host_ifname(name),
        Event::LinkGone { .. }
        | Event::Address { .. }
        | Event::Route
        | Event::NotForwarding { .. }
        | Event::Overrun => true,
    }
}

async fn follow(inner: Weak<Inner>, mut receiver: Receiver<Vec<Event>>) {
    let mut next = Instant::now();
    let mut tell = Instant::now();
    while let Some(mut batch) = receiver.recv().await {
        // What comes alone is followed at once.
        sleep_until(next).await;
        while let Ok(more) = receiver.try_recv() {
            batch.extend(more);
        }
        let Some(inner) = inner.upgrade() else { return };
        let overruns = batch.iter().filter(|e| **e == Event::Overrun).count();
        inner.overruns.fetch_add(overruns as u64, Ordering::Relaxed);
        if overruns > 0 && Instant::now() >= tell {
            tracing::warn!("more has changed on the host than was heard of: looking at all");
            tell = Instant::now() + TELL;
        }
        let done = Inner::change(inner, move |inner, state| match overruns {
            0 => take_up(inner, state, &batch),
            _ => {
                let gone = devices::missing(inner, state);
                with_gateways(inner, state).and(gone)
            }
        });
        report("following changes", done.await);
        next = Instant::now() + DEBOUNCE;
    }
}

/// Follows what has changed.
fn take_up(inner: &Inner, state: &mut State, batch: &[Event]) -> Result<()> {
    let gone: BTreeSet<u32> = batch
        .iter()
        .filter_map(|e| match e {
            Event::LinkGone { ifindex } => Some(*ifindex),
            _ => None,
        })
        .collect();
    let routes = batch.contains(&Event::Route);
    let mut others = batch
        .iter()
        .any(|e| !matches!(e, Event::LinkGone { .. } | Event::Route));
    let mut endpoints = BTreeSet::new();
    for ifindex in gone {
        match state.endpoint_of_device(ifindex) {
            Some(index) => drop(endpoints.insert(index)),
            None => {
                let is_uplink = |u: &uplinks::Uplink| u.entry.device.ifindex == ifindex;
                others |= state.uplinks.iter().any(is_uplink);
            }
        }
    }
    let gone = detach::gone(inner, state, &endpoints);
    match others {
        true => with_gateways(inner, state).and(gone),
        false if routes => sources::refresh(inner, state).and(gone),
        false => gone,
    }
}

/// Uplinks and addresses; and gateway addresses behind these, if they could be read anew.
fn with_gateways(inner: &Inner, state: &mut State) -> Result<()> {
    uplinks::refresh(inner, state)?;
    repair::gateways(inner, state);
    Ok(())
}

/// Takes the devices out that forward no more: they wait for no change. What was not heard
/// of may have been any.
fn take_not_forwarding(batch: &mut Vec<Event>) -> Option<Look> {
    let mut off = BTreeSet::new();
    batch.retain(|event| match event {
        Event::NotForwarding { ifindex } => {
            off.insert(*ifindex);
            false
        }
        _ => true,
    });
    match batch.contains(&Event::Overrun) {
        true => Some(Look::AtAll),
        false => (!off.is_empty()).then_some(Look::At(off)),
    }
}

/// Switches forwarding on again. The only place that does: nothing is counted twice.
async fn keep_forwarding(inner: Weak<Inner>, mut receiver: Receiver<Look>) {
    let mut next = Instant::now();
    while let Some(mut look) = receiver.recv().await {
        // As with all that is followed: at once what comes alone, the rest together.
        sleep_until(next).await;
        next = Instant::now() + DEBOUNCE;
        while let Ok(more) = receiver.try_recv() {
            look = look.and(more);
        }
        let Some(inner) = inner.upgrade() else { return };
        let done = blocking(move || {
            let heard_of = match &look {
                Look::At(devices) => Some(devices),
                Look::AtAll => None,
            };
            devices::keep_forwarding(&inner, &inner.seen(), heard_of);
            Ok(())
        });
        report("keeping devices forwarding", done.await);
    }
}

async fn check(inner: Weak<Inner>, watch: Watch, forwarding: Sender<Look>) {
    let watch = Arc::new(Mutex::new(watch));
    let mut ticks = interval_at(Instant::now() + CHECK, CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        // Where there is no room, the next look finds it.
        let _ = forwarding.try_send(Look::AtAll);
        let (looking, eye) = (inner.clone(), watch.clone());
        let differs = blocking(move || lock(&eye).differs(&looking));
        let checked = match differs.await {
            Ok(false) => Ok(()),
            Ok(true) => Inner::change(inner, devices::check).await,
            Err(error) => Err(error),
        };
        if checked.is_err() {
            lock(&watch).forget();
        }
        report("the periodic check", checked);
    }
}

/// Whole whatever panicked meanwhile: what was seen last is noted at once.
fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the connections of drained ports when their time is up.
async fn drain(inner: Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade() else {
            return;
        };
        let drains = strong.drains.clone();
        let ended = Inner::change(strong, publish::end_drained).await;
        let left = match ended {
            Ok(Some(next)) => {
                let now = process::boottime_ms().unwrap_or(0);
                Duration::from_millis(next.saturating_sub(now))
            }
            Ok(None) => CHECK_DRAINS,
            // The daemon is about to end.
            Err(error) if error.code == Code::Unavailable => return,
            Err(error) => {
                tracing::warn!(%error, "connections of drained ports go on");
                CHECK
            }
        };
        // One more tick of the clock, so that it is due when it is looked at.
        let left = left.min(CHECK_DRAINS) + Duration::from_millis(1);
        tokio::select! {
            () = sleep(left) => {}
            () = drains.notified() => {}
        }
    }
}

/// Removes dead flows. It does not wait for changes, nor they for it: the tables
/// that it walks are the programs', not the control's.
async fn collect(inner: Weak<Inner>) {
    let mut rest = COLLECT;
    loop {
        sleep(rest).await;
        let Some(inner) = inner.upgrade() else { return };
        let work = move || {
            let collected = inner.datapath.collect(&|event| inner.monitor.tell(event));
            process::give_back_memory();
            collected
        };
        let began = Instant::now();
        let collected = tokio::task::spawn_blocking(work).await;
        rest = COLLECT.max(began.elapsed() * COLLECT_SHARE);
        match collected {
            Ok(Ok(collected)) => tracing::debug!(?collected, "dead flows removed"),
            Ok(Err(error)) => tracing::warn!(%error, "dead flows stay"),
            Err(error) => tracing::warn!(%error, "dead flows stay"),
        }
    }
}

fn report(what: &str, done: Result<()>) {
    match done {
        Ok(()) => {}
        // The daemon is about to end.
        Err(error) if error.code == Code::Unavailable => {}
        Err(error) => tracing::warn!(%error, "{what} failed"),
    }
}
