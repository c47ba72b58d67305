//! What a virtual machine is made of: QEMU, a kernel of Debian's and a static
//! busybox. All of it is unpacked under `target/tools/vm`, nothing is installed.

use super::{
    Consent, MEGABYTE, apt,
    apt::{Lists, Package},
    suite::Suite,
    with_lists,
};
use crate::privilege::which;
use anyhow::{Context, Result, bail};
use ebpf_build::Places;
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The parts of a virtual machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The unpacked packages.
    root: PathBuf,
    /// Release as `uname -r` says it.
    pub release: String,
    pub kernel: PathBuf,
    /// The kernel's modules.
    pub modules: PathBuf,
    pub busybox: PathBuf,
    /// The system's own QEMU where there is one.
    installed: Option<PathBuf>,
}

/// Kernels of one origin.
#[derive(Debug)]
pub struct Series {
    pub name: &'static str,
    /// What its releases begin and end with.
    prefix: &'static str,
    suffix: &'static str,
    /// Of which suite it is; `None`: the system's own.
    suite: Option<&'static str>,
}

/// What there is to boot: one that is too old, which is to be said, and from the oldest
/// that works to the newest of Debian's.
pub const SERIES: [Series; 4] = [
    Series {
        name: "5.10",
        prefix: "5.10.0-",
        suffix: "-cloud-amd64",
        suite: Some("bullseye"),
    },
    Series {
        name: "6.1",
        prefix: "6.1.0-",
        suffix: "-cloud-amd64",
        suite: None,
    },
    Series {
        name: "6.12",
        prefix: "6.12.",
        suffix: "+deb12-cloud-amd64",
        suite: None,
    },
    Series {
        name: "newest",
        prefix: "",
        suffix: "+deb14-cloud-amd64",
        suite: Some("forky"),
    },
];

/// The series of that name.
pub fn series(name: &str) -> Result<&'static Series> {
    let names = || SERIES.map(|series| series.name).join(", ");
    let found = SERIES.iter().find(|series| series.name == name);
    found.with_context(|| {
        format!(
            "no virtual machine is known for kernel {name}; there are {}",
            names()
        )
    })
}

impl Series {
    /// A regular expression for the names of its packages.
    fn pattern(&self) -> String {
        let quoted = |text: &str| text.replace('.', "\\.").replace('+', "\\+");
        let (prefix, suffix) = (quoted(self.prefix), quoted(self.suffix));
        format!("^{IMAGE}{prefix}[0-9.]+{suffix}$")
    }

    /// The kernel's release, of the name of a file or package that bears it.
    fn release<'a>(&self, name: &'a str, before: &str) -> Option<&'a str> {
        let release = name.strip_prefix(before)?;
        (release.starts_with(self.prefix) && release.ends_with(self.suffix)).then_some(release)
    }
}

const IMAGE: &str = "linux-image-";

impl Machine {
    /// The machine where all its parts are there.
    pub fn find(places: &Places, series: &Series) -> Option<Self> {
        let root = root(places);
        // Where `/lib` is no directory of its own any more, in `/usr`.
        let places = ["lib/modules", "usr/lib/modules"].map(|directory| root.join(directory));
        let files = places
            .iter()
            .filter_map(|directory| fs::read_dir(directory).ok());
        let release = newest(files.flatten().flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            series.release(&name, "").map(str::to_owned)
        }))?;
        let modules = places.map(|directory| directory.join(&release));
        let modules = modules.into_iter().find(|path| path.exists())?;
        // Beside the modules since Linux 7 of Debian's.
        let kernels = [
            root.join("boot").join(format!("vmlinuz-{release}")),
            modules.join("vmlinuz"),
        ];
        let machine = Self {
            kernel: kernels.into_iter().find(|path| path.exists())?,
            modules,
            busybox: root.join("bin/busybox"),
            installed: which(QEMU),
            release,
            root,
        };
        let all = [&machine.kernel, &machine.modules, &machine.busybox];
        (all.iter().all(|path| path.exists()) && machine.emulator().exists()).then_some(machine)
    }

    fn emulator(&self) -> PathBuf {
        self.installed
            .clone()
            .unwrap_or_else(|| self.root.join("usr/bin").join(QEMU))
    }

    /// QEMU, told where its own files are when it is only unpacked.
    pub fn qemu(&self) -> Command {
        let mut command = Command::new(self.emulator());
        if self.installed.is_none() {
            let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
            let mut paths = OsString::from(&libraries);
            paths.push(":");
            paths.push(self.root.join("lib/x86_64-linux-gnu"));
            command
                .env("LD_LIBRARY_PATH", paths)
                .env("QEMU_MODULE_DIR", libraries.join("qemu"));
            for data in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(self.root.join(data));
            }
        }
        command
    }
}

