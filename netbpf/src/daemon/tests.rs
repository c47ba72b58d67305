use super::*;
use std::{collections::BTreeMap, path::Path, sync::Arc, sync::Mutex};

use crate::{
    api::fake::Fake,
    cli::LogFormat,
    client::{Client, ClientError},
    config::LogLevel,
    model::{ReloadInfo, SettingChange},
};

fn settings(dir: &Path) -> Settings {
    Settings {
        socket: dir.join("s.sock"),
        socket_group: String::new(),
        ..Settings::default()
    }
}

fn config(settings: Settings) -> Config {
    Config {
        settings,
        log_format: LogFormat::Text,
        log_level: LogLevel::Info,
        origins: BTreeMap::new(),
    }
}

/// Where nothing is read again.
fn unread() -> Source {
    Source {
        load: Box::new(|| Err(Error::invalid("there is no file"))),
        log: Box::new(|_| Ok(())),
    }
}

/// A life with what `start` makes, and nothing to read again.
async fn life<F, Fut>(settings: Settings, socket: &mut Socket, start: F) -> Result<()>
where
    F: FnOnce(Settings) -> Fut,
    Fut: Future<Output = Result<Fake>>,
{
    live(config(settings), unread(), socket, start).await
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
        tokio::spawn(async move { life(settings, &mut socket, |_| async { Ok(service) }).await });
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
        life(settings, &mut socket, slow).await
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
    let failed = life(settings, &mut socket, start).await;
    assert_eq!(failed.unwrap_err().message, "no");
}

#[test]
fn second_daemon_is_refused_before_it_touches_anything() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let _first = Socket::bind(&settings.socket, "").unwrap();
    let refused = run(config(settings), unread());
    assert_eq!(refused.unwrap_err().code, Code::Conflict);
}

/// A life in a process of its own, so that signals reach nobody else; it
/// writes with which `purge` it was torn down, and whether it was shut down.
#[test]
#[ignore = "runs within the tests of signals"]
fn life_in_a_process() {
    let Some(dir) = std::env::var_os("NETBPF_TEST_DIR") else {
        return;
    };
    let dir = Path::new(&dir);
    let settings = Settings {
        teardown_on_exit: dir.join("teardown-on-exit").exists(),
        ..settings(dir)
    };
    let mut socket = Socket::bind(&settings.socket, "").unwrap();
    let fake = Fake::default();
    let service = fake.clone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (file, told) = (dir.join("uplinks"), dir.join("applied"));
    let first = config(settings);
    let again = first.clone();
    let source = Source {
        // As a file would say it.
        load: Box::new(move || match std::fs::read_to_string(&file) {
            Ok(text) => {
                let uplinks = text.split_whitespace().map(str::to_owned);
                let mut config = again.clone();
                config.settings.uplinks = uplinks.collect();
                Ok(config)
            }
            Err(e) => Err(Error::invalid(format!("file: {e}"))),
        }),
        log: Box::new(move |config| {
            let text = config.settings.uplinks.join(" ");
            std::fs::write(&told, text).map_err(Error::internal)
        }),
    };
    let life = live(first, source, &mut socket, |_| async { Ok(service) });
    runtime.block_on(life).unwrap();
    let ended = format!("{:?} {}", fake.torn_down(), fake.shut_down());
    std::fs::write(dir.join("ended"), ended).unwrap();
}

fn start_process(dir: &Path) -> std::process::Child {
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
    send("TERM", &process);
    assert!(process.wait().unwrap().success());
    let ended = std::fs::read_to_string(dir.path().join("ended")).unwrap();
    assert_eq!(ended, "[] true");
    assert!(!client.socket().exists());
}

#[tokio::test]
async fn sighup_and_the_api_read_the_configuration_again() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path().join("s.sock"));
    let mut process = start_process(dir.path());
    until_answered(&client).await;
    match client.reload().await {
        Err(ClientError::Refused(info)) => assert_eq!(info.code, "invalid_argument"),
        other => panic!("there is no file yet: {other:?}"),
    }
    let applied = || std::fs::read_to_string(dir.path().join("applied"));
    applied().expect_err("what makes no sense changes nothing");

    std::fs::write(dir.path().join("uplinks"), "eth0").unwrap();
    send("HUP", &process);
    while applied().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(applied().unwrap(), "eth0");

    std::fs::write(dir.path().join("uplinks"), "eth1").unwrap();
    let done = client.reload().await.unwrap();
    assert_eq!(done.applied.len(), 1, "{done:?}");
    let change = &done.applied[0];
    assert_eq!(
        (change.key.as_str(), &change.after[0]),
        ("uplink", &"eth1".into())
    );
    assert_eq!(change.before[0], "eth0");
    assert_eq!(applied().unwrap(), "eth1");
    assert_eq!(client.reload().await.unwrap(), ReloadInfo::default());
    send("TERM", &process);
    assert!(process.wait().unwrap().success());
}

/// Reloads once from one configuration to another.
async fn reload(first: Config, second: Config) -> (Result<ReloadInfo>, Running, Fake) {
    let fake = Fake::default();
    let dir = tempfile::tempdir().unwrap();
    let socket = Socket::bind(&dir.path().join("s.sock"), "").unwrap();
    let levels = Arc::new(Mutex::new(Vec::new()));
    let heard = levels.clone();
    let mut running = Running {
        config: first,
        source: Source {
            load: Box::new(move || Ok(second.clone())),
            log: Box::new(move |config| {
                heard.lock().unwrap().push(config.log_level);
                Ok(())
            }),
        },
    };
    let done = running.reload(&fake, &socket).await;
    assert_eq!(*levels.lock().unwrap(), [running.config.log_level]);
    (done, running, fake)
}

#[tokio::test]
async fn what_needs_a_restart_is_said_and_not_applied() {
    let first = config(Settings::default());
    let mut second = first.clone();
    second.log_level = LogLevel::Debug;
    second.log_format = LogFormat::Json;
    second.settings.max_flows = 7;
    second.settings.teardown_on_exit = true;
    let (done, running, fake) = reload(first, second.clone()).await;
    let done = done.unwrap();
    let keys = |changes: &[SettingChange]| {
        let keys = changes.iter().map(|change| change.key.clone());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(keys(&done.applied), ["log-level", "teardown-on-exit"]);
    assert_eq!(keys(&done.needs_restart), ["log-format", "max-flows"]);
    let settings = &running.config.settings;
    assert!(settings.teardown_on_exit && settings.max_flows != 7);
    assert_eq!(fake.reloaded(), std::slice::from_ref(settings));
    // It is said as long as it is so.
    let (again, _, fake) = reload(running.config, second).await;
    let again = again.unwrap();
    assert_eq!(keys(&again.needs_restart), ["log-format", "max-flows"]);
    assert!(again.applied.is_empty() && fake.reloaded().is_empty());
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
