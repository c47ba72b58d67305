//! docs/performance.md.

use std::{fmt::Write as _, path::Path};

use super::{by_flows, by_nodes, by_size, noisy, of_programs, of_rows, p99, ratio, value};
use crate::bench::{
    Results,
    load::Measure,
    rounds::Comparison,
    rows::Rows,
    worlds::{Kind, Way},
};

/// The page, with the chart if there is one.
pub fn markdown(results: &Results, chart: Option<&Path>) -> String {
    if let Some(rows) = &results.rows {
        return rows_page(results, rows);
    }
    let mut page = head(results);
    if let Some(name) = chart.and_then(Path::file_name) {
        let name = name.display();
        _ = writeln!(page, "\n![How many times better netbpf is]({name})");
    }
    for way in Way::ALL {
        section(&mut page, results, way);
    }
    lifecycle(&mut page, results);
    sizes(&mut page, results);
    flows(&mut page, results);
    clusters(&mut page, results);
    page
}

/// docs/rows.md.
fn rows_page(results: &Results, rows: &Rows) -> String {
    let mut page = String::from(
        "# A packet's cost in each program\n\n\
         Made by `cargo xtask bench --rows --markdown docs/rows.md`, and made anew with each change\n\
         of a program, so that what it costs is seen in review. `--json FILE` writes the figures,\n\
         and `--against FILE` shows what has become of those of before; more than 5 % is marked.\n\n\
         The real programs by the kernel's test-run, with the flows of before alive; nanoseconds by\n\
         its run statistics, which take some 20 of them. Cost: as a part of the time of a loop over\n\
         4,096 bytes that takes its turn with each row, as nanoseconds differ from hour to hour; the\n\
         median of the rounds. What a redirect costs is not among it, as it comes behind a program.\n\n",
    );
    let machine = &results.machine;
    _ = writeln!(
        page,
        "{}, kernel {}; the loop takes {:.0} ns; load average {:.1} before, {:.1} after.\n",
        machine.processor, machine.kernel, rows.loop_ns, machine.load_before, machine.load_after
    );
    let before = results.before.as_ref();
    table(&mut page, &of_rows(rows, before));
    page.push_str(
        "\nThe programs themselves: instructions as the kernel has rewritten them, those that its\n\
         check went through on all ways together (it gives up at a million), machine code.\n\n",
    );
    table(&mut page, &of_programs(rows, before));
    page
}

/// The first line is the head, and a column without anything is left out.
fn table<const N: usize>(page: &mut String, lines: &[[String; N]]) {
    let is_used = |column: &usize| lines.iter().skip(1).any(|line| !line[*column].is_empty());
    let used: Vec<usize> = (0..N).filter(is_used).collect();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<&str> = used.iter().map(|&column| line[column].as_str()).collect();
        _ = writeln!(page, "| {} |", cells.join(" | "));
        if number == 0 {
            let is_number = |column: usize| {
                let value = lines.get(1).map_or("", |line| line[column].as_str());
                value.starts_with(|first: char| first.is_ascii_digit())
            };
            let rules = used.iter().map(|&column| match is_number(column) {
                true => "---:",
                false => "---",
            });
            _ = writeln!(page, "|{}|", rules.collect::<Vec<_>>().join("|"));
        }
    }
}

fn head(results: &Results) -> String {
    let machine = &results.machine;
    let mut page = String::from("# Performance\n\n");
    _ = writeln!(
        page,
        "Made by `cargo xtask bench --markdown docs/performance.md --svg docs/performance.svg`;\n\
         `--json FILE` has every sample. Repeat it on your own machine: it takes {} seconds and builds everything\n\
         in namespaces of its own.\n",
        results.seconds
    );
    let kind = if machine.virtual_machine {
        "virtual machine"
    } else {
        "machine"
    };
    let br_netfilter = if machine.br_netfilter {
        "present"
    } else {
        "absent"
    };
    for line in [
        format!(
            "{kind}, {} CPUs ({}), kernel {}",
            machine.cpus, machine.processor, machine.kernel
        ),
        format!("iptables {}, br_netfilter {br_netfilter}", machine.iptables),
        format!(
            "{} rounds, worlds in turn within each; median of the rounds ± half the distance \
             of the quartiles",
            results.rounds
        ),
        format!(
            "load average {:.1} before, {:.1} after; \"netbpf again\" is a second, equal world: \
             what it differs by is noise",
            machine.load_before, machine.load_after
        ),
        "all wires are veth and carry packets of 64 KiB whole, but where MTU-size packets are \
         said: no network card, no interrupts"
            .into(),
        format!(
            "IPv4, TCP with cubic, client and server on CPU {}: every nanosecond of both \
             sides and of all between them is in the figure",
            machine.cpu
        ),
        "everything runs at the highest priority, so that other programs disturb less; worlds \
         are built twice, in opposite orders, half of the rounds in each"
            .into(),
        "netbpf as users run it: dual-stack network, daemon running, counters on".into(),
        "iptables: the rules that Docker 24 writes for one bridge network and one port; nftables: \
         much as Docker 29 does; docker-proxy runs on any CPU"
            .into(),
    ] {
        _ = writeln!(page, "- {line}");
    }
    page.push_str(
        "\nRound trip: one byte there and back on an open connection. Set-up: connect, one\n\
         request, close (the server first). All on one CPU, so these are also the CPU time of a\n\
         request with all that is between, and one by the other the connections per second. In\n\
         µs, less is better, and so is a ratio below 1. Stream: Gbit/s; UDP: thousands of\n\
         datagrams of 64 bytes a second, 64 under way. More is better, and so is a ratio above 1.\n\
         Streams over two CPUs depend on where the scheduler has the kernel's work done, and are\n\
         as unsteady as they look. What was tried, and what it gave, is in [tried.md](tried.md).\n",
    );
    page
}

