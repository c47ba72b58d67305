//! Container engines that the tests start in namespaces of their own. They would
//! bring services to the host, so they are unpacked under `target/tools/engines`
//! and never installed.

use super::{Consent, MEGABYTE, apt, apt::Package, with_lists};
use anyhow::{Context, Result};
use ebpf_build::Places;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The engines, what runs and connects their containers, and what runs in those.
const WANTED: [&str; 7] = [
    "docker.io",
    "containerd",
    "containernetworking-plugins",
    "podman",
    "runc",
    "conmon",
    "busybox-static",
];

/// Names what was unpacked; there once all of it was.
const RECORD: &str = "packages.txt";

fn root(places: &Places) -> PathBuf {
    places.tools.join("engines")
}

pub fn is_ready(places: &Places) -> bool {
    let record = fs::read_to_string(root(places).join(RECORD)).unwrap_or_default();
    WANTED.iter().all(|name| {
        let mut lines = record.lines();
        lines.any(|line| line.split('=').next() == Some(name))
    })
}

/// Brings them. Without apt the tests say that they are skipped.
pub fn bring(places: &Places, consent: Consent) -> Result<()> {
    if !apt::is_here() {
        eprintln!("note: there is no apt to bring container engines; their tests are skipped");
        return Ok(());
    }
    with_lists(consent, || bring_packages(places))
}

fn bring_packages(places: &Places) -> Result<()> {
    let packages = wanted()?;
    let size = apt::download_size(&packages)? / MEGABYTE;
    let root = root(places);
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
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    apt::unpack(&packages, &root, &places.tools)?;
    drop_useless(&root);
    let lines: Vec<String> = packages
        .iter()
        .map(|package| format!("{}={}\n", package.name, package.version))
        .collect();
    let record = root.join(RECORD);
    fs::write(&record, lines.concat()).with_context(|| format!("cannot write {}", record.display()))
}

/// The engines, also where the system has one installed, and the libraries that it
/// lacks for them.
fn wanted() -> Result<Vec<Package>> {
    let mut packages = WANTED
        .iter()
        .map(|name| apt::candidate(name).with_context(|| format!("apt has no {name}")))
        .collect::<Result<Vec<_>>>()?;
    for package in apt::closure(&WANTED)? {
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    Ok(packages)
}

/// Documentation, and what engines bring for the host's own service manager.
fn drop_useless(root: &Path) {
    for path in ["usr/share/doc", "usr/share/man", "usr/share/locale", "etc"] {
        // It only takes room.
        _ = fs::remove_dir_all(root.join(path));
    }
}
