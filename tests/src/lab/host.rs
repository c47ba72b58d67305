//! A host: a namespace with a daemon that has directories of its own.

use std::{
    fs::{self, File},
    net::IpAddr,
    ops::Deref,
    path::{Path, PathBuf},
    process::Child,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use netbpf::model::{EndpointInfo, StatusInfo};
use nix::{mount::MsFlags, sys::signal::Signal};
use serde::de::DeserializeOwned;

use super::{
    Cmd, Container, Drops, Memory, Namespace, Output, SOON, command, names::Net, sweep, until,
    within,
};

/// A later version, for tests of upgrades: `programs` has others over the same maps,
/// `layout` another layout of a map. `cargo xtask next` builds them.
pub fn next(which: &str) -> PathBuf {
    let directory = std::env::var_os("NETBPF_NEXT").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/next"),
        PathBuf::from,
    );
    let path = directory.join(which).join("netbpf");
    fs::canonicalize(&path)
        .unwrap_or_else(|e| panic!("{}: {e}: `cargo xtask next` builds it", path.display()))
}

/// The binary under test: `NETBPF_BIN`, else what `cargo build` made.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("NETBPF_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/netbpf"),
        PathBuf::from,
    );
    fs::canonicalize(&path).unwrap_or_else(|e| {
        panic!(
            "{}: {e}: build it (cargo build -p netbpf) or set NETBPF_BIN",
            path.display()
        )
    })
}

/// A host. A handle: cheap to clone; the lab ends its daemon.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    space: Namespace,
    dir: PathBuf,
    cgroup: Option<PathBuf>,
    /// Instead of [`binary`].
    binary: Mutex<Option<PathBuf>>,
    memory: Mutex<Option<Arc<Memory>>>,
    daemon: Mutex<Daemon>,
}

impl Inner {
    /// A failed test leaves the lock poisoned, and its clean-up still needs it.
    fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Daemon {
    child: Option<Child>,
    flags: Vec<String>,
}

impl Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.0.space
    }
}

impl Host {
    #[track_caller]
    pub(super) fn create(dir: &Path, space: Namespace) -> Host {
        for sub in ["state", "run", "bpffs"] {
            fs::create_dir_all(dir.join(sub)).expect("make the host's directories");
        }
        nix::mount::mount(
            Some("bpf"),
            &dir.join("bpffs"),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap_or_else(|e| panic!("cannot mount a bpffs at {}: {e}", dir.display()));
        // A machine that forwards hands that on to new namespaces.
        space.sysctl("net.ipv4.ip_forward", "0");
        space.sysctl("net.ipv6.conf.all.disable_ipv6", "0");
        let cgroup = sweep::cgroup_root().map(|root| root.join(space.name()));
        let cgroup = cgroup.filter(|path| fs::create_dir(path).is_ok());
        if let Some(path) = &cgroup {
            space.set_cgroup(path.clone());
        }
        Host(Arc::new(Inner {
            space,
            dir: dir.into(),
            cgroup,
            binary: Mutex::default(),
            memory: Mutex::default(),
            daemon: Mutex::default(),
        }))
    }

    /// Runs another netbpf on this host from now on.
    pub fn set_binary(&self, path: PathBuf) {
        *self.0.binary.lock().unwrap() = Some(path);
    }

    /// Its daemon has this much memory from its next start on.
    pub fn set_memory(&self, memory: Arc<Memory>) {
        *self.0.memory.lock().unwrap() = Some(memory);
    }

    /// What runs as netbpf on this host.
    fn binary(&self) -> PathBuf {
        let other = self.0.binary.lock().unwrap().clone();
        other.unwrap_or_else(binary)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.0.dir.join("state")
    }

    /// The files of the store: of networks, and of endpoints.
    #[track_caller]
    pub fn store_files(&self) -> [PathBuf; 2] {
        let entries = fs::read_dir(self.run_dir()).expect("the run directory");
        let mut entries = entries.map(|entry| entry.expect("an entry").path());
        let endpoints = entries.find(|path| path.extension().is_some_and(|e| e == "redb"));
        let endpoints = endpoints.expect("a store of endpoints");
        [self.state_dir().join("netbpf.redb"), endpoints]
    }

    pub fn run_dir(&self) -> PathBuf {
        self.0.dir.join("run")
    }

    pub fn bpffs(&self) -> PathBuf {
        self.0.dir.join("bpffs")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.dir.join("run/netbpf.sock")
    }

    /// The cgroup that programs of this host are in.
    pub fn cgroup(&self) -> Option<PathBuf> {
        self.0.cgroup.clone()
    }

    fn log_path(&self) -> PathBuf {
        self.0.dir.join("daemon.log")
    }

    /// What the daemons of this host have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Flags that say where this host's daemon has its things.
    pub fn directory_flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |flag: &str, path: &Path| {
            flags.push(flag.to_owned());
            flags.push(path.display().to_string());
        };
        add("--state-dir", &self.state_dir());
        add("--run-dir", &self.run_dir());
        add("--bpffs", &self.bpffs());
        add("--socket", &self.socket());
        if let Some(cgroup) = &self.0.cgroup {
            add("--cgroup", cgroup);
        }
        flags
    }

