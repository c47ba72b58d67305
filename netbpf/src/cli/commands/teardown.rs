//! `netbpf teardown`: through the daemon where there is one, else by ourselves.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use super::Done;
use crate::{
    cli::{
        args::{Global, Teardown},
        output::Output,
        show::Nothing,
    },
    client::{Client, ClientError},
    config::Typed,
    control::Control,
    error::Error,
    settings::Settings,
};

/// A daemon that was torn down ends within this: it finishes its requests.
const END: Duration = Duration::from_secs(10);

pub async fn run(args: Teardown, global: &Global, output: &Output) -> Done {
    let typed = Typed::new(args.directories, global.socket.clone(), args.config);
    let config = typed.load()?;
    let removed = remove(&config.settings, args.purge);
    output.during("removing the datapath", removed).await?;
    Ok(output.show(&Nothing {})?)
}

async fn remove(settings: &Settings, purge: bool) -> Done {
    let client = Client::new(&settings.socket);
    match client.teardown(purge).await {
        Ok(()) => wait_for_end(client.socket()).await?,
        Err(ClientError::Unreachable { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            Control::teardown_offline(settings, purge).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The daemon ends after its answer; who tears down may want to start another
/// one at once.
async fn wait_for_end(socket: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + END;
    while socket.exists() {
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
