//! What the figures were taken on.

use std::fs;

use serde::Serialize;

use crate::lab::Cmd;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub kernel: String,
    pub processor: String,
    pub cpus: usize,
    pub virtual_machine: bool,
    /// The CPU that client and server share.
    pub cpu: usize,
    /// `v1.8.9 (nf_tables)`.
    pub iptables: String,
    /// Whether bridged packets pass iptables unless a namespace says otherwise.
    pub br_netfilter: bool,
    /// One-minute load average before and after.
    pub load_before: f64,
    pub load_after: f64,
}

impl Machine {
    pub fn look(cpu: usize) -> Machine {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let iptables = Cmd::new(&["iptables", "--version"]).output().stdout;
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            processor: field("model name").unwrap_or_else(|| "unknown".into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            cpu,
            iptables: iptables.trim().trim_start_matches("iptables ").into(),
            br_netfilter: fs::exists("/proc/sys/net/bridge").unwrap_or(false),
            load_before: load(),
            load_after: 0.0,
        }
    }

    pub fn at_end(self) -> Machine {
        Machine {
            load_after: load(),
            ..self
        }
    }
}

fn load() -> f64 {
    let text = read("/proc/loadavg");
    let first = text.split(' ').next().unwrap_or_default();
    first.parse().unwrap_or_default()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
