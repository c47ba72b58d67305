//! Chooses a compiler that can make BPF code.
//!
//! Rust's `core` for `bpfel-unknown-none` comes with no rustup toolchain: it is
//! either built along (nightly with rust-src) or prebuilt by a distribution.

use crate::{Error, Linker, Places, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A compiler that can make BPF code.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub rustc: PathBuf,
    /// The cargo that drives it; None: the cargo that runs us.
    pub cargo: Option<PathBuf>,
    pub version: Version,
    pub core: CoreLibrary,
    /// Directory of its shared libraries where the loader does not look.
    pub libraries: Option<PathBuf>,
}

/// Where `core` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoreLibrary {
    /// In the compiler's sysroot.
    Prebuilt,
    /// Built along from rust-src, which takes a nightly cargo.
    FromSource,
}

/// What `rustc -vV` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub release: String,
    pub llvm: u32,
}

impl Version {
    /// From the output of `rustc -vV`.
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::trim)
        };
        Some(Self {
            release: field("release")?.to_owned(),
            llvm: field("LLVM version")?.split('.').next()?.parse().ok()?,
        })
    }

    /// Major and minor of the release.
    pub fn major_minor(&self) -> Option<(u32, u32)> {
        parse_major_minor(&self.release)
    }
}

pub(crate) fn parse_major_minor(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The first compiler that has a `core` for BPF, is new enough and whose LLVM
/// the linker understands: `NETBPF_RUSTC`, a nightly with rust-src, the tools'
/// own, the system's, the one on `PATH`. The error says why each was passed over.
pub fn choose(places: &Places, linker: &Linker) -> Result<Compiler> {
    let wanted = required_release(&places.root)?;
    if let Some(rustc) = env::var_os("NETBPF_RUSTC").filter(|value| !value.is_empty()) {
        let rustc = PathBuf::from(rustc);
        return examine(places, &rustc, None)
            .and_then(|compiler| accept(compiler, linker, wanted))
            .map_err(|why| {
                Error::new(format!("NETBPF_RUSTC={} is no use: {why}", rustc.display()))
            });
    }
    let mut passed_over = Vec::new();
    for (rustc, cargo) in candidates(places) {
        match examine(places, &rustc, cargo).and_then(|c| accept(c, linker, wanted)) {
            Ok(compiler) => return Ok(compiler),
            Err(why) => passed_over.push(format!("  {}: {why}", rustc.display())),
        }
    }
    if passed_over.is_empty() {
        passed_over.push("  there is no rustc at all".to_owned());
    }
    Err(Error::new(format!(
        "no compiler can build the eBPF programs:\n{}\nrun `cargo xtask setup`",
        passed_over.join("\n")
    )))
}

/// Compilers worth a look, best first, nightly's with its own cargo.
fn candidates(places: &Places) -> Vec<(PathBuf, Option<PathBuf>)> {
    let mut found = Vec::new();
    if let (Some(rustc), Some(cargo)) = (rustup_which("rustc"), rustup_which("cargo")) {
        found.push((rustc, Some(cargo)));
    }
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("rustc"))
        .find(|path| path.is_file());
    let plain = [
        Some(places.debian().join("usr/bin/rustc")),
        Some(PathBuf::from("/usr/bin/rustc")),
        on_path,
    ];
    for rustc in plain.into_iter().flatten().filter(|path| path.is_file()) {
        if !found.iter().any(|(seen, _)| *seen == rustc) {
            found.push((rustc, None));
        }
    }
    found
}

fn rustup_which(tool: &str) -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", tool])
        // Looking must not bring a toolchain.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_file().then_some(path)
}

