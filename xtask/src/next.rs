//! Builds the product as later versions might be, for the tests of upgrades: one with
//! other programs over the same maps, and one with another layout of a map.

use crate::{
    step::Step,
    test::{cargo, executables},
};
use anyhow::{Context, Result};
use ebpf_build::Places;
use std::{fs, path::PathBuf};

/// Features of the package netbpf, as `next-…`.
const VERSIONS: [&str; 2] = ["programs", "layout"];

/// Builds them and says in which directory they are, each as `VERSION/netbpf`.
pub fn run(places: &Places) -> Result<PathBuf> {
    let all = places.root.join("target/next");
    for version in VERSIONS {
        let step = Step::new(&places.root, &format!("build next {version}"))?;
        let feature = format!("next-{version}");
        let build = ["build", "--package", "netbpf", "--bin", "netbpf"];
        let built = executables(
            &step,
            cargo(places).args(build).args(["--features", &feature]),
        )?;
        let built = built.first().context("cargo built no netbpf binary")?;
        let directory = all.join(version);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        // In one go: another test may run the one that is there.
        let (fresh, path) = (directory.join("new"), directory.join("netbpf"));
        fs::copy(built, &fresh)
            .and_then(|_| fs::rename(&fresh, &path))
            .with_context(|| format!("copy {} to {}", built.display(), path.display()))?;
    }
    Ok(all)
}
