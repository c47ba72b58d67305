//! How long a container waits for its network, and for its end.
//!
//! By command: the release binary from start to exit, as a script sees it.
//! By API: one request on the socket, as an engine's plugin sees it.

use std::{thread, time::Duration};

use serde::Serialize;

use super::{
    Options,
    daemon::{Daemon, milliseconds},
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

/// Attach and detach, by command and by API, with few and many endpoints.
pub fn run(options: &Options) -> Vec<Lifecycle> {
    if !options.wants("attach") {
        return Vec::new();
    }
    eprintln!("Attach and detach");
    let lab = Lab::new("the benchmark");
    let bench = Bench::new(&lab);
    let mut progress = Progress::new(PRESENT.len() * 2 * options.attachments() + 200);
    let mut results = Vec::new();
    let mut present = 0;
    for goal in PRESENT {
        while present < goal {
            bench.daemon.host.container(
                &lab,
                &format!("c{present}"),
                &["--network", names::FRONT.name],
            );
            present += 1;
            progress.step();
        }
        for asker in [Asker::Command, Asker::Api] {
            results.extend(bench.measure(asker, present, options.attachments(), &mut progress));
        }
    }
    progress.end();
    results
}

struct Bench {
    daemon: Daemon,
    space: Namespace,
}

impl Bench {
    fn new(lab: &Lab) -> Bench {
        Bench {
            daemon: Daemon::start(lab, &[], &names::FRONT),
            space: lab.space("measured"),
        }
    }

    fn measure(
        &self,
        asker: Asker,
        endpoints: usize,
        times: usize,
        progress: &mut Progress,
    ) -> [Lifecycle; 2] {
        let (mut attach, mut detach) = (Vec::new(), Vec::new());
        for _ in 0..times {
            attach.push(milliseconds(|| self.attach(asker)));
            detach.push(milliseconds(|| self.detach(asker)));
            // Otherwise the next attach waits until the kernel has freed the last
            // pair of devices, which is not what one container waits for.
            thread::sleep(PAUSE);
            progress.step();
        }
        [("attach", attach), ("detach", detach)].map(|(operation, mut taken)| {
            taken.sort_by(f64::total_cmp);
            Lifecycle {
                operation,
                asker,
                endpoints,
                times,
                median_ms: percentile(&taken, 0.5).expect("at least one"),
                p95_ms: percentile(&taken, 0.95).expect("at least one"),
            }
        })
    }

    fn attach(&self, asker: Asker) {
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
        }
    }

    fn detach(&self, asker: Asker) {
        match asker {
            Asker::Command => self.daemon.command(&["detach", "measured"]),
            Asker::Api => self.daemon.detach("measured"),
        }
    }
}
