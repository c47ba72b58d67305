//! How long a container waits for its network, and for its end.
//!
//! By command: the release binary from start to exit, as a script sees it.
//! By API: one request on the socket. By CNI: netbpf-cni, and the reference plug-ins
//! beside it, as an engine calls them.

use std::{thread, time::Duration};

use serde::Serialize;
use serde_json::Value;

use super::{
    Options,
    daemon::{Daemon, milliseconds},
    plugins::Chain,
    report::Progress,
    stats::percentile,
};
use crate::lab::{Lab, Namespace, names};

/// Endpoints that are there already.
const PRESENT: [usize; 2] = [0, 200];

/// The kernel frees devices meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asker {
    Command,
    Api,
    Cni,
    /// The plug-ins bridge, host-local and portmap.
    ReferenceCni,
}

impl Asker {
    const ALL: [Asker; 4] = [Asker::Command, Asker::Api, Asker::Cni, Asker::ReferenceCni];

    pub const fn name(self) -> &'static str {
        match self {
            Asker::Command => "command",
            Asker::Api => "API",
            Asker::Cni => "netbpf-cni",
            Asker::ReferenceCni => "bridge, host-local, portmap",
        }
    }
}

/// Times of one operation, in milliseconds.
#[derive(Debug, Serialize)]
pub struct Lifecycle {
    pub operation: &'static str,
    pub asker: Asker,
    pub endpoints: usize,
    pub times: usize,
    pub median_ms: f64,
    pub p95_ms: f64,
}

/// Attach and detach, by each asker, with few and many endpoints.
pub fn run(options: &Options) -> Vec<Lifecycle> {
    if !options.wants("attach") {
        return Vec::new();
    }
    eprintln!("Attach and detach");
    let lab = Lab::new("the benchmark");
    let bench = Bench::new(&lab);
    let times = options.attachments();
    let mut progress = Progress::new(PRESENT.len() * Asker::ALL.len() * times + 200);
    let mut results = Vec::new();
    let mut spaces = Vec::new();
    for goal in PRESENT {
        while spaces.len() < goal {
            spaces.push(bench.one_more(&lab, spaces.len()));
            progress.step();
        }
        results.extend(bench.measure(goal, times, &mut progress));
    }
    progress.end();
    results
}

struct Bench {
    daemon: Daemon,
    netbpf: Chain,
    /// In a host of its own, where it is unpacked.
    reference: Option<Chain>,
    space: Namespace,
}

impl Bench {
    fn new(lab: &Lab) -> Bench {
        let daemon = Daemon::start(lab, &[], &names::FRONT);
        Bench {
            netbpf: Chain::netbpf(lab, &daemon.host, names::FRONT.name),
            daemon,
            reference: Chain::reference(lab),
            space: lab.space("measured"),
        }
    }

    /// Another container of both, which stays.
    fn one_more(&self, lab: &Lab, number: usize) -> [Namespace; 2] {
        let [ours, theirs] = ["c", "r"].map(|role| lab.space(&format!("{role}{number}")));
        let port = 10_000 + number;
        let specs = vec![format!("{port}:80")];
        self.daemon.attach(&format!("c{number}"), &ours, specs);
        if let Some(reference) = &self.reference {
            reference.at(port).add(&format!("r{number}"), &theirs);
        }
        [ours, theirs]
    }

    /// All askers in turn, each time.
    fn measure(&self, endpoints: usize, times: usize, progress: &mut Progress) -> Vec<Lifecycle> {
        let askers = Asker::ALL.into_iter();
        let askers = askers.filter(|a| *a != Asker::ReferenceCni || self.reference.is_some());
        let mut taken: Vec<(Asker, [Vec<f64>; 2])> =
            askers.map(|asker| (asker, Default::default())).collect();
        for _ in 0..times {
            for (asker, [attach, detach]) in &mut taken {
                let mut result = Value::Null;
                attach.push(milliseconds(|| result = self.attach(*asker)));
                detach.push(milliseconds(|| self.detach(*asker, &result)));
                // Otherwise the next attach waits until the kernel has freed the last
                // pair of devices, which is not what one container waits for.
                thread::sleep(PAUSE);
                progress.step();
            }
        }
        let mut all = Vec::new();
        for (asker, taken) in taken {
            for (operation, mut taken) in ["attach", "detach"].into_iter().zip(taken) {
                taken.sort_by(f64::total_cmp);
                all.push(Lifecycle {
                    operation,
                    asker,
                    endpoints,
                    times,
                    median_ms: percentile(&taken, 0.5).expect("at least one"),
                    p95_ms: percentile(&taken, 0.95).expect("at least one"),
                });
            }
        }
        all
    }

    fn attach(&self, asker: Asker) -> Value {
        let (name, space, port) = ("measured", self.space.name(), "8080:80");
        match asker {
            Asker::Command => self.daemon.command(&[
                "attach",
                "--name",
                name,
                "--network",
                names::FRONT.name,
                "--netns",
                space,
                "-p",
                port,
            ]),
            Asker::Api => self.daemon.attach(name, &self.space, vec![port.into()]),
            Asker::Cni => return self.netbpf.add(name, &self.space),
            Asker::ReferenceCni => {
                let reference = self.reference.iter();
                return reference.map(|r| r.add(name, &self.space)).collect();
            }
        }
        Value::Null
    }

    fn detach(&self, asker: Asker, result: &Value) {
        match asker {
            Asker::Command => self.daemon.command(&["detach", "measured"]),
            Asker::Api => self.daemon.detach("measured"),
            Asker::Cni => self.netbpf.del("measured", &self.space, result),
            Asker::ReferenceCni => {
                if let Some(reference) = &self.reference {
                    reference.del("measured", &self.space, &result[0]);
                }
            }
        }
    }
}