fn examine(places: &Places, rustc: &Path, cargo: Option<PathBuf>) -> Result<Compiler, String> {
    let libraries = rustc
        .starts_with(places.debian())
        .then(|| places.debian_libraries());
    let ask = |args: &[&str]| {
        let mut command = Command::new(rustc);
        command.args(args).env_remove("RUSTUP_TOOLCHAIN");
        match &libraries {
            Some(dir) => command.env("LD_LIBRARY_PATH", dir),
            None => command.env_remove("LD_LIBRARY_PATH"),
        };
        let output = command
            .output()
            .map_err(|e| format!("cannot be run: {e}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(text.lines().next().unwrap_or("fails").to_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let version = ask(&["-vV"])?;
    let version = Version::parse(&version).ok_or("`rustc -vV` says nothing of LLVM")?;
    let libdir = ask(&["--print", "target-libdir", "--target", TARGET])?;
    let core = if holds(&libdir, "libcore-") {
        // Macros and build scripts run on the host.
        if !holds(&ask(&["--print", "target-libdir"])?, "libstd-") {
            return Err("it has no std for this machine".to_owned());
        }
        CoreLibrary::Prebuilt
    } else if cargo.is_none() {
        return Err(format!("it has no core library for {TARGET}"));
    } else {
        let sysroot = ask(&["--print", "sysroot"])?;
        let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !source.is_file() {
            return Err(
                "it lacks rust-src (`rustup component add rust-src --toolchain nightly`)"
                    .to_owned(),
            );
        }
        CoreLibrary::FromSource
    };
    Ok(Compiler {
        rustc: rustc.to_path_buf(),
        cargo,
        version,
        core,
        libraries,
    })
}

/// Whether a directory, as rustc printed it, has this library for static linking.
fn holds(libdir: &str, library: &str) -> bool {
    fs::read_dir(libdir.trim()).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(library) && name.ends_with(".rlib")
        })
    })
}

fn accept(compiler: Compiler, linker: &Linker, wanted: (u32, u32)) -> Result<Compiler, String> {
    let version = &compiler.version;
    if version.major_minor().is_none_or(|have| have < wanted) {
        return Err(format!(
            "it is Rust {}, and {}.{} or newer is needed",
            version.release, wanted.0, wanted.1
        ));
    }
    // LLVM reads the bitcode of older releases, never of newer ones.
    match linker.llvm {
        Some(llvm) if version.llvm > llvm => Err(format!(
            "it makes code of LLVM {}, and {} stands on LLVM {llvm} and cannot read that",
            version.llvm,
            linker.path.display()
        )),
        _ => Ok(compiler),
    }
}

/// `rust-version` of the workspace.
fn required_release(root: &Path) -> Result<(u32, u32)> {
    let path = root.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
    text.lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .and_then(|value| parse_major_minor(value.trim_matches('"')))
        .ok_or_else(|| Error::new(format!("{} has no rust-version", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
    const NIGHTLY: &str =
        "rustc 1.99.0-nightly (abc 2026-10-01)\nrelease: 1.99.0-nightly\nLLVM version: 23.0.0\n";

    fn compiler(text: &str) -> Compiler {
        Compiler {
            rustc: PathBuf::from("/rustc"),
            cargo: None,
            version: Version::parse(text).expect("a version"),
            core: CoreLibrary::Prebuilt,
            libraries: None,
        }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker {
            path: PathBuf::from("/bpf-linker"),
            llvm,
        }
    }

    #[test]
    fn version_is_read_from_rustc() {
        let stable = Version::parse(STABLE).expect("a version");
        assert_eq!((stable.release.as_str(), stable.llvm), ("1.95.0", 22));
        let nightly = Version::parse(NIGHTLY).expect("a version");
        assert_eq!((nightly.major_minor(), nightly.llvm), (Some((1, 99)), 23));
        assert_eq!(Version::parse("rustc 1.0"), None);
    }

    #[test]
    fn newer_llvm_than_the_linkers_is_refused() {
        let why = accept(compiler(NIGHTLY), &linker(Some(22)), (1, 95)).expect_err("too new");
        assert!(why.contains("LLVM 23") && why.contains("LLVM 22"), "{why}");
    }

    #[test]
    fn same_older_or_unknown_llvm_is_taken() {
        for llvm in [Some(22), Some(23), None] {
            assert!(accept(compiler(STABLE), &linker(llvm), (1, 95)).is_ok());
        }
    }

    #[test]
    fn old_rust_is_refused() {
        let why = accept(compiler(STABLE), &linker(None), (1, 96)).expect_err("too old");
        assert!(why.contains("1.96"), "{why}");
    }
}
