//! A containerd, spoken to by `ctr`.

use std::{ops::Deref, path::PathBuf, time::Duration};

use crate::lab::{Background, Cmd, Host, Lab, until};

use super::{Room, image};

/// A containerd that answers. Containers are run from the root directory of
/// [`image`].
pub struct Containerd {
    room: Room,
    socket: PathBuf,
    _daemon: Background,
}

impl Deref for Containerd {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl Containerd {
    #[track_caller]
    pub fn start(test: &str, lab: &Lab, host: &Host) -> Option<Containerd> {
        let room = Room::open(test, lab, host)?;
        let place = |name: &str| room.dir().join(name).display().to_string();
        let socket = room.dir().join("containerd.sock");
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
            place("containerd"),
            place("containerd-run"),
            socket.display(),
        );
        let config = room.write("containerd.toml", &config).display().to_string();
        let daemon = room
            .run(&["containerd", "--config", &config])
            .timeout(Duration::from_secs(300))
            .spawn();
        let containerd = Containerd {
            room,
            socket,
            _daemon: daemon,
        };
        let answers = || containerd.shell("ctr version").output().status.success();
        let up = until(Duration::from_secs(30), answers);
        assert!(
            up,
            "containerd does not answer:\n{}",
            containerd._daemon.stderr()
        );
        image::directory(&containerd.room);
        Some(containerd)
    }

    /// A line as it is typed by a user of this containerd.
    pub fn shell(&self, line: &str) -> Cmd {
        let address = self.socket.display().to_string();
        self.room.shell(line).env("CONTAINERD_ADDRESS", &address)
    }

    /// Runs a container of the image with a network namespace of its own.
    #[track_caller]
    pub fn run(&self, name: &str) {
        let root = self.dir().join("image").display().to_string();
        let cgroup = format!("{}/{name}", self.cgroup_name());
        let command = image::COMMAND.join(" ");
        self.shell(&format!(
            "ctr run --detach --cgroup {cgroup} --rootfs {root} {name} {command}"
        ))
        .ok();
    }
}
