//! The load generator. Client and server are threads on one CPU: nothing of what
//! is measured then depends on which CPU the scheduler wakes, and a stream shows
//! the whole cost of a byte. Every socket has time limits, so that each measure
//! ends.

mod datagrams;
mod round_trip;
mod set_up;
mod socket;
mod stream;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    thread,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Serialize;

use super::{
    Options,
    worlds::{Path, Way},
};
use crate::lab::{Membership, Namespace};

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
    /// The same over wires that carry packets of the size of their MTU.
    MtuStream,
    /// Sender and receiver each on a CPU of its own.
    TwoCpuStream,
    /// One datagram of one byte there and one back; microseconds.
    UdpRoundTrip,
    /// Datagrams of 64 bytes, sender and receiver on one CPU; thousands per second.
    UdpPackets,
}

impl Measure {
    pub const ALL: [Measure; 7] = [
        Measure::RoundTrip,
        Measure::SetUp,
        Measure::Stream,
        Measure::MtuStream,
        Measure::TwoCpuStream,
        Measure::UdpRoundTrip,
        Measure::UdpPackets,
    ];

    /// Whether it is measured on that way. All of them on all ways would take three times as
    /// long and say little more.
    pub fn is_for(self, way: Way) -> bool {
        match self {
            Measure::RoundTrip | Measure::SetUp => true,
            Measure::Stream => way != Way::Crowded,
            Measure::MtuStream => matches!(way, Way::Published | Way::Masquerade | Way::Overlay),
            Measure::TwoCpuStream => matches!(way, Way::Published | Way::Overlay),
            Measure::UdpRoundTrip | Measure::UdpPackets => {
                matches!(way, Way::Published | Way::Masquerade | Way::Overlay)
            }
        }
    }

    /// More is better.
    pub fn is_rate(self) -> bool {
        !matches!(
            self,
            Measure::RoundTrip | Measure::SetUp | Measure::UdpRoundTrip
        )
    }

    pub fn name(self) -> &'static str {
        match self {
            Measure::RoundTrip => "round-trip",
            Measure::SetUp => "set-up",
            Measure::Stream => "stream",
            Measure::MtuStream => "mtu-stream",
            Measure::TwoCpuStream => "two-cpu-stream",
            Measure::UdpRoundTrip => "udp-round-trip",
            Measure::UdpPackets => "udp-packets",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Measure::RoundTrip | Measure::SetUp | Measure::UdpRoundTrip => "µs",
            Measure::Stream | Measure::MtuStream | Measure::TwoCpuStream => "Gbit/s",
            Measure::UdpPackets => "1000/s",
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
    let _small = (measure == Measure::MtuStream).then(|| MtuSized::make(&path.wire));
    let server = Server::listen(measure, path)?;
    // Where sockets of the host are translated, it is those of its cgroup.
    let _as_client = path.client.cgroup().map(Membership::take).transpose()?;
    let cpu = options.cpu();
    let server_cpu = match measure {
        Measure::TwoCpuStream => options.other_cpu(),
        _ => cpu,
    };
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            pin(server_cpu);
            server.serve(measure, options)
        });
        let connect: SocketAddr = path.connect;
        let sample = path.client.enter(|| {
            pin(cpu);
            match measure {
                Measure::RoundTrip => round_trip::run(connect, options).map(Some),
                Measure::SetUp => set_up::run(connect, options).map(Some),
                Measure::Stream | Measure::MtuStream | Measure::TwoCpuStream => {
                    stream::send(connect, options).map(|()| None)
                }
                Measure::UdpRoundTrip => datagrams::round_trips(connect, options).map(Some),
                Measure::UdpPackets => datagrams::packets(connect, options).map(Some),
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

/// Who answers.
enum Server {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Server {
    fn listen(measure: Measure, path: &Path) -> io::Result<Server> {
        path.server.enter(|| match measure {
            Measure::UdpRoundTrip | Measure::UdpPackets => {
                socket::datagrams(path.listen).map(Server::Udp)
            }
            _ => socket::listen(path.listen).map(Server::Tcp),
        })
    }

    fn serve(&self, measure: Measure, options: &Options) -> io::Result<Option<Sample>> {
        match self {
            Server::Udp(socket) => {
                let window = match measure {
                    Measure::UdpPackets => datagrams::WINDOW,
                    _ => 1,
                };
                datagrams::serve(socket, window).map(|()| None)
            }
            Server::Tcp(listener) => match measure {
                Measure::RoundTrip => round_trip::serve(listener).map(|()| None),
                Measure::SetUp => set_up::serve(listener, options).map(|()| None),
                _ => stream::receive(listener).map(Some),
            },
        }
    }
}

/// As long as it lives, a wire is as that of a network card without offloads: no packet is
/// larger than its MTU, and the kernel puts those of a stream together as they come in (GRO),
/// which it does not do of a veth otherwise.
struct MtuSized<'a>(&'a [(Namespace, &'static str)]);

impl<'a> MtuSized<'a> {
    fn make(wire: &'a [(Namespace, &'static str)]) -> MtuSized<'a> {
        let small = MtuSized(wire);
        small.offload("off", "on");
        small
    }

    #[track_caller]
    fn offload(&self, segmentation: &str, gro: &str) {
        for (space, device) in self.0 {
            let kinds = ["tso", "gso", "tx-udp-segmentation"];
            let mut argv = vec!["ethtool", "-K", device];
            argv.extend(kinds.iter().flat_map(|kind| [*kind, segmentation]));
            argv.extend(["gro", gro]);
            space.run(&argv).ok();
        }
    }
}

impl Drop for MtuSized<'_> {
    fn drop(&mut self) {
        // After a failure the namespaces go, wires and all, and a second one would abort.
        if !thread::panicking() {
            self.offload("on", "off");
        }
    }
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU of this machine");
    sched_setaffinity(Pid::from_raw(0), &set).expect("pin the thread to a CPU");
}
