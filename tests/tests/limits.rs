//! Over and over, and many at once: nothing is left, nothing is lost.
//!
//! `NETBPF_CYCLES` says how often an endpoint comes and goes.

use std::{collections::BTreeSet, fs, os::unix::net::UnixStream, thread};

use netbpf::{
    client::Client,
    model::{AttachSpec, NetnsRef},
};
use netbpf_tests::lab::{
    Cmd, Host, Namespace, SOON, World, has_tools, names::FRONT, street_with_networks,
    street_without_daemon, within, words,
};
use tokio::runtime::Builder;

/// What the daemon has of the machine.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    threads: u64,
    memory_kib: u64,
}

impl Held {
    fn of(host: &Host) -> Held {
        let process = format!("/proc/{}", host.pid().expect("it runs"));
        let status = fs::read_to_string(format!("{process}/status")).expect("its status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|n| n.parse().ok()).expect(name)
        };
        let descriptors = fs::read_dir(format!("{process}/fd")).expect("its descriptors");
        Held {
            descriptors: descriptors.count(),
            threads: field("Threads:"),
            memory_kib: field("VmRSS:"),
        }
    }
}

fn spec(name: &str, space: &Namespace, port: usize) -> AttachSpec {
    AttachSpec {
        network: Some("front".into()),
        publish: vec![format!("{port}:80"), format!("{port}:53/udp")],
        ..AttachSpec::new(name, NetnsRef::Netns(space.name().into()))
    }
}

#[test]
fn who_comes_and_goes_over_and_over_leaves_nothing() {
    let cycles = std::env::var("NETBPF_CYCLES").map_or(200, |n| n.parse().expect("a number"));
    let street = street_with_networks("over_and_over", &[]);
    let host = &street.host;
    let space = street.lab.space("web");
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let client = Client::new(host.socket());
    let cycle = |number: usize| {
        let name = format!("web{number}");
        runtime.block_on(async {
            let spec = spec(&name, &space, 8080);
            client.attach(&spec).await.expect("attached");
            client.detach(&name, None).await.expect("detached");
        });
    };
    // What is kept for good is kept by then.
    (0..20).for_each(cycle);
    let (world, before) = (World::of(host, &[&space]), Held::of(host));
    (20..20 + cycles).for_each(cycle);
    within(SOON, "the last device is gone", || {
        World::of(host, &[&space]) == world
    });
    let after = Held::of(host);
    eprintln!("{before:?}, after {cycles} cycles {after:?}");
    assert!(
        after.descriptors <= before.descriptors + 2,
        "{before:?} {after:?}"
    );
    assert!(after.threads <= before.threads + 2, "{before:?} {after:?}");
    // Of one endpoint the daemon knows more than a kilobyte.
    let most = before.memory_kib + 4096 + cycles as u64 / 4;
    assert!(after.memory_kib <= most, "{before:?} {after:?}");
}

#[test]
fn two_hundred_at_once_come_and_go() {
    const MANY: usize = 200;
    let street = street_with_networks("at_once", &[]);
    let host = &street.host;
    let spaces: Vec<Namespace> = (0..MANY)
        .map(|n| street.lab.space(&format!("c{n}")))
        .collect();
    let world = World::of(host, &[]);
    let before = Held::of(host);
    let all = |work: &(dyn Fn(&Client, usize) -> Result<(), String> + Sync)| {
        thread::scope(|scope| {
            let asking =
                (0..MANY).map(|n| scope.spawn(move || work(&Client::new(host.socket()), n)));
            let asking: Vec<_> = asking.collect();
            for (n, asking) in asking.into_iter().enumerate() {
                let done = asking.join().expect("no panic");
                done.unwrap_or_else(|error| panic!("number {n}: {error}"));
            }
        });
    };
    let run = |work: &mut dyn FnMut(tokio::runtime::Runtime) -> Result<(), String>| {
        let runtime = Builder::new_current_thread().enable_all().build();
        work(runtime.expect("a runtime"))
    };
    all(&|client, n| {
        run(&mut |runtime| {
            let spec = spec(&format!("c{n}"), &spaces[n], 10_000 + n);
            let attached = runtime.block_on(client.attach(&spec));
            attached.map(drop).map_err(|e| e.to_string())
        })
    });
    let endpoints = host.endpoints();
    assert_eq!(endpoints.len(), MANY);
    let addresses: BTreeSet<_> = endpoints.iter().map(|e| (&e.ipv4, &e.ipv6)).collect();
    assert_eq!(addresses.len(), MANY, "each has its own");
    host.netbpf(&["doctor"]).ok();
    all(&|client, n| {
        run(&mut |runtime| {
            let detached = runtime.block_on(client.detach(&format!("c{n}"), None));
            detached.map(drop).map_err(|e| e.to_string())
        })
    });
    within(SOON, "the last device is gone", || {
        World::of(host, &[]) == world
    });
    let after = Held::of(host);
    assert!(
        after.descriptors <= before.descriptors + 2,
        "{before:?} {after:?}"
    );
}

