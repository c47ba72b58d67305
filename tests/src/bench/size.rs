//! What becomes slower, and what larger, with the number of containers: attach and
//! detach, listings, the daemon's start, its memory and descriptors. Each container
//! has ten published ports.

use std::{fs, thread, time::Duration};

use serde::Serialize;

use super::{
    Options, bare,
    daemon::{Daemon, milliseconds, status_field},
    report::Progress,
    stats::{median, quantile},
};
use crate::lab::{Lab, Namespace, names::Net};

/// Containers that are there.
const SIZES: [usize; 3] = [10, 100, 1000];

const PORTS: usize = 10;

/// Room for all of them.
const NETWORK: Net = Net {
    name: "large",
    subnets: ["10.64.0.0/16", "fd64::/64"],
    gateways: ["10.64.0.1", "fd64::1"],
    absent: ["10.64.255.200", "fd64::ffff"],
};

/// The first published port: of those that the kernel chooses by itself, which costs most.
const FIRST_PORT: usize = 33_000;

const TIMES: usize = 30;

/// Figures at one size.
#[derive(Debug, Serialize)]
pub struct Size {
    pub endpoints: usize,
    pub ports: usize,
    /// Medians and 95th percentiles, in milliseconds: attach and detach of one more by the API, with its
    /// ports; the others by command, from start to exit.
    pub attach_ms: f64,
    pub attach_p95_ms: f64,
    /// Of these the kernel takes for devices, addresses, routes and qdisc alone.
    pub attach_kernel_ms: f64,
    pub detach_ms: f64,
    pub detach_p95_ms: f64,
    pub ps_ms: f64,
    pub port_ms: f64,
    pub status_ms: f64,
    pub metrics_ms: f64,
    /// Of the daemon, from its start until it answers, with all of them there.
    pub start_ms: f64,
    pub memory_bytes: u64,
    pub descriptors: usize,
    pub threads: usize,
}

pub fn run(options: &Options) -> Vec<Size> {
    if options.quick || !options.wants("size") {
        return Vec::new();
    }
    eprintln!("At size");
    let lab = Lab::new("the benchmark");
    let bench = Bench::new(&lab);
    let mut progress = Progress::new(SIZES[SIZES.len() - 1]);
    let mut spaces = Vec::new();
    let mut results = Vec::new();
    for size in SIZES {
        while spaces.len() < size {
            let number = spaces.len();
            let space = lab.space(&format!("s{number}"));
            bench.attach(&format!("s{number}"), &space, number);
            spaces.push(space);
            progress.step();
        }
        results.push(bench.measure(size));
    }
    progress.end();
    results
}

struct Bench {
    daemon: Daemon,
    space: Namespace,
}

const METRICS: &str = "127.0.0.1:9464";

impl Bench {
    fn new(lab: &Lab) -> Bench {
        Bench {
            daemon: Daemon::start(lab, &["--metrics", METRICS], &NETWORK),
            space: lab.space("measured"),
        }
    }

    fn measure(&self, endpoints: usize) -> Size {
        let host = &self.daemon.host;
        let (mut attach, mut detach, mut kernel) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let last = SIZES[SIZES.len() - 1];
            attach.push(milliseconds(|| self.attach("measured", &self.space, last)));
            detach.push(milliseconds(|| self.daemon.detach("measured")));
            // Each time until the kernel has freed the devices.
            thread::sleep(Duration::from_millis(50));
            kernel.push(bare::attach(host, &self.space, &NETWORK));
            thread::sleep(Duration::from_millis(50));
        }
        let command = |words: &[&str]| {
            median((0..TIMES).map(|_| milliseconds(|| self.daemon.command(words))))
        };
        let metrics = || {
            let url = format!("http://{METRICS}/metrics");
            host.run(&["curl", "-sSo", "/dev/null", "--fail", &url])
                .ok();
        };
        let start = (0..5).map(|_| {
            host.stop();
            milliseconds(|| host.start(&["--metrics", METRICS]))
        });
        let start_ms = median(start);
        let pid = host.pid().expect("it runs");
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
        Size {
            endpoints,
            ports: endpoints * PORTS,
            attach_ms: quantile(attach.iter().copied(), 0.5),
            attach_p95_ms: quantile(attach, 0.95),
            attach_kernel_ms: median(kernel),
            detach_ms: quantile(detach.iter().copied(), 0.5),
            detach_p95_ms: quantile(detach, 0.95),
            ps_ms: command(&["ps"]),
            port_ms: command(&["port"]),
            status_ms: command(&["status"]),
            metrics_ms: median((0..TIMES).map(|_| milliseconds(metrics))),
            start_ms,
            memory_bytes: status_field(pid, "VmRSS:") * 1024,
            descriptors: descriptors.count(),
            threads: status_field(pid, "Threads:") as usize,
        }
    }

    /// With ports that no other has.
    fn attach(&self, name: &str, space: &Namespace, number: usize) {
        let first = FIRST_PORT + number * PORTS;
        // Container ports that do not follow each other: no range.
        let specs = (0..PORTS).map(|port| format!("{}:{}", first + port, 80 + port * 2));
        self.daemon.attach(name, space, specs.collect());
    }
}
