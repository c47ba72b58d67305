//! Where an engine runs: the network of a host of the lab, mounts of its own, and a
//! cgroup below the host's, which everything that the engine starts stays in.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::lab::{Background, Cmd, Host, Lab, binary, clear_cgroup, skipped, within};

use super::{Debian, Packages};

/// Files of `/etc` that engines read.
const ETC: [&str; 5] = ["passwd", "group", "nsswitch.conf", "hosts", "protocols"];

/// A running room; its engine and all containers end with it.
pub struct Room {
    pub host: Host,
    pub packages: Packages,
    dir: PathBuf,
    cgroup: PathBuf,
    /// Holds the mounts, so that they outlive a daemon.
    holder: Background,
}

impl Room {
    /// A room on this host; None, and said, where the machine has not what it needs.
    #[track_caller]
    pub fn open(test: &str, lab: &Lab, host: &Host) -> Option<Room> {
        Room::of(Debian::Own, test, lab, host)
    }

    /// One with the engines of this Debian. Where it is another than the machine's, all
    /// that runs in the room has its libraries.
    #[track_caller]
    pub fn of(debian: Debian, test: &str, lab: &Lab, host: &Host) -> Option<Room> {
        let packages = Packages::find(test, debian)?;
        let Some(cgroup) = host.cgroup().map(|cgroup| cgroup.join("engine")) else {
            skipped(test, "no cgroup v2");
            return None;
        };
        fs::create_dir_all(&cgroup).expect("make the room's cgroup");
        let dir = lab.dir().join(format!("{}-room", host.role()));
        let etc = dir.join("etc");
        fs::create_dir_all(&etc).expect("make the room's directories");
        for name in ETC {
            // What the machine has not, engines do without.
            _ = fs::copy(Path::new("/etc").join(name), etc.join(name));
        }
        // Engines start others with an environment of their own, which has no
        // LD_LIBRARY_PATH: so all that run here find the libraries by themselves.
        let libraries = dir.join("ld.so.conf");
        let list = format!("{}\ninclude /etc/ld.so.conf\n", packages.libraries());
        fs::write(&libraries, list).expect("write the list of libraries");
        let cache = etc.join("ld.so.cache").display().to_string();
        let ldconfig = [
            "ldconfig",
            "-X",
            "-f",
            &libraries.display().to_string(),
            "-C",
            &cache,
        ];
        Cmd::new(&ldconfig).ok();
        // awk and its like are links that lead there.
        let etc_name = etc.display();
        let usr = packages.over_usr().map_or(String::new(), |newer| {
            let newer = newer.display();
            format!("mount -t overlay -o lowerdir={newer}:/usr overlay /usr && ")
        });
        let script = format!(
            "{usr}{{ [ ! -d /etc/alternatives ] || cp -a /etc/alternatives {etc_name}/; }} && \
             mount -t tmpfs run /run && mkdir -p /run/netns /run/docker/plugins && \
             mount --bind {etc_name} /etc && echo ready && exec sleep infinity"
        );
        let holder = host
            .run(&[
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &script,
            ])
            .cgroup(Some(&cgroup))
            .spawn();
        within(Duration::from_secs(5), "the room has its mounts", || {
            holder.stdout().contains("ready")
        });
        Some(Room {
            host: host.clone(),
            packages,
            dir,
            cgroup,
            holder,
        })
    }

    /// A directory of the room's, which is there inside and outside.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its `/etc`, as seen from outside.
    pub fn etc(&self) -> PathBuf {
        self.dir.join("etc")
    }

    /// The cgroup of the room as engines name it: from the root.
    #[track_caller]
    pub fn cgroup_name(&self) -> String {
        let role = self.cgroup.parent().and_then(Path::file_name);
        let role = role.expect("below the host's").to_string_lossy();
        format!("/{role}/engine")
    }

    /// Writes a file below the room's directory; its path.
    #[track_caller]
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.join(name);
        let parent = path.parent().expect("it lies in the room");
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, content))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// Lays a directory of ours over one of the machine's that exists.
    #[track_caller]
    pub fn over(&self, ours: &Path, theirs: &str) {
        let ours = ours.display().to_string();
        self.run(&["mount", "--bind", &ours, theirs]).ok();
    }

    /// Lets what is written below a directory of the machine's stay in the room.
    #[track_caller]
    pub fn shadow(&self, theirs: &str) {
        let own = self.dir.join("shadow").join(theirs.trim_start_matches('/'));
        let [upper, work] = ["upper", "work"].map(|name| own.join(name));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).expect("make the room's directories");
        }
        let options = format!(
            "lowerdir={theirs},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        self.run(&["mount", "-t", "overlay", "-o", &options, "overlay", theirs])
            .ok();
    }

    /// A command in the room, which finds the engines' programs, this build's netbpf
    /// and the host's daemon.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Cmd {
        let netbpf = binary();
        let directory = netbpf.parent().expect("a file").display();
        let mut all = vec![
            "nsenter".to_owned(),
            format!("--target={}", self.holder.pid()),
            "--mount".to_owned(),
            "--wd=/".to_owned(),
            "env".to_owned(),
            format!("PATH={directory}:{}", self.packages.search_path()),
            format!("NETBPF_SOCKET={}", self.host.socket().display()),
        ];
        all.extend(argv.iter().map(|word| word.as_ref().to_owned()));
        let command = self.host.run(&all).cgroup(Some(&self.cgroup));
        command.timeout(Duration::from_secs(30))
    }

    /// Lines as they are typed.
    pub fn shell(&self, line: &str) -> Cmd {
        self.run(&["sh", "-ec", line])
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        clear_cgroup(&self.cgroup);
    }
}
