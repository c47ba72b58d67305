//! Nanoseconds per run of each program, by the kernel's run statistics. They are
//! on only while this runs: they cost something themselves.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{programs::loaded_programs, sys::Stats};

use crate::bench::{
    Options,
    load::{self, Measure},
    worlds::{Path, Way},
};

/// Runs each path once and prints what the programs took.
pub fn programs(options: &Options, paths: &[(Way, Measure, Path)]) -> Result<()> {
    let _on = aya::sys::enable_stats(Stats::RunTime).context("BPF run statistics")?;
    for (way, measure, path) in paths {
        let before = runs();
        load::measure(options, *measure, path)?;
        println!("\n{way} {measure}: program, runs, nanoseconds each");
        for (id, after) in runs() {
            let (runs, time) = before.get(&id).map_or((0, 0), |run| (run.runs, run.time));
            let (runs, time) = (after.runs - runs, after.time - time);
            // Others of the machine run a few times meanwhile.
            if runs > 1000 {
                println!("  {:<16} {runs:>9} {:>7}", after.name, time / runs);
            }
        }
    }
    Ok(())
}

struct Run {
    name: String,
    runs: u64,
    time: u64,
}

fn runs() -> BTreeMap<u32, Run> {
    let programs = loaded_programs().filter_map(|program| {
        let program = program.ok()?;
        let run = Run {
            name: program.name_as_str()?.to_owned(),
            runs: program.run_count(),
            time: program.run_time().as_nanos().try_into().ok()?,
        };
        Some((program.id(), run))
    });
    programs.collect()
}
