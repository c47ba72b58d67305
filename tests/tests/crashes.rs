//! The daemon dies anywhere: before and after each change of kernel or store, and at any
//! moment under load. Whatever was acknowledged is there after the next start, what was not
//! is there whole or not at all, and nothing else is left.
//!
//! Where it dies is said by a file, as builds for tests know it (`netbpf::sys::fault`). Of
//! the points of a change some are tried, the same ones each time, and all of them with
//! `NETBPF_CRASH_POINTS=all`; `NETBPF_CRASHES` says how often it dies at any moment.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use netbpf::model::{NetworkInfo, PortOf};
use netbpf_tests::lab::{
    Container, Family, Host, Http, Namespace, SOON, Street, World,
    names::{CLIENT, HOST},
    street_with_networks, until, within, words,
};

/// More than there are anywhere.
const MANY: u64 = 1_000_000;

/// Points of a change that are tried where nobody asks for all.
const SOME: u64 = 6;

/// A change by commands, and how it is taken back.
struct Change<'a> {
    to: &'a [&'a str],
    back: &'a [&'a str],
}

/// `attach` of that namespace as app, with addresses of its own choice.
fn app_on(space: &str, network: &str, v4: &str, v6: &str) -> String {
    format!("attach --name app --netns {space} --network {network} --ip {v4} --ip {v6}")
}

fn run(host: &Host, commands: &[&str]) {
    for command in commands {
        host.netbpf(&words(command)).ok();
    }
}

/// A street, and the namespaces that a change may change something in.
struct Scene {
    street: Street,
    web: Container,
    others: Vec<Namespace>,
    servers: Vec<Http>,
}

impl Scene {
    fn new(test: &str) -> Scene {
        Scene::with(test, &[])
    }

    /// The daemon with these flags.
    fn with(test: &str, flags: &[&str]) -> Scene {
        let street = street_with_networks(test, flags);
        let ips = ["--ip", "10.10.1.10", "--ip", "fd10:1::10"];
        let web = street.front("web", &[&ips[..], &["-p", "8080:80"]].concat());
        Scene {
            street,
            servers: vec![Http::start(&web, 80)],
            web,
            others: Vec::new(),
        }
    }

    /// Traffic goes both ways.
    #[track_caller]
    fn works(&self, what: &str) {
        for family in Family::BOTH {
            let answer = self.street.client.fetch(family.ip(HOST), 8080);
            assert!(["web", "app"].contains(&&*answer.server), "{what}");
            self.web.ping(family.ip(CLIENT));
        }
    }

    fn host(&self) -> &Host {
        &self.street.host
    }

    /// A namespace of a container to be attached.
    fn space(&mut self, name: &str) -> String {
        let space = self.street.lab.space(name);
        let path = space.name().to_owned();
        self.others.push(space);
        path
    }

    fn world(&self) -> World {
        let mut containers: Vec<&Namespace> = vec![&self.web];
        containers.extend(&self.others);
        World::of(self.host(), &containers)
    }

    /// Waits until the world is one of these: which one.
    #[track_caller]
    fn becomes(&self, wanted: &[&World], what: &str) -> usize {
        let (mut last, mut which) = (None, None);
        until(SOON, || {
            let now = self.world();
            which = wanted.iter().position(|world| **world == now);
            last = Some(now);
            which.is_some()
        });
        which.unwrap_or_else(|| {
            let now = last.expect("one look");
            let all = wanted.iter().map(|world| world.differences(&now));
            // The one that is meant has the fewest.
            let nearest = all.min_by_key(|text| text.lines().count());
            panic!("{what}: not as it may be\n{}", nearest.unwrap_or_default());
        })
    }

    /// The world when nothing is on its way any more.
    fn settled(&self) -> World {
        let mut world = self.world();
        within(SOON, "nothing changes any more", || {
            let again = self.world();
            let is_still = again == world;
            world = again;
            is_still
        });
        world
    }

