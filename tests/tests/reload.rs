//! The daemon's configuration: what is effective, and what changes while it runs.
//!
//! ```text
//!   web ── front ── host ──── client
//!                     └────── other
//! ```

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use netbpf::model::{NetworkInfo, ReloadInfo, SettingChange, SettingInfo, StatusInfo};
use netbpf_tests::lab::{Host, Street, names::FRONT, street_without_daemon, within};
use nix::sys::signal::{Signal, kill};

/// A street whose daemon has a file.
struct Configured {
    street: Street,
    file: PathBuf,
}

fn configured(test: &str, text: &str) -> Configured {
    let street = street_without_daemon(test);
    let other = street.lab.space("other");
    let addresses: (&[&str], &[&str]) = (&["198.51.100.1/24"], &["198.51.100.2/24"]);
    street.lab.wire(
        (&street.host, "up1", addresses.0),
        (&other, "eth0", addresses.1),
    );
    let file = street.lab.dir().join("netbpf.toml");
    fs::write(&file, text).expect("write the file");
    street
        .host
        .start(&["--config", file.to_str().expect("a path")]);
    Configured { street, file }
}

impl Configured {
    fn host(&self) -> &Host {
        &self.street.host
    }

    #[track_caller]
    fn reload(&self, text: &str) -> ReloadInfo {
        fs::write(&self.file, text).expect("write the file");
        self.host().json(&["reload"])
    }

    #[track_caller]
    fn uplinks(&self) -> Vec<String> {
        let status: StatusInfo = self.host().json(&["status"]);
        status.uplinks.into_iter().map(|u| u.name).collect()
    }

    fn hang_up(&self) {
        let pid = self.host().pid().expect("a daemon") as i32;
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGHUP).expect("send SIGHUP");
    }
}

fn keys(changes: &[SettingChange]) -> Vec<&str> {
    changes.iter().map(|change| change.key.as_str()).collect()
}

#[test]
fn what_can_change_is_applied_and_the_rest_needs_a_restart() {
    let lab = configured("reload_applies", "");
    let host = lab.host();
    host.network(&FRONT, &[]);
    let web = lab.street.front("web", &["-p", "40000:80"]);
    let reserved = || {
        host.enter(|| fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports"))
            .expect("read the sysctl")
    };
    assert_eq!(lab.uplinks(), ["up0", "up1"]);
    assert_eq!(reserved().trim(), "40000");

    let done = lab.reload(
        "uplink = 'up1'\n\
         pool = ['10.99.0.0/16:24']\n\
         publish-ip = '192.0.2.1'\n\
         no-reserve-ports = true\n\
         max-flows = 1000\n\
         log-format = 'json'\n",
    );
    let applied = ["no-reserve-ports", "pool", "publish-ip", "uplink"];
    assert_eq!(keys(&done.applied), applied);
    assert_eq!(keys(&done.needs_restart), ["log-format", "max-flows"]);

    assert_eq!(lab.uplinks(), ["up1"]);
    assert_eq!(reserved().trim(), "");
    let made: NetworkInfo = host.json(&["network", "create", "pooled"]);
    assert_eq!(made.subnets[0].subnet.to_string(), "10.99.0.0/24");
    web.publish("8081:80");
    let ports: Vec<netbpf::model::PortOf> = host.json(&["port"]);
    let hosts: Vec<&str> = ports.iter().map(|p| p.port.host_ip.as_str()).collect();
    assert_eq!(hosts, ["*", "192.0.2.1"]);
    // What was published before is found by the line that published it.
    web.unpublish("40000:80");
    web.unpublish("8081:80");
    web.publish("0.0.0.0:40000:80");

    let done = lab.reload("max-flows = 1000\n");
    assert_eq!(keys(&done.applied), applied);
    assert_eq!(keys(&done.needs_restart), ["max-flows"]);
    assert_eq!(lab.uplinks(), ["up0", "up1"]);
    assert_eq!(reserved().trim(), "40000");
    // What went on all the time.
    assert_eq!(host.endpoints().len(), 1);
    let text = host.netbpf(&["reload"]).ok();
    assert!(text.contains("needs a restart"), "{text}");
}

#[test]
fn what_makes_no_sense_changes_nothing_and_says_where() {
    let lab = configured("reload_refuses", "uplink = 'up0'\n");
    assert_eq!(lab.uplinks(), ["up0"]);
    let before: StatusInfo = lab.host().json(&["status"]);
    let place = lab.file.display();
    for (text, expected) in [
        (
            "uplink = 'up1'\nuplnk = 'a'\n",
            format!("{place}:2: unknown key \"uplnk\""),
        ),
        (
            "uplink = 'up1'\nmax-flows = 'x'\n",
            format!("{place}:2: max-flows: "),
        ),
        ("uplink = 'up1'\n[", format!("{place}:2: ")),
    ] {
        fs::write(&lab.file, text).expect("write the file");
        let (code, message) = lab.host().refused(&["reload"]);
        assert_eq!(code, "invalid_argument");
        assert!(message.contains(&expected), "{message}");
    }
    fs::write(&lab.file, "uplink = 'up1'\ndns-upstream = 'a'\n").expect("write the file");
    let (code, message) = lab.host().refused(&["reload"]);
    assert_eq!(code, "not_implemented");
    assert!(
        message.contains(&format!("{place}:2: dns-upstream")),
        "{message}"
    );
    let after: StatusInfo = lab.host().json(&["status"]);
    assert_eq!((after.uplinks, after.pid), (before.uplinks, before.pid));
}

#[test]
fn sighup_reads_the_file_and_the_log_says_what_came_of_it() {
    let lab = configured("sighup", "");
    fs::write(&lab.file, "uplink = 'up1'\nmax-flows = 7\n").expect("write the file");
    lab.hang_up();
    within(Duration::from_secs(10), "the file is read", || {
        lab.host().log().contains("configuration read")
    });
    assert_eq!(lab.uplinks(), ["up1"]);
    let log = lab.host().log();
    assert!(
        log.contains("setting changed") && log.contains("uplink"),
        "{log}"
    );
    assert!(
        log.contains("needs a restart") && log.contains("max-flows"),
        "{log}"
    );

    fs::write(&lab.file, "uplnk = 'up0'\n").expect("write the file");
    lab.hang_up();
    within(Duration::from_secs(10), "the file is refused", || {
        lab.host().log().contains("stays as it was")
    });
    assert_eq!(lab.uplinks(), ["up1"]);
}

#[test]
fn the_sockets_group_changes_hands() {
    // That of the last line, whichever it is on this machine.
    let groups = fs::read_to_string("/etc/group").expect("groups");
    let group = groups.lines().rev().find_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
        (gid > 0).then(|| (name.to_owned(), gid))
    });
    let (name, gid) = group.expect("a group besides root");
    let lab = configured("socket_group", "socket-group = 'no-such-group'\n");
    let gid_of_socket = || fs::metadata(lab.host().socket()).expect("a socket").gid();
    assert_eq!(gid_of_socket(), 0);
    let done = lab.reload(&format!("socket-group = '{name}'\n"));
    assert_eq!(keys(&done.applied), ["socket-group"]);
    assert_eq!(gid_of_socket(), gid);
    lab.reload("socket-group = 'no-such-group'\n");
    assert_eq!(gid_of_socket(), 0);
}

