//! Small commands whose output is wanted.

use anyhow::{Context, Result, bail};
use std::process::Command;

/// What a command that must succeed prints to stdout.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{program} failed ({}): {}", done.status, said.trim());
    }
    Ok(done.stdout)
}

/// The same as one line of text.
pub fn line(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(output(command)?)?.trim().to_owned())
}
