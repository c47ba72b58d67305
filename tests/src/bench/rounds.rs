//! What is compared with what, and in which order.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    Options,
    load::{self, Measure, Sample},
    report::{self, Progress},
    stats::Summary,
    worlds::{Kind, Path, Way, World},
};
use crate::lab::Lab;

/// Worlds that stand beside netbpf on a way; ratios are against the first.
fn worlds(way: Way) -> &'static [Kind] {
    match way {
        Way::Published | Way::Masquerade => &[
            Kind::Iptables,
            Kind::IptablesPlainBridge,
            Kind::Nftables,
            Kind::Wire,
            Kind::Netbpf,
            Kind::NetbpfAgain,
        ],
        Way::Overlay => &[Kind::Vxlan, Kind::Wire, Kind::Netbpf, Kind::NetbpfAgain],
        Way::Host => &[Kind::Wire, Kind::Iptables, Kind::Netbpf, Kind::NetbpfAgain],
        Way::Sibling => &[
            Kind::Bridge,
            Kind::Iptables,
            Kind::Netbpf,
            Kind::NetbpfAgain,
        ],
        Way::Crowded => &[
            Kind::IptablesPorts,
            Kind::NetbpfPorts,
            Kind::NetbpfFlows,
            Kind::Netbpf,
            Kind::NetbpfAgain,
        ],
        Way::Loopback => &[
            Kind::IptablesLocalnet,
            Kind::Proxy,
            Kind::Wire,
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

/// Worlds are built anew so many times, every second time in the opposite order:
/// what is built first is up to 4 % slower or quicker than its twin for as long
/// as it stands.
const BUILDS: usize = 2;

/// A comparison while it is being measured.
struct Running {
    way: Way,
    measure: Measure,
    samples: BTreeMap<&'static str, Vec<Sample>>,
}

type Worlds = Vec<(Kind, Box<dyn World>)>;

/// All rounds of all comparisons that are wanted.
pub fn run(options: &Options) -> Result<Vec<Comparison>> {
    let mut running = Vec::new();
    for way in Way::ALL {
        for measure in Measure::ALL {
            if options.wants_measure(way, measure) {
                running.push(Running::new(way, measure));
            }
        }
    }
    if running.is_empty() {
        return Ok(Vec::new());
    }
    let rounds = options.rounds().div_ceil(BUILDS);
    for turn in 0..BUILDS {
        eprintln!("Building the worlds ({} of {BUILDS})", turn + 1);
        let lab = Lab::new("the benchmark");
        let worlds = build(options, &lab, turn);
        let mut progress = Progress::new(rounds * running.len());
        for round in 0..rounds {
            for comparison in &mut running {
                comparison.round(options, &worlds, round)?;
                progress.step();
            }
        }
        progress.end();
        if options.programs && turn == BUILDS - 1 {
            let ours: Vec<_> = running
                .iter()
                .filter_map(|comparison| comparison.ours(&worlds))
                .collect();
            report::programs(options, &ours)?;
        }
    }
    Ok(running.into_iter().map(Running::close).collect())
}

fn build(options: &Options, lab: &Lab, turn: usize) -> Worlds {
    let mut kinds = Kind::ALL.to_vec();
    if !turn.is_multiple_of(2) {
        kinds.reverse();
    }
    let ways: Vec<Way> = Way::ALL
        .into_iter()
        .filter(|way| options.wants_way(*way))
        .collect();
    kinds.retain(|kind| {
        options.wants_world(kind.name()) && ways.iter().any(|way| worlds(*way).contains(kind))
    });
    kinds
        .into_iter()
        .map(|kind| (kind, kind.build(lab, options)))
        .collect()
}

impl Running {
    fn new(way: Way, measure: Measure) -> Running {
        Running {
            way,
            measure,
            samples: BTreeMap::new(),
        }
    }

    /// Where this is measured.
    fn paths(&self, built: &Worlds) -> Vec<(Kind, Path)> {
        let paths = worlds(self.way).iter().filter_map(|kind| {
            let (_, world) = built.iter().find(|(built, _)| built == kind)?;
            Some((*kind, world.path(self.way)?))
        });
        paths.collect()
    }

    /// Each world once; another one begins in each round, and every second round
    /// goes the other way about.
    fn round(&mut self, options: &Options, worlds: &Worlds, round: usize) -> Result<()> {
        let paths = self.paths(worlds);
        let count = paths.len();
        for turn in 0..count {
            let turn = if round.is_multiple_of(2) {
                turn
            } else {
                count - 1 - turn
            };
            let (kind, path) = &paths[(round + turn) % count];
            let sample = load::measure(options, self.measure, path)
                .with_context(|| format!("{} {} in {kind}", self.way, self.measure))?;
            self.samples.entry(kind.name()).or_default().push(sample);
        }
        Ok(())
    }

    fn ours(&self, worlds: &Worlds) -> Option<(Way, Measure, Path)> {
        let paths = self.paths(worlds);
        let (_, path) = paths.into_iter().find(|(kind, _)| *kind == Kind::Netbpf)?;
        Some((self.way, self.measure, path))
    }

    fn close(self) -> Comparison {
        let of = |kind: Kind| self.samples.get(kind.name()).cloned().unwrap_or_default();
        let ours = of(Kind::Netbpf);
        let worlds = worlds(self.way).iter().filter_map(|kind| {
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
