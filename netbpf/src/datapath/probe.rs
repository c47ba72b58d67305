//! What the running kernel has, for `doctor`.

use std::path::Path;

use super::kernel::{Feature, Kernel, asked_for_tcx};
use crate::settings::Release;

/// What a kernel has, and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Whose features are used.
    pub release: Release,
    /// Each, and whether it is used.
    pub features: Vec<(Feature, bool)>,
    /// Why it cannot be asked for TCX.
    pub no_answer: Option<String>,
    /// Its types are there for programs to be checked against.
    pub has_btf: bool,
}

/// Asks; `as_kernel` as the daemon was told.
pub fn probe(as_kernel: Option<Release>) -> Probed {
    let kernel = Kernel::new(as_kernel);
    Probed {
        release: kernel.release(),
        features: Feature::ALL
            .map(|feature| (feature, kernel.has(feature)))
            .into(),
        no_answer: asked_for_tcx().err(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
    }
}
