//! Real container engines, each on a host of the lab.
//!
//! - [`Packages`]: the engines as `cargo xtask test` has unpacked them, of the machine's
//!   own [`Debian`] or of a newer one.
//! - [`Room`]: where one runs: the host's network, a `/run` and an `/etc` of its own,
//!   a cgroup of the host's; newer engines lie over its `/usr` with their libraries.
//!   Further directories ([`Room::over`]) are laid over the machine's the same way:
//!   `/opt/cni/bin`, `/usr/share/containers`.
//! - [`Docker`], [`Containerd`], [`Podman`]: an engine that answers, with [`image`]
//!   in its store. Nothing is fetched.
//! - [`Runc`]: containers of bundles, without an engine.
//! - [`plugins`]: what engines call by CNI, netbpf among them.
//! - [`cri`]: pods of a containerd, by the calls that kubelet makes.
//!
//! An engine ends with its room, its containers with it, after a panic too.

mod containerd;
pub mod cri;
mod docker;
pub mod image;
mod packages;
pub mod plugins;
mod podman;
mod room;
mod runc;

pub use containerd::Containerd;
pub use docker::Docker;
pub use packages::{Debian, Packages};
pub use podman::Podman;
pub use room::Room;
pub use runc::Runc;
