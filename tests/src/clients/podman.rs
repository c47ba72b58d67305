//! Podman, which has no daemon; conmon watches each container.

use std::ops::Deref;

use crate::lab::{Host, Lab, remove_empty_cgroups};

use super::{Room, image, plugins};

/// Podman with directories of its own, and an image `nginx` that is not nginx.
pub struct Podman {
    room: Room,
}

impl Deref for Podman {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl Podman {
    #[track_caller]
    pub fn start(test: &str, lab: &Lab, host: &Host) -> Option<Podman> {
        let room = Room::open(test, lab, host)?;
        // libcni notes there what plug-ins answered.
        room.shadow("/var/lib");
        let podman = Podman { room };
        podman.configure();
        image::import(&podman.room, "podman", |line| podman.room.shell(line));
        Some(podman)
    }

    fn configure(&self) {
        let program = |name: &str| self.packages.program(name).display().to_string();
        let place = |name: &str| self.dir().join(name).display().to_string();
        // crun wants cgroup v2 alone; conmon stays in the room's cgroup.
        let engine = format!(
            "[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"file\"\nruntime=\"runc\"\n\
             conmon_path=[\"{}\"]\n[engine.runtimes]\nrunc=[\"{}\"]\n[containers]\n\
             cgroups=\"no-conmon\"\ndefault_ulimits=[\"nofile=1024:4096\",\"nproc=4096:4096\"]\n\
             [network]\nnetwork_backend=\"cni\"\ncni_plugin_dirs=[\"{}\"]\n",
            program("conmon"),
            program("runc"),
            plugins::lay_out(self).display(),
        );
        let storage = format!(
            "[storage]\ndriver=\"overlay\"\ngraphroot=\"{}\"\nrunroot=\"{}\"\n",
            place("podman"),
            place("podman-run"),
        );
        let trust = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        self.write("etc/containers/containers.conf", &engine);
        self.write("etc/containers/storage.conf", &storage);
        self.write("etc/containers/policy.json", trust);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its containers have cgroups beside the room's.
        _ = self.shell("podman rm --force --all --time 0").output();
        // Left where another podman has containers below it.
        remove_empty_cgroups("libpod_parent");
    }
}
