//! Runs the nested cargo and finishes the object.

use crate::{
    Compiler, CoreLibrary, Error, Linker, Places, Report, Result,
    compiler::{TARGET, choose},
    inspect::inspect,
    linker::find,
    strip::finish,
};
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A finished object.
#[derive(Debug, Clone)]
pub struct Built {
    /// Without DWARF, ready to be embedded.
    pub object: PathBuf,
    pub compiler: Compiler,
    pub linker: Linker,
    pub report: Report,
}

/// Builds the programs, always optimised: the verifier takes no other code. The
/// nested cargo's own output goes to stderr.
pub fn build(places: &Places) -> Result<Built> {
    let linker = find(places)?;
    let compiler = choose(places, &linker)?;
    let status = cargo(places, &compiler, &linker)
        .status()
        .map_err(|e| Error::new(format!("cannot run cargo for the eBPF programs: {e}")))?;
    if !status.success() {
        return Err(Error::new(format!(
            "the eBPF programs do not build with {} (Rust {}, LLVM {}); what cargo said stands above",
            compiler.rustc.display(),
            compiler.version.release,
            compiler.version.llvm,
        )));
    }
    let raw = places
        .target
        .join(TARGET)
        .join("release")
        .join("netbpf-ebpf");
    let data = fs::read(&raw).map_err(|e| Error::io("read", &raw, &e))?;
    let report = inspect(&data)?;
    if !report.panics.is_empty() {
        return Err(Error::new(format!(
            "the eBPF programs can panic, and the verifier would refuse them: {}; look for an \
             index, a slice, an unwrap or an arithmetic operation that is not checked",
            report.panics.join(", ")
        )));
    }
    let object = places.object();
    write_if_changed(&object, &finish(&data)?)?;
    Ok(Built {
        object,
        compiler,
        linker,
        report,
    })
}

fn cargo(places: &Places, compiler: &Compiler, linker: &Linker) -> Command {
    let ours = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(compiler.cargo.as_deref().unwrap_or(Path::new(&ours)));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(&places.root)
        .args(["build", "--release", "--package", "netbpf-ebpf"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&places.target)
        .args(["--features", &places.features.join(",")])
        .env("RUSTC", &compiler.rustc)
        // The target is tier 3 and its intrinsics are unstable, whatever the compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        // A wrapper of the user's configuration knows nothing of this compiler.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(places, linker));
    if compiler.core == CoreLibrary::FromSource {
        command.args(["-Z", "build-std=core"]);
    }
    // Both the unpacked compiler and the linker built beside it want them.
    if compiler.libraries.is_some() || linker.path.starts_with(&places.tools) {
        command.env("LD_LIBRARY_PATH", places.debian_libraries());
    }
    command
}

/// Compiler flags, joined the way cargo wants them.
fn flags(places: &Places, linker: &Linker) -> OsString {
    let mut path = OsString::from("-Clinker=");
    path.push(&linker.path);
    // Source lines in BTF read the same on every machine.
    let mut remap = OsString::from("--remap-path-prefix=");
    remap.push(&places.root);
    remap.push("/=");
    [
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // 32-bit and atomic instructions; kernels since 5.12.
        "-Ctarget-cpu=v3".into(),
        path,
        remap,
    ]
    .join(&OsString::from("\x1f"))
}

/// Variables that an outer cargo (of a build script, of clippy, of `cargo run`)
/// sets for its own build, and that would bend ours. What says where cargo's home
/// and registries are stays.
fn is_foreign(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
    ];
    const PREFIXES: [&str; 9] = [
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "DEP_",
        "RUSTC",
    ];
    NAMES.contains(&name)
        || name == "RUSTFLAGS"
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Leaves the time stamp alone where nothing changed: it is what cargo looks at.
fn write_if_changed(path: &Path, data: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == data) {
        return Ok(());
    }
    // Several builds may end at once; none of them may read half a file.
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&draft, data).map_err(|e| Error::io("write", &draft, &e))?;
    fs::rename(&draft, path).map_err(|e| Error::io("write", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_build_leaves_nothing_behind() {
        for name in [
            "RUSTFLAGS",
            "RUSTC",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_CFG_TARGET_OS",
            "CARGO_PKG_NAME",
            "TARGET",
        ] {
            assert!(is_foreign(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "RUSTUP_HOME",
            "PATH",
            "CARGO_REGISTRIES_X_INDEX",
            "CARGO",
        ] {
            assert!(!is_foreign(name), "{name}");
        }
    }
}
