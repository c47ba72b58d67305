//! What is compared with what, and in which order.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    Options,
    load::{self, Measure, Sample},
    report::{self, Progress},
    stats::Summary,
    worlds::{Kind, Path, Way},
};
use crate::lab::Lab;

/// Worlds that stand beside netbpf on a way; ratios are against the first.
fn worlds(way: Way) -> &'static [Kind] {
    match way {
        Way::Published | Way::Masquerade => &[
            Kind::Iptables,
            Kind::IptablesPlainBridge,
            Kind::Wire,
            Kind::Netbpf,
            Kind::NetbpfAgain,
        ],
        Way::Sibling => &[
            Kind::Bridge,
            Kind::Iptables,
            Kind::Netbpf,
            Kind::NetbpfAgain,
        ],
    }
}

/// One measure of one way in all its worlds.
#[derive(Debug, Serialize)]
pub struct Comparison {
    pub way: Way,
    pub measure: Measure,
    pub unit: &'static str,
    pub worlds: Vec<Figures>,
}

/// What one world did in a comparison.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub world: Kind,
    pub value: Summary,
    pub p99: Option<Summary>,
    /// netbpf's value divided by this world's, round by round; the other way
    /// round for [`Kind::NetbpfAgain`], where it shows the noise.
    pub ratio: Option<Summary>,
    pub samples: Vec<Sample>,
}

impl Comparison {
    pub fn of(&self, world: Kind) -> Option<&Figures> {
        self.worlds.iter().find(|figures| figures.world == world)
    }

    /// `published round-trip`.
    pub fn name(way: Way, measure: Measure) -> String {
        format!("{way} {measure}")
    }
}

/// A comparison while it is being measured.
struct Running {
    way: Way,
    measure: Measure,
    paths: Vec<(Kind, Path)>,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

/// All rounds of all comparisons that are wanted.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    let mut wanted = Vec::new();
    for way in Way::ALL {
        for measure in Measure::ALL {
            if options.wants(&Comparison::name(way, measure)) {
                wanted.push((way, measure));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    eprintln!("Building the worlds");
    let lab = Lab::new("the benchmark");
    let built: Vec<_> = Kind::ALL
        .into_iter()
        .map(|kind| (kind, kind.build(&lab)))
        .collect();
    let mut running: Vec<Running> = wanted
        .into_iter()
        .map(|(way, measure)| Running {
            way,
            measure,
            paths: worlds(way)
                .iter()
                .filter_map(|kind| {
                    let (_, world) = built.iter().find(|(built, _)| built == kind)?;
                    Some((*kind, world.path(way)?))
                })
                .collect(),
            samples: BTreeMap::new(),
        })
        .collect();
    let mut progress = Progress::new(options.rounds() * running.len());
    for round in 0..options.rounds() {
        for comparison in &mut running {
            comparison.round(options, round)?;
            progress.step();
        }
    }
    progress.end();
    if options.programs {
        let ours: Vec<_> = running.iter().filter_map(Running::ours).collect();
        report::programs(options, &ours)?;
    }
    Ok(running.into_iter().map(Running::close).collect())
}

impl Running {
    /// Each world once; another one begins in each round, and every second round
    /// goes the other way about.
    fn round(&mut self, options: &Options, round: usize) -> Result<()> {
        let count = self.paths.len();
        for turn in 0..count {
            let turn = if round.is_multiple_of(2) {
                turn
            } else {
                count - 1 - turn
            };
            let (kind, path) = &self.paths[(round + turn) % count];
            let sample = load::measure(options, self.measure, path)
                .with_context(|| format!("{} {} in {kind}", self.way, self.measure))?;
            self.samples.entry(kind.name()).or_default().push(sample);
        }
        Ok(())
    }

    /// Where netbpf is measured.
    fn ours(&self) -> Option<(Way, Measure, Path)> {
        let (_, path) = self.paths.iter().find(|(kind, _)| *kind == Kind::Netbpf)?;
        Some((self.way, self.measure, path.clone()))
    }

    fn close(self) -> Comparison {
        let of = |kind: Kind| self.samples.get(kind.name()).cloned().unwrap_or_default();
        let ours = of(Kind::Netbpf);
        let worlds = self.paths.iter().filter_map(|(kind, _)| {
            let samples = of(*kind);
            let ratios: Vec<f64> = ours
                .iter()
                .zip(&samples)
                .map(|(ours, theirs)| match kind {
                    Kind::NetbpfAgain => theirs.value / ours.value,
                    _ => ours.value / theirs.value,
                })
                .collect();
            let p99: Vec<f64> = samples.iter().filter_map(|sample| sample.p99).collect();
            Some(Figures {
                world: *kind,
                value: Summary::of(&samples.iter().map(|s| s.value).collect::<Vec<_>>())?,
                p99: Summary::of(&p99),
                ratio: Summary::of(&ratios).filter(|_| *kind != Kind::Netbpf),
                samples,
            })
        });
        Comparison {
            way: self.way,
            measure: self.measure,
            unit: self.measure.unit(),
            worlds: worlds.collect(),
        }
    }
}