#[test]
fn the_log_can_say_more() {
    let street = street_without_daemon("log_level");
    let file = street.lab.dir().join("netbpf.toml");
    fs::write(&file, "log-level = 'warn'\n").expect("write the file");
    street
        .host
        .start_as_configured(&["--config", file.to_str().expect("a path")]);
    street.host.netbpf(&["network", "create", "one"]).ok();
    assert!(
        !street.host.log().contains("network made"),
        "{}",
        street.host.log()
    );
    fs::write(&file, "log-level = 'debug'\n").expect("write the file");
    let done: ReloadInfo = street.host.json(&["reload"]);
    assert_eq!(keys(&done.applied), ["log-level"]);
    street.host.netbpf(&["network", "create", "two"]).ok();
    let log = street.host.log();
    assert!(
        log.contains("network made") && log.contains("DEBUG"),
        "{log}"
    );
}

#[test]
fn checking_the_configuration_starts_nothing() {
    let street = street_without_daemon("check_config");
    let file = street.lab.dir().join("netbpf.toml");
    fs::write(&file, "node = 'one'\nuplink = ['up0']\n").expect("write the file");
    let config = [
        "daemon",
        "--check-config",
        "--config",
        file.to_str().expect("a path"),
    ];
    let settings: Vec<SettingInfo> = street.host.json(&config);
    let node = settings.iter().find(|s| s.key == "node").expect("node");
    let place = format!("{}:1", file.display());
    assert_eq!((&node.value, &node.from), (&"one".into(), &Some(place)));
    let socket = settings.iter().find(|s| s.key == "socket").expect("socket");
    assert_eq!(socket.from.as_deref(), Some("--socket"));
    let text = street.host.netbpf(&config).ok();
    assert!(text.starts_with("KEY"), "{text}");
    assert!(!street.host.socket().exists(), "nothing is started");

    fs::write(&file, "node = ''\n").expect("write the file");
    let (code, message) = street.host.refused(&config);
    assert_eq!(code, "invalid_argument");
    assert!(message.contains(":1: node: "), "{message}");
    street
        .host
        .netbpf(&["daemon", "--check-config", "--max-flows", "x"])
        .exits(2);
}
