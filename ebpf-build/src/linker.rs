//! bpf-linker, and which LLVM it stands on.

use crate::{Error, Places, Result, elf::Elf};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A bpf-linker.
#[derive(Debug, Clone)]
pub struct Linker {
    pub path: PathBuf,
    /// Major version of its libLLVM; None where LLVM is linked statically, so
    /// that it cannot be told.
    pub llvm: Option<u32>,
}

/// The linker of `NETBPF_BPF_LINKER`, of the tools, or on `PATH`.
pub fn find(places: &Places) -> Result<Linker> {
    let path = match env::var_os("NETBPF_BPF_LINKER").filter(|value| !value.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => [places.tools.join("bin/bpf-linker")]
            .into_iter()
            .chain(
                env::split_paths(&env::var_os("PATH").unwrap_or_default())
                    .map(|dir| dir.join("bpf-linker")),
            )
            .find(|path| path.is_file())
            .ok_or_else(|| Error::new("bpf-linker is missing: run `cargo xtask setup`"))?,
    };
    Ok(Linker {
        llvm: llvm_of(&path)?,
        path,
    })
}

fn llvm_of(path: &Path) -> Result<Option<u32>> {
    let data = fs::read(path).map_err(|e| Error::io("read the linker", path, &e))?;
    let needed = Elf::parse(&data)
        .and_then(|elf| elf.needed_libraries())
        // A script in front of the linker is fine: it just tells us nothing.
        .unwrap_or_default();
    Ok(needed.iter().find_map(|name| llvm_of_library(name)))
}

/// `libLLVM.so.22.1`, `libLLVM-17.so.1`, `libLLVM.so.22.1-rust-1.95.0-stable` -> 22, 17, 22.
fn llvm_of_library(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("libLLVM")?;
    let digits: String = rest
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_from_library_names() {
        for (name, version) in [
            ("libLLVM.so.22.1", Some(22)),
            ("libLLVM-17.so.1", Some(17)),
            ("libLLVM.so.22.1-rust-1.95.0-stable", Some(22)),
            ("libc.so.6", None),
            ("libLLVM.so", None),
        ] {
            assert_eq!(llvm_of_library(name), version, "{name}");
        }
    }
}
