//! What a packet costs in each program: the real programs, run by the kernel's test-run with
//! the flows of before alive, and timed by its run statistics. And how large the programs are
//! for the kernel's check. `--against` shows what a change has made of it.
//!
//! Nanoseconds differ from hour to hour on a machine that is shared; so each figure is told
//! as a multiple of a loop of ours, which takes its turn with the rows.

use std::{fs, hint::black_box, net::IpAddr, path::Path, time::Instant};

use anyhow::{Context as _, Result};
use aya::{
    programs::ProgramInfo,
    sys::{Stats, enable_stats},
};
use netbpf::datapath::{EndpointEntry, GATEWAY_MAC};
use netbpf_common::names::{
    EARLY_DROP, FROM_CONTAINER, FROM_UPLINK, HOST_LOCAL, PROGRAMS, TO_CONTAINER, TO_UPLINK,
};
use serde::{Deserialize, Serialize};

use super::{Options, report::Progress, stats::percentile};
use crate::{
    lab::{
        Family,
        names::{CLIENT, FRONT, HOST},
    },
    packets::{Way, vxlan},
    rows::{Opened, ROOMY, Rig, TC_ACT_SHOT, overlay, with_rig_of},
};

/// Rounds over all rows, and packets of a row in each.
const ROUNDS: usize = 61;
const PACKETS: usize = 1000;
/// Of rows that begin a flow with each packet.
const BEGINNING: usize = 100;

/// Bytes that the loop goes over.
const LOOP: usize = 4096;

const TCP: u8 = 6;

/// What is worth a look, as a part.
const WORTH: f64 = 0.05;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rows {
    /// Nanoseconds of the loop.
    pub loop_ns: f64,
    pub rows: Vec<Row>,
    pub programs: Vec<Program>,
}

/// A packet's cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub program: String,
    pub family: String,
    pub ns: f64,
    /// As a part of the loop's time, which is what can be compared.
    pub cost: f64,
}

/// A program's size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    /// As the kernel has rewritten them.
    pub instructions: u32,
    /// That its check went through, all ways together.
    pub verified: u32,
    /// Of machine code.
    pub bytes: u32,
}

/// A packet, again and again; each time another where it begins a flow.
struct Case<'a> {
    name: &'static str,
    family: Family,
    program: &'a Opened,
    came_by: u32,
    ifindex: u32,
    packet: Box<dyn Fn(u16) -> Vec<u8> + 'a>,
    begins: bool,
}

pub fn run(options: &Options) -> Option<Rows> {
    if !options.rows {
        return None;
    }
    eprintln!("Rows: a packet's cost in each program");
    let mut rows = None;
    with_rig_of("the benchmark of rows", ROOMY, |rig| {
        rows = Some(measure(rig, options));
    });
    rows
}

fn measure(rig: &Rig, options: &Options) -> Rows {
    let opened = Programs::open(rig);
    rig.publish(1, TCP, 8080, &rig.web, 80);
    make_overlay(rig);
    let cases: Vec<Case> = Family::BOTH
        .into_iter()
        .flat_map(|family| cases(rig, &opened, family))
        .filter(|case| options.wants(case.name))
        .collect();
    let mut progress = Progress::new(ROUNDS);
    let mut taken: Vec<Vec<(f64, f64)>> = vec![Vec::new(); cases.len()];
    let mut loops = Vec::new();
    let mut next = 1024_u16;
    // The first one warms up.
    for round in 0..=ROUNDS {
        for (case, taken) in cases.iter().zip(&mut taken) {
            let reference = loop_ns();
            let ns = case.run(&mut next);
            if round > 0 {
                loops.push(reference);
                taken.push((ns, ns / reference));
            }
        }
        if round > 0 {
            progress.step();
        }
    }
    progress.end();
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        percentile(&values, 0.5).unwrap_or_default()
    };
    let rows = cases.iter().zip(taken).map(|(case, taken)| Row {
        name: case.name.into(),
        program: case.program.name.clone(),
        family: case.family.of(["ipv4", "ipv6"]).into(),
        ns: median(taken.iter().map(|t| t.0).collect()),
        cost: median(taken.iter().map(|t| t.1).collect()),
    });
    Rows {
        rows: rows.collect(),
        loop_ns: median(loops),
        programs: sizes(rig),
    }
}

/// A container of another node.
const FAR: [&str; 2] = ["10.10.2.70", "fd10:2::f000"];

/// The second network is an overlay, with as many blocks as a large one has.
fn make_overlay(rig: &Rig) {
    let far = ["10.10.2.64/26", "fd10:2::f000/122"].map(String::from);
    let others = (0..500_u16).flat_map(|n| {
        let [high, low] = n.to_be_bytes();
        [
            format!("10.{}.{low}.0/26", 64 + high),
            format!("fd10:2::{n:x}:0/122"),
        ]
    });
    let blocks: Vec<String> = far.into_iter().chain(others).collect();
    let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
    let member = EndpointEntry {
        flags: overlay::flags(),
        ..rig.other.entry.clone()
    };
    let made = rig.datapath.set_endpoint(&member);
    let made = made.and_then(|()| {
        let overlay = overlay::overlay(rig.other.entry.network, Family::V4, &blocks);
        rig.datapath.set_overlay(&overlay)
    });
    made.unwrap_or_else(|e| panic!("the overlay: {e}"));
}

