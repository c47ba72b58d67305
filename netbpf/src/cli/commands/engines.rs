//! What container engines call.

use std::io::Read;

use super::Done;
use crate::{
    cli::{args::OciHook, failure::Failure},
    client::Client,
    integrations::oci::{self, HookError},
};

/// A container's state is some kilobytes.
const LONGEST_STATE: u64 = 4 << 20;

pub async fn oci_hook(args: OciHook, client: &Client) -> Done {
    let mut state = Vec::new();
    std::io::stdin()
        .take(LONGEST_STATE)
        .read_to_end(&mut state)?;
    let done = oci::run(args.stage.into(), &state, client).await;
    done.map_err(|error| match error {
        HookError::Client(error) => Failure::Client(error),
        HookError::Refused(error) => Failure::Refused(error),
    })
}