fn section(page: &mut String, results: &Results, way: Way) {
    let of_way = || results.comparisons.iter().filter(move |c| c.way == way);
    if of_way().next().is_none() {
        return;
    }
    let title = match way {
        Way::Published => "Published port: a client outside to a container",
        Way::Sibling => "Siblings: container to container of one network",
        Way::Masquerade => "Masquerade: a container to the outside",
        Way::Overlay => "Overlay: container to container of one network on two hosts",
        Way::Host => {
            "The host's own: a client outside to a program of the host, which nobody translates"
        }
        Way::Loopback => "Localhost: a program of the host, at 127.0.0.1, to a container",
        Way::Crowded => "A published port among 10,000, or a connection among a million flows",
    };
    _ = writeln!(page, "\n## {title}\n");
    _ = writeln!(page, "| | world | median | p99 | netbpf / it |");
    _ = writeln!(page, "|---|---|---:|---:|---:|");
    for comparison in of_way() {
        rows(page, comparison);
    }
    for comparison in of_way().filter(|comparison| noisy(comparison)) {
        _ = writeln!(
            page,
            "\n{}: too noisy to conclude, netbpf differs from itself by more than 5 %.",
            Comparison::name(comparison.way, comparison.measure)
        );
    }
}

fn rows(page: &mut String, comparison: &Comparison) {
    let measure = comparison.measure;
    let title = match measure {
        Measure::RoundTrip => "round trip, µs",
        Measure::SetUp => "set-up, µs",
        Measure::Stream => "stream, Gbit/s",
        Measure::MtuStream => "stream, wires of MTU-size packets, Gbit/s",
        Measure::TwoCpuStream => "stream, two CPUs, Gbit/s",
        Measure::UdpRoundTrip => "UDP round trip, µs",
        Measure::UdpPackets => "UDP, 1000 packets/s",
    };
    for (line, figures) in comparison.worlds.iter().enumerate() {
        let name = match figures.world {
            Kind::Netbpf => "**netbpf**",
            other => other.name(),
        };
        _ = writeln!(
            page,
            "| {} | {name} | {} | {} | {} |",
            if line == 0 { title } else { "" },
            value(figures, measure),
            p99(figures),
            ratio(figures)
        );
    }
}

fn sizes(page: &mut String, results: &Results) {
    if results.sizes.is_empty() {
        return;
    }
    page.push_str(
        "\n## At size\n\nEach container has ten published ports. Attach and detach of one more, with its\n\
         ports, by the API; the others by command, from start to exit. Start: of the daemon,\n\
         until it answers, with all of them there. Medians.\n\n\
         What grows with attach is the kernel's own work, shown beside it: with each device\n\
         that comes up it walks all IPv6 routes (`rt6_sync_up`), and with each clsact the list\n\
         of all such qdiscs (`flow_indr_dev_setup_offload`).\n\n",
    );
    columns(page, by_size(&results.sizes));
}

fn flows(page: &mut String, results: &Results) {
    if results.flows.is_empty() {
        return;
    }
    page.push_str(
        "\n## With many flows\n\nUDP through masquerade, with `--max-flows 1000000`: nanoseconds of a program's run by\n\
         the kernel's statistics (which take some 20 of them), each time another flow's packet.\n\
         Maps: all that hold flows of the family; those of opening flows are there from the start.\n\
         The flows share 17 mappings; what the allocator rounds up is not counted.\n\
         Collection: the daemon's look at all of them, every 10 seconds or at 20 times what the\n\
         last one took; of all: when all are over at once.\n\n",
    );
    columns(page, by_flows(&results.flows));
}

fn clusters(page: &mut String, results: &Results) {
    if results.clusters.is_empty() {
        return;
    }
    page.push_str(
        "\n## In a cluster\n\nOne node with a real etcd beside it; the others are in etcd alone, each with a hundred\n\
         containers on a dual-stack overlay network. All are put into etcd at once. Attach,\n\
         detach and listings by command, from start to exit; start: of the daemon, until it\n\
         answers and has all of them. Medians.\n\n",
    );
    columns(page, by_nodes(&results.clusters));
}

fn columns(page: &mut String, lines: Vec<(&str, Vec<String>)>) {
    for (index, (name, values)) in lines.into_iter().enumerate() {
        _ = writeln!(page, "| {name} | {} |", values.join(" | "));
        if index == 0 {
            _ = writeln!(page, "|---|{}", "---:|".repeat(values.len()));
        }
    }
}

fn lifecycle(page: &mut String, results: &Results) {
    let Some(first) = results.lifecycle.first() else {
        return;
    };
    _ = writeln!(
        page,
        "\n## Attach and detach\n\n\
         With one published port, {} times each, in turn. By command: `netbpf attach …` from\n\
         start to exit. By API: one request on the socket. By CNI: the plug-ins as a runtime\n\
         calls them, ours and the reference ones with as many containers in a host beside.\n\n\
         | | by | endpoints there | median, ms | 95 %, ms |\n|---|---|---:|---:|---:|",
        first.times
    );
    for line in &results.lifecycle {
        let asker = line.asker.name();
        _ = writeln!(
            page,
            "| {} | {asker} | {} | {:.1} | {:.1} |",
            line.operation, line.endpoints, line.median_ms, line.p95_ms
        );
    }
}