    /// Has the daemon die at points of a change, one after the other.
    #[track_caller]
    fn dies_in(&self, change: &Change<'_>) {
        let host = self.host();
        let before = self.settled();
        host.die_after(MANY);
        run(host, change.to);
        let after = self.settled();
        let points = MANY - host.live_on().expect("it lives");
        assert_ne!(before, after, "a change of nothing");
        run(host, change.back);
        self.becomes(&[&before], "taken back");
        assert!(points >= 4, "{points} points: is it a build for tests?");

        let mut deaths = 0;
        for point in tried(points) {
            host.die_after(point);
            let mut commands = change.to.iter();
            let acknowledged =
                commands.all(|command| host.netbpf(&words(command)).output().status.success());
            // Some is done behind the answer, and the last points may not come again.
            let died = until(Duration::from_secs(2), || host.has_died().is_some());
            let what = match host.has_died() {
                Some(at) if died => {
                    host.wait_ended();
                    host.restart();
                    deaths += 1;
                    format!("dead at point {point} of {points}, {at}")
                }
                _ => {
                    host.live_on();
                    format!("alive at point {point} of {points}")
                }
            };
            let allowed: &[&World] = match acknowledged {
                true => &[&after],
                false => &[&before, &after],
            };
            let is = self.becomes(allowed, &what);
            if acknowledged || is == 1 {
                run(host, change.back);
                self.becomes(&[&before], &format!("{what}; taken back"));
            }
            self.works(&what);
        }
        enough(deaths, points);
    }

    /// Has the daemon die at points of its start, after this was done to the host.
    #[track_caller]
    fn dies_starting(&self, damage: impl Fn(&Host)) {
        let host = self.host();
        let whole = self.settled();
        let stop = || {
            host.stop();
            damage(host);
        };
        stop();
        host.die_after(MANY);
        let left = host.restart_dying().expect("it lives");
        let points = MANY - left;
        self.becomes(&[&whole], "started");
        assert!(points >= 20, "{points} points: is it a build for tests?");
        let mut deaths = 0;
        for point in tried(points) {
            stop();
            host.die_after(point);
            let what = match host.restart_dying() {
                Err(at) => {
                    host.restart();
                    deaths += 1;
                    format!("dead at point {point} of {points}, {at}")
                }
                Ok(_) => format!("alive at point {point} of {points}"),
            };
            self.becomes(&[&whole], &what);
            self.works(&what);
        }
        enough(deaths, points);
    }
}

/// It has died at some points, at least: their number is not the same each time, and the
/// last ones may not come.
#[track_caller]
fn enough(deaths: usize, points: u64) {
    let tried = tried(points).count();
    assert!(deaths * 2 >= tried, "dead at {deaths} of {tried} points");
}

/// Of so many points those that are tried.
fn tried(points: u64) -> impl Iterator<Item = u64> {
    let all = std::env::var("NETBPF_CRASH_POINTS").is_ok_and(|value| value == "all");
    let step = match all {
        true => 1,
        false => points.div_ceil(SOME),
    };
    (0..points).step_by(step as usize)
}

/// With ports of all kinds.
fn attach_app(space: &str) -> String {
    format!(
        "attach --name app --netns {space} --network front --ip 10.10.1.20 --ip fd10:1::20 \
         -p 8081:80 -p 127.0.0.1:9000-9009:9000-9009/udp -p 40000:80 \
         -p published=8082,target=80,allow=192.0.2.0/24,allow=2001:db8:1::/64"
    )
}

#[test]
fn attaching() {
    let mut scene = Scene::new("dies_attaching");
    let space = scene.space("app");
    let attach = attach_app(&space);
    scene.dies_in(&Change {
        to: &[&attach],
        back: &["detach app"],
    });
}

#[test]
fn detaching() {
    let mut scene = Scene::new("dies_detaching");
    let space = scene.space("app");
    let attach = attach_app(&space);
    run(scene.host(), &[&attach]);
    scene.dies_in(&Change {
        to: &["detach app"],
        back: &[&attach],
    });
}

/// The one with the default route gets rules, too, and loses them.
#[test]
fn attaching_to_a_second_network() {
    let mut scene = Scene::new("dies_attaching_again");
    let space = scene.space("app");
    run(
        scene.host(),
        &[&app_on(&space, "front", "10.10.1.20", "fd10:1::20")],
    );
    scene.dies_in(&Change {
        to: &[&app_on(&space, "back", "10.10.2.20", "fd10:2::20")],
        back: &["detach app --network back"],
    });
}

/// On two networks: the default routes change hands.
#[test]
fn detaching_of_two_networks() {
    let mut scene = Scene::new("dies_handing_over");
    let space = scene.space("app");
    let front = app_on(&space, "front", "10.10.1.20", "fd10:1::20");
    run(
        scene.host(),
        &[&front, &app_on(&space, "back", "10.10.2.20", "fd10:2::20")],
    );
    let all = [
        "detach app",
        &front,
        &app_on(&space, "back", "10.10.2.20", "fd10:2::20"),
    ];
    scene.dies_in(&Change {
        to: &["detach app --network front"],
        back: &all,
    });
}

