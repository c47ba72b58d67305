//! etcd in a namespace: one member or several, killed, frozen, cut off and brought back.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use nix::sys::signal::Signal;

use super::{Background, Cmd, Namespace, skipped, until};

/// Where `cargo xtask test` unpacks etcd, below the tools; the newer one last.
const UNPACKED: [&str; 2] = ["engines", "engines-forky"];

/// Programs of one release of etcd.
#[derive(Clone, Debug)]
pub struct EtcdPrograms {
    server: PathBuf,
    client: PathBuf,
}

impl EtcdPrograms {
    /// Those that are here, the machine's own first; says by name which are skipped.
    pub fn each(test: &str) -> Vec<EtcdPrograms> {
        let both = [EtcdPrograms::find(test), EtcdPrograms::find_newer(test)];
        both.into_iter().flatten().collect()
    }

    /// The machine's own release; says by name what is skipped without it.
    pub fn find(test: &str) -> Option<EtcdPrograms> {
        let unpacked = tools().join(UNPACKED[0]).join("usr/bin");
        let found = of(&unpacked).or_else(|| of(Path::new("/usr/bin")));
        if found.is_none() {
            skipped(test, "etcd is not unpacked");
        }
        found
    }

    /// A newer release.
    pub fn find_newer(test: &str) -> Option<EtcdPrograms> {
        let found = of(&tools().join(UNPACKED[1]).join("usr/bin"));
        if found.is_none() {
            skipped(test, "a newer etcd is not unpacked");
        }
        found
    }
}

fn tools() -> PathBuf {
    std::env::var_os("NETBPF_TOOLS_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"),
        PathBuf::from,
    )
}

fn of(directory: &Path) -> Option<EtcdPrograms> {
    let [server, client] = ["etcd", "etcdctl"].map(|name| directory.join(name));
    (server.is_file() && client.is_file()).then_some(EtcdPrograms { server, client })
}

/// Certificates for both sides, in files.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    pub ca: PathBuf,
    pub server_cert: PathBuf,
    pub server_key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

/// A member of etcd. Killed when dropped.
pub struct Etcd {
    programs: EtcdPrograms,
    space: Namespace,
    address: String,
    dir: PathBuf,
    flags: Vec<String>,
    tls: Option<EtcdTls>,
    /// For `etcdctl`, once there are users.
    user: Mutex<Option<String>>,
    server: Mutex<Option<Background>>,
}

/// Of all members; namespaces keep them apart.
const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;

impl Etcd {
    /// The only member, at this address of the namespace; waits until it answers.
    #[track_caller]
    pub fn start_in(programs: &EtcdPrograms, space: &Namespace, dir: &Path, ip: &str) -> Etcd {
        Etcd::start_with(programs, space, dir, ip, &[])
    }

    /// The same, with further flags.
    #[track_caller]
    pub fn start_with(
        programs: &EtcdPrograms,
        space: &Namespace,
        dir: &Path,
        ip: &str,
        flags: &[&str],
    ) -> Etcd {
        let mut etcd = Etcd::member(programs, space, dir, "solo", ip, &[("solo", ip)], None);
        etcd.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        etcd.run();
        etcd.wait_healthy();
        etcd
    }

    /// The same, showing a certificate and asking for one.
    #[track_caller]
    pub fn start_secure(
        programs: &EtcdPrograms,
        space: &Namespace,
        dir: &Path,
        ip: &str,
        tls: &EtcdTls,
    ) -> Etcd {
        let tls = Some(tls.clone());
        let etcd = Etcd::member(programs, space, dir, "solo", ip, &[("solo", ip)], tls);
        etcd.run();
        etcd.wait_healthy();
        etcd
    }

    /// Members `m0`, `m1` and so on, one at each of these places.
    #[track_caller]
    pub fn start_members(
        programs: &EtcdPrograms,
        dir: &Path,
        places: &[(&Namespace, &str)],
    ) -> Vec<Etcd> {
        let names: Vec<String> = (0..places.len()).map(|n| format!("m{n}")).collect();
        let all = names.iter().zip(places);
        let peers: Vec<(&str, &str)> = all.map(|(name, (_, ip))| (name.as_str(), *ip)).collect();
        let members = peers.iter().zip(places);
        let members: Vec<Etcd> = members
            .map(|((name, ip), (space, _))| {
                Etcd::member(programs, space, dir, name, ip, &peers, None)
            })
            .collect();
        // None of them answers before there are enough.
        members.iter().for_each(Etcd::run);
        members.iter().for_each(Etcd::wait_healthy);
        members
    }

    fn member(
        programs: &EtcdPrograms,
        space: &Namespace,
        dir: &Path,
        name: &str,
        ip: &str,
        peers: &[(&str, &str)],
        tls: Option<EtcdTls>,
    ) -> Etcd {
        let address = match ip.contains(':') {
            true => format!("[{ip}]"),
            false => ip.to_owned(),
        };
        let dir = dir.join(format!("etcd-{name}"));
        fs::create_dir_all(&dir).expect("make etcd's directory");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{address}:{CLIENTS}");
        let peer = |ip: &str| match ip.contains(':') {
            true => format!("http://[{ip}]:{PEERS}"),
            false => format!("http://{ip}:{PEERS}"),
        };
        let all: Vec<String> = peers
            .iter()
            .map(|(n, ip)| format!("{n}={}", peer(ip)))
            .collect();
        let data = dir.join("data").display().to_string();
        let mut flags: Vec<String> = [
            "--name",
            name,
            "--data-dir",
            &data,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer(ip),
            "--initial-advertise-peer-urls",
            &peer(ip),
            "--initial-cluster",
            &all.join(","),
            // Members are next to each other, and power does not fail here.
            "--unsafe-no-fsync",
            "--heartbeat-interval=50",
            "--election-timeout=500",
        ]
        .map(str::to_owned)
        .to_vec();
        if let Some(tls) = &tls {
            let files = [
                ("--cert-file", &tls.server_cert),
                ("--key-file", &tls.server_key),
                ("--trusted-ca-file", &tls.ca),
            ];
            flags.extend(files.map(|(flag, file)| format!("{flag}={}", file.display())));
            flags.push("--client-cert-auth".into());
        }
        Etcd {
            programs: programs.clone(),
            space: space.clone(),
            address,
            dir,
            flags,
            tls,
            user: Mutex::default(),
            server: Mutex::default(),
        }
    }

