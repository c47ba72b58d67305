//! The daemon's life: listen, bring the kernel to what the store says, answer,
//! and end without touching the datapath unless that is asked for.

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

use crate::{
    api::{self, Api, Service, Socket},
    control::Control,
    error::{Error, Result},
    settings::Settings,
    sys::lock::NamespaceLock,
};

/// How long requests that run when the daemon is told to end may go on.
const FINISH: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to end.
pub fn run(settings: Settings) -> Result<()> {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        node = settings.node,
        "starting"
    );
    // Before anything is touched, the socket's file too: of two daemons that
    // start at once, one has the namespace, the other has nothing to do here.
    let lock = NamespaceLock::take()?;
    // If another daemon answers there, this is none of our business. Who connects
    // meanwhile waits for the answer.
    let mut socket = Socket::bind(&settings.socket, &settings.socket_group)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Requests are few and short; the packets are the kernel's business.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::internal(format!("runtime: {e}")))?;
    let ended = runtime.block_on(live(settings, &mut socket, |settings| {
        Control::start_with(settings, lock)
    }));
    // A request that did not finish in time may still hold a blocking thread.
    runtime.shutdown_timeout(Duration::from_millis(100));
    // Its file goes last: then nothing of ours is held any more.
    drop(socket);
    ended
}

