//! The machine's own Debian as a root directory that may be written to: an overlay of
//! it in namespaces of its own, with the network of a host of the lab. dpkg runs there
//! as on a machine; what it has written lies in the upper directory.
//!
//! ```text
//!   /  (read)  ──┐
//!                ├── overlay ── chroot: own mounts, processes, /run, bpffs, cgroup
//!   upper (tmpfs)┘
//! ```

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::lab::{Background, Cmd, Host, Lab, has_tools, skipped, within};

/// Where it is mounted, in its own mount namespace.
const MOUNTS: &str = r#"
    mount -t tmpfs -o mode=755 debian $1
    mkdir $1/upper $1/work $1/root
    mount -t overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work overlay $1/root
    cd $1/root
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    mount -t bpf bpf sys/fs/bpf
    [ "$2" = none ] || mount -t cgroup2 cgroup sys/fs/cgroup
    mount --rbind /dev dev
    mount -t tmpfs -o mode=755 run run
    mount -t tmpfs -o mode=1777 tmp tmp
    mkdir -p run/bin run/netns run/systemd/system
    echo ready
    # The shell takes in whom nobody else waits for.
    exec chroot . sh -c 'sleep infinity & wait'
"#;

/// Stands for systemd, of which a package wants little: to run the daemon, or not.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$@" >>/run/systemctl.log
stop() {
    [ ! -e /run/daemon.pid ] || kill "$(cat /run/daemon.pid)" || true
    # Of a daemon that ends by itself, or of systemd's own: it goes in any case.
    while [ -e "/proc/$(cat /run/daemon.pid 2>/dev/null || echo none)" ]; do sleep 0.05; done
    rm -f /run/netbpf/netbpf.sock /run/daemon.pid
}
start() {
    # As a drop-in would have it.
    netbpf daemon $(cat /run/daemon.flags 2>/dev/null) >>/run/daemon.log 2>&1 </dev/null &
    echo $! >/run/daemon.pid
    netbpf status --wait 10s >/dev/null
}
case " $* " in
*" is-enabled "*) echo enabled ;;
*" is-active "*) [ -e /run/daemon.pid ] ;;
*" start netbpf.service "*) start ;;
*" stop "*) stop ;;
*" restart netbpf.service "*) stop; start ;;
esac
"#;

/// Files that dpkg, and what it calls, keep for themselves.
const KEPT_BY_OTHERS: [&str; 8] = [
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "var/backups",
    "var/cache",
    "var/lib/dpkg",
    "var/log",
];

/// A running root directory. It and all that runs in it end with this.
pub struct Root {
    host: Host,
    dir: PathBuf,
    holder: Background,
    /// Its first process, as seen from here.
    first: String,
}

impl Root {
    /// On this host; None, and said, where the machine has not what it needs.
    #[track_caller]
    pub fn open(test: &str, lab: &Lab, host: &Host) -> Option<Root> {
        if !has_tools(test, &["dpkg", "strip", "deb-systemd-invoke", "unshare"]) {
            return None;
        }
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let modprobe = Cmd::new(&["sh", "-c", "modprobe overlay"]);
        if !filesystems.contains("overlay") && !modprobe.output().status.success() {
            skipped(test, "the kernel has no overlayfs");
            return None;
        }
        let dir = lab.dir().join("debian");
        fs::create_dir(&dir).expect("make the root's directory");
        let unshare = ["unshare", "--mount", "--pid", "--cgroup", "--fork"];
        let rest = ["--kill-child", "--propagation", "private", "sh", "-ec"];
        let dir_name = dir.display().to_string();
        // Without one of the host's own it would be the machine's.
        let cgroup = host.cgroup().map_or("none", |_| "own");
        let argv = [&unshare[..], &rest, &[MOUNTS, "sh", &dir_name, cgroup]].concat();
        let holder = host.run(&argv).timeout(Duration::from_secs(600)).spawn();
        let pid = holder.pid();
        within(Duration::from_secs(10), "the root is mounted", || {
            holder.stdout().contains("ready")
        });
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let first = children.unwrap_or_default().trim().to_owned();
        within(
            Duration::from_secs(10),
            "its first process is in it",
            || {
                fs::read_link(format!("/proc/{first}/root"))
                    .is_ok_and(|root| root.ends_with("root"))
            },
        );
        let root = Root {
            host: host.clone(),
            dir,
            holder,
            first,
        };
        root.write("run/bin/systemctl", SYSTEMCTL);
        root.write("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n");
        // What a developer may have here.
        root.shell(
            "dpkg -P netbpf; rm -rf /etc/netbpf /var/lib/netbpf; groupdel netbpf; \
             rm -f /usr/local/bin/netbpf /run/systemctl.log",
        )
        .output();
        Some(root)
    }

