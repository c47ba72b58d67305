//! What becomes slower, and what larger, with the number of flows: a packet of a flow that
//! is there, one that begins a flow, collection, listing, memory. The real programs run by
//! the kernel's test-run, a different packet each time, so that caches are as cold as flows
//! are many.

use std::{fs, net::IpAddr, time::Duration};

use aya::{
    maps::MapInfo,
    sys::{Stats, enable_stats},
};
use netbpf_common::{
    flow::Timeouts,
    names::{self, FROM_CONTAINER, FROM_UPLINK},
};
use serde::Serialize;

use super::{
    Options,
    daemon::{field, milliseconds},
    report::Progress,
};
use crate::{
    lab::{
        Family,
        names::{CLIENT, HOST},
    },
    rows::{OPTIONS, Opened, Rig, RigOptions, with_rig_of},
};

/// Flows that are there.
const SIZES: [usize; 4] = [10, 1_000, 100_000, 1_000_000];

/// Ports of the remote; with each, a port of the container has a flow.
const REMOTE_PORTS: usize = 60_000;

/// Flows that are begun before they are answered.
const OPENING: usize = 10_000;

/// Packets that are measured each way.
const PACKETS: usize = 100_000;

/// Figures at one size.
#[derive(Debug, Serialize)]
pub struct Flows {
    pub family: &'static str,
    pub flows: usize,
    /// Nanoseconds of a program's run: the packet that begins a flow, a further one of the
    /// container, an answer.
    pub begin_ns: f64,
    pub out_ns: f64,
    pub back_ns: f64,
    /// Of all maps that hold flows, as the kernel counts it.
    pub map_bytes: u64,
    /// When all go on, and when all are over.
    pub collect_ms: f64,
    pub collect_dead_ms: f64,
    /// All of them as records, as `netbpf flows` asks for them.
    pub list_ms: f64,
    /// What a collection takes of the daemon's memory at most, besides what it had.
    pub collect_bytes: u64,
}

pub fn run(options: &Options) -> Vec<Flows> {
    if options.quick || !options.wants("flows") {
        return Vec::new();
    }
    eprintln!("With many flows");
    let mut progress = Progress::new(2 * SIZES.len());
    let mut results = Vec::new();
    for family in Family::BOTH {
        let (results, progress) = (&mut results, &mut progress);
        let most = SIZES[SIZES.len() - 1] as u32;
        with_rig_of(
            "the benchmark",
            RigOptions {
                max_flows: most,
                ..OPTIONS
            },
            move |rig| {
                let bench = Bench::new(rig, family);
                let mut there = 0;
                for size in SIZES {
                    results.push(bench.measure(there..size));
                    there = size;
                    progress.step();
                }
                if let Some(last) = results.last_mut() {
                    last.collect_dead_ms = bench.collect_dead();
                }
            },
        );
    }
    progress.end();
    results
}

struct Bench<'a> {
    rig: &'a Rig,
    family: Family,
    from_container: Opened,
    from_uplink: Opened,
}

