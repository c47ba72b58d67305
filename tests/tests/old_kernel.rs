//! The main job with only what the oldest kernel has, run on any: clsact instead of
//! TCX (6.6), source addresses from the routes instead of the FIB (6.7).
//! Topologies are those of [`netbpf_tests::scenes`].

use netbpf::model::StatusInfo;
use netbpf_tests::{
    lab::street_with_networks,
    scenes::{self, End},
};

const FLAGS: [&str; 2] = ["--as-kernel", "6.1"];

#[test]
fn programs_hang_by_clsact() {
    let street = street_with_networks("programs_hang_by_clsact", &FLAGS);
    let web = street.front("web", &[]);
    let status: StatusInfo = street.host.json(&["status"]);
    let mut places = status.programs.iter().flat_map(|p| &p.attached_to);
    let is_clsact = |place: &String| place.contains("clsact") || place.starts_with("cgroup");
    assert!(places.all(is_clsact), "{status:?}");
    let device = &web.info.host_ifname;
    let run = |direction: &str| {
        let arguments = ["tc", "filter", "show", "dev", device, direction];
        street.host.run(&arguments).ok()
    };
    assert!(run("ingress").contains("from_container"));
    assert!(run("egress").contains("to_container"));
}

#[test]
fn siblings() {
    scenes::siblings("old_kernel_siblings", &FLAGS);
}

#[test]
fn masquerade() {
    scenes::masquerade("old_kernel_masquerade", &FLAGS);
}

#[test]
fn publish() {
    scenes::publish("old_kernel_publish", &FLAGS);
}

#[test]
fn source_addresses() {
    scenes::source_addresses("old_kernel_sources", &FLAGS);
}

#[test]
fn restart() {
    scenes::restart_under_traffic("old_kernel_restart", &FLAGS, End::Stop);
}

#[test]
fn kill() {
    scenes::restart_under_traffic("old_kernel_kill", &FLAGS, End::Kill);
}

#[test]
fn teardown_takes_its_qdisc_along_and_leaves_the_one_of_others() {
    let street = street_with_networks("teardown_takes_its_qdisc_along", &FLAGS);
    let status: StatusInfo = street.host.json(&["status"]);
    let [uplink, ..] = &status.uplinks[..] else {
        panic!("no uplink: {status:?}");
    };
    let qdiscs = || {
        let show = ["tc", "qdisc", "show", "dev", &uplink.name];
        street.host.run(&show).ok()
    };
    assert!(qdiscs().contains("clsact"));
    let link = street.host.ip(&format!("-o link show {}", uplink.name));
    let ifindex = link.split(':').next().unwrap_or_default();
    let note = street.host.bpffs().join(format!("links/{ifindex}_qdisc"));
    assert!(note.exists(), "ours is noted: {}", note.display());
    street.host.netbpf(&["teardown"]).ok();
    street.host.wait_ended();
    assert!(!qdiscs().contains("clsact"), "{}", qdiscs());

    let add = ["tc", "qdisc", "add", "dev", &uplink.name, "clsact"];
    street.host.run(&add).ok();
    street.host.start(&FLAGS);
    assert!(!note.exists(), "another's is not: {}", note.display());
    street.host.netbpf(&["teardown"]).ok();
    street.host.wait_ended();
    assert!(qdiscs().contains("clsact"), "{}", qdiscs());
}

#[test]
fn a_daemon_takes_over_what_hangs_the_other_way() {
    let street = street_with_networks("other_way", &[]);
    let status: StatusInfo = street.host.json(&["status"]);
    let uplink = &status.uplinks[0];
    for flags in [&FLAGS[..], &[]] {
        street.host.stop();
        street.host.start(flags);
        let kind = if flags.is_empty() { "tcx" } else { "clsact" };
        let links = std::fs::read_dir(street.host.bpffs().join("links")).expect("pins");
        let prefix = format!("{}_ingress_", uplink.ifindex);
        let links: Vec<_> = links
            .map(|entry| {
                entry
                    .expect("a pin")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .filter(|name| name.starts_with(&prefix))
            .collect();
        assert_eq!(links, [format!("{prefix}{kind}")]);
        let show = ["tc", "filter", "show", "dev", &uplink.name, "ingress"];
        let filters = street.host.run(&show).ok();
        assert_eq!(filters.contains("from_uplink"), kind == "clsact");
    }
}
