//! Directories and addresses that others take away as a whole while the daemon runs.
//!
//! ```text
//!   web ── front ── host ──── client
//! ```

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netbpf::model::{Check, Finding, Severity, StatusInfo};
use netbpf_tests::lab::{
    Cmd, Container, Family, Http, Settings, Street, UdpEcho,
    names::{CLIENT, FRONT, HOST},
    street, street_with_networks, street_without_daemon, within,
};

/// Between two looks of the daemon, and half as much again.
const A_LOOK: Duration = Duration::from_secs(45);

fn serving(test: &str) -> (Street, Container, Http) {
    let street = street_with_networks(test, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let http = Http::start(&web, 80);
    (street, web, http)
}

#[track_caller]
fn works(street: &Street, web: &Container) {
    for family in Family::BOTH {
        let (host, client) = (family.ip(HOST), family.ip(CLIENT));
        assert_eq!(street.client.fetch(host, 8080).peer, client);
        street.host.fetch(host, 8080);
        web.ping(client);
    }
}

fn wrong(street: &Street) -> Vec<Finding> {
    let output = street.host.netbpf(&["-j", "doctor"]).output();
    let found: Vec<Finding> = serde_json::from_str(&output.stdout).expect("JSON");
    let all = found.into_iter();
    all.filter(|f| f.severity == Severity::Error).collect()
}

fn logged(street: &Street, word: &str) -> usize {
    street.host.log().matches(word).count()
}

#[test]
fn a_mount_over_the_pins_cuts_nothing() {
    let (street, web, _http) = serving("hidden_pins");
    let bpffs = street.host.bpffs().display().to_string();
    // In the mounts that the daemon sees, which are the machine's.
    let mount = ["mount", "-t", "bpf", "bpf", &bpffs];
    Cmd::new(&mount).ok();
    within(A_LOOK, "a look has come upon it", || {
        logged(&street, "what=\"programs on up0\"") > 0
    });
    works(&street, &web);
    Cmd::new(&["umount", &bpffs]).ok();
    works(&street, &web);
    within(A_LOOK * 2, "all is well", || wrong(&street).is_empty());
    works(&street, &web);
}

#[test]
fn pins_that_are_all_removed_are_back_with_one_look() {
    let (street, web, _http) = serving("removed_pins");
    let bpffs = street.host.bpffs();
    for entry in fs::read_dir(&bpffs).expect("pins").flatten() {
        let path = entry.path();
        // The kernel's own.
        if path.extension().is_some_and(|of| of == "debug") {
            continue;
        }
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    within(A_LOOK, "they are back", || wrong(&street).is_empty());
    assert!(bpffs.join("programs/from_container").exists());
    works(&street, &web);
    street.front("late", &[]).ping(web.addr(Family::V4));
}

#[test]
fn a_store_that_was_removed_is_named_and_a_purge_ends_all_the_same() {
    let street = street_without_daemon("removed_state");
    let before = Settings::of(&street.host);
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let _web = street.front("web", &["-p", "40501:80"]);
    fs::remove_dir_all(street.host.state_dir()).expect("remove the state directory");
    let found = wrong(&street);
    assert!(found.iter().any(|f| f.check == Check::Store), "{found:?}");
    street.host.netbpf(&["teardown", "--purge"]).ok();
    street.host.wait_ended();
    within(Duration::from_secs(10), "everything is as before", || {
        Settings::of(&street.host) == before
    });
}

#[test]
fn without_any_file_reserved_ports_are_given_back_as_well() {
    let street = street_without_daemon("removed_files");
    let before = Settings::of(&street.host);
    street.host.start(&[]);
    street.host.network(&FRONT, &[]);
    let _web = street.front("web", &["-p", "40502:80"]);
    street.host.kill();
    for directory in [street.host.state_dir(), street.host.run_dir()] {
        fs::remove_dir_all(directory).expect("remove a directory");
    }
    street.host.teardown_offline(&["--purge"]);
    within(Duration::from_secs(10), "everything is as before", || {
        Settings::of(&street.host) == before
    });
    for directory in [street.host.state_dir(), street.host.run_dir()] {
        let left = fs::read_dir(&directory).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{}", directory.display());
    }
}

/// A sender that goes on keeps its flow; the address that it leaves by is the host's no more.
#[test]
fn masqueraded_flows_leave_an_address_that_is_lost() {
    const NEW: [&str; 2] = ["192.0.2.77", "2001:db8:1::77"];
    let (street, web, _http) = serving("lost_address");
    let _echo = UdpEcho::start(&street.client, 53);
    let sockets = Family::BOTH.map(|family| {
        let socket = web.udp((family.ip(CLIENT), 53).into());
        let wait = Some(Duration::from_millis(200));
        socket.set_read_timeout(wait).expect("a time limit");
        socket
    });
    // The echo says whom it sees.
    let seen = |family: Family| -> Option<IpAddr> {
        let socket = &sockets[family as usize];
        socket.send(b"1").ok()?;
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let peer: SocketAddr = text.split(' ').next()?.parse().ok()?;
        Some(peer.ip())
    };
    for family in Family::BOTH {
        within(Duration::from_secs(5), "it leaves by the first", || {
            seen(family) == Some(family.ip(HOST))
        });
    }
    for (family, prefix) in Family::BOTH.into_iter().zip([24, 64]) {
        let (old, new) = (family.ip(HOST), family.ip(NEW));
        street
            .host
            .ip(&format!("address del {old}/{prefix} dev up0"));
        street
            .host
            .ip(&format!("address add {new}/{prefix} dev up0 nodad"));
    }
    for family in Family::BOTH {
        within(A_LOOK * 2, "it leaves by the other", || {
            seen(family) == Some(family.ip(NEW))
        });
    }
}

/// Without `lo` no published port answers the host.
#[test]
fn a_loopback_device_that_is_down_is_named() {
    let street = street("loopback_down");
    street.host.ip("link set lo down");
    let is_named = |f: &Finding| f.object == "device lo" && f.check == Check::Network;
    assert!(wrong(&street).iter().any(is_named), "{:?}", wrong(&street));
    street.host.ip("link set lo up");
}

/// What it mounts in a mount namespace of its own goes with it.
#[test]
fn a_file_system_that_will_not_outlive_the_daemon_is_told_of() {
    let street = street_without_daemon("own_mounts");
    let bpffs = street.lab.dir().join("own-bpffs").display().to_string();
    let flags = ["--bpffs", &bpffs];
    let daemon = street.host.daemon(&["unshare", "--mount"], &flags).spawn();
    street.host.netbpf(&["status", "--wait", "30s"]).ok();
    let status: StatusInfo = street.host.json(&["status"]);
    let told = |note: &String| note.contains("mount namespace of the daemon's own");
    assert!(status.notes.iter().any(told), "{:?}", status.notes);
    street.host.netbpf(&["teardown", "--purge"]).ok();
    daemon.wait();
}