/// One life, with what `start` makes of the settings behind the API.
async fn live<S, F, Fut>(settings: Settings, socket: &mut Socket, start: F) -> Result<()>
where
    S: Service,
    F: FnOnce(Settings) -> Fut,
    Fut: Future<Output = Result<S>>,
{
    let began = Instant::now();
    let mut signals = Signals::new().map_err(|e| Error::internal(format!("signals: {e}")))?;
    let teardown_on_exit = settings.teardown_on_exit;
    let path = settings.socket.clone();

    let service = tokio::select! {
        started = start(settings) => started?,
        // What is half-done is finished or undone at the next start.
        () = signals.end() => return Ok(()),
    };
    let api = Api::new(service.clone());
    let (busy, mut torn_down) = (api.busy.clone(), api.torn_down.subscribe());
    let stop = watch::Sender::new(false);
    let mut server = tokio::spawn(api::serve(socket.listener()?, api, stopped(&stop)));

    info!(socket = %path.display(), after = ?began.elapsed(), "ready");
    tell_systemd(NotifyState::Ready);
    let was_torn_down = tokio::select! {
        () = signals.end() => false,
        Ok(_) = torn_down.wait_for(|torn_down| *torn_down) => true,
        served = &mut server => {
            return Err(Error::internal(format!("the API ended: {served:?}")));
        }
    };

    tell_systemd(NotifyState::Stopping);
    stop.send_replace(true);
    tokio::select! {
        in_time = finish(server, &busy) => if !in_time {
            warn!("requests did not finish within {FINISH:?}");
        },
        () = signals.end() => warn!("told to end again: requests are not waited for"),
    }
    match (was_torn_down, teardown_on_exit) {
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

/// Ready when `stop` was sent.
fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = stop.subscribe();
    async move {
        // An error means that nobody is left who could stop us: stop, then.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

fn tell_systemd(state: NotifyState<'_>) {
    // Without systemd there is nobody to tell, which is no error.
    if let Err(e) = sd_notify::notify(&[state]) {
        debug!("systemd is not told: {e}");
    }
}

/// The signals that the daemon listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to end.
    async fn end(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return info!("SIGTERM: ending"),
                _ = self.interrupt.recv() => return info!("SIGINT: ending"),
                _ = self.hangup.recv() => {
                    info!("SIGHUP: nothing is read anew, settings change by a restart");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::fake::Fake, client::Client};

    fn settings(dir: &std::path::Path) -> Settings {
        Settings {
            socket: dir.join("s.sock"),
            socket_group: String::new(),
            ..Settings::default()
        }
    }

    async fn until_answered(client: &Client) {
        for _ in 0..200 {
            if client.status().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no answer on {}", client.socket().display());
    }

    #[tokio::test]
    async fn teardown_is_answered_and_ends_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut socket = Socket::bind(&settings.socket, "").unwrap();
        let client = Client::new(&settings.socket);
        let fake = Fake::default();
        let service = fake.clone();
        let life =
            tokio::spawn(
                async move { live(settings, &mut socket, |_| async { Ok(service) }).await },
            );
        until_answered(&client).await;
        client.teardown(true).await.unwrap();
        tokio::time::timeout(Duration::from_secs(3), life)
            .await
            .expect("the daemon ends")
            .unwrap()
            .unwrap();
        assert_eq!(fake.torn_down(), [true]);
        assert!(!client.socket().exists());
    }

    #[tokio::test]
    async fn who_connects_while_it_starts_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut socket = Socket::bind(&settings.socket, "").unwrap();
        let client = Client::new(&settings.socket);
        let life = tokio::spawn(async move {
            let slow = |_| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(Fake::default())
            };
            live(settings, &mut socket, slow).await
        });
        client.status().await.unwrap();
        client.teardown(false).await.unwrap();
        life.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn failed_start_is_handed_on() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let mut socket = Socket::bind(&settings.socket, "").unwrap();
        let start = |_| async { Err::<Fake, _>(Error::invalid("no")) };
        let failed = live(settings, &mut socket, start).await;
        assert_eq!(failed.unwrap_err().message, "no");
    }

    #[test]
    fn second_daemon_is_refused_before_it_touches_anything() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let _first = Socket::bind(&settings.socket, "").unwrap();
        let refused = run(settings);
        assert_eq!(refused.unwrap_err().code, crate::error::Code::Conflict);
    }

    /// A life in a process of its own, so that signals reach nobody else; it
    /// writes with which `purge` it was torn down, and whether it was shut down.
    #[test]
    #[ignore = "runs within the tests of signals"]
    fn life_in_a_process() {
        let Some(dir) = std::env::var_os("NETBPF_TEST_DIR") else {
            return;
        };
        let dir = std::path::Path::new(&dir);
        let settings = Settings {
            teardown_on_exit: dir.join("teardown-on-exit").exists(),
            ..settings(dir)
        };
        let mut socket = Socket::bind(&settings.socket, "").unwrap();
        let fake = Fake::default();
        let service = fake.clone();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let life = live(settings, &mut socket, |_| async { Ok(service) });
        runtime.block_on(life).unwrap();
        let ended = format!("{:?} {}", fake.torn_down(), fake.shut_down());
        std::fs::write(dir.join("ended"), ended).unwrap();
    }

    fn start_process(dir: &std::path::Path) -> std::process::Child {
        let name = "daemon::tests::life_in_a_process";
        std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--ignored"])
            .env("NETBPF_TEST_DIR", dir)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    }

    fn send(signal: &str, process: &std::process::Child) {
        let line = format!("kill -{signal} {}", process.id());
        let sent = std::process::Command::new("sh")
            .args(["-c", &line])
            .status();
        assert!(sent.unwrap().success());
    }

    #[tokio::test]
    async fn sigterm_ends_it_and_leaves_the_datapath() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(dir.path().join("s.sock"));
        let mut process = start_process(dir.path());
        until_answered(&client).await;
        send("HUP", &process);
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.status().await.expect("SIGHUP changes nothing");
        send("TERM", &process);
        assert!(process.wait().unwrap().success());
        let ended = std::fs::read_to_string(dir.path().join("ended")).unwrap();
        assert_eq!(ended, "[] true");
        assert!(!client.socket().exists());
    }

    #[tokio::test]
    async fn teardown_on_exit_tears_down() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("teardown-on-exit"), "").unwrap();
        let client = Client::new(dir.path().join("s.sock"));
        let mut process = start_process(dir.path());
        until_answered(&client).await;
        send("INT", &process);
        assert!(process.wait().unwrap().success());
        let ended = std::fs::read_to_string(dir.path().join("ended")).unwrap();
        assert_eq!(ended, "[false] false");
    }

    #[tokio::test]
    async fn hanging_requests_hold_it_no_longer_than_asked() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(dir.path().join("s.sock"));
        let mut process = start_process(dir.path());
        until_answered(&client).await;
        let hanging = client.clone();
        let hanging = tokio::spawn(async move { hanging.network("hang").await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        send("TERM", &process);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(process.try_wait().unwrap().is_none(), "it waits");
        // Told again, it waits no more.
        send("TERM", &process);
        assert!(process.wait().unwrap().success());
        assert!(hanging.await.unwrap().is_err());
    }
}
