//! The maps: what they have, how full they are, and what the programs count.

use netbpf_common::drop::DropReason;

use super::findings::{Findings, RESTART, count};
use crate::{
    datapath::{Drift, DropCount, Established, MapUsage},
    model::{Check, Finding},
};

/// A map that is fuller than this, in percent, is warned of.
const FULL: u64 = 80;

/// Entries told of one by one; of more only how many there are.
const MOST_TOLD: usize = 20;

/// Reasons that tell of a mistake on the host, not of what a container or a peer did.
const MISTAKES: [DropReason; 8] = [
    DropReason::ForwardingOff,
    DropReason::NotUplink,
    DropReason::NoSourceAddress,
    DropReason::KernelForwarded,
    DropReason::SpoofedSubnet,
    DropReason::FlowTableFull,
    DropReason::PortsExhausted,
    DropReason::Helper,
];

/// Entries that are not as the daemon wrote them.
pub fn drift(drift: &[Drift]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Map);
    for Drift { map, entry, kind } in drift.iter().take(MOST_TOLD) {
        let message = format!("the entry {entry} is {}", kind.label());
        found.error(format!("map {map}"), message, RESTART);
    }
    if let Some(more) = drift.get(MOST_TOLD..).filter(|more| !more.is_empty()) {
        let message = format!(
            "{} more are wrong",
            count(more.len(), "entr").replace("entrs", "entries")
        );
        found.error("maps", message, RESTART);
    }
    found.or_ok("maps", "their entries are as they should be")
}

/// Those that are nearly full. Of flows those count that are not evicted for others.
pub fn usage(maps: &[MapUsage], established: &[Established]) -> Vec<Finding> {
    let mut found = Findings::of(Check::MapUsage);
    for of in established {
        let percent = of.flows * 100 / of.most.max(1);
        if percent > FULL {
            let family = if of.is_v6 { 6 } else { 4 };
            found.warning(
                format!("map flows{family}"),
                format!(
                    "{} of {} flows that may be established are ({percent} %); of more, those \
                     that are silent for longest may be forgotten",
                    of.flows, of.most
                ),
                "raise --max-flows, which takes effect after netbpf teardown",
            );
        }
    }
    for map in maps.iter().filter(|map| !map.name.starts_with("flows")) {
        let Some(entries) = map.entries.filter(|_| map.max_entries > 0) else {
            continue;
        };
        let percent = entries * 100 / map.max_entries;
        if percent > FULL {
            found.warning(
                format!("map {}", map.name),
                format!(
                    "{entries} of {} entries are in use ({percent} %)",
                    map.max_entries
                ),
                "raise --max-endpoints or --max-flows, which takes effect after netbpf teardown",
            );
        }
    }
    found.or_ok("maps", format!("none is fuller than {FULL} %"))
}

/// What was dropped by a mistake in the host's settings, since the maps were made.
pub fn drops(drops: &[DropCount]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Drops);
    for (reason, packets) in drops.iter().filter(|(r, _)| MISTAKES.contains(r)) {
        found.warning(
            format!("reason {}", reason.label()),
            format!(
                "{} dropped so far: {}",
                count(usize::try_from(*packets).unwrap_or(usize::MAX), "packet"),
                reason.text()
            ),
            format!("where it goes on: {}", reason.advice()),
        );
    }
    found.or_ok("drops", "none that tells of a mistake on the host")
}

/// Events that nobody could read.
pub fn events(lost: u64) -> Vec<Finding> {
    let mut found = Findings::of(Check::Events);
    if lost > 0 {
        found.warning(
            "events",
            format!("{lost} were lost so far: the programs told more than the daemon could read"),
            "ask netbpf monitor for less (--drops), or for a shorter time",
        );
    }
    found.or_ok("events", "none was lost")
}

#[cfg(test)]
mod tests {
    use super::{super::findings::tests::short, *};
    use crate::{
        datapath::DriftKind,
        model::Severity::{Error, Ok, Warning},
    };

    #[test]
    fn entries_that_are_wrong_are_named_up_to_a_point() {
        assert_eq!(short(&drift(&[])), [(Ok, "maps")]);
        let entry = |n: usize| Drift {
            map: "ports",
            entry: format!("of IPv4 port {n}/tcp"),
            kind: DriftKind::Missing,
        };
        let found = drift(&[entry(80)]);
        assert_eq!(short(&found), [(Error, "map ports")]);
        assert_eq!(found[0].message, "the entry of IPv4 port 80/tcp is missing");
        let many: Vec<Drift> = (0..25).map(entry).collect();
        let found = drift(&many);
        assert_eq!(found.len(), MOST_TOLD + 1);
        assert_eq!(found[MOST_TOLD].message, "5 entries more are wrong");
    }

    #[test]
    fn maps_are_told_of_before_they_are_full() {
        let map = |name: &str, entries, max_entries| MapUsage {
            name: name.into(),
            entries,
            max_entries,
        };
        let flows = |is_v6, flows| Established {
            is_v6,
            flows,
            most: 100,
        };
        let maps = [
            map("ports", Some(81), 100),
            map("vteps", Some(80), 100),
            // Some may be evicted.
            map("flows4", Some(100), 100),
            map("drops", None, 64),
            map("host_marks", Some(1), 0),
        ];
        assert_eq!(short(&usage(&maps, &[])), [(Warning, "map ports")]);
        let most = [flows(false, 80), flows(true, 80)];
        assert_eq!(short(&usage(&maps[1..], &most)), [(Ok, "maps")]);
        let more = [flows(false, 81), flows(true, 300)];
        assert_eq!(
            short(&usage(&maps[1..], &more)),
            [(Warning, "map flows4"), (Warning, "map flows6")]
        );
    }

    #[test]
    fn drops_that_a_container_brings_about_are_nobodys_mistake() {
        let counts = [(DropReason::Isolated, 7), (DropReason::NotUplink, 1)];
        let found = drops(&counts);
        assert_eq!(short(&found), [(Warning, "reason not_uplink")]);
        assert!(
            found[0].message.starts_with("1 packet dropped"),
            "{found:?}"
        );
        assert_eq!(short(&drops(&counts[..1])), [(Ok, "drops")]);
    }

    #[test]
    fn lost_events_are_counted() {
        assert_eq!(short(&events(0)), [(Ok, "events")]);
        assert_eq!(short(&events(3)), [(Warning, "events")]);
    }
}
