//! `netbpf network`.

use super::Done;
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
        NetworkVerb::Rm(network) => {
            client.network_remove(&network.name).await?;
            output.show(&Named { name: network.name })?;
        }
        NetworkVerb::Prune => output.show(&client.network_prune().await?)?,
    }
    Ok(())
}
