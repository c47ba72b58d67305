//! What the daemon runs with, after flags, environment, file and defaults have
//! been put together.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;

/// A pool that subnets are taken from when `--subnet` is left out: `CIDR:SIZE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub net: IpNet,
    /// Prefix length of a subnet.
    pub size: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub socket: PathBuf,
    pub socket_group: String,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub bpffs: PathBuf,
    pub cgroup: Option<PathBuf>,
    /// Empty: every device that is up and has an address.
    pub uplinks: Vec<String>,
    pub node: String,
    /// Empty: `172.20.0.0/14:20` and a ULA /48 of this node in /64s.
    pub pools: Vec<Pool>,
    /// Host address of port specs that name none.
    pub publish_ip: Option<IpAddr>,
    pub reserve_ports: bool,
    pub max_flows: u32,
    pub max_endpoints: u32,
    pub teardown_on_exit: bool,
    /// Hang programs by clsact also where the kernel has TCX.
    pub force_clsact: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            socket: "/run/netbpf/netbpf.sock".into(),
            socket_group: "netbpf".into(),
            state_dir: "/var/lib/netbpf".into(),
            run_dir: "/run/netbpf".into(),
            bpffs: "/sys/fs/bpf/netbpf".into(),
            cgroup: None,
            uplinks: Vec::new(),
            node: String::new(),
            pools: Vec::new(),
            publish_ip: None,
            reserve_ports: true,
            max_flows: 65_536,
            max_endpoints: 4096,
            teardown_on_exit: false,
            force_clsact: false,
        }
    }
}
