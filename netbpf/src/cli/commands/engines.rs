//! What container engines call.

use std::io::Read;

use super::Done;
use crate::{
    cli::{args::OciHook, failure::Failure},
    client::Client,
    error::{Code, Error},
    integrations::{
        CallError,
        oci::{self, HookError},
    },
};

/// A container's state is some kilobytes.
const LONGEST_STATE: u64 = 4 << 20;

pub async fn oci_hook(args: OciHook, client: &Client) -> Done {
    let mut state = Vec::new();
    std::io::stdin()
        .take(LONGEST_STATE + 1)
        .read_to_end(&mut state)?;
    if state.len() as u64 > LONGEST_STATE {
        let message = format!("the container's state is longer than {LONGEST_STATE} bytes");
        return Err(Error::invalid(message).into());
    }
    let done = oci::run(args.stage.into(), &state, client).await;
    done.map_err(|error| match error {
        HookError::Call(CallError::Client(error)) => Failure::Client(error),
        HookError::Call(late) => Failure::Refused(Error::new(Code::Unavailable, late.to_string())),
        HookError::Refused(error) => Failure::Refused(error),
    })
}
