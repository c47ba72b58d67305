//! The task: connects, registers, lists, follows; and all over again when that ends.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper, WatchRequestSender};
use tokio::time::{Instant, sleep, timeout};

use super::{
    check::{check, missed},
    etcd::{Etcd, Failure},
    follow::{follow, silent},
    reconcile::{Pass, reconcile},
    register::{Registered, Standing, register},
    shared::{Live, Shared},
};

/// Between two signs of life that are asked of etcd. HTTP/2 pings would not do: etcd ends
/// connections that ping more often than every five seconds.
const BEAT: Duration = Duration::from_secs(1);

/// Without an answer for that long the connection is dead.
pub const SILENCE: Duration = Duration::from_millis(2500);

/// Between two attempts to connect, at most.
const MOST: Duration = Duration::from_secs(1);

/// Why a session is over.
#[derive(Debug)]
pub enum End {
    /// The connection is of no use any more.
    Lost(String),
    /// It is, but the picture must be made anew.
    Again(String),
    /// The same, since so many entries of the picture were wrong.
    Drift(usize),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        End::Lost(failure.to_string())
    }
}

/// Ends with the runtime alone.
pub async fn run(shared: Arc<Shared>) {
    let urls = &shared.options.endpoints;
    let mut standing = Standing::default();
    // Nodes spread over the members, and not all come back at the same moment.
    let place = hash(&shared.name);
    let mut turn = place as usize % urls.len();
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let url = &urls[turn % urls.len()];
        let end = session(&shared, url, &mut standing).await;
        failures = match began.elapsed() > MOST && shared.state().is_connected() {
            true => 0,
            false => failures + 1,
        };
        match end {
            End::Lost(why) => {
                shared.away(&why);
                turn += 1;
            }
            End::Again(why) => tracing::info!(%why, "all is listed anew"),
            End::Drift(entries) => {
                standing.drift_known = true;
                drifted(&shared, entries);
            }
        }
        sleep(pause(failures, place)).await;
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Nothing after a connection that stood, then more and more.
fn pause(failures: u32, place: u64) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let most = Duration::from_millis(50 << failures.min(5)).min(MOST);
    // From half of it to all of it.
    most.mul_f64(0.5 + (place % 1024) as f64 / 2048.0)
}

async fn session(shared: &Arc<Shared>, url: &str, standing: &mut Standing) -> End {
    match stand(shared, url, standing).await {
        Ok(end) | Err(end) => end,
    }
}

async fn stand(shared: &Arc<Shared>, url: &str, standing: &mut Standing) -> Result<End, End> {
    shared.change(|state| state.url = Some(url.into()));
    let etcd = Etcd::connect(&shared.options, url).await?;
    let (lease, keeper, renewals) = hold_lease(shared, &etcd, standing).await?;
    let registered = register(&etcd, shared, lease, standing).await?;
    let (old, new) = (shared.view(), shared.list(&etcd, None).await?);
    let watch = etcd.watch(&shared.keys.all(), new.revision + 1).await?;
    if !mem::take(&mut standing.drift_known) {
        drifted(shared, missed(&old, &new));
    }
    shared.publish(new, None);
    drop(old);
    let (asks, events) = watch.split();
    shared.change(|state| state.connections += 1);
    let live = Live {
        etcd: etcd.clone(),
        lease,
    };
    tell(shared, &live, &registered);
    shared.wake.notify_one();
    Ok(tokio::select! {
        end = follow(shared, url, events) => end,
        end = beat(url, keeper, renewals, asks) => end,
        end = tend(shared, &live, standing, registered) => end,
        end = check(shared, &etcd) => end,
    })
}

/// The lease from before, if etcd still has it.
async fn hold_lease(
    shared: &Shared,
    etcd: &Etcd,
    standing: &mut Standing,
) -> Result<(i64, LeaseKeeper, LeaseKeepAliveStream), Failure> {
    if let Some(lease) = standing.lease {
        match etcd.keep_lease(lease).await {
            Ok((keeper, renewals)) => return Ok((lease, keeper, renewals)),
            Err(failure) if failure.is_lease_gone() => standing.lease = None,
            Err(failure) => return Err(failure),
        }
    }
    let lease = etcd.grant_lease(shared.options.lease_ttl).await?;
    standing.lease = Some(lease);
    let (keeper, renewals) = etcd.keep_lease(lease).await?;
    Ok((lease, keeper, renewals))
}

fn drifted(shared: &Shared, entries: usize) {
    if entries > 0 {
        tracing::warn!(
            entries,
            "the picture of the cluster was not what etcd has; it is put right"
        );
        shared.change(|state| state.drift_repaired += entries as u64);
    }
}

fn tell(shared: &Shared, live: &Live, registered: &Registered) {
    match registered {
        Registered::Yes => shared.up(live.clone()),
        Registered::Taken(id) => shared.taken(id.clone()),
    }
}

/// Renews the lease and asks for progress of the watch; whoever reads the latter expects
/// an answer in time, too.
async fn beat(
    url: &str,
    mut keeper: LeaseKeeper,
    mut renewals: LeaseKeepAliveStream,
    mut asks: WatchRequestSender,
) -> End {
    loop {
        sleep(BEAT).await;
        let asked = timeout(SILENCE, async {
            asks.request_progress().await?;
            keeper.keep_alive().await?;
            renewals.message().await
        });
        match asked.await {
            Ok(Ok(Some(renewed))) if renewed.ttl() > 0 => {}
            Ok(Ok(Some(_))) => return End::Again("the lease has ended".into()),
            Ok(Ok(None)) => return End::Lost(format!("{url} has ended the lease's renewal")),
            Ok(Err(error)) => return End::Lost(format!("{url}: {error}")),
            Err(_) => return End::Lost(silent(url, SILENCE)),
        }
    }
}

/// Keeps what etcd has of this node as it should be.
async fn tend(
    shared: &Shared,
    live: &Live,
    standing: &mut Standing,
    mut registered: Registered,
) -> End {
    loop {
        if shared.register.swap(false, Ordering::Relaxed) || registered != Registered::Yes {
            registered = match register(&live.etcd, shared, live.lease, standing).await {
                Ok(registered) => registered,
                Err(failure) => return failure.into(),
            };
            tell(shared, live, &registered);
        }
        if registered != Registered::Yes {
            // The name may be free at any time.
            _ = timeout(BEAT, shared.wake.notified()).await;
            continue;
        }
        match reconcile(shared, live).await {
            Ok(pass) => settled(shared, pass),
            Err(refusal) => return End::Lost(refusal.to_string()),
        }
        shared.wake.notified().await;
    }
}

fn settled(shared: &Shared, pass: Pass) {
    let Pass { clashes, again } = pass;
    shared
        .unsettled
        .store(again || !clashes.is_empty(), Ordering::Relaxed);
    if shared.state().clashes != clashes {
        for clash in &clashes {
            tracing::warn!(%clash, "the cluster has it otherwise");
        }
        shared.change(|state| state.clashes = clashes);
    }
}
