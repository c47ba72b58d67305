//! A network namespace with a name, and what can be done in it.

use std::{
    fmt::Debug,
    fs::File,
    io,
    net::{TcpListener, ToSocketAddrs, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use nix::sched::{CloneFlags, setns};

use super::{Cmd, SOON, next_number, sweep, until};

/// A named network namespace. A handle: cheap to clone; the lab removes it.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    role: String,
    name: String,
    path: PathBuf,
    cgroup: Mutex<Option<PathBuf>>,
}

impl Namespace {
    #[track_caller]
    pub(super) fn create(role: &str) -> Namespace {
        let name = format!("{}{}-{role}", sweep::own_prefix(), next_number());
        Cmd::new(&["ip", "netns", "add", &name]).ok();
        let space = Namespace(Arc::new(Inner {
            role: role.into(),
            path: Path::new("/run/netns").join(&name),
            name,
            cgroup: Mutex::default(),
        }));
        space.ip("link set lo up");
        space
    }

    /// What it plays: `host`, `client`, `web`.
    pub fn role(&self) -> &str {
        &self.0.role
    }

    /// Its name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The one that commands run in.
    pub fn cgroup(&self) -> Option<PathBuf> {
        self.0.cgroup.lock().unwrap().clone()
    }

    /// Commands run in this cgroup from now on.
    pub(super) fn set_cgroup(&self, cgroup: PathBuf) {
        *self.0.cgroup.lock().unwrap() = Some(cgroup);
    }

    /// A command in this namespace.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Cmd {
        let cgroup = self.cgroup();
        Cmd::new(argv)
            .within(&self.0.path)
            .cgroup(cgroup.as_deref())
    }

    /// `ip` in this namespace, arguments parted by spaces; its output.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let mut argv = vec!["ip", "-n", self.name()];
        argv.extend(arguments.split_whitespace());
        Cmd::new(&argv).ok()
    }

    /// `ip -j` in this namespace.
    #[track_caller]
    pub fn ip_json(&self, arguments: &str) -> serde_json::Value {
        let text = self.ip(&format!("-j {arguments}"));
        match text.trim() {
            "" => serde_json::Value::Array(Vec::new()),
            text => serde_json::from_str(text).unwrap_or_else(|e| panic!("ip {arguments}: {e}")),
        }
    }

    /// Gives a device addresses, without duplicate address detection, and sets
    /// it up.
    #[track_caller]
    pub fn address(&self, device: &str, addresses: &[&str]) {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.ip(&format!("addr add {address} dev {device} {nodad}"));
        }
        self.ip(&format!("link set {device} up"));
    }

    /// A route, in the place of one that is there; picks the family by the destination.
    #[track_caller]
    pub fn route(&self, destination: &str, how: &str) {
        let family = if destination.contains(':') || how.contains(':') {
            "-6"
        } else {
            "-4"
        };
        self.ip(&format!("{family} route replace {destination} {how}"));
    }

    /// Sets a sysctl of this namespace.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.enter(|| std::fs::write(&path, value))
            .unwrap_or_else(|e| panic!("sysctl {name}={value} in {}: {e}", self.name()));
    }

    /// The MAC address of a device.
    #[track_caller]
    pub fn mac(&self, device: &str) -> [u8; 6] {
        let links = self.ip_json(&format!("link show dev {device}"));
        let text = links[0]["address"].as_str().expect("a device with a MAC");
        parse_mac(text)
    }

    /// Does something in this namespace, on a thread of its own. Sockets stay
    /// in the namespace that they were made in.
    #[track_caller]
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file =
            File::open(&self.0.path).unwrap_or_else(|e| panic!("namespace {}: {e}", self.name()));
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET).expect("setns");
                    work()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A socket for datagrams, bound here.
    #[track_caller]
    pub fn bind_udp(&self, at: impl ToSocketAddrs + Debug + Sync) -> UdpSocket {
        self.bound(&format!("{at:?}/udp"), || UdpSocket::bind(&at))
    }

    /// A socket that listens here.
    #[track_caller]
    pub fn bind_tcp(&self, at: impl ToSocketAddrs + Debug + Sync) -> TcpListener {
        self.bound(&format!("{at:?}/tcp"), || TcpListener::bind(&at))
    }

    /// A port that has just been closed may be held for a moment more, by a program that
    /// another thread is about to start: forked while the port was open, it has it until
    /// its exec.
    #[track_caller]
    fn bound<T: Send>(&self, at: &str, bind: impl Fn() -> io::Result<T> + Sync) -> T {
        let mut bound = self.enter(&bind);
        until(SOON, || {
            let is_held = bound
                .as_ref()
                .is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse);
            if is_held {
                bound = self.enter(&bind);
            }
            !is_held
        });
        bound.unwrap_or_else(|e| panic!("bind {at} in {}: {e}", self.name()))
    }

    /// A runtime whose tasks are in this namespace.
    #[track_caller]
    pub fn runtime(&self) -> tokio::runtime::Runtime {
        let path = self.0.path.clone();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || {
                let file = File::open(&path).expect("the namespace");
                setns(&file, CloneFlags::CLONE_NEWNET).expect("setns");
            })
            .build()
            .expect("a runtime")
    }

    /// Removes the name; the namespace goes when nothing runs in it.
    pub fn delete(&self) {
        if self.0.path.exists() {
            _ = Cmd::new(&["ip", "netns", "del", self.name()]).output();
        }
    }

    /// Addresses, routes and neighbours.
    pub fn report(&self) -> String {
        if !self.0.path.exists() {
            return format!("---- {}: deleted\n", self.name());
        }
        let mut report = format!("---- {}\n", self.name());
        for arguments in [
            "addr",
            "rule",
            "route show table all",
            "-6 route show table all",
            "neigh",
        ] {
            let mut argv = vec!["ip", "-n", self.name()];
            argv.extend(arguments.split_whitespace());
            let text = Cmd::new(&argv).output().stdout;
            // The kernel's own entries for lo say nothing.
            let lines = text.lines().filter(|line| !line.contains("dev lo "));
            report += &format!("$ ip {arguments}\n");
            for line in lines {
                report += line;
                report.push('\n');
            }
        }
        report
    }
}

/// `aa:bb:cc:dd:ee:ff`.
#[track_caller]
pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).expect("hexadecimal"))
        .collect();
    bytes.try_into().expect("six bytes")
}
