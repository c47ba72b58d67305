//! What the kernel has and this process may do: with a daemon and without.

use std::path::{Path, PathBuf};

use super::findings::Findings;
use crate::{
    datapath::{self, Probed},
    model::{Check, Finding},
    settings::{Release, Settings},
    sys::{bpffs, capabilities, cgroup, cgroup::Cgroup, netns, process, sysctl::Sysctls},
};

/// What was found.
#[derive(Clone, Debug)]
pub struct Machine {
    pub release: String,
    pub probed: Probed,
    /// Why the kernel cannot tell network namespaces apart.
    pub no_cookie: Option<String>,
    pub is_confidential: bool,
    pub has_no_jit: bool,
    /// Name and purpose.
    pub missing_capabilities: Vec<(&'static str, &'static str)>,
    pub has_ptrace: bool,
    pub bpffs: PathBuf,
    pub is_bpffs: bool,
    /// Whether a daemon has to have it by now.
    pub needs_bpffs: bool,
    /// Its path, or why there is none.
    pub cgroup: Result<PathBuf, String>,
    pub ipv6_disabled: Option<String>,
}

impl Machine {
    pub fn look(settings: &Settings, needs_bpffs: bool) -> Machine {
        let sysctls = Sysctls::open();
        Machine {
            release: process::kernel(),
            probed: datapath::probe(settings.as_kernel),
            no_cookie: netns::cookie().err().map(|e| e.to_string()),
            is_confidential: process::is_confidential(),
            has_no_jit: process::has_no_jit(),
            missing_capabilities: capabilities::missing().unwrap_or_default(),
            has_ptrace: capabilities::has_ptrace(),
            is_bpffs: bpffs::is_bpffs(&settings.bpffs),
            bpffs: settings.bpffs.clone(),
            needs_bpffs,
            cgroup: usable_cgroup(settings.cgroup.as_deref()),
            ipv6_disabled: match sysctls {
                Ok(sysctls) => sysctls.ipv6_disabled(),
                Err(error) => Some(error.to_string()),
            },
        }
    }

    pub fn check(&self) -> Vec<Finding> {
        [
            self.kernel(),
            self.capabilities(),
            self.bpffs(),
            self.cgroup(),
            self.ipv6(),
        ]
        .concat()
    }

    fn kernel(&self) -> Vec<Finding> {
        let mut found = Findings::of(Check::Kernel);
        let (release, probed) = (&self.release, &self.probed);
        let upgrade = "run Linux 6.1 or newer, as docs/kernel-support.md says";
        match probed.release >= Release::OLDEST {
            true => found.ok("kernel", format!("Linux {release}")),
            false => found.error(
                "kernel",
                format!("Linux {release} is older than {}", Release::OLDEST),
                upgrade,
            ),
        }
        match probed.has_btf {
            true => found.ok("BTF", "types of the kernel are in /sys/kernel/btf/vmlinux"),
            false => found.error(
                "BTF",
                "/sys/kernel/btf/vmlinux is missing",
                "use a kernel with CONFIG_DEBUG_INFO_BTF, and mount /sys",
            ),
        }
        for (feature, used) in &probed.features {
            let said = match used {
                true => "used".to_owned(),
                false => format!("not used: {}", feature.instead()),
            };
            found.ok(feature.name(), said);
        }
        if let Some(error) = &probed.no_answer {
            found.unseen("TCX", error);
        }
        match &self.no_cookie {
            None => found.ok("SO_NETNS_COOKIE", "network namespaces are told apart"),
            Some(error) => found.error("SO_NETNS_COOKIE", error, upgrade),
        }
        if self.is_confidential {
            found.error(
                "lockdown",
                "the kernel's lockdown mode is confidentiality: no program may read anything",
                "boot with lockdown=integrity or none",
            );
        }
        if self.has_no_jit {
            found.warning(
                "net.core.bpf_jit_enable",
                "programs are interpreted, several times slower than they could be",
                "set net.core.bpf_jit_enable=1",
            );
        }
        found.all()
    }

    fn capabilities(&self) -> Vec<Finding> {
        let mut found = Findings::of(Check::Capabilities);
        for (name, purpose) in &self.missing_capabilities {
            found.error(
                name,
                format!("it is missing, and needed to {purpose}"),
                "run it as root, outside of user namespaces",
            );
        }
        if self.missing_capabilities.is_empty() && !self.has_ptrace {
            found.warning(
                "CAP_SYS_PTRACE",
                "it is missing: containers of other users cannot be named by --pid",
                "give the daemon the capability, or name namespaces by --netns",
            );
        }
        found.or_ok("capabilities", "all that are needed")
    }