    /// A command in it.
    pub fn run<S: AsRef<str>>(&self, argv: &[S]) -> Cmd {
        let mut all = vec!["nsenter".to_owned(), format!("--target={}", self.first)];
        let spaces = ["--mount", "--pid", "--net", "--cgroup", "--root", "--wd"];
        all.extend(spaces.map(str::to_owned));
        let search = "/run/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        all.extend(["env".to_owned(), "-i".into(), format!("PATH={search}")]);
        all.push("DEBIAN_FRONTEND=noninteractive".into());
        all.extend(argv.iter().map(|word| word.as_ref().to_owned()));
        self.host.run(&all).timeout(Duration::from_secs(60))
    }

    /// Lines as they are typed.
    pub fn shell(&self, line: &str) -> Cmd {
        self.run(&["sh", "-c", line])
    }

    /// Whether services may be started and stopped.
    pub fn set_policy(&self, exit: u8) {
        self.write("usr/sbin/policy-rc.d", &format!("#!/bin/sh\nexit {exit}\n"));
    }

    /// What systemd was asked to do, since this was asked last, about what runs.
    #[track_caller]
    pub fn asked(&self) -> Vec<String> {
        let log = self.path("run/systemctl.log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        _ = fs::remove_file(log);
        let words = |line: &str| {
            let words = line.split(' ').filter(|word| !word.starts_with("--"));
            words.collect::<Vec<_>>().join(" ")
        };
        let about_files = |line: &String| {
            let verbs = ["is-enabled", "is-active", "preset"];
            verbs.iter().any(|verb| line.starts_with(verb))
        };
        let lines = text.lines().map(words);
        lines.filter(|line| !about_files(line)).collect()
    }

    /// A path of it as seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc")
            .join(&self.first)
            .join("root")
            .join(inside.trim_start_matches('/'))
    }

    #[track_caller]
    fn write(&self, inside: &str, script: &str) {
        let path = self.path(inside);
        fs::write(&path, script).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Cmd::new(&["chmod", "755", &path.display().to_string()]).ok();
    }

    /// What was written, and is not as it lies below: path and what it is now.
    #[track_caller]
    pub fn changes(&self) -> BTreeMap<PathBuf, String> {
        let inside = format!("/proc/{}/root", self.holder.pid());
        let dir = self.dir.strip_prefix("/").expect("an absolute path");
        let upper = Path::new(&inside).join(dir).join("upper");
        let mut changes = BTreeMap::new();
        collect(&upper, &upper, &mut changes);
        changes
    }
}

fn collect(upper: &Path, directory: &Path, changes: &mut BTreeMap<PathBuf, String>) {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        let name = path.strip_prefix(upper).expect("below it");
        if KEPT_BY_OTHERS.iter().any(|kept| name.starts_with(kept)) {
            continue;
        }
        if let Some(change) = change(&path, &Path::new("/").join(name)) {
            changes.insert(name.into(), change);
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(upper, &path, changes);
        }
    }
}

/// What became of a file of the machine; None when it is as it was.
fn change(now: &Path, before: &Path) -> Option<String> {
    let meta = fs::symlink_metadata(now).expect("it is listed");
    let old = fs::symlink_metadata(before).ok();
    if meta.file_type().is_char_device() && meta.rdev() == 0 {
        return old.map(|_| "removed".to_owned());
    }
    let Some(old) = old else {
        return Some("made".to_owned());
    };
    let rights = |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.gid());
    let same = rights(&meta) == rights(&old)
        && match () {
            () if meta.is_dir() => true,
            () if meta.is_symlink() => fs::read_link(now).ok() == fs::read_link(before).ok(),
            () => fs::read(now).ok() == fs::read(before).ok(),
        };
    (!same).then(|| "changed".to_owned())
}
