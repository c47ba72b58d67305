//! A web server for containers: a static busybox and what it serves. It answers
//! `/cgi-bin/who` with the address that asks.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use crate::lab::Cmd;

use super::Room;

/// What its container runs.
pub const COMMAND: [&str; 6] = ["/bin/httpd", "-f", "-p", "80", "-h", "/www"];

/// Programs of busybox that it has.
const PROGRAMS: [&str; 4] = ["sh", "httpd", "cat", "sleep"];

const WHO: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n%s\\n' \"$REMOTE_ADDR\"\n";

/// Lays out its root directory in the room.
#[track_caller]
pub fn directory(room: &Room) -> PathBuf {
    let root = room.dir().join("image");
    lay_out(room, &root).unwrap_or_else(|e| panic!("cannot make {}: {e}", root.display()));
    root
}

fn lay_out(room: &Room, root: &Path) -> std::io::Result<()> {
    for dir in ["bin", "www/cgi-bin", "etc", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(room.packages.program("busybox"), root.join("bin/busybox"))?;
    for program in PROGRAMS {
        symlink("busybox", root.join("bin").join(program))?;
    }
    fs::write(root.join("www/index.html"), "netbpf\n")?;
    let who = root.join("www/cgi-bin/who");
    fs::write(&who, WHO)?;
    fs::set_permissions(&who, fs::Permissions::from_mode(0o755))
}

/// Loads it as `nginx` with `import`, which reads a tar of the root directory:
/// Docker's way and Podman's.
#[track_caller]
pub(super) fn import(room: &Room, engine: &str, shell: impl FnOnce(&str) -> Cmd) {
    let root = directory(room);
    let command: Vec<String> = COMMAND.iter().map(|word| format!("\"{word}\"")).collect();
    shell(&format!(
        "tar -C {} -c . | {engine} import -c 'ENV PATH=/bin' -c 'CMD [{}]' - nginx",
        root.display(),
        command.join(",")
    ))
    .ok();
}
