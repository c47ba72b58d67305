//! The package in a root directory of Debian: installed, upgraded, removed and purged by
//! dpkg, with a container whose packets are forwarded meanwhile.
//!
//! ```text
//!   host (Debian, netbpf from the package)  up0 ──── eth0  client
//!     └── web :80, published as 8080
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use netbpf_tests::{
    debian::Root,
    lab::{Cmd, Family, binary, has_tools, names::HOST, street_without_daemon, until, url},
};
/// Packs this build, as `cargo xtask deb` does; not compressed, which takes its time.
#[track_caller]
fn build(dir: &Path) -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    // target/debug/deps/test-0a1b → target/debug/xtask
    let xtask = test.ancestors().nth(2).expect("of cargo's").join("xtask");
    assert!(
        xtask.exists(),
        "{}: build it (cargo build -p xtask)",
        xtask.display()
    );
    let binary = binary();
    let [xtask, binary, output] = [&xtask, &binary, dir].map(|path| path.display().to_string());
    Cmd::new(&[&xtask, "deb", "--binary", &binary, "--output", &output])
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none")
        .timeout(Duration::from_secs(120))
        .ok();
    let mut entries = fs::read_dir(&output).expect("made").flatten();
    entries
        .find_map(|entry| {
            let path = entry.path();
            (path.extension()? == "deb").then_some(path)
        })
        .expect("a package")
}

/// The same package under another version.
#[track_caller]
fn repack(package: &Path, version: &str, dir: &Path) -> PathBuf {
    let to = dir.join(format!("netbpf_{version}.deb"));
    let script = "dpkg-deb -R \"$1\" \"$2/repacked\" && \
                  sed -i \"s/^Version: .*/Version: $3/\" \"$2/repacked/DEBIAN/control\" && \
                  dpkg-deb -Znone --root-owner-group --build \"$2/repacked\" \"$4\"";
    let [package, dir, out] = [package, dir, &to].map(|path| path.display().to_string());
    Cmd::new(&["sh", "-ec", script, "sh", &package, &dir, version, &out])
        .timeout(Duration::from_secs(60))
        .ok();
    to
}

/// Fields, owners and files, as whoever gets the package sees them.
#[test]
fn the_package_says_what_it_is() {
    let test = "the_package_says_what_it_is";
    if !has_tools(test, &["dpkg", "strip", "groff"]) {
        return;
    }
    let street = street_without_daemon(test);
    let package = build(&street.lab.dir().join("deb"));
    let name = package.display().to_string();
    let field = |field: &str| {
        let text = Cmd::new(&["dpkg-deb", "-f", &name, field]).ok();
        text.trim().to_owned()
    };
    assert_eq!(field("Package"), "netbpf");
    assert_eq!(field("Version"), env!("CARGO_PKG_VERSION"));
    assert!(field("Depends").contains("libc6 (>= 2."), "{name}");

    let listing = Cmd::new(&["dpkg-deb", "-c", &name]).ok();
    for line in listing.lines() {
        assert!(line.contains(" root/root "), "{line}");
        let (mode, _) = line.split_once(' ').expect("columns");
        assert!(
            ["drwxr-xr-x", "-rwxr-xr-x", "-rw-r--r--", "lrwxrwxrwx"].contains(&mode),
            "{line}"
        );
    }
    for file in [
        "/etc/netbpf/netbpf.toml",
        "/usr/bin/netbpf",
        "/usr/lib/cni/netbpf-cni -> ../../bin/netbpf",
        "/usr/lib/systemd/system/netbpf.service",
        "/usr/lib/systemd/system/netbpf.socket",
        "/usr/lib/sysusers.d/netbpf.conf",
        "/usr/share/bash-completion/completions/netbpf",
        "/usr/share/doc/netbpf/changelog.gz",
        "/usr/share/doc/netbpf/copyright",
        "/usr/share/doc/netbpf/examples/cni/10-netbpf.conflist",
        "/usr/share/man/man1/netbpf.1.gz",
        "/usr/share/zsh/vendor-completions/_netbpf",
    ] {
        assert!(
            listing.lines().any(|l| l.ends_with(&format!(" .{file}"))),
            "{file}: {listing}"
        );
    }

    let unpacked = street.lab.dir().join("unpacked");
    let root = unpacked.display().to_string();
    Cmd::new(&["dpkg-deb", "-R", &name, &root]).ok();
    Cmd::new(&[
        "sh",
        "-c",
        "cd \"$1\" && md5sum -c DEBIAN/md5sums",
        "sh",
        &root,
    ])
    .ok();
    let page = format!("{root}/usr/share/man/man1/netbpf.1.gz");
    let show = "gzip -dc \"$1\" | groff -man -Tutf8 -P-c";
    let page = Cmd::new(&["sh", "-c", show, "sh", &page]).ok();
    assert!(page.contains("netbpf"), "{page}");
    let unit = fs::read_to_string(unpacked.join("usr/lib/systemd/system/netbpf.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/netbpf daemon"), "{unit}");
}

