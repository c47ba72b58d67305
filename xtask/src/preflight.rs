//! Looks, before anything is built, whether this machine can run the programs:
//! an hour later the reason would be hidden in a verifier's or a shell's error.

use crate::privilege::{is_root, status_field, which};
use anyhow::{Result, bail};
use std::{
    fs,
    io::{self, IsTerminal},
    path::Path,
    process::{Command, Stdio},
};

/// What decides; read from the machine by [`Facts::gather`].
#[derive(Debug, Clone)]
struct Facts {
    kernel: String,
    root: bool,
    sudo: Sudo,
    /// Capabilities that root can have here.
    capabilities: u64,
    lockdown: String,
    bpffs: bool,
    cgroup2: bool,
    ipv6: bool,
    kernel_btf: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sudo {
    Missing,
    /// It wants a password, and there is no terminal to ask on.
    CannotAsk,
    Usable,
}

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    fatal: bool,
    what: String,
    remedy: &'static str,
}

/// What a machine that can run the programs is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Every test can run.
    Whole,
    /// Something is missing that some tests need.
    Lacking,
}

/// Fails with everything that stands in the way; prints what only costs tests.
pub fn check() -> Result<Machine> {
    let findings = examine(&Facts::gather());
    for finding in findings.iter().filter(|f| !f.fatal) {
        eprintln!("note: {}: {}", finding.what, finding.remedy);
    }
    let fatal: Vec<String> = findings
        .iter()
        .filter(|f| f.fatal)
        .map(|f| format!("  {}\n    remedy: {}", f.what, f.remedy))
        .collect();
    if !fatal.is_empty() {
        bail!(
            "this machine cannot run the programs:\n{}",
            fatal.join("\n")
        );
    }
    Ok(if findings.is_empty() {
        Machine::Whole
    } else {
        Machine::Lacking
    })
}

impl Facts {
    fn gather() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let root = is_root();
        // What sudo gives is bounded by the bounding set.
        let set = status_field(if root { "CapEff" } else { "CapBnd" });
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            root,
            sudo: sudo(root),
            capabilities: set.map_or(0, |hex| u64::from_str_radix(&hex, 16).unwrap_or(0)),
            lockdown: chosen(&read("/sys/kernel/security/lockdown")),
            bpffs: read("/proc/filesystems")
                .lines()
                .any(|l| l.ends_with("\tbpf")),
            cgroup2: read("/proc/mounts")
                .lines()
                .any(|l| l.split(' ').nth(2) == Some("cgroup2")),
            ipv6: Path::new("/proc/sys/net/ipv6").exists()
                && read("/proc/sys/net/ipv6/conf/default/disable_ipv6").trim() != "1",
            kernel_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        }
    }
}

fn sudo(root: bool) -> Sudo {
    if root {
        return Sudo::Usable;
    }
    if which("sudo").is_none() {
        return Sudo::Missing;
    }
    let silent = Command::new("sudo")
        .args(["-n", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if silent || io::stdin().is_terminal() {
        Sudo::Usable
    } else {
        Sudo::CannotAsk
    }
}

/// `none [integrity] confidentiality` -> `integrity`.
fn chosen(text: &str) -> String {
    text.split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(word, _)| word.to_owned())
        .unwrap_or_default()
}

fn examine(facts: &Facts) -> Vec<Finding> {
    const OLDEST_KERNEL: (u32, u32) = (6, 1);
    let mut findings = Vec::new();
    let mut add = |wrong: bool, fatal: bool, what: String, remedy: &'static str| {
        if wrong {
            findings.push(Finding {
                fatal,
                what,
                remedy,
            });
        }
    };
    add(
        kernel_version(&facts.kernel).is_none_or(|have| have < OLDEST_KERNEL),
        true,
        format!("kernel {} is too old", facts.kernel),
        "boot Linux 6.1 or newer",
    );
    add(
        !facts.root && facts.sudo == Sudo::Missing,
        true,
        "programs are loaded as root, and there is no sudo".to_owned(),
        "install sudo, or run the same command as root",
    );
    add(
        !facts.root && facts.sudo == Sudo::CannotAsk,
        true,
        "sudo wants a password, and there is no terminal to ask for it".to_owned(),
        "run `sudo -v` first or run the same command in a terminal",
    );
    for (bit, name) in [
        (12, "CAP_NET_ADMIN"),
        (21, "CAP_SYS_ADMIN"),
        (39, "CAP_BPF"),
    ] {
        add(
            facts.capabilities & (1 << bit) == 0,
            true,
            format!("{name} is missing, as in a container"),
            "run on the host or in a virtual machine, or start the container with --privileged",
        );
    }
    add(
        facts.lockdown == "confidentiality",
        true,
        "the kernel's lockdown mode \"confidentiality\" forbids eBPF".to_owned(),
        "boot with lockdown=integrity or without it",
    );
    add(
        !facts.bpffs,
        true,
        "the kernel knows no bpf file system".to_owned(),
        "boot a kernel with CONFIG_BPF_SYSCALL, such as the distribution's own",
    );
    add(
        !facts.kernel_btf,
        true,
        "the kernel has no BTF (/sys/kernel/btf/vmlinux)".to_owned(),
        "boot a kernel with CONFIG_DEBUG_INFO_BTF, such as the distribution's own",
    );
    add(
        !facts.cgroup2,
        false,
        "no cgroup v2 is mounted".to_owned(),
        "tests that need it are skipped; `mount -t cgroup2 none DIR` brings it",
    );
    add(
        !facts.ipv6,
        false,
        "IPv6 is off".to_owned(),
        "tests of IPv6 are skipped; remove ipv6.disable=1 or disable_ipv6 to have them",
    );
    findings
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            kernel: "6.1.0-56-cloud-amd64".to_owned(),
            root: false,
            sudo: Sudo::Usable,
            capabilities: u64::MAX,
            lockdown: "none".to_owned(),
            bpffs: true,
            cgroup2: true,
            ipv6: true,
            kernel_btf: true,
        }
    }

    fn fatal(facts: &Facts) -> Vec<bool> {
        examine(facts).iter().map(|f| f.fatal).collect()
    }

    #[test]
    fn a_good_machine_has_no_findings() {
        assert_eq!(examine(&good()), []);
    }

    #[test]
    fn each_lack_is_one_finding() {
        let lacks: [fn(&mut Facts); 7] = [
            |f| f.kernel = "5.10.0-1-amd64".to_owned(),
            |f| f.sudo = Sudo::Missing,
            |f| f.sudo = Sudo::CannotAsk,
            |f| f.capabilities &= !(1 << 39),
            |f| f.lockdown = "confidentiality".to_owned(),
            |f| f.bpffs = false,
            |f| f.kernel_btf = false,
        ];
        for lack in lacks {
            let mut facts = good();
            lack(&mut facts);
            assert_eq!(fatal(&facts), [true], "{facts:?}");
        }
    }

    #[test]
    fn what_only_costs_tests_is_no_failure() {
        let facts = Facts {
            cgroup2: false,
            ipv6: false,
            ..good()
        };
        assert_eq!(fatal(&facts), [false, false]);
    }

    #[test]
    fn root_needs_no_sudo() {
        let facts = Facts {
            root: true,
            sudo: Sudo::Missing,
            ..good()
        };
        assert_eq!(examine(&facts), []);
    }

    #[test]
    fn lockdown_mode_is_the_one_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), "integrity");
        assert_eq!(chosen(""), "");
    }
}
