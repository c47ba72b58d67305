//! A daemon of which times are taken, on a host with an uplink.

use std::{
    fs,
    process::{Command, Stdio},
    time::Instant,
};

use netbpf::{
    client::Client,
    model::{AttachSpec, NetnsRef},
};
use tokio::runtime::{Builder, Runtime};

use crate::lab::{
    Host, Lab, Namespace, binary,
    names::{self, Net},
};

/// Asks by the command line and by the API.
pub struct Daemon {
    pub host: Host,
    network: &'static Net,
    client: Client,
    runtime: Runtime,
}

impl Daemon {
    pub fn start(lab: &Lab, flags: &[&str], network: &'static Net) -> Daemon {
        let host = lab.host("host");
        let outside = lab.space("client");
        lab.wire(
            (&host, "up0", &names::HOST_WIRE),
            (&outside, "eth0", &names::CLIENT_WIRE),
        );
        host.start(flags);
        host.network(network, &[]);
        Daemon {
            network,
            client: Client::new(host.socket()),
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a tokio runtime"),
            host,
        }
    }

    /// Attaches by the API.
    pub fn attach(&self, name: &str, space: &Namespace, publish: Vec<String>) {
        let netns = NetnsRef::Netns(space.name().into());
        let spec = AttachSpec {
            network: Some(self.network.name.into()),
            publish,
            ..AttachSpec::new(name, netns)
        };
        self.runtime
            .block_on(self.client.attach(&spec))
            .unwrap_or_else(|e| panic!("attach: {e}"));
    }

    /// Detaches by the API.
    pub fn detach(&self, name: &str) {
        self.runtime
            .block_on(self.client.detach(name, None))
            .unwrap_or_else(|e| panic!("detach: {e}"));
    }

    /// A command, from start to exit.
    pub fn command(&self, arguments: &[&str]) {
        command(&self.host, arguments);
    }
}

/// Not the lab's own way of running commands: that one polls for the end.
pub fn command(host: &Host, arguments: &[&str]) {
    let status = Command::new(binary())
        .arg("--socket")
        .arg(host.socket())
        .args(arguments)
        .stdout(Stdio::null())
        .status()
        .unwrap_or_else(|e| panic!("netbpf: {e}"));
    assert!(status.success(), "netbpf {arguments:?}: {status}");
}

/// A number of /proc/PID/status, such as of `VmRSS:` in KiB.
pub fn status_field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    field(&status, name)
}

/// The number behind a word at the beginning of a line.
pub fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).expect(name)
}

pub fn milliseconds(work: impl FnOnce()) -> f64 {
    let before = Instant::now();
    work();
    before.elapsed().as_nanos() as f64 / 1e6
}
