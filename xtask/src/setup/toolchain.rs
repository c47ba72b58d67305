//! Compiler, LLVM and linker for BPF, under `target/tools`:
//!
//! - `debian/`: Debian's own rustc with a prebuilt `core` for BPF and its LLVM,
//!   unpacked. Installing them could remove a user's own Rust packages.
//! - `bin/bpf-linker`, built against that LLVM.

use super::{Consent, MEGABYTE, apt, apt::Package, lists, manual, refresh, with_lists};
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub const LINKER_VERSION: &str = "0.13.0";

/// Says which packages `debian/` holds, one `name=version` a line.
const RECORD: &str = "packages.txt";

/// Whether the programs can be built.
pub fn is_ready(places: &Places) -> bool {
    ebpf_build::find_linker(places)
        .and_then(|linker| ebpf_build::choose_compiler(places, &linker))
        .is_ok()
}

/// Brings what is missing. Shows what it does.
pub fn bring(places: &Places, consent: Consent) -> Result<()> {
    if !apt::is_here() {
        bail!(manual::toolchain(
            places,
            "the compiler comes from Debian's packages, and this system has no apt"
        ));
    }
    lists(consent)?;
    if Plan::make()?.is_none() {
        refresh(
            consent,
            "apt's package lists name no suitable Rust and may be old",
        )?;
    }
    let plan = with_lists(consent, || {
        let plan = Plan::make()?.with_context(|| {
            manual::toolchain(
                places,
                "this system's packages have no Rust that is new enough and can make BPF \
                 code (Debian 12 has it in its security updates)",
            )
        })?;
        packages(places, &plan).map(|()| plan)
    })?;
    if linker_llvm(places) != Some(plan.llvm) {
        build_linker(places, plan.llvm)?;
    }
    drop_static_libraries(places, plan.llvm);
    let linker = ebpf_build::find_linker(places)?;
    ebpf_build::choose_compiler(places, &linker)?;
    eprintln!("setup: the BPF toolchain is in {}", places.tools.display());
    Ok(())
}

/// Which packages.
struct Plan {
    packages: BTreeSet<Package>,
    llvm: u32,
}

impl Plan {
    /// None where the system has no suitable compiler. Debian's `rustc-web` is
    /// its up-to-date compiler for the stable release.
    fn make() -> Result<Option<Self>> {
        for (rustc, library) in [("rustc", "libstd-rust"), ("rustc-web", "libstd-rust-web")] {
            let Some(compiler) = apt::SYSTEM.candidate(rustc) else {
                continue;
            };
            let Some((major, minor)) = release(&compiler.version) else {
                continue;
            };
            let runtime = format!("{library}-{major}.{minor}");
            let parts = [
                runtime,
                format!("{library}-dev"),
                format!("{library}-dev-bpf"),
            ]
            .map(|name| apt::SYSTEM.candidate(&name));
            let [Some(runtime), Some(host), Some(bpf)] = parts else {
                continue;
            };
            if (major, minor) < needed_release() {
                continue;
            }
            let Some(llvm) = llvm_among(&apt::SYSTEM.dependencies(&runtime)?) else {
                continue;
            };
            let Some(development) = apt::SYSTEM.candidate(&format!("llvm-{llvm}-dev")) else {
                continue;
            };
            let library = format!("libllvm{llvm}");
            let mut packages = BTreeSet::from([compiler, runtime, host, bpf, development]);
            packages.extend(apt::SYSTEM.candidate(&library));
            packages.extend(apt::SYSTEM.closure(&[&library])?);
            return Ok(Some(Self { packages, llvm }));
        }
        Ok(None)
    }
}

/// What the workspace's `rust-version` asks for, which is ours too.
fn needed_release() -> (u32, u32) {
    release(env!("CARGO_PKG_RUST_VERSION")).unwrap_or((1, 95))
}

/// `1.96.0+dfsg1-1~deb12u2` -> (1, 96).
fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '+', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn llvm_among(dependencies: &[String]) -> Option<u32> {
    dependencies
        .iter()
        .find_map(|name| name.strip_prefix("libllvm")?.parse().ok())
}

