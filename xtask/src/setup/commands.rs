//! Commands that the demo and the tests call. They are small and bring no
//! service, so they are installed – after asking.

use super::{Consent, apt, ask, install_step, lists, manual};
use crate::privilege::which;
use anyhow::{Result, bail};

/// A command and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Needed {
    pub command: &'static str,
    pub package: &'static str,
}

const NEEDED: [Needed; 14] = [
    needed("cc", "gcc"),
    needed("ip", "iproute2"),
    needed("nsenter", "util-linux"),
    needed("ping", "iputils-ping"),
    needed("curl", "curl"),
    needed("iperf3", "iperf3"),
    needed("traceroute", "traceroute"),
    needed("tracepath", "iputils-tracepath"),
    needed("mtr", "mtr-tiny"),
    needed("python3", "python3-minimal"),
    needed("groff", "groff-base"),
    needed("bpftool", "bpftool"),
    needed("iptables", "iptables"),
    needed("nft", "nftables"),
];

const fn needed(command: &'static str, package: &'static str) -> Needed {
    Needed { command, package }
}

pub fn missing() -> Vec<Needed> {
    NEEDED
        .into_iter()
        .filter(|needed| which(needed.command).is_none())
        .collect()
}

pub fn install(missing: &[Needed], consent: Consent) -> Result<()> {
    if !apt::is_here() {
        bail!(manual::commands(missing));
    }
    lists(consent)?;
    let mut arguments = vec!["install", "--no-install-recommends", "--no-remove", "--yes"];
    arguments.extend(missing.iter().map(|needed| needed.package));
    ask(
        consent,
        "commands for the demo and the tests are missing; this installs them, about 15 MB, \
         in half a minute, and removes nothing:",
        &format!("sudo apt-get {}", arguments.join(" ")),
    )?;
    install_step(&arguments)
}
