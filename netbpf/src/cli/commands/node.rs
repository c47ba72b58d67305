//! `netbpf node`.

use super::{Done, each::Each};
use crate::{
    cli::{args::NodeVerb, output::Output, show::Named},
    client::Client,
};

pub async fn run(verb: NodeVerb, client: &Client, output: &Output) -> Done {
    match verb {
        NodeVerb::Ls => output.show(&client.nodes().await?)?,
        NodeVerb::Inspect(node) => output.show(&client.node(&node.name).await?)?,
        NodeVerb::Rm(nodes) => {
            let is_one = nodes.names.len() == 1;
            let each = Each::of(nodes.names, async |name| {
                client.node_remove(&name).await?;
                Ok(Named { name })
            });
            each.await.show(is_one, output)?;
        }
        NodeVerb::Drain(node) => {
            output.show(&client.node_drain(&node.name, !node.undo).await?)?;
        }
    }
    Ok(())
}
