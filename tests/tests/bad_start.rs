//! A daemon that cannot start says why – the code, and which capability, feature,
//! directory or daemon is in the way – and leaves nothing behind.

use std::{fs, path::Path};

use netbpf_tests::lab::{
    Cmd, Host, Refusal, Settings, Street, has_tools, skipped, street, street_with_networks,
    street_without_daemon,
};
use serde_json::Value;

/// Everything below the directories of a host's daemon.
fn files(host: &Host) -> Vec<String> {
    let mut found = Vec::new();
    for dir in [host.state_dir(), host.run_dir(), host.bpffs()] {
        walk(&dir, &mut found);
    }
    found.sort();
    found
}

fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Every bpffs has some of the kernel's own.
        if !entry.file_name().to_string_lossy().ends_with(".debug") {
            found.push(entry.path().display().to_string());
        }
        if entry.path().is_dir() {
            walk(&entry.path(), found);
        }
    }
}

/// Runs it, which must fail with that code and words in one JSON line, and leave
/// nothing.
#[track_caller]
fn refused(host: &Host, command: Cmd, code: &str, says: &[&str]) -> String {
    let (before, settings) = (files(host), Settings::of(host));
    let output = command.exits(1);
    let last = output.stderr.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(last)
        .unwrap_or_else(|e| panic!("the last line is no error: {e}\n{output}"));
    assert_eq!(error["error"]["code"], code, "{output}");
    let message = error["error"]["message"].as_str().unwrap_or_default();
    for part in says {
        assert!(message.contains(part), "{part:?} is missing: {output}");
    }
    assert_eq!(files(host), before, "files are left: {output}");
    assert_eq!(Settings::of(host), settings, "something is left: {output}");
    message.to_owned()
}

#[test]
fn two_daemons_share_nothing() {
    let street = street_with_networks("two_daemons", &[]);
    let first = &street.host;
    let web = street.front("web", &[]);
    let second = street.lab.host("second");
    let shown = |path: &Path| path.display().to_string();
    let with = |flag: &str, path: &Path| {
        let path = shown(path);
        second.daemon(&[], &["-j", flag, &path])
    };
    let state = first.state_dir();
    refused(
        &second,
        with("--state-dir", &state),
        "conflict",
        &["another daemon", &shown(&state)],
    );
    let run = first.run_dir();
    refused(
        &second,
        with("--run-dir", &run),
        "conflict",
        &["another daemon", &shown(&run)],
    );
    let bpffs = first.bpffs();
    refused(
        &second,
        with("--bpffs", &bpffs),
        "conflict",
        &["another netbpf daemon", &shown(&bpffs)],
    );
    let socket = first.socket();
    refused(
        &second,
        with("--socket", &socket),
        "conflict",
        &["another daemon", &shown(&socket)],
    );
    // In the same network namespace, with directories of its own.
    let mut own = second.directory_flags();
    own.push("-j".into());
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let pid = first.pid().expect("a daemon").to_string();
    refused(
        first,
        first.daemon(&[], &own),
        "conflict",
        &["another netbpf daemon", &pid],
    );
    assert_eq!(files(&second), [""; 0]);

    // The first one has noticed nothing.
    assert_eq!(first.endpoints().len(), 1);
    web.ping(web.gateway(netbpf_tests::lab::Family::V4));
    second.start(&[]);
}

#[test]
fn a_directory_of_pins_that_cannot_be() {
    let street = street_without_daemon("bad_bpffs");
    let (host, dir) = (&street.host, street.lab.dir());
    let file = dir.join("file");
    fs::write(&file, "").expect("write a file");
    let full = dir.join("full");
    fs::create_dir_all(full.join("something")).expect("make a directory");
    let below = file.join("bpf");
    let paths = [
        (file.display().to_string(), "not a directory"),
        (
            full.display().to_string(),
            "neither in a bpffs nor an empty directory",
        ),
        (below.display().to_string(), "cannot be looked at"),
        ("relative/bpf".into(), "must be absolute"),
        ("/proc/netbpf".into(), "cannot be made"),
    ];
    let fresh = dir.join("fresh");
    let [state, run] = ["deep/state", "run"].map(|dir| fresh.join(dir).display().to_string());
    for (path, why) in paths {
        let command = host.daemon(&[], &["-j", "--bpffs", &path]);
        refused(host, command, "invalid_argument", &[&path, why]);
        // Nor are directories left that were made for it.
        let flags = [
            "-j",
            "--bpffs",
            &path,
            "--state-dir",
            &state,
            "--run-dir",
            &run,
        ];
        let socket = format!("{run}/s.sock");
        let flags = [&flags[..], &["--socket", &socket]].concat();
        let command = host.daemon(&[], &flags);
        refused(host, command, "invalid_argument", &[&path, why]);
        assert!(!fresh.exists(), "{} is left", fresh.display());
    }
    assert!(full.join("something").is_dir() && file.is_file());
}

#[test]
fn a_state_that_cannot_be() {
    let street = street_without_daemon("bad_state");
    let host = &street.host;
    let file = street.lab.dir().join("file");
    fs::write(&file, "").expect("write a file");
    let path = file.display().to_string();
    let command = host.daemon(&[], &["-j", "--state-dir", &path]);
    refused(host, command, "store_unavailable", &[&path]);
    let socket = file.join("s.sock").display().to_string();
    let command = host.daemon(&[], &["-j", "--socket", &socket]);
    refused(host, command, "internal", &[&socket]);
    let command = host.daemon(&[], &["-j", "--socket", &path]);
    refused(host, command, "conflict", &[&path, "no socket"]);

    fs::write(host.state_dir().join("netbpf.redb"), "garbage").expect("write a file");
    let command = host.daemon(&[], &["-j"]);
    let says = ["netbpf.redb", "corrupt"];
    refused(host, command, "store_corrupt", &says);
}

