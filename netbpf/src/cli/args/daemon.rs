//! `netbpf daemon` and `netbpf teardown`.

use std::path::PathBuf;

use clap::Args;

use crate::config::Options;

/// Run the daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf daemon
  netbpf daemon --uplink eth0 --log-format json
  netbpf daemon --state-dir /srv/a --run-dir /run/a --bpffs /sys/fs/bpf/a --socket /run/a/sock

Every flag is a key of the file as well (--state-dir DIR is state-dir = \"DIR\",
repeated flags are arrays) and an environment variable (NETBPF_STATE_DIR; lists
by commas). The flag beats the environment, which beats the file.

SIGTERM stops the daemon and leaves the datapath running; `netbpf teardown`
removes it.")]
pub struct Daemon {
    /// File of the configuration [default: /etc/netbpf/netbpf.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub options: Box<Options>,
}

/// Remove every link, program, map, route and pin; a running daemon ends
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf teardown
  netbpf teardown --purge               forget all networks and endpoints, too
  netbpf teardown --state-dir /srv/a --run-dir /run/a --bpffs /sys/fs/bpf/a --socket /run/a/sock

Works without a daemon, too; it then needs the flags that the daemon had.
Networks stay in the store unless --purge is given.")]
pub struct Teardown {
    /// Empty the state directory as well
    #[arg(long)]
    pub purge: bool,
    /// File of the daemon's configuration [default: /etc/netbpf/netbpf.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The daemon's state directory [default: /var/lib/netbpf]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The daemon's run directory [default: /run/netbpf]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The daemon's directory of pins [default: /sys/fs/bpf/netbpf]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// The daemon's cgroup [default: the root of cgroup v2]
    #[arg(long, value_name = "DIR", hide = true)]
    pub cgroup: Option<PathBuf>,
}

impl Teardown {
    /// The directories as the daemon's own flags.
    pub fn options(&self) -> Options {
        Options {
            state_dir: self.state_dir.clone(),
            run_dir: self.run_dir.clone(),
            bpffs: self.bpffs.clone(),
            cgroup: self.cgroup.clone(),
            ..Options::default()
        }
    }
}
