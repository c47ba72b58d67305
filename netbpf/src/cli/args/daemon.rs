//! `netbpf daemon` and `netbpf teardown`.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Directories, Given, Options};

/// Run the daemon
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf daemon
  netbpf daemon --uplink eth0 --log-format json
  netbpf daemon --state-dir /srv/a --run-dir /run/a --bpffs /sys/fs/bpf/a --socket /run/a/sock
  netbpf daemon --check-config          what it would run with, and who says so
  netbpf daemon --upgrade-check         before a new version is started, by that one

Every flag is a key of the file as well (--state-dir DIR is state-dir = \"DIR\",
repeated flags are arrays) and an environment variable (NETBPF_STATE_DIR; lists
by commas). The flag beats the environment, which beats the file.

SIGTERM stops the daemon and leaves the datapath running; `netbpf teardown`
removes it. SIGHUP or `netbpf reload` reads the file again.")]
pub struct Daemon {
    /// File of the configuration [default: /etc/netbpf/netbpf.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the configuration and where each value comes from, and start nothing
    #[arg(long)]
    pub check_config: bool,
    /// Print what a start would do to the programs and maps that are there, and start nothing
    #[arg(long, conflicts_with = "check_config")]
    pub upgrade_check: bool,
    #[command(flatten)]
    pub options: Given<Options>,
}

/// Check kernel, settings, conflicts, and whether host and maps are as they should be
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf doctor
  netbpf doctor -q                      what is wrong, by name
  netbpf doctor -j | jq '.[] | select(.severity != \"ok\")'

The most serious comes first; what is right is listed, too, so that one sees what was
looked at. Exit code 1: there is an error, of which all is printed all the same. Nothing
is changed.

Without a daemon it looks at what can be seen from outside, and that no daemon answers
is an error; it then needs the flags that the daemon had.")]
pub struct Doctor {
    /// File of the daemon's configuration [default: /etc/netbpf/netbpf.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub directories: Given<Directories>,
}

/// Let the daemon read its configuration again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf reload
  netbpf reload -j | jq '.needs_restart[].key'

Applied at once are log-level, no-reserve-ports, pool, publish-ip, socket-group,
teardown-on-exit, timeout and uplink. For the rest it is said that it needs a restart. A
file that makes no sense changes nothing. What was given by flag or environment
stays as it is. `systemctl reload netbpf` does the same.")]
pub struct Reload {}

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
    #[command(flatten)]
    pub directories: Given<Directories>,
}
