//! A containerd as kubelet has it: pods by CRI, their network by CNI.
//!
//! ```text
//!   test ── gRPC ── containerd ── exec ── plugins of the conflist
//!                     └─ shim ── sandbox (pause), container (web), one network namespace
//! ```
//!
//! Plugins are Debian's reference plugins and this build's netbpf as `netbpf-cni`. They
//! run in the room with the environment of containerd, `NETBPF_SOCKET` in it. A pod's
//! namespace is `/run/netns/cni-…` of the room, which is not there outside.

mod client;
mod messages;
mod pod;

use std::{ops::Deref, path::Path, time::Duration};

use tonic::Status;

use crate::lab::{Host, Lab, within};

use super::{Containerd, Debian, Room, image, plugins};
use client::Client;
pub use messages::*;
pub use pod::Pod;

/// The one image: of the sandbox, which sleeps, and of the web server.
pub const IMAGE: &str = "docker.io/library/pause:1";

/// A containerd that takes pods.
pub struct Cri {
    client: Client,
    containerd: Containerd,
}

impl Deref for Cri {
    type Target = Containerd;

    fn deref(&self) -> &Containerd {
        &self.containerd
    }
}

impl Cri {
    /// One whose pods get their network by this conflist.
    #[track_caller]
    pub fn start(test: &str, lab: &Lab, host: &Host, conflist: &str) -> Option<Cri> {
        Cri::of(Debian::Own, test, lab, host, conflist)
    }

    /// The same by the containerd of this Debian.
    #[track_caller]
    pub fn of(debian: Debian, test: &str, lab: &Lab, host: &Host, conflist: &str) -> Option<Cri> {
        let room = Room::of(debian, test, lab, host)?;
        room.write("cni/conf/10-lab.conflist", conflist);
        plugins::lay_out(&room);
        // Copied into each pod.
        room.write("etc/resolv.conf", "");
        // libcni notes what plugins answered in /var/lib/cni, wherever the rest is.
        room.shadow("/var/lib");
        let settings = settings(debian, room.dir());
        let containerd = Containerd::launch(room, &settings);
        let cri = Cri {
            client: Client::new(containerd.socket()),
            containerd,
        };
        cri.bring_image();
        within(Duration::from_secs(30), "CRI is ready for pods", || {
            cri.is_ready()
        });
        Some(cri)
    }

    #[track_caller]
    fn bring_image(&self) {
        let archive = image::archive(self, IMAGE).display().to_string();
        self.shell(&format!("ctr -n k8s.io images import {archive}"))
            .ok();
        // CRI learns of it by an event.
        within(Duration::from_secs(10), "CRI knows the image", || {
            let image = Some(ImageSpec {
                image: IMAGE.into(),
            });
            let status = self.call(ImageStatusRequest { image });
            status.is_ok_and(|status| status.image.is_some())
        });
    }

    /// Whether containers can run, and the conflist has been read.
    fn is_ready(&self) -> bool {
        ["RuntimeReady", "NetworkReady"].iter().all(|name| {
            let condition = self.condition(name);
            condition.is_some_and(|condition| condition.status)
        })
    }

    /// One of those that kubelet looks at before it starts pods.
    pub fn condition(&self, name: &str) -> Option<RuntimeCondition> {
        let answer = self.call(StatusRequest {}).ok()?;
        let conditions = answer.status?.conditions;
        conditions.into_iter().find(|c| c.r#type == name)
    }

    /// Any call.
    pub fn call<C: Call>(&self, request: C) -> Result<C::Answer, Status> {
        self.client.call(request)
    }

    /// Starts a pod with these ports of the host; it has no containers yet.
    #[track_caller]
    pub fn pod(&self, name: &str, ports: &[PortMapping]) -> Pod<'_> {
        self.try_pod(name, ports)
            .unwrap_or_else(|e| panic!("no pod {name}: {e}\n{}", self.log()))
    }

    /// The same where it may be refused; the text holds what the plugin said.
    pub fn try_pod(&self, name: &str, ports: &[PortMapping]) -> Result<Pod<'_>, Status> {
        Pod::run(self, name, ports)
    }

    /// The pods that there are, stopped ones too.
    #[track_caller]
    pub fn pods(&self) -> Vec<PodSandbox> {
        let answer = self.call(ListPodSandboxRequest {});
        answer.unwrap_or_else(|e| panic!("no list: {e}")).items
    }
}

/// What we give to users for that Debian's containerd, with the directories of a room; and
/// what the lab needs besides. Without CAP_SYS_RESOURCE no score may be lowered.
fn settings(debian: Debian, room: &Path) -> String {
    let (example, besides) = match debian {
        Debian::Own => (
            include_str!("../../../../packaging/containerd/containerd-1.toml"),
            format!(
                r#"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "{IMAGE}"
"#
            ),
        ),
        Debian::Forky => (
            include_str!("../../../../packaging/containerd/containerd-2.toml"),
            format!(
                r#"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.nri.v1.nri"]
disable = true
"#
            ),
        ),
    };
    let place = |name: &str| room.join(name).display().to_string();
    let example = example
        .replace("/usr/lib/cni", &place("cni/bin"))
        .replace("/etc/cni/net.d", &place("cni/conf"));
    example + &besides
}
