//! Where sources, tools and results lie.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Name of the finished object, in `target/bpf` and in `NETBPF_EBPF_DIR`.
pub const OBJECT_NAME: &str = "netbpf.o";

/// Environment variables that change what is built or with what.
pub const ENVIRONMENT: [&str; 4] = [
    "NETBPF_EBPF_DIR",
    "NETBPF_RUSTC",
    "NETBPF_BPF_LINKER",
    "NETBPF_TOOLS_DIR",
];

/// The directories of one checkout.
#[derive(Debug, Clone)]
pub struct Places {
    /// The workspace.
    pub root: PathBuf,
    /// Tools brought by `cargo xtask setup`: `debian/` unpacked packages, `bin/`.
    pub tools: PathBuf,
    /// Target directory of the nested cargo: its own, since the outer cargo
    /// holds the lock of its target directory while build scripts run.
    pub target: PathBuf,
    /// Features of the programs that are built.
    pub features: Vec<String>,
}

impl Places {
    /// Of the workspace at `root`; `NETBPF_TOOLS_DIR` moves the tools.
    pub fn new(root: &Path) -> Self {
        let tools = env::var_os("NETBPF_TOOLS_DIR")
            .filter(|dir| !dir.is_empty())
            .map_or_else(|| root.join("target/tools"), |dir| root.join(dir));
        Self {
            root: root.to_path_buf(),
            tools,
            target: root.join("target/bpf"),
            features: Vec::new(),
        }
    }

    /// With the programs' features that cargo has told a build script of; they have a
    /// target directory of their own, as others may be built meanwhile.
    #[must_use]
    pub fn with_features_of_build(mut self) -> Self {
        let known = ["next-programs", "next-layout"].into_iter();
        let is_on = |name: &&str| {
            let variable = name.to_uppercase().replace('-', "_");
            env::var_os(format!("CARGO_FEATURE_{variable}")).is_some()
        };
        self.features = known.filter(is_on).map(str::to_owned).collect();
        if !self.features.is_empty() {
            self.target = self
                .target
                .with_file_name(format!("bpf-{}", self.features.join("-")));
        }
        self
    }

    /// Root of the unpacked Debian packages.
    pub fn debian(&self) -> PathBuf {
        self.tools.join("debian")
    }

    /// Where the unpacked packages keep their shared libraries.
    pub fn debian_libraries(&self) -> PathBuf {
        self.debian()
            .join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH))
    }

    /// The finished object.
    pub fn object(&self) -> PathBuf {
        self.target.join(OBJECT_NAME)
    }

    /// What a change of means that the object must be built anew. Only what
    /// exists: cargo takes an absent path for changed.
    pub fn inputs(&self) -> Vec<PathBuf> {
        [
            "netbpf-ebpf/src",
            "netbpf-ebpf/Cargo.toml",
            "netbpf-common/src",
            "netbpf-common/Cargo.toml",
            "Cargo.toml",
            "Cargo.lock",
        ]
        .iter()
        .map(|path| self.root.join(path))
        .chain([
            self.tools.join("bin/bpf-linker"),
            self.debian().join("usr/bin/rustc"),
        ])
        .filter(|path| path.exists())
        .collect()
    }
}
