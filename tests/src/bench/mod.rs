//! What netbpf costs, against what people have: `cargo xtask bench`.
//!
//! - [`worlds`]: the same small town built by netbpf, by a bridge with iptables, nftables,
//!   Docker's proxy or nothing, and by a bare wire, side by side in namespaces of their own.
//! - [`load`]: the load generator, which measures one path once.
//! - [`rounds`]: what is compared with what, interleaved and rotated.
//! - [`daemon`]: a daemon of which times are taken.
//! - [`lifecycle`]: how long attach and detach take.
//! - [`plugins`]: CNI plug-ins, ours and the reference ones.
//! - [`size`]: what becomes of it with a thousand containers.
//! - [`flows`]: and with a million flows.
//! - [`cluster`]: and with two hundred nodes.
//! - [`rows`]: a packet's cost in each program.
//! - [`report`]: table, JSON, Markdown.
//!
//! A new alternative is a file of `worlds`, a new measure a file of `load`; both
//! are then named in [`rounds`].
//!
//! Figures are worth something only within a run: worlds take turns within
//! each measure of each round, and what is reported is the median over the
//! rounds of the ratio within one round.

pub mod bare;
pub mod cluster;
pub mod daemon;
pub mod flows;
pub mod lifecycle;
pub mod load;
pub mod machine;
pub mod options;
pub mod plugins;
pub mod report;
pub mod rounds;
pub mod rows;
pub mod size;
pub mod stats;
pub mod worlds;

pub use options::Options;

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use self::{
    cluster::Nodes, flows::Flows, lifecycle::Lifecycle, machine::Machine, rounds::Comparison,
    rows::Rows, size::Size,
};

/// Everything that a run has found.
#[derive(Debug, Serialize)]
pub struct Results {
    pub machine: Machine,
    pub rounds: usize,
    pub seconds: u64,
    pub comparisons: Vec<Comparison>,
    pub lifecycle: Vec<Lifecycle>,
    pub sizes: Vec<Size>,
    pub flows: Vec<Flows>,
    pub clusters: Vec<Nodes>,
    /// Where these alone were asked for.
    pub rows: Option<Rows>,
    /// Those of before, of `--against`.
    #[serde(skip)]
    pub before: Option<Rows>,
}

/// Runs what the options ask for.
pub fn run(options: &Options) -> Result<Results> {
    let began = Instant::now();
    let machine = Machine::look(options.cpu());
    raise_priority();
    // Before half a minute is spent.
    let before = options.against.as_deref().map(rows::before).transpose()?;
    let mut results = Results {
        machine,
        rounds: options.rounds(),
        seconds: 0,
        comparisons: Vec::new(),
        lifecycle: Vec::new(),
        sizes: Vec::new(),
        flows: Vec::new(),
        clusters: Vec::new(),
        rows: rows::run(options),
        before,
    };
    if !options.rows {
        results.comparisons = rounds::run(options)?;
        results.lifecycle = lifecycle::run(options);
        results.sizes = size::run(options);
        results.flows = flows::run(options);
        results.clusters = cluster::run(options);
    }
    results.machine = results.machine.at_end();
    results.seconds = began.elapsed().as_secs();
    Ok(results)
}

/// Other programs of the machine shall not stand between two packets. What
/// cannot be had is done without: the A/A pair shows the noise.
fn raise_priority() {
    // SAFETY: setpriority takes integers and touches no memory of ours.
    _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}
