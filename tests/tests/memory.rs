//! A limit of memory that the daemon runs into, with what the kernel keeps for it: what
//! cannot be is refused or, where the kernel ends the daemon for want of memory, was never
//! begun; the datapath goes on, and with room again all is as it was acknowledged.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use netbpf_tests::lab::{
    Family, Host, Http, Memory, Namespace, SOON, TcpEcho, World,
    names::{CLIENT, FRONT, HOST},
    skipped, street_without_daemon, within, words,
};
use nix::sys::signal::Signal;

/// Bytes that the daemon gets beside what it needs for what is there already.
const ROOM: u64 = 1 << 20;

/// Endpoints that are more than there is room for.
const MOST: usize = 100;

/// No limit that is reached here.
const PLENTY: u64 = 8 << 30;

fn memory(test: &str) -> Option<Arc<Memory>> {
    let memory = Memory::new(test).map(Arc::new);
    if memory.is_none() {
        skipped(test, "there is no controller of memory");
    }
    memory
}

fn names(host: &Host) -> BTreeSet<String> {
    host.endpoints().into_iter().map(|e| e.name).collect()
}

fn connect(client: &Namespace, family: Family) -> TcpStream {
    let to = SocketAddr::new(family.ip(HOST), 8081);
    let stream = client.enter(|| TcpStream::connect_timeout(&to, SOON));
    let stream = stream.expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    stream
}

fn talk(stream: &mut TcpStream) {
    stream.write_all(b"still there?").expect("sent");
    let mut back = [0; 12];
    stream.read_exact(&mut back).expect("comes back");
    assert_eq!(&back, b"still there?");
}

#[test]
fn at_the_limit_what_is_there_goes_on() {
    let test = "memory_limit";
    let Some(memory) = memory(test) else { return };
    let street = street_without_daemon(test);
    let host = &street.host;
    host.set_memory(memory.clone());
    host.start(&[]);
    host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80", "-p", "8081:81"]);
    let (_http, _echo) = (Http::start(&web, 80), TcpEcho::start(&web, 81));
    let all: Vec<(String, Namespace)> = (0..MOST)
        .map(|n| format!("c{n}"))
        .map(|name| (name.clone(), street.lab.space(&name)))
        .collect();
    let spaces: Vec<&Namespace> = all.iter().map(|(_, space)| space).collect();
    let without = World::of(host, &spaces);
    let fetch = || {
        for family in Family::BOTH {
            let seen = street.client.fetch(family.ip(HOST), 8080);
            assert_eq!(seen.peer, family.ip(CLIENT));
        }
    };
    let mut talks = Family::BOTH.map(|family| connect(&street.client, family));
    talks.iter_mut().for_each(talk);

    memory.limit(memory.used() + ROOM);
    let mut acknowledged = BTreeSet::from(["web".to_owned()]);
    let mut at_the_limit = None;
    for (port, (name, space)) in (9000..).zip(&all) {
        let space = space.name();
        let line = format!("-j attach --name {name} --netns {space} --network front -p {port}:80");
        let output = host.netbpf(&words(&line)).output();
        if !output.status.success() {
            at_the_limit = Some((name, line, output));
            break;
        }
        acknowledged.insert(name.clone());
    }
    let (name, line, output) = at_the_limit.expect("there was room for all");
    fetch();
    talks.iter_mut().for_each(talk);

    memory.limit(PLENTY);
    // From now on it is not killed any more.
    if memory.kills() > 0 {
        host.wait_ended();
        host.restart();
    } else {
        assert!(output.stderr.contains("Cannot allocate memory"), "{output}");
    }
    let there = names(host);
    assert!(there.is_superset(&acknowledged), "{there:?}");
    // Killed behind the commit and before the answer, it is there, and whole.
    let more: Vec<&String> = there.difference(&acknowledged).collect();
    host.netbpf(&["doctor"]).ok();
    fetch();
    match more[..] {
        [] => drop(host.netbpf(&words(&line)).ok()),
        [one] => assert_eq!(one, name),
        _ => panic!("{more:?} were never asked for"),
    }
    let more = names(host).into_iter().filter(|name| name != "web");
    for name in more {
        host.netbpf(&["detach", &name]).ok();
    }
    let world = || World::of(host, &spaces);
    within(SOON, "the last device is gone", || world() == without);
}

/// However little it has: a start is refused, or ended by the kernel, or has enough and is
/// whole; and what is left of it is no hindrance to the next.
#[test]
fn a_start_with_too_little_memory_harms_nothing() {
    let test = "memory_start";
    let Some(memory) = memory(test) else { return };
    let street = street_without_daemon(test);
    let host = &street.host;
    host.start(&[]);
    host.network(&FRONT, &[]);
    let web = street.front("web", &["-p", "8080:80"]);
    let _http = Http::start(&web, 80);
    let before = World::of(host, &[&web]);
    host.stop();
    host.set_memory(memory.clone());
    let mut refused = 0;
    for mebibytes in [2, 4, 8, 16] {
        memory.limit(mebibytes << 20);
        let kills = memory.kills();
        let mut daemon = host.daemon(&[], &[]).spawn();
        let is_ready = || host.netbpf(&["status"]).output().status.success();
        let mut ready = false;
        within(SOON, "it has ended, or is ready", || {
            ready = is_ready();
            ready || !daemon.is_running()
        });
        if ready {
            daemon.signal(Signal::SIGTERM);
        }
        let output = daemon.wait();
        let said = output.stderr.contains("Cannot allocate memory");
        let killed = memory.kills() > kills;
        assert!(ready || said || killed, "{mebibytes} MiB: {output}");
        refused += usize::from(!ready);
        street.client.fetch(Family::V4.ip(HOST), 8080);
    }
    assert!(refused > 0, "2 MiB are enough");
    memory.limit(PLENTY);
    host.start(&[]);
    let after = World::of(host, &[&web]);
    assert!(before == after, "{}", before.differences(&after));
}
