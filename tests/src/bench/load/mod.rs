//! The load generator. Client and server are threads on one CPU: nothing of what
//! is measured then depends on which CPU the scheduler wakes, and a stream shows
//! the whole cost of a byte. Every socket has time limits, so that each measure
//! ends.

mod round_trip;
mod set_up;
mod socket;
mod stream;

use std::{fmt, io, net::SocketAddr, thread};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

use super::{Options, worlds::Path};
use crate::lab::Membership;
use socket::listen;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// One byte there and one back on an open TCP connection; microseconds.
    RoundTrip,
    /// Connect, one request, close; microseconds.
    SetUp,
    /// A TCP stream, sender and receiver on one CPU; gigabits per second.
    Stream,
}

impl Measure {
    pub const ALL: [Measure; 3] = [Measure::RoundTrip, Measure::SetUp, Measure::Stream];

    pub fn name(self) -> &'static str {
        match self {
            Measure::RoundTrip => "round-trip",
            Measure::SetUp => "set-up",
            Measure::Stream => "stream",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Measure::RoundTrip | Measure::SetUp => "µs",
            Measure::Stream => "Gbit/s",
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One measure of one path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// The median of times, or a rate.
    pub value: f64,
    /// The 99th percentile of times.
    pub p99: Option<f64>,
}

/// Measures a path once.
pub fn measure(options: &Options, measure: Measure, path: &Path) -> io::Result<Sample> {
    let listener = path.server.enter(|| listen(path.listen))?;
    // Where sockets of the host are translated, it is those of its cgroup.
    let _as_client = path.client.cgroup().map(Membership::take).transpose()?;
    let cpu = options.cpu();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            pin(cpu);
            match measure {
                Measure::RoundTrip => round_trip::serve(&listener).map(|()| None),
                Measure::SetUp => set_up::serve(&listener, options).map(|()| None),
                Measure::Stream => stream::receive(&listener).map(Some),
            }
        });
        let connect: SocketAddr = path.connect;
        let sample = path.client.enter(|| {
            pin(cpu);
            match measure {
                Measure::RoundTrip => round_trip::run(connect, options).map(Some),
                Measure::SetUp => set_up::run(connect, options).map(Some),
                Measure::Stream => stream::send(connect, options).map(|()| None),
            }
        });
        let served = server
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The client's word first: when it fails, the server only times out.
        match (sample?, served?) {
            (Some(sample), _) | (None, Some(sample)) => Ok(sample),
            (None, None) => Err(io::Error::other("nothing was measured")),
        }
    })
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU of this machine");
    sched_setaffinity(Pid::from_raw(0), &set).expect("pin the thread to a CPU");
}
