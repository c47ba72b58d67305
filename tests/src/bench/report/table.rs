//! The table on the terminal.

use std::fmt::Write as _;

use super::{by_flows, by_nodes, by_size, noisy, of_programs, of_rows, p99, ratio, value};
use crate::bench::{Results, rounds::Comparison};

pub fn table(results: &Results) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    _ = writeln!(
        text,
        "{} rounds in {} s on kernel {}, {} CPUs, iptables {}; load {:.1} before, {:.1} after",
        results.rounds,
        results.seconds,
        machine.kernel,
        machine.cpus,
        machine.iptables,
        machine.load_before,
        machine.load_after,
    );
    for comparison in &results.comparisons {
        let (way, measure) = (comparison.way, comparison.measure);
        let title = format!("{} ({})", Comparison::name(way, measure), comparison.unit);
        _ = writeln!(
            text,
            "\n{title:<28} {:>9} {:>9}   netbpf / it",
            "median", "p99"
        );
        for figures in &comparison.worlds {
            _ = writeln!(
                text,
                "  {:<26} {:>9} {:>9}   {}",
                figures.world.name(),
                value(figures, measure),
                p99(figures),
                ratio(figures)
            );
        }
        if noisy(comparison) {
            _ = writeln!(
                text,
                "  too noisy to conclude: netbpf differs from itself by more than 5 %"
            );
        }
    }
    if let Some(rows) = &results.rows {
        for line in of_rows(rows, results.before.as_ref()) {
            let [name, program, family, ns, cost, change] = &line;
            _ = writeln!(
                text,
                "{name:<36} {program:<16} {family:<5} {ns:>6} {cost:>6} {change:>9}"
            );
        }
        text.push('\n');
        for line in of_programs(rows, results.before.as_ref()) {
            let [name, instructions, verified, change, bytes] = &line;
            _ = writeln!(
                text,
                "{name:<16} {instructions:>12} {verified:>9} {change:>9} {bytes:>9}"
            );
        }
    }
    if !results.lifecycle.is_empty() {
        _ = writeln!(
            text,
            "\n{:<10} {:<9} {:>9} {:>12} {:>9}",
            "", "by", "endpoints", "median (ms)", "p95 (ms)"
        );
    }
    for line in &results.lifecycle {
        _ = writeln!(
            text,
            "{:<10} {:<9} {:>9} {:>12.1} {:>9.1}",
            line.operation,
            line.asker.name().to_owned(),
            line.endpoints,
            line.median_ms,
            line.p95_ms
        );
    }
    if !results.sizes.is_empty() {
        columns(&mut text, by_size(&results.sizes));
    }
    if !results.flows.is_empty() {
        columns(&mut text, by_flows(&results.flows));
    }
    if !results.clusters.is_empty() {
        columns(&mut text, by_nodes(&results.clusters));
    }
    text
}

fn columns(text: &mut String, lines: Vec<(&str, Vec<String>)>) {
    text.push('\n');
    for (name, values) in lines {
        _ = write!(text, "{name:<30}");
        for value in values {
            _ = write!(text, " {value:>9}");
        }
        text.push('\n');
    }
}
