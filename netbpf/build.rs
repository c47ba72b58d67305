//! Embeds the eBPF programs: builds them, or takes them from `NETBPF_EBPF_DIR`,
//! and tells the crate where the object lies (`env!("NETBPF_EBPF_OBJECT")`).

use ebpf_build::{ENVIRONMENT, Error, OBJECT_NAME, Places, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

fn main() -> ExitCode {
    match embed() {
        Ok(object) => {
            println!("cargo::rustc-env=NETBPF_EBPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            // cargo takes one line for one error.
            let text = error.to_string().replace('\n', "; ");
            println!("cargo::error={text}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<PathBuf> {
    let directory = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .ok_or_else(|| Error::new(format!("cargo did not set {name}")))
    };
    let manifest = directory("CARGO_MANIFEST_DIR")?;
    let places = Places::new(manifest.parent().unwrap_or(Path::new("/")));
    let places = places.with_features_of_build();
    for name in ENVIRONMENT {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let source = match env::var_os("NETBPF_EBPF_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => places.root.join(dir).join(OBJECT_NAME),
        None => {
            for input in places.inputs() {
                println!("cargo::rerun-if-changed={}", input.display());
            }
            ebpf_build::build(&places)?.object
        }
    };
    println!("cargo::rerun-if-changed={}", source.display());
    // A copy of our own: another build may replace the shared object meanwhile.
    let object = directory("OUT_DIR")?.join(OBJECT_NAME);
    fs::copy(&source, &object)
        .map_err(|e| Error::new(format!("cannot embed {}: {e}", source.display())))?;
    Ok(object)
}
