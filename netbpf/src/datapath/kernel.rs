//! What a kernel has, by its version. docs/kernel-support.md lists the same.

use aya::util::KernelVersion;

use crate::settings::Release;

/// The kernel whose features are used: the running one, or an older one that the
/// operator asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Release);

impl Kernel {
    /// The running kernel, or `pretended` where that is older.
    pub fn new(pretended: Option<Release>) -> Kernel {
        let running = KernelVersion::current().map_or(Release::OLDEST, |version| {
            // The code is 8 bits each of major, minor and patch level.
            let code = version.code();
            Release {
                major: (code >> 16) as u8,
                minor: (code >> 8) as u8,
            }
        });
        Kernel(pretended.map_or(running, |pretended| pretended.min(running)))
    }

    pub fn release(self) -> Release {
        self.0
    }

    /// `BPF_FIB_LOOKUP_SKIP_NEIGH`.
    pub fn skips_neighbour(self) -> bool {
        self.at_least(6, 3)
    }

    /// TCX links.
    pub fn has_tcx(self) -> bool {
        self.at_least(6, 6)
    }

    /// `BPF_FIB_LOOKUP_SRC`.
    pub fn tells_source(self) -> bool {
        self.at_least(6, 7)
    }

    fn at_least(self, major: u8, minor: u8) -> bool {
        self.0 >= Release { major, minor }
    }
}