    /// Starts the daemon with these flags besides its directories; waits until
    /// it answers.
    #[track_caller]
    pub fn start(&self, flags: &[&str]) {
        // The benchmark runs it as users do.
        let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "info,netbpf=debug".into());
        self.start_logging(&log, flags);
    }

    /// The same where the daemon logs what its own settings say.
    #[track_caller]
    pub fn start_as_configured(&self, flags: &[&str]) {
        self.start_logging("", flags);
    }

    #[track_caller]
    fn spawn(&self, rust_log: &str, flags: Vec<String>) {
        let mut daemon = self.0.daemon();
        assert!(daemon.child.is_none(), "the daemon of {} runs", self.role());
        daemon.flags = flags;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("open the daemon's log");
        let command = self.daemon_command(&daemon.flags);
        let command = command.env("RUST_LOG", rust_log);
        let command = command.env("NETBPF_FAULT", &self.fault_path().display().to_string());
        daemon.child = Some(command.start(&log, &log));
    }

    #[track_caller]
    fn start_logging(&self, rust_log: &str, flags: &[&str]) {
        self.spawn(
            rust_log,
            flags.iter().map(|&flag| flag.to_owned()).collect(),
        );
        let wait = self.netbpf(&["status", "--wait", "30s"]);
        let output = wait.timeout(Duration::from_secs(35)).output();
        assert!(
            output.status.success(),
            "the daemon of {} does not answer: {output}\n-- its log\n{}",
            self.role(),
            self.log()
        );
        let mut daemon = self.0.daemon();
        let child = daemon.child.as_mut().expect("just started");
        let ended = child.try_wait().expect("our child");
        assert!(ended.is_none(), "the daemon has ended: {ended:?}");
    }

    /// The daemon as a command, for those that are expected to end. `before` is what
    /// runs it: `setpriv` and its like.
    pub fn daemon(&self, before: &[&str], flags: &[&str]) -> Cmd {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        self.daemon_command_of(before, &flags)
    }

    fn daemon_command(&self, flags: &[String]) -> Cmd {
        self.daemon_command_of(&[], flags)
    }

    fn daemon_command_of(&self, before: &[&str], flags: &[String]) -> Cmd {
        let mut argv: Vec<String> = before.iter().map(|&word| word.to_owned()).collect();
        argv.extend([self.binary().display().to_string(), "daemon".into()]);
        // What is asked for comes in place of our own.
        for flag in self.directory_flags().chunks(2) {
            if !flags.contains(&flag[0]) {
                argv.extend_from_slice(flag);
            }
        }
        argv.extend(["--node".to_owned(), self.role().to_owned()]);
        argv.extend(flags.iter().cloned());
        let memory = self.0.memory.lock().unwrap().clone();
        let command = self.run(&argv);
        command.cgroup(memory.as_ref().map(|memory| memory.cgroup()))
    }

    /// Runs the daemon where it is expected to refuse.
    #[track_caller]
    pub fn start_refused(&self, flags: &[&str]) -> Output {
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        self.daemon_command(&flags).fails()
    }

    fn fault_path(&self) -> PathBuf {
        self.0.dir.join("fault")
    }

    /// Has the daemon die once it has passed that many points (`netbpf::sys::fault`).
    pub fn die_after(&self, points: u64) {
        _ = fs::remove_file(self.fault_path().with_extension("at"));
        // Whole at once: it is read while it is written.
        let new = self.fault_path().with_extension("new");
        fs::write(&new, points.to_string()).expect("write where to die");
        fs::rename(&new, self.fault_path()).expect("say where to die");
    }

    /// Not any more; how many points were left to be passed, unless it has died.
    pub fn live_on(&self) -> Option<u64> {
        // It is empty for a moment while it is written.
        let mut left = None;
        until(Duration::from_secs(1), || {
            let text = fs::read_to_string(self.fault_path()).ok();
            left = text.as_deref().map(|text| text.trim().parse().ok());
            left.is_none_or(|number: Option<u64>| number.is_some())
        });
        fs::remove_file(self.fault_path()).ok()?;
        left.flatten()
    }

    /// Where it has died.
    pub fn has_died(&self) -> Option<String> {
        let at = fs::read_to_string(self.fault_path().with_extension("at")).ok()?;
        at.ends_with('\n').then(|| at.trim().to_owned())
    }

    pub fn pid(&self) -> Option<u32> {
        self.0.daemon().child.as_ref().map(Child::id)
    }

    /// Ends the daemon by SIGTERM; the datapath goes on.
    #[track_caller]
    pub fn stop(&self) {
        self.end(Signal::SIGTERM, Duration::from_secs(15));
    }

    /// Ends the daemon by SIGKILL.
    #[track_caller]
    pub fn kill(&self) {
        self.end(Signal::SIGKILL, Duration::from_secs(15));
    }

    /// Starts the daemon anew, with the flags of before.
    #[track_caller]
    pub fn restart(&self) {
        let flags = self.0.daemon().flags.clone();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.start(&flags);
    }

    /// Starts the daemon anew where it may die ([`Host::die_after`]): how many points were
    /// left when it was ready, or where it has died.
    #[track_caller]
    pub fn restart_dying(&self) -> Result<u64, String> {
        let flags = self.0.daemon().flags.clone();
        self.spawn("info,netbpf=debug", flags);
        let answers = || self.netbpf(&["status"]).output().status.success();
        within(SOON, "it is ready, or dead", || {
            self.has_died().is_some() || answers()
        });
        let left = self.live_on();
        // Another look, for one that is dying just now.
        if answers()
            && let Some(left) = left
        {
            return Ok(left);
        }
        let died = self.has_died().expect("it has said where it died");
        self.wait_ended();
        Err(died)
    }

    /// Waits for the daemon to end by itself.
    #[track_caller]
    pub fn wait_ended(&self) {
        self.end_with(None, Duration::from_secs(10));
    }

    #[track_caller]
    fn end(&self, signal: Signal, limit: Duration) {
        self.end_with(Some(signal), limit);
    }

    #[track_caller]
    fn end_with(&self, signal: Option<Signal>, limit: Duration) {
        let child = self.0.daemon().child.take();
        let mut child = child.expect("a running daemon");
        if let Some(signal) = signal {
            command::send_signal(child.id(), signal);
        }
        let ended = command::wait_until(&mut child, Instant::now() + limit);
        if ended.is_none() {
            _ = child.kill();
            _ = child.wait();
        }
        assert!(
            ended.is_some(),
            "the daemon of {} did not end within {limit:?} after {signal:?}",
            self.role()
        );
    }

    /// `netbpf …`, speaking to this host's daemon.
    pub fn netbpf<S: AsRef<str>>(&self, arguments: &[S]) -> Cmd {
        let mut argv = vec![
            self.binary().display().to_string(),
            "--socket".into(),
            self.socket().display().to_string(),
        ];
        argv.extend(arguments.iter().map(|s| s.as_ref().to_owned()));
        Cmd::new(&argv)
    }

    /// `netbpf -j …`: what it prints.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let output = self
            .netbpf(arguments_with_json(arguments).as_slice())
            .exits(0);
        serde_json::from_str(&output.stdout)
            .unwrap_or_else(|e| panic!("not what interface.md promises: {e}\n{output}"))
    }

    /// `netbpf -j …` that is refused with exit 1: the stable code and message.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> (String, String) {
        let output = self
            .netbpf(arguments_with_json(arguments).as_slice())
            .exits(1);
        let error: netbpf::model::ErrorBody = serde_json::from_str(output.stderr.trim())
            .unwrap_or_else(|e| panic!("not an error of one line: {e}\n{output}"));
        (error.error.code, error.error.message)
    }

    /// `netbpf teardown …` without a daemon, in the host's namespace.
    #[track_caller]
    pub fn teardown_offline(&self, flags: &[&str]) {
        let mut argv = vec![self.binary().display().to_string(), "teardown".into()];
        argv.extend(self.directory_flags());
        argv.extend(flags.iter().map(|&flag| flag.to_owned()));
        self.run(&argv).ok();
    }

    /// Adds addresses to a device, and waits until the daemon knows of them.
    #[track_caller]
    pub fn gain(&self, device: &str, addresses: &[&str]) {
        self.address(device, addresses);
        let wanted: Vec<IpAddr> = addresses
            .iter()
            .filter_map(|address| address.split('/').next()?.parse().ok())
            .collect();
        within(SOON, "the daemon knows the address", || {
            let status: StatusInfo = self.json(&["status"]);
            let mut uplinks = status.uplinks.iter();
            uplinks.any(|uplink| wanted.iter().all(|ip| uplink.addresses.contains(ip)))
        });
    }

    /// Makes a network of both families.
    #[track_caller]
    pub fn network(&self, net: &Net, flags: &[&str]) {
        let [v4, v6] = net.subnets;
        let mut arguments = vec!["network", "create", net.name];
        arguments.extend(["--subnet", v4, "--subnet", v6]);
        arguments.extend(flags);
        self.netbpf(&arguments).ok();
    }

    /// A namespace attached under this name, with these flags besides name and
    /// namespace.
    #[track_caller]
    pub fn container(&self, lab: &super::Lab, name: &str, flags: &[&str]) -> Container {
        let space = lab.space(name);
        let info = self.attach(&space, name, flags);
        Container::new(self.clone(), space, info)
    }

    /// `netbpf attach`; the endpoint that it prints.
    #[track_caller]
    pub fn attach(&self, space: &Namespace, name: &str, flags: &[&str]) -> EndpointInfo {
        let mut arguments = vec!["attach", "--name", name, "--netns", space.name()];
        arguments.extend(flags);
        self.json(&arguments)
    }

    /// The endpoints that `netbpf ps` lists.
    #[track_caller]
    pub fn endpoints(&self) -> Vec<EndpointInfo> {
        self.json(&["ps"])
    }

    /// Counters of dropped packets as they are now.
    #[track_caller]
    pub fn drops(&self) -> Drops {
        Drops::take(self)
    }

    /// Ends everything; called by the lab.
    pub(super) fn close(&self) {
        if let Some(mut child) = self.0.daemon().child.take() {
            _ = child.kill();
            _ = child.wait();
        }
        sweep::unmount_below(&self.0.dir);
        if let Some(cgroup) = &self.0.cgroup {
            sweep::clear_cgroup(cgroup);
        }
    }

    /// Log, status, drops and endpoints.
    pub(super) fn report(&self) -> String {
        let mut report = format!("---- the daemon of {}\n", self.role());
        for arguments in [
            ["-j", "status"],
            ["-q", "doctor"],
            ["-j", "drops"],
            ["-j", "ps"],
            ["-j", "port"],
        ] {
            if self.pid().is_some() {
                let output = self.netbpf(&arguments).output();
                report += &format!(
                    "$ netbpf {}\n{}{}",
                    arguments[1], output.stdout, output.stderr
                );
            }
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(200)..];
        report + "-- log\n" + &last.join("\n") + "\n"
    }
}

fn arguments_with_json<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["-j"];
    all.extend(arguments);
    all
}
