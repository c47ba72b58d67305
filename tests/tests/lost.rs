//! The store's files are damaged or lost: they are made anew of what the kernel keeps, as
//! long as the datapath is there.

use std::{fs, path::PathBuf};

use netbpf::{
    datapath::Records,
    model::{NetworkInfo, StatusInfo},
};
use netbpf_common::names;
use netbpf_tests::lab::{
    Family, Host, Http, TcpEcho, World,
    names::{CLIENT, HOST},
    street_with_networks,
};

/// Ruins what there is of a host's store.
type Damage<'a> = (&'a str, &'a dyn Fn(&Host));

#[test]
fn a_store_that_is_damaged_or_lost_is_made_anew_under_traffic() {
    let street = street_with_networks("store_lost", &[]);
    let host = &street.host;
    let many = "x".repeat(2000);
    let label = format!("note={many}");
    let flags = [
        "--label",
        &label,
        "-p",
        "8080:80",
        "-p",
        "7000-7009:7000-7009/udp",
        "-p",
        "7007:7",
    ];
    let web = street.front("web", &[&flags[..], &["--alias", "shop"]].concat());
    let (_http, _echo) = (Http::start(&web, 80), TcpEcho::start(&web, 7));
    host.netbpf(&[
        "publish",
        "web",
        "-p",
        "published=8081,target=80,allow=192.0.2.0/24",
    ])
    .ok();
    host.netbpf(&[
        "network",
        "create",
        "idle",
        "--subnet",
        "10.77.0.0/24",
        "--internal",
    ])
    .ok();
    let whole = World::of(host, &[&web]);
    let mut held = street.client.hold((Family::V4.ip(HOST), 7007).into());

    let all = |damage: fn(&std::path::Path)| {
        move |host: &Host| {
            host.store_files().iter().for_each(|file| damage(file));
        }
    };
    let write = |file: &std::path::Path| fs::write(file, "garbage").expect("write a file");
    let damages: [Damage<'_>; 5] = [
        ("netbpf.redb", &|host| write(&host.store_files()[0])),
        ("endpoints-", &|host| write(&host.store_files()[1])),
        (
            "netbpf.redb",
            &all(|file| fs::write(file, "garbage").expect("write a file")),
        ),
        ("lost", &all(|file| fs::remove_file(file).expect("a file"))),
        (
            "corrupt",
            &all(|file| {
                // As if its first page alone had got to the disk.
                let mut bytes = fs::read(file).expect("a file");
                bytes[4096..].fill(0x5a);
                fs::write(file, bytes).expect("write a file");
            }),
        ),
    ];
    for (named, damage) in damages {
        host.kill();
        damage(host);
        host.restart();
        let status: StatusInfo = host.json(&["status"]);
        let is_said = |note: &String| note.contains("restored") && note.contains(named);
        assert!(
            status.notes.iter().any(is_said),
            "{named}: {:?}",
            status.notes
        );
        for family in Family::BOTH {
            web.ping(family.ip(CLIENT));
            assert_eq!(street.client.fetch(family.ip(HOST), 8080).server, "web");
        }
        assert!(held.is_open());
        // The next start knows nothing of it any more.
        host.stop();
        host.restart();
        let now = World::of(host, &[&web]);
        assert!(now == whole, "{named}:\n{}", whole.differences(&now));
    }

    // What was taken away does not come back.
    let app = street.front("app", &["-p", "8082:80"]);
    host.netbpf(&["network", "rm", "idle"]).ok();
    app.detach();
    host.netbpf(&["unpublish", "web", "-p", "8081:80"]).ok();
    let whole = World::of(host, &[&web]);
    host.kill();
    for file in host.store_files() {
        write(&file);
    }
    host.restart();
    let now = World::of(host, &[&web]);
    assert!(now == whole, "{}", whole.differences(&now));
}

/// A container without a copy would lose its network: better no start.
#[test]
fn copies_that_are_not_complete_are_not_believed() {
    let street = street_with_networks("copies_full", &[]);
    let host = &street.host;
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let fill = || {
        let status: StatusInfo = host.json(&["status"]);
        let map = status.maps.iter().find(|map| map.name == names::RECORDS);
        let map = map.expect("the map of copies");
        let records = Records::from_pin(&host.bpffs()).expect("a pin");
        let records = records.expect("a pin");
        for n in map.entries.expect("counted")..map.max_entries {
            records.put(9, &n.to_le_bytes(), b"x").expect("room");
        }
    };
    fill();
    let app = street.front("app", &[]);
    assert!(host.log().contains("the kernel has no copy of a record"));

    let files = host.store_files();
    let aside = files.clone().map(|file| file.with_extension("aside"));
    let rename = |from: &[PathBuf; 2], to: &[PathBuf; 2]| {
        for (from, to) in from.iter().zip(to) {
            fs::rename(from, to).expect("a file");
        }
    };
    host.kill();
    rename(&files, &aside);
    let refused = host.start_refused(&[]).to_string();
    assert!(
        refused.contains("has not a copy of each record"),
        "{refused}"
    );
    assert_eq!(street.client.fetch(Family::V4.ip(HOST), 8080).server, "web");

    // A start copies all anew, and then they are.
    rename(&aside, &files);
    host.restart();
    host.kill();
    for file in files {
        fs::remove_file(file).expect("a file");
    }
    host.restart();
    let names: Vec<String> = host.endpoints().into_iter().map(|e| e.name).collect();
    assert_eq!(names, ["web", "app"]);
    app.ping(Family::V4.ip(CLIENT));

    // What the refusal says to do: it needs no file.
    fill();
    street.front("more", &[]);
    host.kill();
    for file in host.store_files() {
        fs::write(file, "garbage").expect("write a file");
    }
    let refused = host.start_refused(&[]).to_string();
    assert!(refused.contains("netbpf teardown"), "{refused}");
    host.teardown_offline(&[]);
    assert!(!host.bpffs().join("programs").exists());
    for file in host.store_files() {
        fs::remove_file(file).expect("a file");
    }
    host.restart();
    host.netbpf(&["doctor"]).ok();
}

#[test]
fn a_teardown_needs_no_store() {
    let street = street_with_networks("teardown_lost", &[]);
    let host = &street.host;
    let networks = || -> Vec<NetworkInfo> { host.json(&["network", "ls"]) };
    let before = networks().len();
    let damages: [fn(&std::path::Path); 2] = [
        |file| fs::write(file, "garbage").expect("write a file"),
        |file| fs::remove_file(file).expect("a file"),
    ];
    for damage in damages {
        let web = street.front("web", &["-p", "8080:80"]);
        host.kill();
        host.store_files().iter().for_each(|file| damage(file));
        host.teardown_offline(&[]);
        assert!(!host.bpffs().join("programs").exists());
        let left = web.run(&["ip", "-o", "link"]).ok();
        assert!(!left.contains("eth0"), "{left}");
        // Networks stay.
        host.restart();
        assert_eq!(networks().len(), before);
    }
    // With the datapath go the copies: what is purged is gone.
    host.kill();
    host.teardown_offline(&["--purge"]);
    assert_eq!(fs::read_dir(host.state_dir()).expect("it stays").count(), 0);
    host.restart();
    assert_eq!(networks().len(), 1);
}