#[test]
fn publishing() {
    let scene = Scene::new("dies_publishing");
    scene.dies_in(&Change {
        to: &["publish web -p 8081:80 -p 40000-40009:9000-9009/udp \
               -p published=8082,target=80,allow=192.0.2.0/24"],
        back: &["unpublish web -p 8081:80 -p 40000-40009:9000-9009/udp -p 8082:80"],
    });
}

#[test]
fn unpublishing() {
    let scene = Scene::new("dies_unpublishing");
    let publish = "publish web -p 8081:80 -p 40000-40009:9000-9009/udp \
                   -p published=8082,target=80,allow=192.0.2.0/24";
    run(scene.host(), &[publish]);
    scene.dies_in(&Change {
        to: &["unpublish web -p 8081:80 -p 40000-40009:9000-9009/udp -p 8082:80"],
        back: &[publish],
    });
}

/// A street where `app` shares the port of `web`, or may.
fn sharing(test: &str) -> Scene {
    let mut scene = Scene::new(test);
    let space = scene.space("app");
    let attach = format!(
        "attach --name app --netns {space} --network front --ip 10.10.1.20 --ip fd10:1::20"
    );
    run(scene.host(), &[&attach]);
    let app = scene.others.last().expect("just made");
    scene.servers.push(Http::start(app, 80));
    scene
}

#[test]
fn sharing_a_port() {
    sharing("dies_sharing").dies_in(&Change {
        to: &["publish app --share -p 8080:80"],
        back: &[
            "unpublish app -p 8080:80",
            "unpublish web -p 8080:80",
            "publish web -p 8080:80",
        ],
    });
}

#[test]
fn updating() {
    let scene = sharing("dies_updating");
    run(scene.host(), &["publish app --share -p 8080:80"]);
    scene.dies_in(&Change {
        to: &["update app -p published=8080,target=80,weight=3,\
               allow=192.0.2.0/24,allow=2001:db8:1::/64"],
        back: &[
            "unpublish app -p 8080:80",
            "unpublish web -p 8080:80",
            "publish web -p 8080:80",
            "publish app --share -p 8080:80",
        ],
    });
}

#[test]
fn making_a_network() {
    let scene = Scene::new("dies_making");
    scene.dies_in(&Change {
        to: &["network create more --subnet 10.77.0.0/24 --subnet fd77::/64"],
        back: &["network rm more"],
    });
}

#[test]
fn removing_a_network() {
    let scene = Scene::new("dies_removing");
    let create = "network create more --subnet 10.77.0.0/24 --subnet fd77::/64";
    run(scene.host(), &[create]);
    scene.dies_in(&Change {
        to: &["network rm more"],
        back: &[create],
    });
}

/// Routes and addresses that the daemon is to put back.
fn undo_by_hand(host: &Host) {
    for command in [
        "route del 10.10.1.10",
        "addr del 10.10.2.1/32 dev lo",
        "-6 route del fd10:1::10",
    ] {
        host.ip(command);
    }
}

#[test]
fn starting() {
    Scene::new("dies_starting").dies_starting(undo_by_hand);
}

/// Of another object: its programs take the place of those that are there.
#[test]
fn starting_with_programs_of_its_own() {
    let scene = Scene::new("dies_replacing");
    scene.dies_starting(|host| {
        undo_by_hand(host);
        forget_object(host);
    });
}

/// The same by filters of a clsact qdisc.
#[test]
fn starting_with_programs_of_its_own_and_filters() {
    let scene = Scene::with("dies_replacing_filters", &["--as-kernel", "6.1"]);
    scene.dies_starting(forget_object);
}

/// With files that are damaged, and with none.
#[test]
fn starting_with_a_ruined_store() {
    let scene = Scene::new("dies_restoring");
    scene.dies_starting(|host| {
        for file in host.store_files() {
            fs::write(file, "garbage").expect("write a file");
        }
    });
    scene.dies_starting(|host| {
        for file in host.store_files() {
            fs::remove_file(file).expect("a file");
        }
    });
}

/// The pinned programs are of nobody knows which object.
fn forget_object(host: &Host) {
    let notes = fs::read_dir(host.bpffs().join("programs")).expect("pins");
    for note in notes.map(|entry| entry.expect("a pin").path()) {
        if note.is_dir() {
            fs::remove_dir(note).expect("a note");
        }
    }
}

/// What one who asks for changes knows of its own endpoint and network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    attached: bool,
    published: bool,
    network: bool,
}

/// Asks for one change after the other, and remembers what was acknowledged.
struct Asker {
    name: String,
    space: Namespace,
    known: Known,
    dice: u64,
}

impl Asker {
    fn draw(&mut self, of: u64) -> u64 {
        // Knuth's constants for a linear congruential generator, its upper half.
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % of
    }

