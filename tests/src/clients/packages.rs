//! Engines from Debian's packages, unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::lab::skipped;

/// The root directory that they were unpacked into.
#[derive(Clone)]
pub struct Packages {
    root: PathBuf,
}

impl Packages {
    /// Where `cargo xtask setup` puts them; says by name what is skipped when they
    /// are not there.
    pub fn find(test: &str) -> Option<Packages> {
        let tools = std::env::var_os("NETBPF_TOOLS_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
            PathBuf::from,
        );
        let root = tools.join("engines");
        let Ok(root) = fs::canonicalize(&root) else {
            skipped(test, "the container engines are not unpacked");
            return None;
        };
        Some(Packages { root })
    }

    /// A program of theirs.
    #[track_caller]
    pub fn program(&self, name: &str) -> PathBuf {
        let directories = ["usr/bin", "usr/sbin", "bin"].map(|dir| self.root.join(dir));
        let paths = directories.iter().map(|dir| dir.join(name));
        paths
            .into_iter()
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("{name} is not in {}", self.root.display()))
    }

    /// The directory of the reference plugins of CNI.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("usr/lib/cni")
    }

    /// `PATH` with their programs first.
    pub fn search_path(&self) -> String {
        let own = ["usr/sbin", "usr/bin"].map(|dir| self.root.join(dir).display().to_string());
        let path = std::env::var("PATH").unwrap_or_default();
        format!("{}:{path}", own.join(":"))
    }

    /// The directories of their libraries, one a line.
    pub fn libraries(&self) -> String {
        let directories = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let all = directories.map(|dir| self.root.join(dir).display().to_string());
        all.join("\n")
    }
}
