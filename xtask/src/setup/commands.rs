//! Commands that the build, the demo and the tests call. They are small and bring no
//! service, so they are installed – after asking.

use super::{Consent, apt, ask, install_step, manual, with_lists};
use crate::privilege::which;
use anyhow::{Result, bail};
use std::{
    path::Path,
    process::{Command, Stdio},
};

/// A command and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Needed {
    pub command: &'static str,
    pub package: &'static str,
    /// Arguments with which the command succeeds where it is there in full.
    probe: &'static [&'static str],
}

impl Needed {
    fn is_here(self) -> bool {
        which(self.command).is_some_and(|path| self.probe.is_empty() || self.succeeds(&path))
    }

    fn succeeds(self, path: &Path) -> bool {
        Command::new(path)
            .args(self.probe)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

const NEEDED: [Needed; 22] = [
    needed("protoc", "protobuf-compiler"),
    // What etcd's definitions build on is a package of its own.
    Needed {
        probe: &[
            "--descriptor_set_out=/dev/null",
            "google/protobuf/descriptor.proto",
        ],
        ..needed("protoc", "libprotobuf-dev")
    },
    needed("cc", "gcc"),
    needed("ip", "iproute2"),
    needed("nsenter", "util-linux"),
    needed("ping", "iputils-ping"),
    needed("curl", "curl"),
    needed("iperf3", "iperf3"),
    needed("traceroute", "traceroute"),
    needed("tracepath", "iputils-tracepath"),
    needed("mtr", "mtr-tiny"),
    needed("tshark", "tshark"),
    needed("ethtool", "ethtool"),
    needed("nmap", "nmap"),
    needed("hping3", "hping3"),
    needed("dig", "bind9-dnsutils"),
    needed("dnsmasq", "dnsmasq-base"),
    // Debian's python3-minimal has the command alone, without http.server.
    Needed {
        probe: &["-c", "import http.server"],
        ..needed("python3", "python3")
    },
    needed("groff", "groff-base"),
    needed("bpftool", "bpftool"),
    needed("iptables", "iptables"),
    needed("nft", "nftables"),
];

const fn needed(command: &'static str, package: &'static str) -> Needed {
    Needed {
        command,
        package,
        probe: &[],
    }
}

pub fn missing() -> Vec<Needed> {
    NEEDED
        .into_iter()
        .filter(|needed| !needed.is_here())
        .collect()
}

pub fn install(missing: &[Needed], consent: Consent) -> Result<()> {
    if !apt::is_here() {
        bail!(manual::commands(missing));
    }
    let mut arguments = vec!["install", "--no-install-recommends", "--no-remove", "--yes"];
    arguments.extend(missing.iter().map(|needed| needed.package));
    ask(
        consent,
        "commands for the build, the demo and the tests are missing; this installs them, about 35 MB, \
         in half a minute, and removes nothing:",
        &format!("sudo apt-get {}", arguments.join(" ")),
    )?;
    with_lists(consent, || {
        install_step(&arguments).map_err(|error| error.context(apt::Download))
    })
}
