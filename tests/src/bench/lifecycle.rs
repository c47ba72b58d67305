//! How long a container waits for its network, and for its end.
//!
//! By command: the release binary from start to exit, as a script sees it.
//! By API: one request on the socket, as an engine's plugin sees it.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use netbpf::{
    client::Client,
    model::{AttachSpec, NetnsRef},
};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use super::{Options, report::Progress, stats::percentile};
use crate::lab::{Host, Lab, Namespace, binary, names};

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
            bench.host.container(
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
    host: Host,
    space: Namespace,
    client: Client,
    runtime: Runtime,
}

impl Bench {
    fn new(lab: &Lab) -> Bench {
        let host = lab.host("host");
        let outside = lab.space("client");
        lab.wire(
            (&host, "up0", &names::HOST_WIRE),
            (&outside, "eth0", &names::CLIENT_WIRE),
        );
        host.start(&[]);
        host.network(&names::FRONT, &[]);
        Bench {
            client: Client::new(host.socket()),
            space: lab.space("measured"),
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a tokio runtime"),
            host,
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
        match asker {
            Asker::Command => self.command(&[
                "attach",
                "--name",
                "measured",
                "--network",
                names::FRONT.name,
                "--netns",
                self.space.name(),
                "-p",
                "8080:80",
            ]),
            Asker::Api => {
                let spec = AttachSpec {
                    name: "measured".into(),
                    network: Some(names::FRONT.name.into()),
                    netns: NetnsRef::Netns(self.space.name().into()),
                    ifname: None,
                    ips: Vec::new(),
                    mac: None,
                    publish: vec!["8080:80".into()],
                    share: false,
                    publish_all: false,
                    expose: Vec::new(),
                    aliases: Vec::new(),
                    links: Vec::new(),
                    labels: Default::default(),
                };
                self.runtime
                    .block_on(self.client.attach(&spec))
                    .unwrap_or_else(|e| panic!("attach: {e}"));
            }
        }
    }

    fn detach(&self, asker: Asker) {
        match asker {
            Asker::Command => self.command(&["detach", "measured"]),
            Asker::Api => {
                self.runtime
                    .block_on(self.client.detach("measured", None))
                    .unwrap_or_else(|e| panic!("detach: {e}"));
            }
        }
    }

    /// Not the lab's own way of running commands: that one polls for the end.
    fn command(&self, arguments: &[&str]) {
        let status = Command::new(binary())
            .arg("--socket")
            .arg(self.host.socket())
            .args(arguments)
            .stdout(Stdio::null())
            .status()
            .unwrap_or_else(|e| panic!("netbpf: {e}"));
        assert!(status.success(), "netbpf {arguments:?}: {status}");
    }
}

fn milliseconds(work: impl FnOnce()) -> f64 {
    let before = Instant::now();
    work();
    before.elapsed().as_nanos() as f64 / 1e6
}
