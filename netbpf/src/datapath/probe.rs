//! What the running kernel has, by asking it where that is possible.

use std::path::Path;

use aya::programs::{SchedClassifier, tc::TcAttachType};

use super::{kernel::Kernel, load::chain};
use crate::settings::Release;

/// What a kernel has, and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whose features are used.
    pub release: Release,
    /// Whether it answers questions about TCX; or why it cannot be asked.
    pub tcx: Result<bool, String>,
    /// What its release stands for.
    pub wants_tcx: bool,
    pub skips_neighbour: bool,
    pub tells_source: bool,
    /// Its types are there for programs to be checked against.
    pub has_btf: bool,
}

/// Asks; `as_kernel` as the daemon was told.
pub fn probe(as_kernel: Option<Release>) -> Probed {
    let kernel = Kernel::new(as_kernel);
    Probed {
        release: kernel.release(),
        tcx: tcx(),
        wants_tcx: kernel.has_tcx(),
        skips_neighbour: kernel.skips_neighbour(),
        tells_source: kernel.tells_source(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
    }
}

/// Asked for the programs on `lo`, a kernel without TCX calls the question invalid.
fn tcx() -> Result<bool, String> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match chain(&error) {
            text if text.contains("Invalid argument") => Ok(false),
            text => Err(text),
        },
    }
}