#[test]
fn dpkg_installs_upgrades_and_removes_it() {
    let test = "dpkg_installs_upgrades_and_removes_it";
    let street = street_without_daemon(test);
    let Some(root) = Root::open(test, &street.lab, &street.host) else {
        return;
    };
    let dir = street.lab.dir();
    let package = build(&dir.join("deb"));
    let newer = repack(&package, "999", dir);
    for (file, name) in [(&package, "tmp/netbpf.deb"), (&newer, "tmp/newer.deb")] {
        fs::copy(file, root.path(name)).expect("copy the package");
    }
    let before = root.changes();
    // Also where the machine's own dpkg leaves documentation out, as in containers; the
    // index of the manual is not ours.
    let dpkg = |arguments: &str| {
        let output = root.shell(&format!(
            "dpkg --path-include='*' --no-triggers {arguments}"
        ));
        let output = output.exits(0);
        let log = || fs::read_to_string(root.path("run/daemon.log")).unwrap_or_default();
        assert!(!output.stderr.contains("netbpf:"), "{output}{}", log());
    };
    let reached = || {
        Family::BOTH.map(|family| {
            let url = url(family.ip(HOST), 8080, "/");
            let curl = ["curl", "-sS", "--max-time", "5", "-o", "/dev/null", &url];
            street.client.run(&curl).output().status.success()
        })
    };

    // Where policy-rc.d says no, nothing is started.
    dpkg("-i /tmp/netbpf.deb");
    assert_eq!(root.asked(), ["daemon-reload"]);
    root.shell("netbpf --version && getent group netbpf").ok();
    assert_eq!(root.shell("dpkg --verify netbpf").ok(), "");

    // Over itself, and services may run.
    root.set_policy(0);
    dpkg("-i /tmp/netbpf.deb");
    // The socket is there throughout.
    let upgraded = [
        "daemon-reload",
        "start netbpf.socket",
        "restart netbpf.service",
    ];
    assert_eq!(root.asked(), upgraded);
    let web = "ip netns add web && netbpf attach --name web --netns web -p 8080:80";
    root.shell(web).ok();
    root.shell("netbpf network create back").ok();
    let serve = "exec ip netns exec web python3 -m http.server 80 --bind ::";
    let _web = root.shell(serve).timeout(Duration::from_secs(300)).spawn();
    let served = until(Duration::from_secs(10), || reached() == [true; 2]);
    assert!(served, "{}", root.shell("cat /run/daemon.log").ok());

    // What an administrator wrote stays.
    let configuration = root.path("etc/netbpf/netbpf.toml");
    fs::write(&configuration, "log-level = \"debug\"\n").expect("write the configuration");
    dpkg("-i /tmp/newer.deb");
    assert_eq!(root.asked(), upgraded);
    assert_eq!(reached(), [true; 2]);
    let version = root.shell("dpkg-query -W -f '${Version}' netbpf").ok();
    assert_eq!(version, "999");

    dpkg("-r netbpf");
    let stop = "stop netbpf.service netbpf.socket";
    assert_eq!(root.asked(), [stop, "daemon-reload"]);
    assert_eq!(reached(), [false; 2]);
    assert!(!root.path("sys/fs/bpf/netbpf").exists());
    assert!(!street.host.ip("-d link show").contains("alias netbpf"));
    assert!(!root.path("usr/bin/netbpf").exists());
    assert!(configuration.exists());

    // Installed again it has the networks that it had, wherever its pins are.
    root.shell("echo --bpffs /sys/fs/bpf/elsewhere >/run/daemon.flags")
        .ok();
    dpkg("-i /tmp/newer.deb");
    root.shell("netbpf network inspect back && netbpf attach --name web --netns web -p 8080:80")
        .ok();
    assert_eq!(reached(), [true; 2]);

    dpkg("-P netbpf");
    // But the group: its number must not become another one.
    root.shell("groupdel netbpf").ok();
    assert_eq!(root.changes(), before);
    for path in ["run/netbpf", "sys/fs/bpf/netbpf", "sys/fs/bpf/elsewhere"] {
        assert!(!root.path(path).exists(), "{path}");
    }
    assert!(!street.host.ip("-d link show").contains("alias netbpf"));

    // A daemon that does not start, while systemd holds its socket, keeps nobody waiting.
    root.shell("rm /run/daemon.flags").ok();
    dpkg("-i /tmp/newer.deb");
    root.shell("netbpf attach --name web --netns web && systemctl stop netbpf.service")
        .ok();
    let listen = "import socket, time; s = socket.socket(socket.AF_UNIX); \
                  s.bind('/run/netbpf/netbpf.sock'); s.listen(); time.sleep(300)";
    let _held = root.run(&["python3", "-c", listen]).spawn();
    let socket = root.path("run/netbpf/netbpf.sock");
    assert!(until(Duration::from_secs(10), || socket.exists()));
    dpkg("-P netbpf");
    assert!(!root.path("sys/fs/bpf/netbpf").exists());
    assert!(!street.host.ip("-d link show").contains("alias netbpf"));
}
