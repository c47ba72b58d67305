//! What systemd is told: the daemon runs with the capabilities of its unit and no
//! more, and takes the socket that is handed to it.

use std::{fs, path::Path, time::Duration};

use netbpf::model::StatusInfo;
use netbpf_tests::lab::{
    Background, Cmd, Family, Host, Http, binary, has_tools,
    names::{CLIENT, HOST},
    street_with_networks, street_without_daemon, within,
};
use nix::sys::signal::Signal;

fn packaging(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    fs::read_to_string(path.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut lines = unit.lines();
    lines
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("{key} is missing"))
}

/// `setpriv` with the unit's capabilities, less those named.
fn as_the_unit(without: &[&str]) -> Vec<String> {
    let unit = packaging("netbpf.service.in");
    let capabilities: Vec<String> = setting(&unit, "CapabilityBoundingSet")
        .split(' ')
        .filter(|name| !without.contains(name))
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    vec![
        "setpriv".into(),
        "--no-new-privs".into(),
        "--inh-caps=-all".into(),
        format!("--bounding-set=-all,{}", capabilities.join(",")),
    ]
}

#[track_caller]
fn start(host: &Host, before: &[String]) -> Background {
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let command = host.daemon(&before, &[]);
    let daemon = command.timeout(Duration::from_secs(60)).spawn();
    let waited = host.netbpf(&["status", "--wait", "10s"]).output();
    assert!(waited.status.success(), "{waited}\n{}", daemon.stderr());
    daemon
}

/// The main job, with a container whose process has capabilities that the daemon has
/// not; the daemon stops and starts in between; nothing is left at the end.
#[test]
fn the_units_capabilities_suffice() {
    let test = "the_units_capabilities_suffice";
    if !has_tools(test, &["setpriv"]) {
        return;
    }
    let street = street_without_daemon(test);
    let host = &street.host;
    let daemon = start(host, &as_the_unit(&[]));
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let net_raw = 1 << 13;
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .unwrap();
    let effective = u64::from_str_radix(effective.trim(), 16).unwrap();
    assert_eq!(effective & net_raw, 0, "{effective:x}");

    let space = street.lab.space("web");
    let sleeper = space
        .run(&["sleep", "60"])
        .timeout(Duration::from_secs(60))
        .spawn();
    let http = Http::start(&space, 80);
    let pid = sleeper.pid().to_string();
    within(Duration::from_secs(5), "it is in its namespace", || {
        let netns = |path: String| fs::read_link(path).ok();
        netns(format!("/proc/{pid}/ns/net")) != netns("/proc/self/ns/net".into())
    });
    host.netbpf(&["attach", "--name", "web", "--pid", &pid, "-p", "8080:80"])
        .ok();
    let app = host.container(&street.lab, "app", &["-p", "8081:80"]);
    let _outside = Http::start(&street.client, 80);
    let works = || {
        for family in Family::BOTH {
            let seen = street.client.fetch(family.ip(HOST), 8080);
            assert_eq!(seen.peer, family.ip(CLIENT));
            assert_eq!(host.fetch(family.ip(HOST), 8080).server, "web");
            assert_eq!(app.fetch(family.ip(CLIENT), 80).peer, family.ip(HOST));
        }
    };
    works();
    host.netbpf(&["unpublish", "web", "-p", "8080:80"]).ok();
    host.netbpf(&["publish", "web", "-p", "8080:80"]).ok();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().status.success());
    let daemon = start(host, &as_the_unit(&[]));
    works();
    drop(http);
    host.netbpf(&["teardown"]).ok();
    assert!(daemon.wait().status.success());
    let pins = fs::read_dir(host.bpffs()).unwrap().flatten();
    let pins = pins.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // The kernel's own end so.
    let left: Vec<String> = pins.filter(|name| !name.ends_with(".debug")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Each of those that a daemon cannot start without is named when it is missing.
#[test]
fn none_of_the_units_capabilities_is_too_much() {
    let test = "none_of_the_units_capabilities_is_too_much";
    if !has_tools(test, &["setpriv"]) {
        return;
    }
    let street = street_without_daemon(test);
    for name in ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"] {
        let before = as_the_unit(&[name]);
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let output = street.host.daemon(&before, &[]).exits(1);
        assert!(output.stderr.contains(name), "{output}");
    }
}

/// Listens and becomes the daemon, as systemd does: sd_listen_fds(3).
const ACTIVATE: &str = "
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(16)
if s.fileno() != 3:
    os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execv(sys.argv[2], sys.argv[2:])
";

fn activated(host: &Host, socket: &Path) -> Cmd {
    let socket = socket.display().to_string();
    host.daemon(&["python3", "-c", ACTIVATE, &socket], &[])
}

