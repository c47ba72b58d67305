//! A disk that is full: the store refuses cleanly, the datapath goes on, and with room
//! again all is as ever.

use std::{fs, path::PathBuf};

use netbpf_tests::lab::{
    Family, Host, Http, SOON, World,
    names::{CLIENT, FRONT, HOST},
    street_without_daemon, until,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A small disk at a directory.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Disk {
        let (kind, size) = (Some("tmpfs"), Some("size=4m"));
        mount(kind, &at, kind, MsFlags::empty(), size).expect("a tmpfs");
        Disk(at)
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let zeros = vec![0_u8; 4096];
        let mut all = Vec::new();
        for _ in 0..1024 {
            all.extend(&zeros);
        }
        // As much as there is room for.
        fs::write(self.0.join("filler"), &all).expect_err("it is full");
    }

    fn clear(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Names of networks and endpoints that are made until one is refused.
#[track_caller]
fn is_refused(host: &Host, what: &str, arguments: &dyn Fn(u32) -> Vec<String>) -> u32 {
    let mut made = 0;
    let refused = until(SOON, || {
        let output = host.netbpf(&arguments(made)).output();
        if output.status.success() {
            made += 1;
            return false;
        }
        assert!(
            output.stderr.contains("store_unavailable"),
            "{what}: {output}"
        );
        assert!(output.stderr.contains("No space left"), "{what}: {output}");
        true
    });
    assert!(refused, "{what}: {made} were made, none was refused");
    made
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_full_disk_is_refused_and_forgotten() {
    let street = street_without_daemon("full_disk");
    let host = &street.host;
    let disks = [Disk::mount(host.state_dir()), Disk::mount(host.run_dir())];
    host.start(&[]);
    host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let works = || {
        for family in Family::BOTH {
            let seen = street.client.fetch(family.ip(HOST), 8080);
            assert_eq!(seen.peer, family.ip(CLIENT));
        }
    };
    works();

    disks.iter().for_each(Disk::fill);
    let networks = is_refused(host, "networks", &|n| {
        words(&format!("-j network create n{n} --subnet 10.99.{n}.0/24"))
    });
    let ports = is_refused(host, "ports", &|n| {
        words(&format!("-j publish web -p {}:80", 9000 + n))
    });
    // There may be room for one or two in what the file has already.
    let mut spaces = Vec::new();
    let mut attempts = (0..20).map(|n| {
        let space = street.lab.space(&format!("app{n}"));
        let name = space.name().to_owned();
        let attach = format!("attach --name app{n} --netns {name} --network front");
        let before = World::of(host, &[&web, &space]);
        let output = host.netbpf(&words(&format!("-j {attach}"))).output();
        // Those that were attached stay so.
        spaces.push(space.clone());
        (space, attach, before, output)
    });
    let refused = attempts.find(|(.., output)| !output.status.success());
    let (space, attach, before, output) = refused.expect("one attach is refused");
    assert!(output.stderr.contains("store_unavailable"), "{output}");
    works();
    let after = World::of(host, &[&web, &space]);
    assert!(before == after, "{}", before.differences(&after));

    disks.iter().for_each(Disk::clear);
    host.netbpf(&words(&attach)).ok();
    host.netbpf(&words(&format!(
        "network create n{networks} --subnet 10.99.{networks}.0/24"
    )))
    .ok();
    host.netbpf(&words(&format!("publish web -p {}:80", 9000 + ports)))
        .ok();
    let all = World::of(host, &[&web, &space]);
    host.kill();
    host.restart();
    let again = World::of(host, &[&web, &space]);
    assert!(all == again, "{}", all.differences(&again));
    works();
}