    fn bpffs(&self) -> Vec<Finding> {
        let mut found = Findings::of(Check::Bpffs);
        let object = format!("directory {}", self.bpffs.display());
        match (self.is_bpffs, self.needs_bpffs) {
            (true, _) => found.ok(object, "it is in a bpf file system"),
            (false, true) => found.error(
                object,
                "it is in no bpf file system any more: programs and maps have lost their pins",
                "do not unmount it; restart the daemon, which mounts and pins anew",
            ),
            (false, false) => found.ok(object, "not there yet: the daemon makes or mounts it"),
        }
        found.all()
    }

    fn cgroup(&self) -> Vec<Finding> {
        let mut found = Findings::of(Check::Cgroup);
        match &self.cgroup {
            Ok(path) => found.ok(
                format!("cgroup {}", path.display()),
                "programs of the host reach published ports by it",
            ),
            Err(why) => found.warning(
                "cgroup",
                format!("published ports are not held against programs of the host: {why}"),
                "mount cgroup2 (systemd does so at /sys/fs/cgroup), or name one by --cgroup",
            ),
        }
        found.all()
    }

    fn ipv6(&self) -> Vec<Finding> {
        let mut found = Findings::of(Check::Ipv6);
        if let Some(why) = &self.ipv6_disabled {
            found.warning(
                "IPv6",
                format!("it is off on this host ({why}): networks have IPv4 alone"),
                "switch it on and restart the daemon, where containers are to have IPv6",
            );
        }
        found.or_ok("IPv6", "it is on")
    }
}

fn usable_cgroup(named: Option<&Path>) -> Result<PathBuf, String> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => cgroup::root()
            .map_err(|e| e.to_string())?
            .ok_or("no cgroup of version 2 is mounted")?,
    };
    Cgroup::open(&path).map_err(|e| e.to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::{super::findings::tests::short, *};
    use crate::model::Severity;

    fn machine() -> Machine {
        Machine {
            release: "6.12.1".into(),
            probed: Probed {
                release: Release {
                    major: 6,
                    minor: 12,
                },
                features: datapath::Feature::ALL.map(|feature| (feature, true)).into(),
                no_answer: None,
                has_btf: true,
            },
            no_cookie: None,
            is_confidential: false,
            has_no_jit: false,
            missing_capabilities: Vec::new(),
            has_ptrace: true,
            bpffs: "/sys/fs/bpf/netbpf".into(),
            is_bpffs: true,
            needs_bpffs: true,
            cgroup: Ok("/sys/fs/cgroup".into()),
            ipv6_disabled: None,
        }
    }

    /// What is not as it should be.
    fn found(change: impl FnOnce(&mut Machine)) -> Vec<(Severity, String)> {
        let mut machine = machine();
        change(&mut machine);
        let all = machine.check();
        let wrong = short(&all).into_iter().filter(|(s, _)| *s != Severity::Ok);
        wrong.map(|(s, object)| (s, object.to_owned())).collect()
    }

    #[test]
    fn a_machine_that_has_everything() {
        assert_eq!(found(|_| ()), []);
        // What is said of it all the same.
        assert!(machine().check().len() > 8);
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        use Severity::{Error, Warning};

        let rows: [(fn(&mut Machine), _, _); 11] = [
            (
                |m| {
                    m.probed.release = Release {
                        major: 5,
                        minor: 10,
                    }
                },
                Error,
                "kernel",
            ),
            (|m| m.probed.has_btf = false, Error, "BTF"),
            (|m| m.probed.no_answer = Some("no".into()), Warning, "TCX"),
            (
                |m| m.no_cookie = Some("no".into()),
                Error,
                "SO_NETNS_COOKIE",
            ),
            (|m| m.is_confidential = true, Error, "lockdown"),
            (|m| m.has_no_jit = true, Warning, "net.core.bpf_jit_enable"),
            (
                |m| m.missing_capabilities = vec![("CAP_NET_ADMIN", "work")],
                Error,
                "CAP_NET_ADMIN",
            ),
            (|m| m.has_ptrace = false, Warning, "CAP_SYS_PTRACE"),
            (
                |m| m.is_bpffs = false,
                Error,
                "directory /sys/fs/bpf/netbpf",
            ),
            (|m| m.cgroup = Err("none".into()), Warning, "cgroup"),
            (|m| m.ipv6_disabled = Some("off".into()), Warning, "IPv6"),
        ];
        for (change, severity, object) in rows {
            assert_eq!(found(change), [(severity, object.to_owned())]);
        }
        // What is done without is nobody's fault.
        let old = |m: &mut Machine| {
            for (_, used) in &mut m.probed.features {
                *used = false;
            }
        };
        assert_eq!(found(old), []);
    }
}