    /// Where it runs.
    pub fn space(&self) -> &Namespace {
        &self.space
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{CLIENTS}", self.address)
    }

    #[track_caller]
    fn run(&self) {
        let mut argv = vec![self.programs.server.display().to_string()];
        argv.extend(self.flags.iter().cloned());
        let server = self.space.run(&argv).spawn();
        let before = self.server.lock().unwrap().replace(server);
        assert!(before.is_none(), "etcd runs already");
    }

    #[track_caller]
    fn wait_healthy(&self) {
        let healthy = until(Duration::from_secs(20), || {
            self.ctl_command(&["endpoint", "health"])
                .output()
                .status
                .success()
        });
        assert!(healthy, "etcd does not answer:\n{}", self.log());
    }

    pub fn log(&self) -> String {
        let server = self.server.lock().unwrap();
        server.as_ref().map_or_else(String::new, Background::stderr)
    }

    /// Ends it by SIGKILL; what it has acknowledged is on its disk.
    #[track_caller]
    pub fn kill(&self) {
        let server = self.server.lock().unwrap().take();
        drop(server.expect("etcd runs"));
    }

    /// Starts it anew where it left off; it need not answer yet.
    #[track_caller]
    pub fn start_again(&self) {
        self.run();
    }

    /// Starts it anew where it left off.
    #[track_caller]
    pub fn restart(&self) {
        self.run();
        self.wait_healthy();
    }

    /// Stops it without ending it: its connections stay, and are silent.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let server = self.server.lock().unwrap();
        server.as_ref().expect("etcd runs").signal(signal);
    }

    fn ctl_command(&self, arguments: &[&str]) -> Cmd {
        let mut argv = vec![
            self.programs.client.display().to_string(),
            format!("--endpoints={}", self.url()),
            "--command-timeout=5s".into(),
        ];
        if let Some(tls) = &self.tls {
            let files = [
                ("--cacert", &tls.ca),
                ("--cert", &tls.client_cert),
                ("--key", &tls.client_key),
            ];
            argv.extend(files.map(|(flag, file)| format!("{flag}={}", file.display())));
        }
        let user = self.user.lock().unwrap().clone();
        argv.extend(user.map(|user| format!("--user={user}")));
        argv.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.space.run(&argv).env("ETCDCTL_API", "3")
    }

    /// `etcdctl …`: what it prints.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_command(arguments).ok()
    }

    /// `etcdctl` shows this from now on: `NAME:PASSWORD`.
    pub fn use_user(&self, user: &str) {
        *self.user.lock().unwrap() = Some(user.into());
    }

    /// Keys below a prefix.
    #[track_caller]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self.ctl(&["get", "--prefix", "--keys-only", prefix]);
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    }

    #[track_caller]
    fn status(&self) -> serde_json::Value {
        let text = self.ctl(&["endpoint", "status", "--write-out=json"]);
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON of etcdctl");
        all[0]["Status"].clone()
    }

    #[track_caller]
    pub fn revision(&self) -> i64 {
        let revision = &self.status()["header"]["revision"];
        revision.as_i64().expect("a revision")
    }

    #[track_caller]
    pub fn is_leader(&self) -> bool {
        let status = self.status();
        status["leader"] == status["header"]["member_id"]
    }

    /// Forgets all revisions before the present one.
    #[track_caller]
    pub fn compact(&self) {
        self.ctl(&["compact", &self.revision().to_string()]);
    }

    /// A copy of all that it holds.
    #[track_caller]
    pub fn snapshot(&self, name: &str) -> PathBuf {
        let file = self.dir.join(name);
        self.ctl(&["snapshot", "save", &file.display().to_string()]);
        file
    }

    /// Kills it and starts it with what that copy holds.
    #[track_caller]
    pub fn restore(&self, snapshot: &Path) {
        self.kill();
        let data = self.dir.join("data");
        fs::remove_dir_all(&data).expect("remove etcd's data");
        let flag = |name: &str| {
            let place = self
                .flags
                .iter()
                .position(|flag| flag == name)
                .expect("a flag");
            format!("{name}={}", self.flags[place + 1])
        };
        // The newer releases have a program of its own for it.
        let apart = self.programs.client.with_file_name("etcdutl");
        let program = match apart.is_file() {
            true => apart,
            false => self.programs.client.clone(),
        };
        let argv = [
            program.display().to_string(),
            "snapshot".into(),
            "restore".into(),
            snapshot.display().to_string(),
            flag("--name"),
            flag("--data-dir"),
            flag("--initial-cluster"),
            flag("--initial-advertise-peer-urls"),
        ];
        Cmd::new(&argv).env("ETCDCTL_API", "3").ok();
        self.restart();
    }
}
