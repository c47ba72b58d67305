//! `netbpf reload`.

use super::Done;
use crate::{cli::output::Output, client::Client};

pub async fn reload(client: &Client, output: &Output) -> Done {
    let done = output.during("reading the configuration", client.reload());
    Ok(output.show(&done.await?)?)
}
