//! What to type on systems that this setup does not know.

use super::{commands::Needed, toolchain::LINKER_VERSION};
use crate::privilege::which;
use ebpf_build::Places;

/// How to get commands.
pub fn commands(missing: &[Needed]) -> String {
    let names = |rename: fn(&'static str) -> &'static str| {
        missing
            .iter()
            .map(|needed| rename(needed.package))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let known = [
        ("dnf", format!("sudo dnf install {}", names(fedora))),
        ("pacman", format!("sudo pacman -S {}", names(arch))),
        ("zypper", format!("sudo zypper install {}", names(suse))),
    ];
    let command = known
        .into_iter()
        .find(|(tool, _)| which(tool).is_some())
        .map_or_else(
            || {
                let commands: Vec<_> = missing.iter().map(|n| n.command).collect();
                format!("install the commands {}", commands.join(", "))
            },
            |(_, command)| command,
        );
    format!("packages are missing, and this system has no apt to bring them:\n  {command}")
}

fn fedora(package: &'static str) -> &'static str {
    match package {
        "iproute2" => "iproute",
        "iputils-ping" => "iputils",
        "procps" => "procps-ng",
        "libprotobuf-dev" => "protobuf-devel",
        "bind9-dnsutils" => "bind-utils",
        "dnsmasq-base" => "dnsmasq",
        other => other,
    }
}

fn arch(package: &'static str) -> &'static str {
    match package {
        "iputils-ping" => "iputils",
        "procps" => "procps-ng",
        "python3" => "python",
        "bpftool" => "bpf",
        "protobuf-compiler" | "libprotobuf-dev" => "protobuf",
        "bind9-dnsutils" => "bind",
        "dnsmasq-base" => "dnsmasq",
        "hping3" => "hping",
        other => other,
    }
}

fn suse(package: &'static str) -> &'static str {
    match package {
        "protobuf-compiler" | "libprotobuf-dev" => "protobuf-devel",
        "iputils-ping" => "iputils",
        "bind9-dnsutils" => "bind-utils",
        "dnsmasq-base" => "dnsmasq",
        "hping3" => "hping",
        other => other,
    }
}

/// How to get a compiler and a linker for BPF from rustup and an LLVM of one's own.
pub fn toolchain(places: &Places, why: &str) -> String {
    format!(
        "{why}. By hand, with N the major version that `rustc +nightly -vV` names as its LLVM:\n  \
         rustup toolchain install nightly --profile minimal --component rust-src\n  \
         # LLVM N with its development files from your system, under PREFIX (`llvm-config --prefix`)\n  \
         LLVM_PREFIX=PREFIX cargo install bpf-linker --locked --version {LINKER_VERSION} \
         --no-default-features --features llvm-N --root {}",
        places.tools.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_other_names_elsewhere() {
        assert_eq!(fedora("iproute2"), "iproute");
        assert_eq!(arch("iputils-ping"), "iputils");
        assert_eq!(suse("curl"), "curl");
    }
}
