//! What becomes slower, and what larger, with the number of nodes of a cluster: the daemon's
//! start, its memory, what it does when others' containers come and go, attach. One real
//! node with a real etcd; the others are in etcd alone, with a hundred containers each.

use std::{fs, thread, time::Duration};

use netbpf::model::StatusInfo;
use serde::Serialize;

use super::{
    Options,
    daemon::{command, milliseconds, status_field},
    report::Progress,
    stats::median,
};
use crate::lab::{Crowd, EtcdPrograms, Family, Town, names::SUBNETS};

/// Nodes besides the real one.
const SIZES: [usize; 3] = [2, 20, 200];

/// Containers of each.
const EACH: usize = 100;

/// Of these on each node so many are started anew.
const ANEW: usize = 5;

const TIMES: usize = 20;

/// Figures at one size.
#[derive(Debug, Serialize)]
pub struct Nodes {
    pub nodes: usize,
    pub endpoints: usize,
    /// Of the map `tunnels`: what leads to all of them.
    pub map_entries: u64,
    /// From the moment when the first of them is in etcd until all are in the tables, and
    /// for how long etcd was written to.
    pub catch_up_ms: f64,
    pub written_ms: f64,
    /// The daemon's CPU time of it.
    pub catch_up_cpu_ms: f64,
    /// And for each container that is started anew on another node.
    pub anew_cpu_ms: f64,
    /// Of the daemon, from its start until it answers.
    pub start_ms: f64,
    pub memory_bytes: u64,
    /// Medians, by command from start to exit: on a network of this node alone, and on the
    /// overlay.
    pub local_attach_ms: f64,
    pub attach_ms: f64,
    pub local_detach_ms: f64,
    pub detach_ms: f64,
    pub inspect_ms: f64,
    pub node_ls_ms: f64,
}

pub fn run(options: &Options) -> Vec<Nodes> {
    if options.quick || !options.wants("cluster") || EtcdPrograms::find("cluster").is_none() {
        return Vec::new();
    }
    eprintln!("With other nodes");
    let mut progress = Progress::new(SIZES.len());
    let measured = SIZES.into_iter().filter_map(|nodes| {
        let town = Town::new(&format!("cluster{nodes}"), 1, Family::V4)?;
        let measured = measure(&town, nodes);
        progress.step();
        Some(measured)
    });
    let results = measured.collect();
    progress.end();
    results
}

fn measure(town: &Town, nodes: usize) -> Nodes {
    let host = &town.hosts[0];
    let wide = town.overlay("wide", &SUBNETS);
    let _app = town.container(0, "wide", "app", &[]);
    let cpu = || cpu_ms(host.pid().expect("it runs"));

    let (before, mut crowd, mut written_ms) = (cpu(), None, 0.0);
    let catch_up_ms = milliseconds(|| {
        written_ms = milliseconds(|| crowd = Some(Crowd::put(&town.etcd, &wide, nodes, EACH)));
        town.wait_for_all();
    });
    let catch_up_cpu_ms = cpu() - before;
    let mut crowd = crowd.expect("it is there");

    // One after the other, as they come: a look at all each time would show.
    let (before, mut anew) = (cpu(), 0);
    for number in 0..ANEW {
        for node in (0..nodes).step_by(nodes.div_ceil(20)) {
            crowd.restart(std::iter::once((node, number)));
            anew += 1;
            thread::sleep(Duration::from_millis(10));
        }
    }
    town.wait_for_all();
    let anew_cpu_ms = (cpu() - before) / f64::from(anew);

    let space = town.lab.space("measured");
    let [local, overlay] = ["default", "wide"].map(|network| {
        let (mut attach, mut detach) = (Vec::new(), Vec::new());
        for number in 0..TIMES {
            let name = format!("measured{number}");
            let words = ["attach", "--name", &name, "--netns", space.name()];
            let words = [&words[..], &["--network", network]].concat();
            attach.push(milliseconds(|| command(host, &words)));
            let words = ["detach", &name];
            detach.push(milliseconds(|| command(host, &words)));
            // Until the kernel has freed the devices.
            thread::sleep(Duration::from_millis(50));
        }
        (median(attach), median(detach))
    });
    let asked = |words: &[&str]| median((0..TIMES).map(|_| milliseconds(|| command(host, words))));
    let inspect_ms = asked(&["network", "inspect", "wide"]);
    let node_ls_ms = asked(&["node", "ls"]);
    let start = (0..5).map(|_| {
        host.stop();
        milliseconds(|| host.restart())
    });
    let start_ms = median(start);
    town.wait_for_all();
    let status: StatusInfo = host.json(&["status"]);
    let tunnels = status.maps.iter().find(|map| map.name == "tunnels");
    Nodes {
        nodes,
        endpoints: nodes * EACH,
        map_entries: tunnels.and_then(|map| map.entries).expect("its entries"),
        catch_up_ms,
        written_ms,
        catch_up_cpu_ms,
        anew_cpu_ms,
        start_ms,
        memory_bytes: status_field(host.pid().expect("it runs"), "VmRSS:") * 1024,
        local_attach_ms: local.0,
        attach_ms: overlay.0,
        local_detach_ms: local.1,
        detach_ms: overlay.1,
        inspect_ms,
        node_ls_ms,
    }
}

/// What a process has used of all CPUs, in the kernel and out of it.
fn cpu_ms(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let of_tasks = tasks.flatten().map(|task| {
        // Nanoseconds on a CPU; a thread may end meanwhile.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
        first.unwrap_or(0.0)
    });
    of_tasks.sum::<f64>() / 1e6
}
