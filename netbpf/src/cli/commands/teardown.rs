//! `netbpf teardown`: through the daemon where there is one, else by ourselves.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use super::Done;
use crate::{
    cli::{
        args::{Global, Teardown},
        failure::Failure,
        output::Output,
        show::Nothing,
    },
    client::{Client, ClientError},
    config::{Config, Origin, Typed},
    control::Control,
    error::Error,
    settings::Settings,
};

/// A daemon that was torn down ends within this: it finishes its requests.
const END: Duration = Duration::from_secs(10);

pub async fn run(args: Teardown, global: &Global, output: &Output) -> Done {
    let typed = Typed::new(args.directories, global.socket.clone(), args.config);
    let config = typed.load()?;
    let removed = remove(&config, args.purge);
    output.during("removing the datapath", removed).await?;
    Ok(output.show(&Nothing {})?)
}

async fn remove(config: &Config, purge: bool) -> Done {
    let settings = &config.settings;
    let client = Client::new(&settings.socket);
    // Where there is no daemon the next request says so.
    let pid = client.status().await.ok().map(|status| status.pid);
    match client.teardown(purge).await {
        Ok(()) => wait_for_end(client.socket(), pid).await?,
        Err(ClientError::Unreachable { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            check_meant(config)?;
            Control::teardown_offline(settings, purge).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Who names another daemon's socket does not mean the default one's directories.
fn check_meant(config: &Config) -> Done {
    let socket = &config.settings.socket;
    let directories = ["state-dir", "run-dir", "bpffs"];
    let all_default = directories.map(|key| config.origin(key)) == [&Origin::Default; 3];
    match all_default && *socket != Settings::default().socket {
        true => Err(Failure::Usage(format!(
            "no daemon on {}: without it, name its directories (--state-dir, --run-dir, --bpffs)",
            socket.display()
        ))),
        false => Ok(()),
    }
}

/// The daemon ends after its answer; who tears down may want to start another
/// one at once. Its socket goes with it, unless it is systemd's, which stays.
async fn wait_for_end(socket: &Path, pid: Option<u32>) -> Result<(), Error> {
    let deadline = Instant::now() + END;
    while socket.exists() && pid.is_none_or(runs) {
        if Instant::now() >= deadline {
            return Err(Error::internal(format!(
                "all is removed, but the daemon on {} does not end",
                socket.display()
            )));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Whether the process is there and has not ended: proc(5), `stat`.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind its name, which may have anything in it.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_runs_until_it_has_ended() {
        assert!(runs(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while runs(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.wait().unwrap();
        assert!(!runs(pid));
    }
}
