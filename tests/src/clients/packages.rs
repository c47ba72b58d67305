//! Engines from Debian's packages, unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::lab::skipped;

/// Which Debian engines are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debian {
    /// The machine's own.
    Own,
    /// A newer one, with libraries of its own.
    Forky,
}

impl Debian {
    /// Where `cargo xtask test` puts its engines, below the tools.
    fn directory(self) -> &'static str {
        match self {
            Debian::Own => "engines",
            Debian::Forky => "engines-forky",
        }
    }
}

/// The root directory that they were unpacked into.
#[derive(Clone)]
pub struct Packages {
    debian: Debian,
    root: PathBuf,
}

impl Packages {
    /// Those of this Debian; says by name what is skipped when they are not there.
    pub fn find(test: &str, debian: Debian) -> Option<Packages> {
        let tools = std::env::var_os("NETBPF_TOOLS_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
            PathBuf::from,
        );
        let directory = debian.directory();
        let root = tools.join(directory);
        // Written when all of them are there.
        if !root.join("packages.txt").exists() {
            skipped(test, &format!("the container {directory} are not unpacked"));
            return None;
        }
        let root = fs::canonicalize(&root).expect("it is there");
        Some(Packages { debian, root })
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

    /// What must lie over the machine's `/usr` for them to run; None where they run with
    /// the machine's own libraries and theirs beside them.
    #[track_caller]
    pub fn over_usr(&self) -> Option<PathBuf> {
        if self.debian == Debian::Own {
            return None;
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            let path = self.root.join(name);
            assert!(!path.exists(), "{} would be left out", path.display());
        }
        Some(self.root.join("usr"))
    }

    /// The directories of their libraries, one a line.
    pub fn libraries(&self) -> String {
        let directories = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let all = directories.map(|dir| self.root.join(dir).display().to_string());
        all.join("\n")
    }
}
