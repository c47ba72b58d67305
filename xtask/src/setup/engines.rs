//! Container engines, and the cluster's etcd, that the tests start in namespaces of their own. They would
//! bring services to the host, so they are unpacked under `target/tools` and never
//! installed: those of the system's own Debian, and newer ones with the libraries that
//! they are linked with.

use super::{
    Consent, MEGABYTE,
    apt::{self, Lists, Package},
    lists,
    suite::Suite,
    with_lists,
};
use anyhow::{Context, Result};
use ebpf_build::Places;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Engines of one Debian.
struct Engines {
    /// Of the tools.
    directory: &'static str,
    wanted: &'static [&'static str],
}

/// Of the system's own: the engines, what runs and connects their containers, and what
/// runs in those.
const OWN: Engines = Engines {
    directory: "engines",
    wanted: &[
        "docker.io",
        "containerd",
        "containernetworking-plugins",
        "podman",
        "runc",
        "conmon",
        "busybox-static",
        "etcd-server",
        "etcd-client",
    ],
};

/// The suite that the newer ones are of.
const NEWER_SUITE: &str = "forky";

const NEWER: Engines = Engines {
    directory: "engines-forky",
    wanted: &[
        "containerd",
        "containernetworking-plugins",
        "runc",
        "busybox-static",
        "etcd-server",
        "etcd-client",
    ],
};

/// Names what was unpacked; there once all of it was.
const RECORD: &str = "packages.txt";

/// The cluster's etcd, where it is unpacked.
pub fn etcd(places: &Places) -> PathBuf {
    OWN.root(places).join("usr/bin/etcd")
}

pub fn is_ready(places: &Places) -> bool {
    OWN.are_ready(places) && NEWER.are_ready(places)
}

/// Brings what is missing of them. Without apt the tests say that they are skipped; those
/// of the newer engines also where these cannot be had.
pub fn bring(places: &Places, consent: Consent) -> Result<()> {
    if !apt::is_here() {
        eprintln!("note: there is no apt to bring container engines; their tests are skipped");
        return Ok(());
    }
    if !OWN.are_ready(places) {
        with_lists(consent, || OWN.bring(places, &apt::SYSTEM))?;
    }
    if !NEWER.are_ready(places)
        && let Err(error) = bring_newer(places, consent)
    {
        eprintln!(
            "note: the newer container engines cannot be had; their tests are skipped: {error:#}"
        );
    }
    Ok(())
}

fn bring_newer(places: &Places, consent: Consent) -> Result<()> {
    // The system's own say where Debian's packages are.
    lists(consent)?;
    let suite = Suite::fetch(NEWER_SUITE, &places.tools)?;
    NEWER.bring(places, &suite.lists)
}

impl Engines {
    fn root(&self, places: &Places) -> PathBuf {
        places.tools.join(self.directory)
    }

    fn are_ready(&self, places: &Places) -> bool {
        let record = fs::read_to_string(self.root(places).join(RECORD)).unwrap_or_default();
        self.wanted.iter().all(|name| {
            let mut lines = record.lines();
            lines.any(|line| line.split('=').next() == Some(name))
        })
    }

    fn bring(&self, places: &Places, lists: &Lists) -> Result<()> {
        let packages = self.packages(lists)?;
        let size = lists.download_size(&packages)? / MEGABYTE;
        let root = self.root(places);
        eprintln!(
            "setup: downloading {size} MB of container engines for the tests and unpacking them \
             into {} ({} MB); half a minute",
            root.display(),
            size * 4
        );
        for package in &packages {
            eprintln!("  {} {}", package.name, package.version);
        }
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("cannot remove {}", root.display()))?;
        }
        lists.unpack(&packages, &root, &places.tools)?;
        drop_useless(&root);
        let lines: Vec<String> = packages
            .iter()
            .map(|package| format!("{}={}\n", package.name, package.version))
            .collect();
        let record = root.join(RECORD);
        fs::write(&record, lines.concat())
            .with_context(|| format!("cannot write {}", record.display()))
    }

    /// The engines, also where the system has one installed, and the libraries that it
    /// lacks for them.
    fn packages(&self, lists: &Lists) -> Result<Vec<Package>> {
        let named = |name: &&str| {
            lists
                .candidate(name)
                .with_context(|| format!("apt has no {name}"))
        };
        let mut packages = self.wanted.iter().map(named).collect::<Result<Vec<_>>>()?;
        for package in lists.closure(self.wanted)? {
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
        Ok(packages)
    }
}

/// Documentation, and what engines bring for the host's own service manager.
fn drop_useless(root: &Path) {
    for path in ["usr/share/doc", "usr/share/man", "usr/share/locale", "etc"] {
        // It only takes room.
        _ = fs::remove_dir_all(root.join(path));
    }
}