impl Bench<'_> {
    fn new(rig: &Rig, family: Family) -> Bench<'_> {
        Bench {
            rig,
            family,
            from_container: rig.open(FROM_CONTAINER),
            from_uplink: rig.open(FROM_UPLINK),
        }
    }

    fn ports(number: usize) -> (u16, u16) {
        let own = 20_000 + number / REMOTE_PORTS;
        (own as u16, (1 + number % REMOTE_PORTS) as u16)
    }

    fn out(&self, number: usize) -> (u32, Vec<u8>) {
        let ((own, remote), client) = (Self::ports(number), self.ip(CLIENT));
        let way = self.rig.from(&self.rig.web, client);
        (self.rig.web.ifindex(), way.udp(own, remote, b"question"))
    }

    fn back(&self, number: usize) -> (u32, Vec<u8>) {
        let (own, remote) = Self::ports(number);
        let way = self.rig.by_uplink(self.ip(CLIENT), self.ip(HOST));
        let uplink = self.rig.uplink.entry.device.ifindex;
        (uplink, way.udp(remote, own, b"answer"))
    }

    fn ip(&self, pair: [&str; 2]) -> IpAddr {
        self.family.ip(pair)
    }

    /// Begins these flows and measures with them and those before.
    fn measure(&self, new: std::ops::Range<usize>) -> Flows {
        let (flows, mut begin_ns) = (new.end, 0.0);
        // Those that open have a table of their own, with less room.
        for first in new.clone().step_by(OPENING) {
            let some = first..flows.min(first + OPENING);
            let part = some.len() as f64 / new.len() as f64;
            begin_ns += part * self.run(&self.from_container, some.clone().map(|n| self.out(n)));
            // Answered, and spoken once more, they are established.
            self.run(&self.from_uplink, some.clone().map(|n| self.back(n)));
            self.run(&self.from_container, some.map(|n| self.out(n)));
        }
        // In an order in which no two are neighbours, more often than once where they are few.
        let some = || (0..PACKETS).map(|n| n.wrapping_mul(7_368_787) % flows);
        let out_ns = self.run(&self.from_container, some().map(|n| self.out(n)));
        let back_ns = self.run(&self.from_uplink, some().map(|n| self.back(n)));
        let before = peak_after_reset();
        let collect_ms = milliseconds(|| self.collect());
        let collect_bytes = peak().saturating_sub(before);
        let mut found = 0;
        let list_ms = milliseconds(|| {
            found = self.rig.datapath.flows().expect("flows").len();
        });
        assert_eq!(found, flows, "flows are missing");
        Flows {
            family: self.family.of(["ipv4", "ipv6"]),
            flows,
            begin_ns,
            out_ns,
            back_ns,
            map_bytes: self.map_bytes(),
            collect_ms,
            collect_dead_ms: 0.0,
            list_ms,
            collect_bytes,
        }
    }

    fn collect(&self) {
        let collected = self.rig.datapath.collect(&|_| ());
        collected.unwrap_or_else(|e| panic!("collect: {e}"));
    }

    /// The time of a collection in which all of them go.
    fn collect_dead(&self) -> f64 {
        let timeouts = Timeouts {
            udp: 1,
            udp_answered: 1,
            ..Timeouts::DEFAULT
        };
        self.rig.datapath.set_timeouts(timeouts).expect("time-outs");
        std::thread::sleep(Duration::from_millis(1500));
        milliseconds(|| self.collect())
    }

    /// Nanoseconds of a run of the program, over all these packets.
    fn run(&self, program: &Opened, packets: impl Iterator<Item = (u32, Vec<u8>)>) -> f64 {
        let _on = enable_stats(Stats::RunTime).expect("run statistics");
        let before = program.spent();
        for (ifindex, packet) in packets {
            let code = program.run(ifindex, ifindex, &packet).map(|(code, _)| code);
            assert_eq!(code, Some(7), "not redirected");
        }
        let after = program.spent();
        (after.1 - before.1).as_nanos() as f64 / (after.0 - before.0) as f64
    }

    /// Of all maps of the family's flows.
    fn map_bytes(&self) -> u64 {
        let maps = self.family.of([
            [
                names::FLOWS4,
                names::EVICTABLE4,
                names::MAPPINGS4,
                names::OUTSIDE4,
            ],
            [
                names::FLOWS6,
                names::EVICTABLE6,
                names::MAPPINGS6,
                names::OUTSIDE6,
            ],
        ]);
        maps.map(|name| {
            let info = MapInfo::from_pin(self.rig.bpffs().join(name)).expect("a map");
            memory_of(&info)
        })
        .into_iter()
        .sum()
    }
}

/// `memlock` of a map, which is all that it takes.
fn memory_of(info: &MapInfo) -> u64 {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let fd = info.fd().expect("a descriptor");
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    field(&fs::read_to_string(path).expect("its figures"), "memlock:")
}

/// The largest that this process has been since, in bytes.
fn peak_after_reset() -> u64 {
    // 5: the peak is what it takes now.
    _ = fs::write("/proc/self/clear_refs", "5");
    peak()
}

fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("our own figures");
    field(&status, "VmHWM:") * 1024
}
