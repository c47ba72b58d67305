//! What a virtual machine is made of: QEMU, a kernel of Debian's and a static
//! busybox. All of it is unpacked under `target/tools/vm`, nothing is installed.

use super::{Consent, MEGABYTE, apt, apt::Package, with_lists};
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

/// Names of kernel images of a series, `6.1`.
pub fn kernel_of(series: &str) -> Result<&'static str> {
    match series {
        "6.1" => Ok("linux-image-6.1.0-"),
        other => bail!("no virtual machine is known for kernel {other}; there is 6.1"),
    }
}

impl Machine {
    /// The machine where all its parts are there.
    pub fn find(places: &Places, series: &str) -> Option<Self> {
        let root = places.tools.join("vm");
        let prefix = format!("vmlinuz-{series}.");
        let release = newest(fs::read_dir(root.join("boot")).ok()?.flatten().filter_map(
            |entry| {
                let name = entry.file_name().into_string().ok()?;
                name.starts_with(&prefix)
                    .then(|| name.trim_start_matches("vmlinuz-").to_owned())
            },
        ))?;
        let machine = Self {
            kernel: root.join("boot").join(format!("vmlinuz-{release}")),
            modules: root.join("lib/modules").join(&release),
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
pub fn bring(places: &Places, series: &str, consent: Consent) -> Result<Machine> {
    if !apt::is_here() {
        bail!(
            "the virtual machine is made of Debian's packages (qemu-system-x86, busybox-static, \
             {}*-cloud-amd64), and this system has no apt",
            kernel_of(series)?
        );
    }
    with_lists(consent, || bring_packages(places, series))
}

fn bring_packages(places: &Places, series: &str) -> Result<Machine> {
    let kernel = newest_kernel(series)?;
    let mut packages = vec![kernel];
    packages.extend(apt::SYSTEM.candidate("busybox-static"));
    if which(QEMU).is_none() {
        packages.extend(apt::SYSTEM.closure(&["qemu-system-x86"])?);
    }
    let size = apt::SYSTEM.download_size(&packages)? / MEGABYTE;
    let root = places.tools.join("vm");
    eprintln!(
        "setup: downloading {size} MB and unpacking them into {} ({} MB); about a minute",
        root.display(),
        size * 4
    );
    for package in &packages {
        eprintln!("  {} {}", package.name, package.version);
    }
    apt::SYSTEM.unpack(&packages, &root, &places.tools)?;
    drop_useless(&root);
    Machine::find(places, series).with_context(|| {
        format!(
            "the packages did not bring a whole virtual machine; remove {} and try again",
            root.display()
        )
    })
}

fn newest_kernel(series: &str) -> Result<Package> {
    let prefix = kernel_of(series)?;
    let pattern = format!(
        "^{}[0-9]+-cloud-amd64$",
        prefix.replace('.', "\\.").replace('+', "\\+")
    );
    let name = newest(apt::SYSTEM.search(&pattern)?.into_iter())
        .with_context(|| format!("apt has no {prefix}*-cloud-amd64; Debian 12 has"))?;
    apt::SYSTEM
        .candidate(&name)
        .with_context(|| format!("apt has no {name}"))
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
    fn only_known_series() {
        assert!(kernel_of("6.1").is_ok());
        assert!(kernel_of("4.19").is_err());
    }
}
