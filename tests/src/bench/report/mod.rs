//! What a run prints and writes.

mod chart;
mod markdown;
mod programs;
mod progress;
mod table;

pub use chart::chart;
pub use markdown::markdown;
pub use programs::programs;
pub use progress::Progress;
pub use table::table;

use super::{
    cluster::Nodes,
    flows::Flows,
    load::Measure,
    rounds::{Comparison, Figures},
    rows::{Rows, change},
    size::Size,
    worlds::Kind,
};

/// An A/A pair further apart says nothing about anything.
const TOO_NOISY: f64 = 0.05;

/// `0.82 ±2 %`: a ratio with its spread.
fn ratio(figures: &Figures) -> String {
    figures.ratio.map_or_else(String::new, |ratio| {
        format!("{:.2} ±{:.0} %", ratio.median, ratio.spread() * 100.0)
    })
}

/// A value with as many digits as it is worth.
fn value(figures: &Figures, measure: Measure) -> String {
    let median = figures.value.median;
    match measure {
        Measure::UdpPackets => format!("{median:.0}"),
        _ if measure.is_rate() => format!("{median:.2}"),
        _ => format!("{median:.1}"),
    }
}

fn p99(figures: &Figures) -> String {
    figures
        .p99
        .map_or_else(String::new, |p99| format!("{:.1}", p99.median))
}

/// Whether the A/A pair of a comparison is too far apart.
fn noisy(comparison: &Comparison) -> bool {
    let pair = comparison.of(Kind::NetbpfAgain);
    pair.and_then(|figures| figures.ratio)
        .is_some_and(|ratio| (ratio.median - 1.0).abs() > TOO_NOISY)
}

/// Names, and a line for each row.
fn of_rows(rows: &Rows, before: Option<&Rows>) -> Vec<[String; 6]> {
    let head = ["packet", "program", "", "ns", "cost", "change"].map(str::to_owned);
    let lines = rows.rows.iter().map(|row| {
        [
            row.name.clone(),
            row.program.clone(),
            row.family.clone(),
            format!("{:.0}", row.ns),
            format!("{:.3}", row.cost),
            change(row.cost, before.and_then(|before| before.cost_of(row))),
        ]
    });
    std::iter::once(head).chain(lines).collect()
}

/// Names, and a line for each program.
fn of_programs(rows: &Rows, before: Option<&Rows>) -> Vec<[String; 5]> {
    let head = ["program", "instructions", "verified", "change", "bytes"].map(str::to_owned);
    let lines = rows.programs.iter().map(|program| {
        let before = before.and_then(|before| before.verified(&program.name));
        [
            program.name.clone(),
            program.instructions.to_string(),
            program.verified.to_string(),
            change(program.verified.into(), before.map(f64::from)),
            program.bytes.to_string(),
        ]
    });
    std::iter::once(head).chain(lines).collect()
}

/// A line for each figure, a column for each number of flows; the first line is the numbers.
fn by_flows(flows: &[Flows]) -> Vec<(&'static str, Vec<String>)> {
    type Figure = fn(&Flows) -> String;
    let lines: [(&str, Figure); 11] = [
        ("flows", |f| f.flows.to_string()),
        ("family", |f| f.family.into()),
        ("a packet that begins one, ns", |f| {
            format!("{:.0}", f.begin_ns)
        }),
        ("a further one, ns", |f| format!("{:.0}", f.out_ns)),
        ("an answer, ns", |f| format!("{:.0}", f.back_ns)),
        ("maps, MB", |f| format!("{:.1}", f.map_bytes as f64 / 1e6)),
        // Of few it is what tables take for themselves.
        ("maps, bytes per flow", |f| match f.flows {
            ..100_000 => String::new(),
            flows => format!("{:.0}", f.map_bytes as f64 / flows as f64),
        }),
        ("collection, ms", |f| format!("{:.1}", f.collect_ms)),
        ("and its memory, MB", |f| {
            format!("{:.1}", f.collect_bytes as f64 / 1e6)
        }),
        ("collection of all, ms", |f| match f.collect_dead_ms {
            0.0 => String::new(),
            ms => format!("{ms:.0}"),
        }),
        ("listing, ms", |f| format!("{:.1}", f.list_ms)),
    ];
    lines
        .map(|(name, figure)| (name, flows.iter().map(figure).collect()))
        .into()
}

/// A line for each figure, a column for each size; the first line is the sizes.
fn by_size(sizes: &[Size]) -> Vec<(&'static str, Vec<String>)> {
    type Figure = fn(&Size) -> String;
    let lines: [(&str, Figure); 15] = [
        ("endpoints", |s| s.endpoints.to_string()),
        ("published ports", |s| s.ports.to_string()),
        ("attach, ms", |s| format!("{:.1}", s.attach_ms)),
        ("attach, 95 %, ms", |s| format!("{:.1}", s.attach_p95_ms)),
        ("of these the kernel alone, ms", |s| {
            format!("{:.1}", s.attach_kernel_ms)
        }),
        ("detach, ms", |s| format!("{:.1}", s.detach_ms)),
        ("detach, 95 %, ms", |s| format!("{:.1}", s.detach_p95_ms)),
        ("ps, ms", |s| format!("{:.1}", s.ps_ms)),
        ("port, ms", |s| format!("{:.1}", s.port_ms)),
        ("status, ms", |s| format!("{:.1}", s.status_ms)),
        ("/metrics by curl, ms", |s| format!("{:.1}", s.metrics_ms)),
        ("start, ms", |s| format!("{:.0}", s.start_ms)),
        ("memory of the daemon, MB", |s| {
            format!("{:.1}", s.memory_bytes as f64 / 1e6)
        }),
        ("descriptors", |s| s.descriptors.to_string()),
        ("threads", |s| s.threads.to_string()),
    ];
    lines
        .map(|(name, figure)| (name, sizes.iter().map(figure).collect()))
        .into()
}

/// A line for each figure, a column for each number of nodes; the first line is the numbers.
fn by_nodes(clusters: &[Nodes]) -> Vec<(&'static str, Vec<String>)> {
    type Figure = fn(&Nodes) -> String;
    let lines: [(&str, Figure); 15] = [
        ("other nodes", |n| n.nodes.to_string()),
        ("their containers", |n| n.endpoints.to_string()),
        ("entries of `tunnels`", |n| n.map_entries.to_string()),
        ("written to etcd, ms", |n| format!("{:.0}", n.written_ms)),
        ("until all is in the tables, ms", |n| {
            format!("{:.0}", n.catch_up_ms)
        }),
        ("the daemon's CPU time, ms", |n| {
            format!("{:.0}", n.catch_up_cpu_ms)
        }),
        ("and for one started anew, ms", |n| {
            format!("{:.2}", n.anew_cpu_ms)
        }),
        ("start, ms", |n| format!("{:.0}", n.start_ms)),
        ("memory of the daemon, MB", |n| {
            format!("{:.1}", n.memory_bytes as f64 / 1e6)
        }),
        ("attach, ms", |n| format!("{:.1}", n.attach_ms)),
        ("on a bridge network", |n| {
            format!("{:.1}", n.local_attach_ms)
        }),
        ("detach, ms", |n| format!("{:.1}", n.detach_ms)),
        ("on a bridge network", |n| {
            format!("{:.1}", n.local_detach_ms)
        }),
        ("network inspect, ms", |n| format!("{:.1}", n.inspect_ms)),
        ("node ls, ms", |n| format!("{:.1}", n.node_ls_ms)),
    ];
    lines
        .map(|(name, figure)| (name, clusters.iter().map(figure).collect()))
        .into()
}
