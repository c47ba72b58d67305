//! What happens, as it happens.

use std::io;

use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tracing::info;

use super::Done;
use crate::{
    cli::{args::Monitor, output::Output},
    client::{Client, Lines},
    model::{EventFilter, EventInfo, EventKind},
};

/// Prints events until enough have come, the time is over, or a signal ends it.
pub async fn run(args: Monitor, client: &Client, output: &Output) -> Done {
    let ends = ended()?;
    let filter = EventFilter {
        drops: args.drops,
        endpoint: args.endpoint,
        network: args.network,
    };
    let lines = client.events(&filter).await?;
    info!("listening");
    let time_is_over = async {
        match args.duration {
            Some(duration) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = print(lines, args.count, output) => done,
        () = time_is_over => Ok(()),
        () = ends => Ok(()),
    }
}

async fn print(mut lines: Lines, count: Option<u64>, output: &Output) -> Done {
    let mut left = count;
    while left != Some(0) {
        let event: EventInfo = lines.next().await?;
        output.show_line(&event)?;
        // What was lost is not what was waited for.
        if event.event != EventKind::Lost {
            left = left.map(|left| left - 1);
        }
    }
    Ok(())
}

/// Ready on SIGINT and SIGTERM; what was printed is written by then.
pub fn ended() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
