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
        NetworkVerb::Rm(networks) => {
            let is_one = networks.names.len() == 1;
            let each = Each::of(networks.names, async |name| {
                client.network_remove(&name).await?;
                Ok(Named { name })
            });
            each.await.show(is_one, output)?;
        }
        NetworkVerb::Prune => output.show(&client.network_prune().await?)?,
    }
    Ok(())
}
