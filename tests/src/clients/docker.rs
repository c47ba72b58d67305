//! A dockerd with a containerd of its own.

use std::{ops::Deref, path::PathBuf, time::Duration};

use crate::lab::{Background, Cmd, Host, Lab, until};

use super::{Room, image};

/// A dockerd that answers, with an image `nginx` that is not nginx.
pub struct Docker {
    room: Room,
    socket: PathBuf,
    _daemon: Background,
}

impl Deref for Docker {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl Docker {
    #[track_caller]
    pub fn start(test: &str, lab: &Lab, host: &Host) -> Option<Docker> {
        Docker::start_with("--live-restore", test, lab, host)
    }

    /// One that can be of a swarm, which it cannot where containers outlive it.
    #[track_caller]
    pub fn start_for_swarm(test: &str, lab: &Lab, host: &Host) -> Option<Docker> {
        Docker::start_with("--live-restore=false", test, lab, host)
    }

    #[track_caller]
    fn start_with(flag: &str, test: &str, lab: &Lab, host: &Host) -> Option<Docker> {
        let room = Room::open(test, lab, host)?;
        // Its containerd makes a directory for further programs.
        room.shadow("/opt");
        let place = |name: &str| room.dir().join(name).display().to_string();
        let socket = room.dir().join("docker.sock");
        let config = room.write("docker.json", "{}").display().to_string();
        let daemon = room
            .run(&[
                "dockerd",
                "--config-file",
                &config,
                "--data-root",
                &place("docker"),
                "--exec-root",
                &place("docker-run"),
                "--pidfile",
                &place("docker.pid"),
                "--host",
                &format!("unix://{}", socket.display()),
                "--cgroup-parent",
                &room.cgroup_name(),
                "--storage-driver=overlay2",
                flag,
                "--iptables=false",
                "--bridge=none",
                "--userland-proxy=false",
            ])
            .timeout(Duration::from_secs(300))
            .spawn();
        let docker = Docker {
            room,
            socket,
            _daemon: daemon,
        };
        let answers = || docker.shell("docker version").output().status.success();
        let up = until(Duration::from_secs(30), answers);
        assert!(up, "dockerd does not answer:\n{}", docker._daemon.stderr());
        image::import(&docker.room, "docker", |line| docker.shell(line));
        Some(docker)
    }

    /// A line as it is typed by a user of this dockerd.
    pub fn shell(&self, line: &str) -> Cmd {
        let host = format!("unix://{}", self.socket.display());
        self.room.shell(line).env("DOCKER_HOST", &host)
    }
}