/// The least of some turns: nothing else has come between.
fn loop_ns() -> f64 {
    let bytes = [7_u8; LOOP];
    let turn = || {
        let began = Instant::now();
        let sum = black_box(&bytes).iter().fold(1_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        black_box(sum);
        began.elapsed().as_nanos() as f64
    };
    (0..16).map(|_| turn()).fold(f64::MAX, f64::min)
}

struct Programs {
    from_container: Opened,
    to_container: Opened,
    from_uplink: Opened,
    to_uplink: Opened,
    host_local: Opened,
    early_drop: Opened,
}

impl Programs {
    fn open(rig: &Rig) -> Programs {
        Programs {
            from_container: rig.open(FROM_CONTAINER),
            to_container: rig.open(TO_CONTAINER),
            from_uplink: rig.open(FROM_UPLINK),
            to_uplink: rig.open(TO_UPLINK),
            host_local: rig.open(HOST_LOCAL),
            early_drop: rig.open(EARLY_DROP),
        }
    }
}

/// Ports of the flows that are there.
const OWN: u16 = 20_000;
const REMOTE: u16 = 443;

fn cases<'a>(rig: &'a Rig, programs: &'a Programs, family: Family) -> Vec<Case<'a>> {
    let (web, app) = (&rig.web, &rig.app);
    let (client, host) = (family.ip(CLIENT), family.ip(HOST));
    let gateway: IpAddr = family.ip(FRONT.gateways);
    let uplink = rig.uplink.entry.device.ifindex;
    let of = |program: &'a Opened, came_by: u32, ifindex: u32| {
        move |name, way: Way, packet: fn(&Way, u16) -> Vec<u8>| Case {
            name,
            family,
            program,
            came_by,
            ifindex,
            packet: Box::new(move |port| packet(&way, port)),
            begins: false,
        }
    };
    let beginning = |case: Case<'a>| Case {
        begins: true,
        ..case
    };
    let sent = of(&programs.from_container, web.ifindex(), web.ifindex());
    let came = of(&programs.from_uplink, uplink, uplink);
    let hosts = of(&programs.to_uplink, 0, uplink);
    let left = of(&programs.to_uplink, web.ifindex(), uplink);
    let local = of(&programs.host_local, 0, 1);
    let early = of(&programs.early_drop, 0, 0);
    let other = &rig.other;
    let tunnelled = of(&programs.from_container, other.ifindex(), other.ifindex());
    let into = of(&programs.to_container, 0, web.ifindex());
    let routed = of(&programs.to_container, uplink, web.ifindex());

    let (out, back) = (rig.from(web, client), rig.by_uplink(client, host));
    let beside = rig.from(web, app.ip(family));
    let (asks, answers) = (rig.from(web, host), rig.into(web, host));
    let far = family.ip(FAR);
    let inside = Way::new(overlay::NODE_MAC, GATEWAY_MAC, far, other.ip(family));
    // Over IPv4, whichever is inside.
    let outside = rig.by_uplink(Family::V4.ip(CLIENT), Family::V4.ip(HOST));
    // Flows that go on.
    let begun = [
        sent("", out, |way, _| way.tcp(OWN, REMOTE, "S", b"")),
        came("", back, |way, _| way.tcp(REMOTE, OWN, "SA", b"")),
        sent("", out, |way, _| way.tcp(OWN, REMOTE, "A", b"")),
        sent("", out, |way, _| way.udp(OWN, REMOTE, b"x")),
        came("", back, |way, _| way.udp(REMOTE, OWN, b"x")),
        came("", back, |way, _| way.tcp(OWN, 8080, "S", b"")),
        sent("", out, |way, _| way.tcp(80, OWN, "SA", b"")),
        came("", back, |way, _| way.tcp(OWN, 8080, "A", b"")),
        sent("", asks, |way, _| way.tcp(OWN, 22, "S", b"")),
    ];
    for case in &begun {
        case.once(0);
    }
    vec![
        sent("masquerade, TCP", out, |way, _| {
            way.tcp(OWN, REMOTE, "A", b"x")
        }),
        sent("masquerade, UDP", out, |way, _| way.udp(OWN, REMOTE, b"x")),
        came("masquerade, answer by TCP", back, |way, _| {
            way.tcp(REMOTE, OWN, "A", b"x")
        }),
        came("masquerade, answer by UDP", back, |way, _| {
            way.udp(REMOTE, OWN, b"x")
        }),
        beginning(sent("masquerade, begins", out, |way, port| {
            way.udp(port, 53, b"x")
        })),
        came("published port", back, |way, _| {
            way.tcp(OWN, 8080, "A", b"x")
        }),
        sent("published port, answer", out, |way, _| {
            way.tcp(80, OWN, "A", b"x")
        }),
        beginning(came("published port, begins", back, |way, port| {
            way.tcp(port, 8080, "S", b"")
        })),
        sent("sibling", beside, |way, _| way.tcp(OWN, 80, "A", b"x")),
        sent("a service of the host, TCP", asks, |way, _| {
            way.tcp(OWN, 22, "A", b"x")
        }),
        sent(
            "a service of the host, UDP",
            rig.from(web, gateway),
            |way, _| way.udp(OWN, 53, b"x"),
        ),
        into("a service of the host, answer", answers, |way, _| {
            way.tcp(22, OWN, "A", b"x")
        }),
        routed("answer that the kernel forwards", answers, |way, _| {
            way.tcp(22, OWN, "A", b"x")
        }),
        came("the host's own, in", back, |way, _| {
            way.tcp(REMOTE, 22, "A", b"x")
        }),
        hosts("the host's own, out", rig.out(host, client), |way, _| {
            way.tcp(22, REMOTE, "A", b"x")
        }),
        left("ours, out", rig.out(host, client), |way, _| {
            way.tcp(OWN, REMOTE, "A", b"x")
        }),
        local("the host to itself", rig.out(host, host), |way, _| {
            way.tcp(OWN, 22, "A", b"x")
        }),
        tunnelled("to another node", rig.from(other, far), |way, _| {
            way.tcp(OWN, 80, "A", b"x")
        }),
        Case {
            packet: Box::new(move |_| {
                let inside = inside.tcp(80, OWN, "A", b"x");
                outside.udp(50_000, overlay::PORT, &vxlan(overlay::VNI, &inside))
            }),
            ..came("from another node", outside, |way, _| way.udp(1, 1, b""))
        },
        early("by XDP, passes", back, |way, _| {
            way.tcp(OWN, 8080, "A", b"x")
        }),
        came(
            "to a container's address, dropped",
            rig.by_uplink(client, web.ip(family)),
            |way, _| way.tcp(OWN, 80, "A", b"x"),
        ),
    ]
}

