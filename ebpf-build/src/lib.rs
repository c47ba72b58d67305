//! Finds a compiler and a linker for BPF, builds the programs and looks at what
//! came out: what the verifier would refuse later is an error here.
//!
//! Used by `netbpf/build.rs`, which embeds the object, and by `cargo xtask
//! build-ebpf`, which prints the figures. It stands on std alone, so that it is
//! compiled in a second before everything else. Bringing the tools is the work
//! of `cargo xtask setup`.

mod build;
mod compiler;
mod elf;
mod error;
mod inspect;
mod instructions;
mod line_info;
mod linker;
mod places;
mod strip;

pub use build::{Built, build};
pub use compiler::{Compiler, CoreLibrary, Version, choose as choose_compiler};
pub use error::{Error, Result};
pub use inspect::{Program, Report, inspect};
pub use linker::{Linker, find as find_linker};
pub use places::{ENVIRONMENT, OBJECT_NAME, Places};