fn packages(places: &Places, plan: &Plan) -> Result<()> {
    let debian = places.debian();
    let have = recorded(places);
    let missing: Vec<Package> = plan.packages.difference(&have).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Parts of two builds of the compiler do not go together.
    let mixes = have.iter().any(|old| {
        plan.packages
            .iter()
            .any(|new| old.name == new.name && old != new)
    });
    let anew = mixes || !debian.exists() || have.is_empty();
    let wanted: Vec<Package> = if anew {
        plan.packages.iter().cloned().collect()
    } else {
        missing
    };
    let size = apt::SYSTEM.download_size(&wanted)? / MEGABYTE;
    eprintln!(
        "setup: downloading {size} MB and unpacking them into {} ({} MB); a minute or two",
        debian.display(),
        size * 6
    );
    for package in &wanted {
        eprintln!("  {} {}", package.name, package.version);
    }
    if anew {
        let fresh = places.tools.join("debian.new");
        remove_if_there(&fresh)?;
        apt::SYSTEM.unpack(&wanted, &fresh, &places.tools)?;
        remove_if_there(&debian)?;
        fs::rename(&fresh, &debian)
            .with_context(|| format!("cannot move the packages to {}", debian.display()))?;
    } else {
        apt::SYSTEM.unpack(&wanted, &debian, &places.tools)?;
    }
    let lines: Vec<String> = plan
        .packages
        .iter()
        .map(|package| format!("{}={}\n", package.name, package.version))
        .collect();
    let record = debian.join(RECORD);
    fs::write(&record, lines.concat()).with_context(|| format!("cannot write {}", record.display()))
}

fn remove_if_there(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// What is unpacked already: by our own record, or by the package files that
/// somebody who unpacked by hand left beside it.
fn recorded(places: &Places) -> BTreeSet<Package> {
    if let Ok(text) = fs::read_to_string(places.debian().join(RECORD)) {
        return text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, version)| Package {
                name: name.to_owned(),
                version: version.to_owned(),
            })
            .collect();
    }
    fs::read_dir(places.tools.join("deb"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| package_of_file(&entry.file_name().to_string_lossy()))
        .collect()
}

/// `libllvm22_1%3a22.1.8-1~deb12u1_amd64.deb`
fn package_of_file(name: &str) -> Option<Package> {
    let mut parts = name.strip_suffix(".deb")?.split('_');
    Some(Package {
        name: parts.next()?.to_owned(),
        version: parts.next()?.replace("%3a", ":"),
    })
}

/// LLVM of the linker in the tools; None without one.
fn linker_llvm(places: &Places) -> Option<u32> {
    ebpf_build::find_linker(places).ok()?.llvm
}

fn build_linker(places: &Places, llvm: u32) -> Result<()> {
    eprintln!("setup: building bpf-linker {LINKER_VERSION} against LLVM {llvm}; about a minute");
    let scratch = places.tools.join("linker.build");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", "bpf-linker", "--locked", "--force", "--quiet"])
        .args(["--version", LINKER_VERSION, "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}")])
        .arg("--root")
        .arg(&places.tools)
        .arg("--target-dir")
        .arg(&scratch)
        .env("LLVM_PREFIX", prefix(places, llvm))
        .env("LD_LIBRARY_PATH", places.debian_libraries());
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        command.env_remove(name);
    }
    let status = command.status().context("cannot run cargo install")?;
    if !status.success() {
        bail!(
            "bpf-linker {LINKER_VERSION} cannot be built ({status}); what cargo said stands \
             above. It needs a network and a C compiler"
        );
    }
    remove_if_there(&scratch)
}

fn prefix(places: &Places, llvm: u32) -> PathBuf {
    places.debian().join(format!("usr/lib/llvm-{llvm}"))
}

/// Half a gigabyte that nobody reads once the linker is there.
fn drop_static_libraries(places: &Places, llvm: u32) {
    let entries = fs::read_dir(prefix(places, llvm).join("lib"));
    for entry in entries.into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension() == Some(OsStr::new("a")) {
            // It only takes room.
            _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_of_a_debian_version() {
        assert_eq!(release("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(release("1.95"), Some((1, 95)));
        assert_eq!(release("unknown"), None);
    }

    #[test]
    fn llvm_of_the_compiler_is_among_its_dependencies() {
        let all = ["libc6", "libllvm22", "libstdc++6"].map(str::to_owned);
        assert_eq!(llvm_among(&all), Some(22));
        assert_eq!(llvm_among(&all[..1]), None);
    }

    #[test]
    fn package_files_name_their_package() {
        let package = package_of_file("libllvm22_1%3a22.1.8-1~deb12u1_amd64.deb");
        let package = package.expect("a package");
        assert_eq!(package.name, "libllvm22");
        assert_eq!(package.version, "1:22.1.8-1~deb12u1");
        assert_eq!(package_of_file("notes.txt"), None);
    }
}