impl Case<'_> {
    fn once(&self, port: u16) {
        let packet = (self.packet)(port);
        let run = self.program.run(self.came_by, self.ifindex, &packet);
        let (code, _) = run.unwrap_or_else(|| panic!("{}: no packet", self.name));
        let (dropped, expected) = (code == TC_ACT_SHOT, self.name.ends_with("dropped"));
        assert_eq!(dropped, expected, "{}, {:?}", self.name, self.family);
    }

    /// Nanoseconds of a run, over some packets.
    fn run(&self, next: &mut u16) -> f64 {
        let packets = if self.begins { BEGINNING } else { PACKETS };
        let _on = enable_stats(Stats::RunTime).expect("run statistics");
        let before = self.program.spent();
        for _ in 0..packets {
            *next = next.checked_add(1).unwrap_or(1024);
            self.once(*next);
        }
        let after = self.program.spent();
        (after.1 - before.1).as_nanos() as f64 / (after.0 - before.0) as f64
    }
}

fn sizes(rig: &Rig) -> Vec<Program> {
    let size = |name: &&str| {
        let path = rig.bpffs().join("programs").join(name);
        let info = ProgramInfo::from_pin(path).ok()?;
        Some(Program {
            name: (*name).into(),
            instructions: info.size_translated().unwrap_or(0) / 8,
            verified: info.verified_instruction_count().unwrap_or(0),
            bytes: info.size_jitted(),
        })
    };
    PROGRAMS.iter().filter_map(size).collect()
}

/// What was measured before: a file of `--json`.
pub fn before(path: &Path) -> Result<Rows> {
    #[derive(Deserialize)]
    struct Results {
        rows: Option<Rows>,
    }
    let what = || format!("cannot read {}", path.display());
    let text = fs::read_to_string(path).with_context(what)?;
    let results: Results = serde_json::from_str(&text).with_context(what)?;
    results
        .rows
        .with_context(|| format!("{} has no rows", path.display()))
}

/// A figure, and how it stands to what it was.
pub fn change(now: f64, before: Option<f64>) -> String {
    let Some(before) = before.filter(|before| *before > 0.0) else {
        return String::new();
    };
    let change = now / before - 1.0;
    let mark = if change > WORTH { " !" } else { "" };
    format!("{:+.0} %{mark}", change * 100.0)
}

impl Rows {
    pub fn cost_of(&self, row: &Row) -> Option<f64> {
        let is_it = |other: &&Row| {
            (&other.name, &other.program, &other.family) == (&row.name, &row.program, &row.family)
        };
        Some(self.rows.iter().find(is_it)?.cost)
    }

    pub fn verified(&self, name: &str) -> Option<u32> {
        let mut programs = self.programs.iter();
        Some(programs.find(|program| program.name == name)?.verified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_costs_more_than_before_is_marked() {
        assert_eq!(change(1.0, None), "");
        assert_eq!(change(1.04, Some(1.0)), "+4 %");
        assert_eq!(change(1.10, Some(1.0)), "+10 % !");
        assert_eq!(change(0.5, Some(1.0)), "-50 %");
    }
}
