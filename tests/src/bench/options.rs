//! The command line of the benchmark.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use super::{load::Measure, rounds::Comparison, worlds::Way};

/// Measures netbpf against bridge and iptables, a bare bridge and a bare wire,
/// in namespaces of its own
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench")]
pub struct Options {
    /// Fewer and shorter rounds, below a minute and a half
    #[arg(long)]
    pub quick: bool,
    /// Write all figures there
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the page for docs/performance.md there
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write a chart of the ratios there, as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Only a packet's cost in each program, and the size of the programs: half a minute
    #[arg(long)]
    pub rows: bool,
    /// Show rows against those of a file that --json wrote
    #[arg(long, value_name = "FILE", requires = "rows")]
    pub against: Option<PathBuf>,
    /// Only comparisons whose name contains this: published, sibling,
    /// masquerade, overlay, host, loopback, crowded, round-trip, set-up, stream
    /// (also mtu-stream and two-cpu-stream), udp-round-trip, udp-packets, attach,
    /// size, flows, cluster; with --rows, a packet's name
    #[arg(long, value_name = "PATTERN")]
    pub only: Option<String>,
    /// Only worlds whose name contains this: netbpf, iptables, nftables, docker-proxy,
    /// bridge, vxlan, wire
    #[arg(long, value_name = "PATTERN")]
    pub world: Option<String>,
    /// Rounds instead of what is usual
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// The CPU that client and server share; the last one when left out
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,
    /// Another netbpf instead of the same once more, to compare two of them
    #[arg(long, value_name = "BINARY")]
    pub other: Option<PathBuf>,
    /// Flags of the other netbpf's daemon, such as --other-flag=--as-kernel=6.5
    #[arg(long, value_name = "FLAG")]
    pub other_flag: Vec<String>,
    /// Afterwards show nanoseconds per run of each program; turns the kernel's
    /// run statistics on for a few seconds
    #[arg(long)]
    pub programs: bool,
}

impl Options {
    /// Rounds over all comparisons.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 6 } else { 14 })
    }

    /// How long one path is measured once.
    pub fn slice(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 250 })
    }

    /// Connections of one measure of set-up.
    pub fn connections(&self) -> usize {
        1000
    }

    /// Times that an endpoint is attached and detached.
    pub fn attachments(&self) -> usize {
        if self.quick { 20 } else { 50 }
    }

    pub fn cpu(&self) -> usize {
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        self.cpu.unwrap_or(last)
    }

    /// Another one than that of client and server, if there is one.
    pub fn other_cpu(&self) -> usize {
        match self.cpu() {
            0 => {
                std::thread::available_parallelism().map_or(0, |cpus| usize::from(cpus).min(2) - 1)
            }
            _ => 0,
        }
    }

    /// Whether the second netbpf is not the same as the first.
    pub fn compares(&self) -> bool {
        self.other.is_some() || !self.other_flag.is_empty()
    }

    pub fn wants_world(&self, name: &str) -> bool {
        self.world
            .as_deref()
            .is_none_or(|pattern| name.contains(pattern))
    }

    /// Whether anything is to be measured on that way.
    pub fn wants_way(&self, way: Way) -> bool {
        let mut measures = Measure::ALL.into_iter();
        measures.any(|measure| self.wants_measure(way, measure))
    }

    /// Whether this is to be measured on that way. Of the quick ones only the first three,
    /// unless they are asked for.
    pub fn wants_measure(&self, way: Way, measure: Measure) -> bool {
        let is_first = matches!(
            measure,
            Measure::RoundTrip | Measure::SetUp | Measure::Stream
        );
        // A world with a million flows takes ten seconds to be built.
        let is_quick = is_first && way != Way::Crowded;
        measure.is_for(way)
            && self.wants(&Comparison::name(way, measure))
            && (is_quick || !self.quick || self.only.is_some())
    }

    /// Whether something of this name is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only
            .as_deref()
            .is_none_or(|pattern| name.contains(pattern))
    }
}
