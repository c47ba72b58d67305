//! Plug-ins of CNI in a room: Debian's reference plug-ins and this build's netbpf as
//! `netbpf-cni`.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use crate::lab::binary;

use super::Room;

/// The configuration that we give to users.
pub const CONFLIST: &str = include_str!("../../../packaging/cni/10-netbpf.conflist");

/// The name of its network.
pub const NETWORK: &str = "pods";

/// Links to all of them in a directory of the room.
#[track_caller]
pub fn lay_out(room: &Room) -> PathBuf {
    let bin = room.dir().join("cni/bin");
    let link_all = || -> std::io::Result<()> {
        fs::create_dir_all(&bin)?;
        for plugin in fs::read_dir(room.packages.plugins())? {
            let plugin = plugin?;
            symlink(plugin.path(), bin.join(plugin.file_name()))?;
        }
        symlink(binary(), bin.join("netbpf-cni"))
    };
    link_all().unwrap_or_else(|e| panic!("cannot fill {}: {e}", bin.display()));
    bin
}
