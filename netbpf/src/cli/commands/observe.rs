//! What can be seen: status, flows, drops.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::Done;
use crate::{
    cli::{
        args::{Drops, Filter, Flows, FlowsVerb, Status},
        output::Output,
    },
    client::{Client, ClientError, Result},
    model::StatusInfo,
};

/// Between two tries while the daemon does not answer.
const RETRY: Duration = Duration::from_millis(50);

/// For a daemon that is there.
const ANSWER: Duration = Duration::from_secs(1);

pub async fn status(args: Status, client: &Client, output: &Output) -> Done {
    let status = match args.wait {
        None => client.status().await?,
        Some(wait) => {
            let what = format!("waiting for the daemon on {}", client.socket().display());
            output.during(&what, wait_for(client, wait)).await?
        }
    };
    Ok(output.show(&status)?)
}

/// Asks until the daemon answers. A refusal is an answer; a daemon that is
/// there and still starting holds the request until it is ready.
async fn wait_for(client: &Client, wait: Duration) -> Result<StatusInfo> {
    let deadline = Instant::now() + wait;
    // One that is there has the time to answer, however short the wait.
    let mut answer_by = deadline.max(Instant::now() + ANSWER);
    loop {
        let error = match timeout_at(answer_by, client.status()).await {
            Ok(Err(error @ (ClientError::Unreachable { .. } | ClientError::Lost { .. }))) => error,
            Ok(answer) => return answer,
            Err(_) => {
                return Err(ClientError::Unreachable {
                    socket: client.socket().into(),
                    source: std::io::ErrorKind::TimedOut.into(),
                });
            }
        };
        if Instant::now() + RETRY >= deadline {
            return Err(error);
        }
        sleep(RETRY).await;
        answer_by = deadline;
    }
}

pub async fn flows(args: Flows, client: &Client, output: &Output) -> Done {
    match args.verb {
        None => {
            let filter = args.filter.or(Filter::default());
            Ok(output.show(&client.flows(&filter).await?)?)
        }
        Some(FlowsVerb::Flush(flush)) => {
            let filter = flush.filter.or(args.filter);
            Ok(output.show(&client.flows_flush(&filter).await?)?)
        }
    }
}

pub async fn drops(args: Drops, client: &Client, output: &Output) -> Done {
    let drops = client.drops(args.endpoint.as_deref(), args.network.as_deref());
    Ok(output.show(&drops.await?)?)
}