    fn number(&self) -> u16 {
        let digits = self.name.trim_start_matches(char::is_alphabetic);
        digits.parse().expect("a number")
    }

    fn port(&self) -> String {
        format!("{}:80", 9000 + self.number())
    }

    /// A command, and what is true after it.
    fn next(&mut self) -> (String, Known) {
        let (name, port, was) = (self.name.clone(), self.port(), self.known.clone());
        let space = self.space.name().to_owned();
        match self.draw(4) {
            0 if !was.network => (
                format!(
                    "network create net-{name} --subnet 10.88.{}.0/24",
                    self.number()
                ),
                Known {
                    network: true,
                    ..was
                },
            ),
            0 => (
                format!("network rm net-{name}"),
                Known {
                    network: false,
                    ..was
                },
            ),
            1 if was.attached && was.published => (
                format!("unpublish {name} -p {port}"),
                Known {
                    published: false,
                    ..was
                },
            ),
            1 if was.attached => (
                format!("publish {name} -p {port}"),
                Known {
                    published: true,
                    ..was
                },
            ),
            _ if was.attached => (
                format!("detach {name}"),
                Known {
                    attached: false,
                    published: false,
                    ..was
                },
            ),
            _ => (
                format!("attach --name {name} --netns {space} --network front -p {port}"),
                Known {
                    attached: true,
                    published: true,
                    ..was
                },
            ),
        }
    }

    /// Until the daemon is gone; what was under way then.
    fn ask(&mut self, host: &Host) -> (String, Known) {
        loop {
            let (command, then) = self.next();
            let output = host.netbpf(&words(&command)).output();
            match output.status.code() {
                Some(0) => self.known = then,
                // It was dead already, or died meanwhile.
                Some(3) => return (command, then),
                other => panic!("{command}: {other:?} {output}"),
            }
        }
    }

    /// What there is of it.
    fn found(&self, host: &Host) -> Known {
        let networks: Vec<NetworkInfo> = host.json(&["network", "ls"]);
        let ports: Vec<PortOf> = host.json(&["port"]);
        let name = format!("net-{}", self.name);
        Known {
            attached: host.endpoints().iter().any(|e| e.name == self.name),
            published: ports.iter().any(|p| p.endpoint == self.name),
            network: networks.iter().any(|n| n.name == name),
        }
    }
}

#[test]
fn at_any_moment() {
    let number = |variable: &str, or: u64| {
        let value = std::env::var(variable).ok();
        value.map_or(or, |v| {
            v.parse().unwrap_or_else(|_| panic!("{variable}={v}"))
        })
    };
    let (crashes, seed) = (number("NETBPF_CRASHES", 12), number("NETBPF_CRASH_SEED", 1));
    let mut scene = Scene::new("dies_anywhen");
    let mut askers: Vec<Asker> = (1..=3_u64)
        .map(|n| {
            let name = format!("c{n}");
            scene.space(&name);
            Asker {
                space: scene.others.last().expect("just made").clone(),
                name,
                known: Known::default(),
                dice: seed * 1000 + n,
            }
        })
        .collect();
    let before = scene.settled();
    let host = scene.host();
    let mut causes: BTreeMap<String, u64> = BTreeMap::new();
    for crash in 0..crashes {
        let alive = Duration::from_millis(20 + askers[0].draw(300));
        let begun = Instant::now();
        let under_way: Vec<(String, Known)> = thread::scope(|scope| {
            let asking: Vec<_> = askers
                .iter_mut()
                .map(|asker| scope.spawn(|| asker.ask(host)))
                .collect();
            thread::sleep(alive.saturating_sub(begun.elapsed()));
            host.kill();
            asking
                .into_iter()
                .map(|asking| asking.join().expect("asked"))
                .collect()
        });
        host.restart();
        for (asker, (command, then)) in askers.iter_mut().zip(under_way) {
            let found = asker.found(host);
            assert!(
                found == asker.known || found == then,
                "crash {crash} of seed {seed}: {} knew {:?}, killed in {command:?}, found {found:?}",
                asker.name,
                asker.known
            );
            let verb = command.split(' ').next().unwrap_or_default();
            let done = if found == then { "done" } else { "not done" };
            *causes.entry(format!("{verb}, {done}")).or_default() += 1;
            asker.known = found;
        }
        scene.works("at any moment");
    }
    eprintln!("killed in: {causes:?}");
    for asker in &askers {
        if asker.known.attached {
            run(host, &[&format!("detach {}", asker.name)]);
        }
        if asker.known.network {
            run(host, &[&format!("network rm net-{}", asker.name)]);
        }
    }
    scene.becomes(&[&before], "all taken back");
}
