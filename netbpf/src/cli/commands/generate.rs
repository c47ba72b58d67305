//! `netbpf completions` and `netbpf generate`: no daemon is asked.

use std::{fs, path::Path};

use super::Done;
use crate::{
    cli::{args::Shell, generate, output::Output},
    error::Error,
};

pub fn completions(shell: Shell, output: &Output) -> Done {
    Ok(output.write(&generate::completions(shell))?)
}

/// Writes the files below `directory` and prints their paths.
pub fn all(directory: &Path, output: &Output) -> Done {
    let mut written = Vec::new();
    for file in generate::files() {
        let path = directory.join(&file.path);
        let failed = |e| Error::internal(format!("cannot write {}: {e}", path.display()));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&path, &file.text).map_err(failed)?;
        written.push(path.display().to_string());
    }
    Ok(output.show(&written)?)
}
