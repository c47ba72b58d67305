//! Two versions of the product, one after the other, over traffic: with other programs
//! over the same maps, and with another layout of a map. Both are built (`cargo xtask
//! next`).

use std::{collections::BTreeMap, path::PathBuf};

use netbpf::model::{Finding, Severity, StatusInfo, UpgradeInfo, UpgradeOutcome};
use netbpf_common::names;
use netbpf_tests::{
    lab::{
        Family, Host, Http, binary,
        names::{CLIENT, HOST},
        next, street_with_networks,
    },
    scenes::{End, Traffic},
};

/// What runs on each attachment: the program's name and place, and its number.
fn attached(host: &Host) -> BTreeMap<String, u32> {
    let status: StatusInfo = host.json(&["status"]);
    let programs = status.programs.into_iter().flat_map(|program| {
        let id = program.id;
        let places = program.attached_to.into_iter();
        places.map(move |place| (format!("{} on {place}", program.name), id))
    });
    programs.collect()
}

fn outcomes(host: &Host, status: i32) -> BTreeMap<String, UpgradeOutcome> {
    let directories = host.directory_flags();
    let mut arguments = vec!["-j", "daemon", "--upgrade-check"];
    arguments.extend(directories.iter().map(String::as_str));
    let output = host.netbpf(&arguments).exits(status);
    let found: Vec<UpgradeInfo> =
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    found
        .into_iter()
        .map(|one| (one.name, one.outcome))
        .collect()
}

#[track_caller]
fn is_sound(host: &Host) {
    let output = host.netbpf(&["-j", "doctor"]).output();
    let findings: Vec<Finding> =
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    assert!(
        findings.iter().all(|f| f.severity != Severity::Error),
        "{output}"
    );
}

/// There and back again, stopped and killed.
fn to_other_programs_and_back(test: &str, flags: &[&str]) {
    let street = street_with_networks(test, flags);
    let host = &street.host;
    let traffic = Traffic::start(&street);
    let mut before = attached(host);
    assert!(before.len() >= 6, "{before:?}");
    let versions = [
        (next("programs"), End::Stop),
        (binary(), End::Kill),
        (next("programs"), End::Kill),
        (binary(), End::Stop),
    ];
    for (version, end) in versions {
        let what = version.display().to_string();
        host.set_binary(version);
        let said = outcomes(host, 0);
        assert_eq!(
            said[names::FROM_CONTAINER],
            UpgradeOutcome::Replaced,
            "{what}"
        );
        assert_eq!(said[names::FLOWS4], UpgradeOutcome::Kept, "{what}");
        match end {
            End::Stop => host.stop(),
            End::Kill => host.kill(),
        }
        traffic.goes_on("without a daemon");
        host.restart();
        let after = attached(host);
        assert!(
            after.keys().eq(before.keys()),
            "{what}: {before:?}, then {after:?}"
        );
        assert!(
            before.iter().all(|(place, id)| after[place] != *id),
            "{what}"
        );
        traffic.goes_on("with the other version");
        is_sound(host);
        before = after;
    }
    traffic.finish_whole();
}

#[test]
fn programs_are_replaced_under_traffic_and_put_back() {
    to_other_programs_and_back("upgrade_programs", &[]);
}

#[test]
fn the_same_where_programs_hang_by_clsact() {
    to_other_programs_and_back("upgrade_clsact", &["--as-kernel", "6.1"]);
}

/// A start that is refused as another layout is there.
#[track_caller]
fn is_refused(host: &Host, version: PathBuf) {
    host.set_binary(version);
    let said = outcomes(host, 1);
    for map in [names::CONFIG, names::FLOWS4, names::FLOWS6] {
        assert_eq!(said[map], UpgradeOutcome::Refused, "{map}");
    }
    host.stop();
    let why = host.start_refused(&[]).to_string();
    let says = ["layout", "netbpf teardown"];
    assert!(says.iter().all(|said| why.contains(said)), "{why}");
}

/// Refused up and down, the datapath goes on meanwhile, and what is said to be done helps.
#[test]
fn another_layout_is_refused_in_either_direction() {
    let street = street_with_networks("upgrade_layout", &[]);
    let host = &street.host;
    let traffic = Traffic::start(&street);
    let before = attached(host);
    is_refused(host, next("layout"));
    traffic.goes_on("while the start is refused");
    // Back to the version that it is of: nothing was changed.
    host.set_binary(binary());
    host.restart();
    assert_eq!(attached(host), before);
    traffic.finish_whole();

    for version in [next("layout"), binary()] {
        is_refused(host, version);
        // Either version takes it down.
        host.teardown_offline(&[]);
        host.restart();
        is_sound(host);
        let web = street.front("web", &["-p", "8080:80"]);
        let http = Http::start(&web, 80);
        for family in Family::BOTH {
            assert_eq!(street.client.fetch(family.ip(HOST), 8080).server, "web");
            web.ping(family.ip(CLIENT));
        }
        drop(http);
    }
}
