//! A containerd, spoken to by `ctr`.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::lab::{Background, Cmd, Host, Lab, until, within};

use super::{Room, image};

/// A containerd that answers. Containers are run from the root directory of
/// [`image`].
pub struct Containerd {
    room: Room,
    socket: PathBuf,
    config: String,
    daemon: Mutex<Background>,
}

impl Deref for Containerd {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl Containerd {
    /// One without CRI, for `ctr`.
    #[track_caller]
    pub fn start(test: &str, lab: &Lab, host: &Host) -> Option<Containerd> {
        let room = Room::open(test, lab, host)?;
        image::directory(&room);
        let no_cri = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        Some(Containerd::launch(room, no_cri))
    }

    /// Starts it with these settings besides its directories, their version first; waits
    /// until it answers.
    #[track_caller]
    pub(super) fn launch(room: Room, settings: &str) -> Containerd {
        let place = |name: &str| room.dir().join(name).display().to_string();
        let socket = room.dir().join("containerd.sock");
        // Its directory for further programs would be made in /opt.
        let config = format!(
            "root = \"{}\"\nstate = \"{}\"\n{settings}\
             [grpc]\naddress = \"{}\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n",
            place("containerd"),
            place("containerd-run"),
            socket.display(),
            place("containerd-opt"),
        );
        let config = room.write("containerd.toml", &config).display().to_string();
        let containerd = Containerd {
            daemon: Mutex::new(run(&room, &config)),
            room,
            socket,
            config,
        };
        containerd.wait();
        containerd
    }

    #[track_caller]
    fn wait(&self) {
        let answers = || self.shell("ctr version").output().status.success();
        let up = until(Duration::from_secs(30), answers);
        assert!(up, "containerd does not answer:\n{}", self.log());
    }

    /// `kill -9`, and another one in its place; containers go on.
    #[track_caller]
    pub fn kill_and_start(&self) {
        let mut daemon = self.daemon.lock().expect("nobody panicked");
        daemon.signal(Signal::SIGKILL);
        within(Duration::from_secs(5), "it is gone", || {
            !daemon.is_running()
        });
        *daemon = run(&self.room, &self.config);
        drop(daemon);
        self.wait();
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.daemon.lock().expect("nobody panicked").stderr()
    }

    /// A line as it is typed by a user of this containerd.
    pub fn shell(&self, line: &str) -> Cmd {
        let address = self.socket.display().to_string();
        self.room.shell(line).env("CONTAINERD_ADDRESS", &address)
    }

    /// Runs a container of the image with a network namespace of its own.
    #[track_caller]
    pub fn run(&self, name: &str) {
        self.run_with(name, "");
    }

    /// The same with a flag.
    #[track_caller]
    pub fn run_with(&self, name: &str, flag: &str) {
        let root = self.dir().join("image").display().to_string();
        let cgroup = format!("{}/{name}", self.cgroup_name());
        let command = image::COMMAND.join(" ");
        self.shell(&format!(
            "ctr run --detach {flag} --cgroup {cgroup} --rootfs {root} {name} {command}"
        ))
        .ok();
    }
}

#[track_caller]
fn run(room: &Room, config: &str) -> Background {
    room.run(&["containerd", "--config", config])
        .timeout(Duration::from_secs(300))
        .spawn()
}
