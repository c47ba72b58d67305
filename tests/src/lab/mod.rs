//! Hosts, wires and containers as network namespaces.
//!
//! A [`Lab`] owns everything that a test makes and removes it on drop, after a
//! panic too; what a killed test run left behind is removed by the next one.
//! A failing test prints the daemon's log, its status and drops, and the
//! addresses and routes of every namespace.

mod api;
mod command;
mod container;
mod crowd;
mod drops;
mod etcd;
mod flood;
mod frames;
mod host;
mod knocks;
mod membership;
mod memory;
pub mod names;
mod namespace;
mod probe;
mod pulse;
mod runtime;
mod server;
mod settings;
mod sweep;
mod town;
mod traffic;
mod tunnel;
mod wait;
mod world;

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicU32, Ordering},
    },
};

pub use api::{Answer, call};
pub use command::{Background, Cmd, Output, Refusal, words};
pub use container::{Container, address_of};
pub use crowd::Crowd;
pub use drops::Drops;
pub use etcd::{Etcd, EtcdPrograms, EtcdTls};
pub use flood::Flood;
pub use frames::Wiretap;
pub use host::{Host, binary, next};
pub use knocks::Knocks;
pub use membership::Membership;
pub use memory::Memory;
pub use namespace::{Namespace, parse_mac};
pub use probe::{Heard, Held};
pub use pulse::Pulse;
pub use runtime::{Runtime, Told};
pub use server::{Http, TcpEcho, UdpEcho};
pub use settings::{Settings, firewall, sysctls};
pub use sweep::{cgroups, clear_cgroup, remove_empty_cgroups, remove_of, remove_stale};
pub use town::{LEASE, Town};
pub use traffic::{Family, Ping, Seen, answer_of, ask, ask_with, refuses, url};
pub use tunnel::Tunnel;
pub use wait::{SOON, until, within};
pub use world::World;

/// Numbers labs and namespaces of this process.
static NEXT: AtomicU32 = AtomicU32::new(1);

fn next_number() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Everything that a test has made.
pub struct Lab {
    test: String,
    dir: PathBuf,
    hosts: Mutex<Vec<Host>>,
    spaces: Mutex<Vec<Namespace>>,
    tunnels: Mutex<Vec<Arc<Tunnel>>>,
}

impl Lab {
    /// An empty lab.
    #[track_caller]
    pub fn new(test: &str) -> Lab {
        static SWEEP: Once = Once::new();
        assert!(
            nix::unistd::geteuid().is_root(),
            "the lab makes network namespaces: run the tests as root (cargo xtask test does)"
        );
        SWEEP.call_once(remove_stale);
        let dir = std::env::temp_dir().join(format!("{}{}", sweep::own_prefix(), next_number()));
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        Lab {
            test: test.into(),
            dir,
            hosts: Mutex::default(),
            spaces: Mutex::default(),
            tunnels: Mutex::default(),
        }
    }

    /// A directory of the lab's own.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A namespace with `lo` up and nothing else: a client, a router.
    #[track_caller]
    pub fn space(&self, role: &str) -> Namespace {
        let space = Namespace::create(role);
        self.spaces.lock().unwrap().push(space.clone());
        space
    }

    /// A host: a namespace with directories of its own, for a daemon that
    /// [`Host::start`] starts.
    #[track_caller]
    pub fn host(&self, role: &str) -> Host {
        let host = Host::create(&self.dir.join(role), self.space(role));
        self.hosts.lock().unwrap().push(host.clone());
        host
    }

    /// A veth pair between two namespaces, up, with these addresses.
    #[track_caller]
    pub fn wire(&self, one: (&Namespace, &str, &[&str]), other: (&Namespace, &str, &[&str])) {
        one.0.ip(&format!(
            "link add {} type veth peer name {} netns {}",
            one.1,
            other.1,
            other.0.name()
        ));
        for (space, device, addresses) in [one, other] {
            space.sysctl(&format!("net.ipv6.conf.{device}.accept_dad"), "0");
            space.address(device, addresses);
        }
        // Until the kernel has noticed the carrier, IPv6 has no routes there.
        for (space, device, _) in [one, other] {
            within(SOON, "the wire is up", || {
                let links = space.ip_json(&format!("link show dev {device}"));
                links[0]["operstate"] == "UP"
            });
        }
    }

