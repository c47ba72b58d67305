//! What a kernel has, by asking it: distributions take features back to older releases.
//! docs/kernel-support.md lists the same.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    sync::OnceLock,
};

use aya::{
    programs::{SchedClassifier, tc::TcAttachType},
    util::KernelVersion,
};

use super::load::chain;
use crate::settings::Release;

/// The kernel's own types.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// A feature that is used where it is there, and done without where it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Links of programs to devices.
    Tcx,
    /// `bpf_fib_lookup` tells the source address of a way.
    FibSource,
    /// `bpf_fib_lookup` does not look for the neighbour.
    FibSkipsNeighbour,
    /// `bpf_skb_adjust_room` makes a packet one of the other family.
    DecapL3,
    /// `bpf_l4_csum_replace` is told of IPv6.
    ChecksumIpv6,
}

impl Feature {
    pub const ALL: [Feature; 5] = [
        Feature::Tcx,
        Feature::FibSource,
        Feature::FibSkipsNeighbour,
        Feature::DecapL3,
        Feature::ChecksumIpv6,
    ];

    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Tcx => "TCX",
            Feature::FibSource => "BPF_FIB_LOOKUP_SRC",
            Feature::FibSkipsNeighbour => "BPF_FIB_LOOKUP_SKIP_NEIGH",
            Feature::DecapL3 => "BPF_F_ADJ_ROOM_DECAP_L3_IPV4",
            Feature::ChecksumIpv6 => "BPF_F_IPV6",
        }
    }

    /// Linux has it from this release on.
    fn since(self) -> Release {
        let (major, minor) = match self {
            Feature::Tcx => (6, 6),
            Feature::FibSource => (6, 7),
            Feature::FibSkipsNeighbour | Feature::DecapL3 => (6, 3),
            Feature::ChecksumIpv6 => (6, 16),
        };
        Release { major, minor }
    }

    /// What is done without it.
    pub fn instead(self) -> &'static str {
        match self {
            Feature::Tcx => "programs hang on uplinks by clsact filters",
            Feature::FibSource => "the daemon reads source addresses from the host's routes",
            Feature::FibSkipsNeighbour => "ways are asked for with their neighbours",
            Feature::DecapL3 => "bpf_skb_change_proto, tried packet by packet",
            Feature::ChecksumIpv6 => "the same without the flag, tried packet by packet",
        }
    }
}

/// The kernel whose features are used: the running one, as if it were an older one where
/// the operator has asked for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    release: Release,
    pretended: Option<Release>,
}

impl Kernel {
    /// The running kernel, or `pretended` where that is older.
    pub fn new(pretended: Option<Release>) -> Kernel {
        let running = running();
        Kernel {
            release: pretended.map_or(running, |pretended| pretended.min(running)),
            pretended,
        }
    }

    pub fn release(self) -> Release {
        self.release
    }

    /// Whether the feature is there and not to be done without.
    pub fn has(self, feature: Feature) -> bool {
        let wanted = self.pretended.is_none_or(|of| of >= feature.since());
        wanted && has(feature)
    }
}

fn running() -> Release {
    KernelVersion::current().map_or(Release::OLDEST, |version| {
        // The code is 8 bits each of major, minor and patch level.
        let code = version.code();
        Release {
            major: (code >> 16) as u8,
            minor: (code >> 8) as u8,
        }
    })
}

/// Asks once.
fn has(feature: Feature) -> bool {
    static ASKED: OnceLock<[bool; Feature::ALL.len()]> = OnceLock::new();
    ASKED.get_or_init(ask)[feature as usize]
}

/// Whoever does not answer has what its release stands for.
fn ask() -> [bool; Feature::ALL.len()] {
    let names = Feature::ALL.map(Feature::name);
    let known = names_in(Path::new(BTF), &names)
        .inspect_err(|error| tracing::debug!(%error, "the kernel's types cannot be read"));
    Feature::ALL.map(|feature| {
        let answer = match feature {
            Feature::Tcx => asked_for_tcx().ok(),
            _ => known.as_ref().ok().map(|known| known[feature as usize]),
        };
        answer.unwrap_or_else(|| running() >= feature.since())
    })
}

/// Asked for the programs on `lo`, a kernel without TCX calls the question invalid.
pub fn asked_for_tcx() -> Result<bool, String> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match chain(&error) {
            text if text.contains("Invalid argument") => Ok(false),
            text => Err(text),
        },
    }
}

/// Which of these names are among the strings of a file of types, such as the enumerators
/// of flags that the kernel knows (Documentation/bpf/btf.rst: `struct btf_header`).
fn names_in<const N: usize>(path: &Path, names: &[&str; N]) -> io::Result<[bool; N]> {
    const MAGIC: u16 = 0xeb9f;
    const HEADER: usize = 24;

    let mut file = File::open(path)?;
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    let word = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        u64::from(u32::from_ne_bytes(bytes))
    };
    if u16::from_ne_bytes([header[0], header[1]]) != MAGIC {
        return Err(io::Error::other("no BTF"));
    }
    // Offsets are from the end of the header.
    let (length, strings, size) = (word(4), word(16), word(20));
    file.seek(SeekFrom::Start(length + strings))?;
    let mut text = Vec::new();
    if file.take(size).read_to_end(&mut text)? as u64 != size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut found = [false; N];
    for string in text.split(|byte| *byte == 0) {
        if let Some(at) = names.iter().position(|name| name.as_bytes() == string) {
            found[at] = true;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn btf(strings: &[u8]) -> Vec<u8> {
        let mut file = vec![0x9f, 0xeb, 1, 0];
        // Header, types of 8 bytes, and the strings behind them.
        for word in [24_u32, 0, 8, 8, strings.len() as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend([0; 8]);
        file.extend(strings);
        file
    }

    #[test]
    fn whole_names_are_found_and_parts_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("btf");
        std::fs::write(&path, btf(b"\0BPF_F_IPV6\0NOT_BPF_F_MARK\0end\0behind")).unwrap();
        let names = ["BPF_F_IPV6", "BPF_F_MARK", "BPF_F", "end"];
        assert_eq!(names_in(&path, &names).unwrap(), [true, false, false, true]);
        // A torn or strange file answers nothing.
        for content in [&b"\x9f\xeb"[..], b"not what it should be at all....."] {
            std::fs::write(&path, content).unwrap();
            names_in(&path, &names).unwrap_err();
        }
    }

    #[test]
    fn a_pretended_kernel_has_no_more_than_its_release_and_the_running_one() {
        let of = |major, minor| Kernel::new(Some(Release { major, minor }));
        for feature in Feature::ALL {
            assert!(!of(6, 2).has(feature));
            assert_eq!(of(99, 0).has(feature), Kernel::new(None).has(feature));
            let Release { major, minor } = feature.since();
            assert_eq!(of(major, minor).has(feature), has(feature));
            assert!(!of(major, minor - 1).has(feature));
        }
    }
}