const QEMU: &str = "qemu-system-x86_64";

/// Brings the parts.
pub fn bring(places: &Places, series: &Series, consent: Consent) -> Result<Machine> {
    if !apt::is_here() {
        bail!(
            "the virtual machine is made of Debian's packages (qemu-system-x86, busybox-static, \
             {IMAGE}{}*{}), and this system has no apt",
            series.prefix,
            series.suffix
        );
    }
    with_lists(consent, || bring_packages(places, series))
}

fn bring_packages(places: &Places, series: &Series) -> Result<Machine> {
    let mut packages = Vec::new();
    packages.extend(apt::SYSTEM.candidate("busybox-static"));
    if which(QEMU).is_none() {
        packages.extend(apt::SYSTEM.closure(&["qemu-system-x86"])?);
    }
    unpack(places, &apt::SYSTEM, &packages)?;
    match series.suite {
        None => unpack(places, &apt::SYSTEM, &newest_kernel(series, &apt::SYSTEM)?)?,
        Some(name) => {
            let suite = Suite::fetch(name, &places.tools)?;
            unpack(places, &suite.lists, &newest_kernel(series, &suite.lists)?)?;
        }
    }
    let root = root(places);
    drop_useless(&root);
    Machine::find(places, series).with_context(|| {
        format!(
            "the packages did not bring a whole virtual machine; remove {} and try again",
            root.display()
        )
    })
}

fn root(places: &Places) -> PathBuf {
    places.tools.join("vm")
}

fn unpack(places: &Places, lists: &Lists, packages: &[Package]) -> Result<()> {
    let size = lists.download_size(packages)? / MEGABYTE;
    let root = root(places);
    eprintln!(
        "setup: downloading {size} MB and unpacking them into {} ({} MB); about a minute",
        root.display(),
        size * 4
    );
    for package in packages {
        eprintln!("  {} {}", package.name, package.version);
    }
    lists.unpack(packages, &root, &places.tools)
}

/// The newest image's package, and those of the same release that it is made of.
fn newest_kernel(series: &Series, lists: &Lists) -> Result<Vec<Package>> {
    let pattern = series.pattern();
    let found = lists.search(&pattern)?;
    let releases = found.iter().filter_map(|name| series.release(name, IMAGE));
    let release = newest(releases.map(str::to_owned))
        .with_context(|| format!("apt has no package {pattern}; Debian has"))?;
    let mut packages = Vec::new();
    let mut names = vec![format!("{IMAGE}{release}")];
    while let Some(name) = names.pop() {
        let package = lists
            .candidate(&name)
            .with_context(|| format!("apt has no {name}"))?;
        let parts = lists.dependencies(&package)?.into_iter();
        names.extend(parts.filter(|part| part.ends_with(&release)));
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    Ok(packages)
}

/// The name with the highest numbers in it.
fn newest(names: impl Iterator<Item = String>) -> Option<String> {
    names.max_by_key(|name| {
        name.split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse::<u64>().ok())
            .collect::<Vec<_>>()
    })
}

/// Documentation and firmware of other machines.
fn drop_useless(root: &Path) {
    for path in ["usr/share/doc", "usr/share/man", "usr/share/locale"] {
        // It only takes room.
        _ = fs::remove_dir_all(root.join(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_is_by_number() {
        let names = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.0-47-cloud-amd64",
        ];
        assert_eq!(
            newest(names.into_iter().map(str::to_owned)).as_deref(),
            Some("6.1.0-56-cloud-amd64")
        );
    }

    #[test]
    fn a_release_is_of_one_series() {
        let of = |name| {
            let series = SERIES.iter().filter(|s| s.release(name, IMAGE).is_some());
            series.map(|s| s.name).collect::<Vec<_>>()
        };
        assert_eq!(of("linux-image-6.1.0-56-cloud-amd64"), ["6.1"]);
        assert_eq!(of("linux-image-6.12.117+deb12-cloud-amd64"), ["6.12"]);
        assert_eq!(of("linux-image-5.10.0-32-cloud-amd64"), ["5.10"]);
        assert_eq!(of("linux-image-7.0.3+deb14-cloud-amd64"), ["newest"]);
        assert_eq!(of("linux-image-6.12.117+deb12-amd64"), [""; 0]);
        assert!(series("6.1").is_ok());
        assert!(series("4.19").is_err());
    }
}