#[test]
fn a_capability_that_is_missing_is_named() {
    if !has_tools("missing_capability", &["setpriv", "unshare"]) {
        return;
    }
    let street = street_without_daemon("missing_capability");
    let host = &street.host;
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--",
    ];
    let command = host.daemon(&nobody, &["-j"]);
    refused(host, command, "missing_capability", &["CAP_NET_ADMIN"]);
    for (without, named) in [
        ("--bounding-set=-net_admin", "CAP_NET_ADMIN"),
        ("--bounding-set=-sys_admin", "CAP_SYS_ADMIN"),
    ] {
        let command = host.daemon(&["setpriv", without, "--"], &["-j"]);
        refused(host, command, "missing_capability", &[named]);
    }
    // Root of a user namespace has them all, but not where it counts.
    let root_of_another = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "sh",
        "-ec",
        "ip link set lo up; exec \"$@\"",
        "sh",
    ];
    let command = host.run(&["unshare", "--user", "--map-root-user", "true"]);
    if !command.output().status.success() {
        return skipped("missing_capability", "no user namespaces");
    }
    let command = host.daemon(&root_of_another, &["-j"]);
    refused(
        host,
        command,
        "missing_capability",
        &["CAP_BPF", "user namespace"],
    );
    host.start(&[]);
}

/// `BPF_PROG_LOAD` of `linux/bpf.h`.
const PROG_LOAD: u32 = 5;

#[test]
fn a_feature_that_the_kernel_lacks_is_named() {
    let Street { host, lab, .. } = street_without_daemon("missing_feature");
    let bpf = |first, errno| Refusal {
        call: libc::SYS_bpf,
        first,
        errno,
    };
    let rows = [
        (bpf(None, libc::ENOSYS), "system call bpf"),
        (bpf(Some(PROG_LOAD), libc::EINVAL), "global data"),
    ];
    for (refusal, feature) in rows {
        let command = host.daemon(&[], &["-j"]).refusing(refusal);
        let says = ["this kernel lacks", feature, "6.1"];
        refused(&host, command, "unsupported_kernel", &says);
    }
    // Without the file system there is nowhere to pin.
    let empty = lab.dir().join("made/for/it");
    let path = empty.display().to_string();
    let mount = Refusal {
        call: libc::SYS_mount,
        first: None,
        errno: libc::ENODEV,
    };
    let command = host.daemon(&[], &["-j", "--bpffs", &path]).refusing(mount);
    refused(&host, command, "unsupported_kernel", &["file system bpf"]);
    assert!(!lab.dir().join("made").exists(), "directories are left");
    // The same kernel without the refusals.
    host.start(&[]);
}

#[test]
fn a_process_that_may_not_be_looked_into() {
    if !has_tools("may_not_look", &["setpriv"]) {
        return;
    }
    let street = street("may_not_look");
    let host = &street.host;
    host.stop();
    // Without the right to trace others, only what is our own is seen.
    let few = [
        "setpriv",
        "--bounding-set=-sys_ptrace,-dac_override,-dac_read_search,-setuid",
        "--",
    ];
    let mut daemon = host
        .daemon(&few, &[])
        .timeout(std::time::Duration::from_secs(60))
        .spawn();
    host.netbpf(&["status", "--wait", "10s"]).ok();
    assert!(daemon.is_running());
    let space = street.lab.space("web");
    let mut sleeper = space.run(&["sleep", "60"]).spawn();
    assert!(sleeper.is_running());
    let pid = sleeper.pid().to_string();
    let (code, message) = host.refused(&["attach", "--name", "web", "--pid", &pid]);
    assert_eq!(code, "missing_capability");
    assert!(message.contains("CAP_SYS_PTRACE"), "{message}");
    assert!(host.endpoints().is_empty());
    host.attach(&space, "web", &[]);
    host.netbpf(&["teardown"]).ok();
}

#[test]
fn a_cluster_that_cannot_be_joined() {
    let street = street_without_daemon("bad_etcd");
    let host = &street.host;
    let cases: [(&[&str], &[&str]); 4] = [
        (
            &[
                "--etcd",
                "https://127.0.0.1:2379",
                "--etcd-cacert",
                "/nonexistent/ca.pem",
            ],
            &["etcd-cacert", "/nonexistent/ca.pem"],
        ),
        (
            &[
                "--etcd",
                "http://127.0.0.1:2379",
                "--etcd-cacert",
                "/dev/null",
            ],
            &["http://127.0.0.1:2379"],
        ),
        (
            &[
                "--etcd",
                "https://127.0.0.1:2379",
                "--etcd-cert",
                "/dev/null",
            ],
            &["etcd-key"],
        ),
        // Without a default route there is no address to be reached by.
        (&["--etcd", "http://127.0.0.1:2379"], &["--node-ip"]),
    ];
    for (flags, says) in cases {
        let command = host.daemon(&[], &[&["-j"], flags].concat());
        refused(host, command, "invalid_argument", says);
    }
    host.start(&[]);
}
