//! `netbpf cni` and `netbpf oci-hook`: called by container engines.

use clap::{Args, ValueEnum};

use crate::integrations::oci;

/// Answer a container runtime as its CNI plug-in
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ln -s /usr/bin/netbpf /opt/cni/bin/netbpf-cni          as runtimes call it
  echo '{\"cniVersion\":\"1.0.0\"}' | CNI_COMMAND=VERSION netbpf cni

The call is in the environment (CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME,
CNI_ARGS), the network configuration on standard input, result and error on standard
output, as the CNI specification has it: versions 0.3.1 to 1.1.0. docs/engines.md has the
keys of the configuration and the steps for each engine.")]
pub struct Cni {}

/// Connect or disconnect a container as the hook of an OCI runtime
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf oci-hook createRuntime < state.json             as a runtime calls it
  netbpf oci-hook poststop < state.json

The container's state comes on standard input. Annotations: netbpf.network (several: the
first one has the default route, addresses and ports), netbpf.publish (port SPECs with
spaces between), netbpf.ip, netbpf.mac, netbpf.ifname, netbpf.name, netbpf.alias,
netbpf.link, netbpf.label, netbpf.share. Where it fails, the container does not start. docs/engines.md has
the lines for a container's config.json.")]
pub struct OciHook {
    #[arg(value_enum)]
    pub stage: Stage,
}

/// Stages of the OCI runtime specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    #[value(name = "createRuntime", alias = "prestart")]
    CreateRuntime,
    #[value(name = "poststop")]
    Poststop,
}

impl From<Stage> for oci::Stage {
    fn from(stage: Stage) -> oci::Stage {
        match stage {
            Stage::CreateRuntime => oci::Stage::CreateRuntime,
            Stage::Poststop => oci::Stage::Poststop,
        }
    }
}