/// However few it has left: each attach is whole, or refused with a reason and nothing left.
#[test]
fn without_descriptors_nothing_is_half_done() {
    let test = "out_of_descriptors";
    if !has_tools(test, &["prlimit"]) {
        return;
    }
    let street = street_with_networks(test, &[]);
    let host = &street.host;
    let space = street.lab.space("web");
    let attach = format!(
        "attach --name web --netns {} --network front -p 8080:80",
        space.name()
    );
    let attach: Vec<&str> = attach.split(' ').collect();
    let before = World::of(host, &[&space]);
    let most = Held::of(host).descriptors + 20;
    let (pid, limit) = (host.pid().expect("it runs"), format!("--nofile={most}"));
    Cmd::new(&["prlimit", "--pid", &pid.to_string(), &limit]).ok();
    let (mut whole, mut refused) = (0, 0);
    // One more is the connection of who asks.
    for taken in 8..20 {
        let idle: Vec<_> = (0..taken)
            .map(|_| UnixStream::connect(host.socket()).expect("a connection"))
            .collect();
        within(SOON, "all are accepted", || {
            Held::of(host).descriptors >= most - 20 + taken
        });
        let output = host.netbpf(&attach).output();
        drop(idle);
        within(SOON, "all are closed", || {
            Held::of(host).descriptors <= most - 20
        });
        match output.status.success() {
            true => {
                whole += 1;
                host.netbpf(&["detach", "web"]).ok();
            }
            false => {
                refused += 1;
                assert!(output.stderr.contains("Too many open files"), "{output}");
            }
        }
        within(SOON, "nothing is left", || {
            World::of(host, &[&space]) == before
        });
    }
    assert!(
        whole > 0 && refused > 0,
        "{whole} were attached, {refused} refused"
    );
}

/// As many endpoints as the maps have room for, and one more.
#[test]
fn one_endpoint_too_many_is_refused_and_has_a_place_once_another_is_gone() {
    const ROOM: usize = 8;
    let street = street_without_daemon("too_many_endpoints");
    let host = &street.host;
    host.start(&["--max-endpoints", &ROOM.to_string()]);
    host.network(&FRONT, &[]);
    let spaces: Vec<Namespace> = (0..=ROOM)
        .map(|n| street.lab.space(&format!("c{n}")))
        .collect();
    let line = |n: usize| {
        let space = spaces[n].name();
        let port = 9000 + n;
        format!("-j attach --name c{n} --netns {space} --network front -p {port}:80")
    };
    let attach = |n| host.netbpf(&words(&line(n))).output();
    // One number is the host's.
    let taken = ROOM - 1;
    for n in 0..taken {
        let output = attach(n);
        assert!(output.status.success(), "{output}");
    }
    let all: Vec<&Namespace> = spaces.iter().collect();
    let full = World::of(host, &all);
    let output = attach(taken);
    assert!(output.stderr.contains("pool_exhausted"), "{output}");
    assert!(
        output.stderr.contains("7 endpoints are the most"),
        "{output}"
    );
    within(SOON, "nothing is left of it", || {
        World::of(host, &all) == full
    });
    host.netbpf(&["doctor"]).ok();
    host.kill();
    host.restart();
    host.netbpf(&["detach", "c0"]).ok();
    within(SOON, "there is a place", || attach(taken).status.success());
    assert_eq!(host.endpoints().len(), ROOM - 1);
}
