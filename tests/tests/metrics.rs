//! What Prometheus reads of a daemon, with real curl.
//!
//! ```text
//!   web, app ── front ── host ──── client
//! ```

use std::collections::BTreeMap;

use netbpf::model::{DropInfo, EndpointInfo, StatusInfo};
use netbpf_tests::lab::{
    Family, Host,
    names::{BACK, FRONT},
    street_without_daemon,
};

const ADDRESS: &str = "127.0.0.1:9464";

/// Each sample and its value.
fn scrape(host: &Host) -> BTreeMap<String, u64> {
    let url = format!("http://{ADDRESS}/metrics");
    let text = host.run(&["curl", "-sS", "--fail", "-m", "5", &url]).ok();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect(line);
            // Those of the process are no integers.
            let value: f64 = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            (name.to_owned(), value as u64)
        })
        .collect()
}

#[test]
fn metrics_say_what_the_command_line_says() {
    let street = street_without_daemon("metrics");
    let host = &street.host;
    host.start(&["--metrics", ADDRESS]);
    host.network(&FRONT, &[]);
    host.network(&BACK, &[]);
    let web = street.front("web", &["-p", "8080-8084:80-84"]);
    let app = street.front("app", &["-p", "53:53/udp"]);
    for family in Family::BOTH {
        app.ping(web.addr(family));
    }
    // Dropped and counted under its reason.
    let drops = host.drops();
    app.ip("address add 10.10.1.77/32 dev lo");
    app.run(&[
        "ping",
        "-c",
        "1",
        "-W",
        "1",
        "-I",
        "10.10.1.77",
        &web.addr(Family::V4).to_string(),
    ])
    .fails();
    drops.only(&["spoofed_address"]);

    // Some packets are dropped at any time: counters lie between two looks.
    let looks = || {
        let endpoints: Vec<EndpointInfo> = host.json(&["ps"]);
        (endpoints, host.json::<Vec<DropInfo>>(&["drops"]))
    };
    let (endpoints, drops) = looks();
    let metrics = scrape(host);
    let (endpoints_after, drops_after) = looks();
    let value = |name: &str| {
        let value = metrics.get(name);
        *value.unwrap_or_else(|| panic!("{name} is not among {metrics:#?}"))
    };
    assert_eq!((endpoints.len(), endpoints_after.len()), (2, 2));
    let carried = |e: &EndpointInfo| e.rx_packets + e.tx_packets;
    let forwarded: u64 = endpoints.iter().map(carried).sum();
    let forwarded_after: u64 = endpoints_after.iter().map(carried).sum();
    for (e, after) in endpoints.iter().zip(&endpoints_after) {
        let of = |what: &str| {
            value(&format!(
                "netbpf_endpoint_{what}_total{{endpoint=\"{}\",network=\"front\"}}",
                e.name
            ))
        };
        for (what, first, last) in [
            ("rx_packets", e.rx_packets, after.rx_packets),
            ("rx_bytes", e.rx_bytes, after.rx_bytes),
            ("tx_packets", e.tx_packets, after.tx_packets),
            ("tx_bytes", e.tx_bytes, after.tx_bytes),
            ("dropped_packets", e.dropped_packets, after.dropped_packets),
        ] {
            assert!((first..=last).contains(&of(what)), "{what} of {}", e.name);
        }
    }
    // What was dropped is among what they have sent, and was not forwarded.
    assert!(forwarded > 8, "{endpoints:?}");
    let all = value("netbpf_forwarded_packets_total");
    assert!((8..forwarded_after).contains(&all), "{all}");
    let counted = |drops: &[DropInfo], reason: &str| {
        let found = drops.iter().find(|d| d.reason == reason);
        found.map_or(0, |d| d.packets)
    };
    for DropInfo { reason, .. } in &drops_after {
        let name = format!("netbpf_dropped_packets_total{{reason=\"{reason}\"}}");
        let between = counted(&drops, reason)..=counted(&drops_after, reason);
        assert!(between.contains(&value(&name)), "{reason}");
    }
    assert_eq!(
        value("netbpf_dropped_packets_total{reason=\"isolated\"}"),
        0
    );
    let status: StatusInfo = host.json(&["status"]);
    // What hangs on sockets has no size.
    for map in status.maps.iter().filter(|map| map.max_entries > 0) {
        let name = &map.name;
        let most = value(&format!("netbpf_map_max_entries{{map=\"{name}\"}}"));
        assert_eq!(most, map.max_entries);
        if map.entries.is_some() {
            value(&format!("netbpf_map_entries{{map=\"{name}\"}}"));
        }
    }
    for (name, wanted) in [
        ("netbpf_endpoints{network=\"front\"}", 2),
        ("netbpf_endpoints{network=\"back\"}", 0),
        ("netbpf_endpoints{network=\"default\"}", 0),
        ("netbpf_published_ports{protocol=\"tcp\"}", 5),
        ("netbpf_published_ports{protocol=\"udp\"}", 1),
        ("netbpf_uplinks", 1),
        ("netbpf_map_entries{map=\"veths\"}", 2),
        ("netbpf_map_entries{map=\"uplinks\"}", 1),
        ("netbpf_notes", 0),
    ] {
        assert_eq!(value(name), wanted, "{name}");
    }
    let info = metrics
        .keys()
        .find(|name| name.starts_with("netbpf_build_info{"));
    let info = info.expect("netbpf_build_info");
    assert!(
        info.contains(&format!("version=\"{}\"", status.version)),
        "{info}"
    );

    // What was carried is not forgotten with the endpoint, nor with the daemon.
    app.detach();
    let total = |metrics: &BTreeMap<String, u64>| metrics["netbpf_forwarded_packets_total"];
    let after = scrape(host);
    assert!(total(&after) >= all, "{after:?}");
    assert!(!after.keys().any(|name| name.contains("endpoint=\"app\"")));
    host.stop();
    host.start(&["--metrics", ADDRESS]);
    assert!(total(&scrape(host)) >= all);
}

#[test]
fn a_taken_address_is_refused_before_anything_is_touched() {
    let street = street_without_daemon("metrics_taken");
    let host = &street.host;
    let _taken = host.enter(|| std::net::TcpListener::bind(ADDRESS).expect("bind"));
    let refused = host.start_refused(&["--metrics", ADDRESS]);
    assert!(
        refused
            .stderr
            .contains(&format!("cannot listen on {ADDRESS} for --metrics")),
        "{refused}"
    );
    assert!(
        !host.state_dir().exists()
            || std::fs::read_dir(host.state_dir())
                .unwrap()
                .next()
                .is_none()
    );
    for (value, reason) in [
        ("9464", "it is ADDR:PORT"),
        ("127.0.0.1:0", "nobody would know which port 0 became"),
    ] {
        let refused = host.start_refused(&["--metrics", value]);
        assert!(refused.stderr.contains(reason), "{refused}");
    }
}
