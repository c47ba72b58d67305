//! runc, without an engine: it runs bundles.

use std::{fs, ops::Deref};

use crate::lab::{Cmd, Host, Lab, binary, cgroups};

use super::{Room, image};

/// The bundle that we give to users, but for its root directory.
const CONFIG: &str = include_str!("../../../packaging/oci/config.json");

/// A room with bundles whose root directory is that of [`image`].
pub struct Runc {
    room: Room,
}

impl Deref for Runc {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl Runc {
    #[track_caller]
    pub fn start(test: &str, lab: &Lab, host: &Host) -> Option<Runc> {
        let room = Room::open(test, lab, host)?;
        image::directory(&room);
        Some(Runc { room })
    }

    /// A bundle with these annotations, whose hooks are this build's netbpf and speak to
    /// the host's daemon.
    #[track_caller]
    pub fn bundle(&self, name: &str, annotations: serde_json::Value) {
        let mut config: serde_json::Value = serde_json::from_str(CONFIG).expect("the example");
        let socket = self.host.socket().display().to_string();
        for hook in ["createRuntime", "poststop"] {
            let hook = &mut config["hooks"][hook][0];
            hook["path"] = binary().display().to_string().into();
            let args = hook["args"].as_array_mut().expect("arguments");
            args.extend(["--socket".into(), socket.clone().into()]);
        }
        config["root"]["path"] = self.dir().join("image").display().to_string().into();
        let cgroup = format!("{}/{name}", self.cgroup_name());
        config["linux"]["cgroupsPath"] = cgroup.into();
        if !annotations.is_null() {
            config["annotations"] = annotations;
        }
        self.write(&format!("{name}/config.json"), &config.to_string());
    }

    /// A line of runc.
    pub fn runc(&self, line: &str) -> Cmd {
        let state = self.dir().join("runc").display().to_string();
        self.shell(&format!("runc --root {state} {line}"))
    }

    /// Runs a bundle behind our back.
    pub fn run(&self, name: &str) -> Cmd {
        let bundle = self.dir().join(name).display().to_string();
        // What it leaves open would keep the test waiting.
        let log = self.dir().join(format!("{name}.log")).display().to_string();
        self.runc(&format!(
            "run --detach --bundle {bundle} {name} </dev/null >{log} 2>&1 || {{ cat {log} >&2; exit 1; }}"
        ))
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        let state = self.dir().join("runc");
        for container in fs::read_dir(&state).into_iter().flatten().flatten() {
            let name = container.file_name().to_string_lossy().into_owned();
            _ = self.runc(&format!("delete --force {name}")).output();
        }
        // Of hierarchies that the room's does not lie in.
        for cgroup in cgroups(&self.cgroup_name()) {
            _ = fs::remove_dir(cgroup);
        }
    }
}
