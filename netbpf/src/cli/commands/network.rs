//! `netbpf network`.

use super::{Done, each::Each};
use crate::{
    cli::{args::NetworkVerb, output::Output, show::Named},
    client::Client,
};

pub async fn run(verb: NetworkVerb, client: &Client, output: &Output) -> Done {
    match verb {
        NetworkVerb::Create(create) => {
            let made = client.network_create(&(*create).into()).await?;
            output.show(&made)?;
        }
        NetworkVerb::Ls => output.show(&client.networks().await?)?,
        NetworkVerb::Inspect(network) => output.show(&client.network(&network.name).await?)?,
        NetworkVerb::Rm(networks) => remove(networks.names, client, output).await?,
        NetworkVerb::Prune => output.show(&client.network_prune().await?)?,
    }
    Ok(())
}

/// One thing is an object, several are an array, as elsewhere.
async fn remove(names: Vec<String>, client: &Client, output: &Output) -> Done {
    let is_one = names.len() == 1;
    let each = Each::of(names, async |name| {
        client.network_remove(&name).await?;
        Ok(Named { name })
    });
    let Each { mut done, failed } = each.await;
    match done.pop() {
        Some(one) if is_one => output.show(&one)?,
        Some(last) => {
            done.push(last);
            output.show(&done)?;
        }
        None => {}
    }
    failed.into_result()
}