    /// A pair of tun devices whose packets a thread carries to and fro.
    #[track_caller]
    pub fn tunnel(
        &self,
        one: (&Namespace, &str, &[&str]),
        other: (&Namespace, &str, &[&str]),
    ) -> Arc<Tunnel> {
        let tunnel = Arc::new(Tunnel::start((one.0, one.1), (other.0, other.1)));
        for (space, device, addresses) in [one, other] {
            space.address(device, addresses);
        }
        self.tunnels.lock().unwrap().push(tunnel.clone());
        tunnel
    }

    /// What a person who looks for the cause wants to see first.
    pub fn report(&self) -> String {
        let mut report = format!("---- the lab of {}\n", self.test);
        for host in self.hosts.lock().unwrap().iter() {
            report += &host.report();
        }
        for space in self.spaces.lock().unwrap().iter() {
            report += &space.report();
        }
        report
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        self.tunnels.lock().unwrap().clear();
        for host in self.hosts.lock().unwrap().iter() {
            host.close();
        }
        for space in self.spaces.lock().unwrap().iter() {
            space.delete();
        }
        _ = fs::remove_dir_all(&self.dir);
    }
}

/// The smallest town: a host with a running daemon and a client, one wire.
///
/// ```text
///   host  up0 192.0.2.1 2001:db8:1::1 ──── eth0 192.0.2.2 2001:db8:1::2  client
/// ```
pub struct Street {
    pub host: Host,
    pub client: Namespace,
    pub lab: Lab,
}

/// A [`Street`] whose daemon runs with these flags besides the usual ones.
#[track_caller]
pub fn street_with(test: &str, flags: &[&str]) -> Street {
    let street = street_without_daemon(test);
    street.host.start(flags);
    street
}

/// A [`Street`].
#[track_caller]
pub fn street(test: &str) -> Street {
    street_with(test, &[])
}

/// A [`Street`] with the networks `front` and `back`, open and dual-stack.
#[track_caller]
pub fn street_with_networks(test: &str, flags: &[&str]) -> Street {
    let street = street_with(test, flags);
    street.host.network(&names::FRONT, &[]);
    street.host.network(&names::BACK, &[]);
    street
}

impl Street {
    /// A container on the network `front`, with further flags.
    #[track_caller]
    pub fn front(&self, name: &str, flags: &[&str]) -> Container {
        self.on("front", name, flags)
    }

    /// A container on the network `back`, with further flags.
    #[track_caller]
    pub fn back(&self, name: &str, flags: &[&str]) -> Container {
        self.on("back", name, flags)
    }

    #[track_caller]
    fn on(&self, network: &str, name: &str, flags: &[&str]) -> Container {
        let mut all = vec!["--network", network];
        all.extend(flags);
        self.host.container(&self.lab, name, &all)
    }
}

/// A [`Street`] whose daemon is not started yet.
#[track_caller]
pub fn street_without_daemon(test: &str) -> Street {
    let lab = Lab::new(test);
    let host = lab.host("host");
    let client = lab.space("client");
    lab.wire(
        (&host, "up0", &names::HOST_WIRE),
        (&client, "eth0", &names::CLIENT_WIRE),
    );
    Street { host, client, lab }
}

/// Whether all tools are there; says by name what is skipped when not.
pub fn has_tools(test: &str, tools: &[&str]) -> bool {
    let paths = std::env::var("PATH").unwrap_or_default();
    let found = |tool: &&&str| std::env::split_paths(&paths).any(|dir| dir.join(tool).is_file());
    match tools.iter().find(|tool| !found(tool)) {
        Some(tool) => {
            skipped(test, &format!("{tool} is not installed"));
            false
        }
        None => true,
    }
}

/// Says that a test, or a part of it, is left out; not captured by the harness.
pub fn skipped(test: &str, why: &str) {
    _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}
