//! What Prometheus reads: the list of metrics, and the HTTP server that answers with
//! their values. The list makes docs/metrics.md as well.

mod list;
mod server;
#[cfg(test)]
mod tests;

use netbpf_common::drop::DropReason;

pub use self::{
    list::{METRICS, text},
    server::{CONTENT_TYPE, bind, serve},
};
use crate::{
    datapath::Stats,
    model::{EndpointInfo, StatusInfo},
};

/// All that is counted, at one moment.
#[derive(Clone, Debug)]
pub struct Figures {
    pub status: StatusInfo,
    /// Names, and how many endpoints are on each.
    pub networks: Vec<(String, usize)>,
    pub endpoints: Vec<EndpointInfo>,
    /// Counters of all endpoints, those that are no more too.
    pub total: Stats,
    pub drops: Vec<(DropReason, u64)>,
    pub events_lost: u64,
    /// What others had undone, by kind.
    pub repairs: Vec<(&'static str, u64)>,
    /// How often the kernel told more of devices, addresses and routes than was heard.
    pub overruns: u64,
}

/// The page about the metrics.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n<!-- Made by `cargo xtask docs` from netbpf/src/metrics/list.rs. Change it there. -->\n\n\
         The daemon answers Prometheus where `--metrics ADDR:PORT` says, by HTTP at `/metrics`, in the \
         text format 0.0.4. Whoever reaches that address may read: 127.0.0.1 keeps it on the host. \
         [packaging/grafana.json](../packaging/grafana.json) is a dashboard for Grafana.\n\n\
         ```yaml\nscrape_configs:\n  - job_name: netbpf\n    static_configs:\n      - targets: [\"127.0.0.1:9464\"]\n```\n\n\
         Packets and bytes are counted as the container sees them: rx is into it, bytes count the \
         Ethernet header, a GSO packet counts as its segments. Counters outlive the daemon, as the maps \
         do; those of an endpoint end with it.\n\n\
         | Metric | Type | Labels | |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        page += &format!(
            "| `{}` | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        );
    }
    page += "\nBeside these are `process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, \
             `process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_threads` and \
             `process_start_time_seconds` of the daemon itself.\n";
    page
}
