//! `cargo xtask build-ebpf`: the programs alone, with their figures.

use anyhow::Result;
use ebpf_build::{Built, Places};

/// Builds the programs and prints what they cost.
pub fn run(places: &Places) -> Result<()> {
    let built = ebpf_build::build(places)?;
    let Built {
        compiler, linker, ..
    } = &built;
    println!(
        "compiler  {} (Rust {}, LLVM {})",
        compiler.rustc.display(),
        compiler.version.release,
        compiler.version.llvm
    );
    println!("linker    {}", linker.path.display());
    println!("object    {}\n", built.object.display());
    print!("{}", built.report);
    Ok(())
}