#[test]
fn the_daemon_takes_the_socket_of_systemd() {
    let street = street_without_daemon("the_daemon_takes_the_socket_of_systemd");
    let host = &street.host;
    fs::create_dir_all(host.run_dir()).unwrap();
    let daemon = activated(host, &host.socket())
        .timeout(Duration::from_secs(60))
        .spawn();
    within(Duration::from_secs(10), "it listens", || {
        host.socket().exists()
    });
    let status: StatusInfo = host.json(&["status", "--wait", "10s"]);
    assert_eq!(status.node, host.role());
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().status.success());
    assert!(host.socket().exists(), "the file is systemd's");

    fs::remove_file(host.socket()).unwrap();
    let other = host.run_dir().join("other.sock");
    let output = activated(host, &other).exits(1);
    assert!(output.stderr.contains("ListenStream="), "{output}");
}

/// systemd's socket is there also when the daemon is gone.
#[test]
fn teardown_ends_a_daemon_whose_socket_stays() {
    let street = street_without_daemon("teardown_ends_a_daemon_whose_socket_stays");
    let host = &street.host;
    let daemon = activated(host, &host.socket())
        .timeout(Duration::from_secs(60))
        .spawn();
    within(Duration::from_secs(10), "it listens", || {
        host.socket().exists()
    });
    host.netbpf(&["status", "--wait", "10s"]).ok();
    host.netbpf(&["teardown"])
        .timeout(Duration::from_secs(8))
        .ok();
    assert!(daemon.wait().status.success());
    assert!(host.socket().exists(), "the file is systemd's");
}

/// What systemd itself says of the units.
#[test]
fn systemd_takes_the_units() {
    let test = "systemd_takes_the_units";
    if !has_tools(test, &["systemd-analyze"]) {
        return;
    }
    let street = street_without_daemon(test);
    let binary = binary();
    let bindir = binary.parent().unwrap().display().to_string();
    let [service, socket] =
        ["netbpf.service", "netbpf.socket"].map(|name| street.lab.dir().join(name));
    let text = packaging("netbpf.service.in").replace("@BINDIR@", &bindir);
    fs::write(&service, text).unwrap();
    fs::write(&socket, packaging("netbpf.socket")).unwrap();
    let [service, socket] = [service, socket].map(|path| path.display().to_string());
    let output = Cmd::new(&["systemd-analyze", "verify", "--man=no", &service, &socket]).exits(0);
    assert!(!output.stderr.contains("netbpf."), "{output}");
    // 0 is locked up whole, 100 free; a daemon of the network with SYS_ADMIN is at 40.
    let security = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=45",
        &service,
    ];
    Cmd::new(&security).exits(0);
}

/// Capabilities as `include/uapi/linux/capability.h` numbers them.
const NUMBERS: [(&str, u32); 6] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
];

/// Those of the page, which the unit grants or does not.
fn documented() -> Vec<(String, bool)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/capabilities.md");
    let page = fs::read_to_string(path).expect("the page");
    let rows = page.lines().filter(|line| line.starts_with("| `CAP_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[4] == "yes")
    })
    .collect()
}

#[test]
fn what_no_use_is_known_of_is_given_up() {
    let street = street_with_networks("capabilities", &[]);
    let documented = documented();
    let bit = |name: &str| {
        let found = NUMBERS.iter().find(|(known, _)| *known == name);
        1_u64 << found.unwrap_or_else(|| panic!("{name}?")).1
    };
    let all = documented.iter().fold(0, |all, (name, _)| all | bit(name));
    let own = fs::read_to_string("/proc/self/status").expect("our status");
    let of = |status: &str, key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let line = line.unwrap_or_else(|| panic!("{key} of\n{status}"));
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("a number")
    };
    let expected = all & of(&own, "CapPrm");
    assert_ne!(of(&own, "CapPrm"), expected, "there is nothing to give up");
    let pid = street.host.pid().expect("a daemon");
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let tasks: Vec<_> = tasks.map(|task| task.expect("a thread").path()).collect();
    assert!(tasks.len() > 2, "{tasks:?}");
    for task in tasks {
        // One that has ended meanwhile has none.
        let Ok(status) = fs::read_to_string(task.join("status")) else {
            continue;
        };
        for key in ["CapEff", "CapPrm"] {
            assert_eq!(of(&status, key), expected, "{key} of\n{status}");
        }
        for key in ["CapInh", "CapAmb"] {
            assert_eq!(of(&status, key), 0, "{key} of\n{status}");
        }
        assert_eq!(of(&status, "NoNewPrivs"), 1);
    }

    let unit = packaging("netbpf.service.in");
    let mut granted: Vec<&str> = setting(&unit, "CapabilityBoundingSet").split(' ').collect();
    let by_page = documented.iter().filter(|(_, granted)| *granted);
    let mut by_page: Vec<&str> = by_page.map(|(name, _)| name.as_str()).collect();
    granted.sort_unstable();
    by_page.sort_unstable();
    assert_eq!(granted, by_page);
}
