//! The daemon's life: listen, bring the kernel to what the store says, answer,
//! and end without touching the datapath unless that is asked for.

mod reload;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    io,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{debug, info, warn};

use self::reload::Running;
pub use self::reload::Source;
use crate::{
    api::{self, Api, Service, Socket},
    config::Config,
    control::Control,
    error::{Code, Error, Result},
    metrics,
    settings::Settings,
    sys::{capabilities, inherited, lock::NamespaceLock, process},
};

/// How long requests that run when the daemon is told to end may go on.
const FINISH: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to end.
pub fn run(config: Config, source: Source) -> Result<()> {
    let settings = &config.settings;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        node = settings.node,
        "starting"
    );
    process::hear_signals();
    process::spare_memory();
    capabilities::drop_others()?;
    // Before anything is touched, the socket's file too: of two daemons that
    // start at once, one has the namespace, the other has nothing to do here.
    let lock = NamespaceLock::take()?;
    // If another daemon answers there, this is none of our business. Who connects
    // meanwhile waits for the answer.
    let bound = match inherited::unix_listener()? {
        Some(listener) => Socket::handed_over(listener, &settings.socket),
        None => Socket::bind(&settings.socket, &settings.socket_group),
    };
    let mut socket = bound.or_else(|error| match error.code {
        Code::Conflict | Code::InvalidArgument => Err(error),
        // Who lacks all that a daemon needs lacks the permission, too.
        _ => capabilities::check().map_err(Error::from).and(Err(error)),
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Requests are few and short; the packets are the kernel's business.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("runtime: {e}")))?;
    let ended = runtime.block_on(live(config, source, &mut socket, |settings| {
        Control::start_with(settings, lock)
    }));
    // A request that did not finish in time may still hold a blocking thread.
    runtime.shutdown_timeout(Duration::from_millis(100));
    // Its file goes last: then nothing of ours is held any more.
    match ended {
        Ok(()) => drop(socket),
        Err(_) => socket.discard(),
    }
    ended
}

/// One life, with what `start` makes of the settings behind the API.
async fn live<S, F, Fut>(
    config: Config,
    source: Source,
    socket: &mut Socket,
    start: F,
) -> Result<()>
where
    S: Service,
    F: FnOnce(Settings) -> Fut,
    Fut: Future<Output = Result<S>>,
{
    let began = Instant::now();
    let failed = |e| Error::internal(format!("signals: {e}"));
    let mut signals = Signals::new().map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let path = config.settings.socket.clone();

    // Refused before anything is touched.
    let metrics = match config.settings.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let service = tokio::select! {
        started = start(config.settings.clone()) => started?,
        // What is half-done is finished or undone at the next start.
        () = signals.end() => return Ok(()),
    };
    let (api, mut reloads) = Api::new(service.clone());
    let (busy, mut torn_down) = (api.busy.clone(), api.torn_down.subscribe());
    let stop = api.stopping.clone();
    if let Some(listener) = metrics {
        tokio::spawn(metrics::serve(listener, service.clone(), stopped(&stop)));
    }
    let mut server = tokio::spawn(api::serve(socket.listener()?, api, stopped(&stop)));

    info!(socket = %path.display(), after = ?began.elapsed(), "ready");
    tell_systemd(&[NotifyState::Ready]);
    let mut running = Running { config, source };
    let was_torn_down = loop {
        tokio::select! {
            () = signals.end() => break false,
            () = told(&mut torn_down) => break true,
            Some(answer) = reloads.recv() => {
                let done = running.reload(&service, socket).await;
                // Who asked may have gone.
                let _ = answer.send(done);
            }
            Some(()) = hangup.recv() => {
                info!("SIGHUP: reading the configuration again");
                // The log says what came of it.
                let _ = running.reload(&service, socket).await;
            }
            served = &mut server => {
                return Err(Error::internal(format!("the API ended: {served:?}")));
            }
        }
    };

    tell_systemd(&[NotifyState::Stopping]);
    stop.send_replace(true);
    tokio::select! {
        in_time = finish(server, &busy) => if !in_time {
            warn!("requests did not finish within {FINISH:?}");
        },
        () = signals.end() => warn!("told to end again: requests are not waited for"),
    }
    match (was_torn_down, running.config.settings.teardown_on_exit) {
        (true, _) => {}
        (false, true) => service.teardown(false).await?,
        // What a request has begun is finished, also when nobody waits for it.
        (false, false) => tokio::select! {
            done = tokio::time::timeout(FINISH, service.shutdown()) => match done {
                Ok(done) => done?,
                Err(_) => warn!("what is half-done is left to the next start"),
            },
            () = signals.end() => {}
        },
    }
    info!("ended");
    Ok(())
}

/// Waits for the open connections, and for requests whose client is gone.
async fn finish(server: tokio::task::JoinHandle<io::Result<()>>, busy: &api::Busy) -> bool {
    let began = Instant::now();
    let served = tokio::time::timeout(FINISH, server).await;
    served.is_ok() && busy.idle(FINISH.saturating_sub(began.elapsed())).await
}

/// Ready when it was torn down.
async fn told(torn_down: &mut watch::Receiver<bool>) {
    if torn_down.wait_for(|torn_down| *torn_down).await.is_err() {
        // The API has ended, which is noticed elsewhere.
        std::future::pending::<()>().await;
    }
}

/// Ready when `stop` was sent.
fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = stop.subscribe();
    async move {
        // An error means that nobody is left who could stop us: stop, then.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

fn tell_systemd(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell, which is no error.
    if let Err(e) = sd_notify::notify(states) {
        debug!("systemd is not told: {e}");
    }
}

/// The signals that end the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM: ending"),
            _ = self.interrupt.recv() => info!("SIGINT: ending"),
        }
    }
}
