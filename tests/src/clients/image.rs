//! A web server for containers: a static busybox and what it serves. It answers
//! `/cgi-bin/who` with the address that asks.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use crate::lab::{Cmd, Namespace, url, within};

use super::Room;

/// What its container runs.
pub const COMMAND: [&str; 6] = ["/bin/httpd", "-f", "-p", "80", "-h", "/www"];

/// Programs of busybox that it has.
const PROGRAMS: [&str; 4] = ["sh", "httpd", "cat", "sleep"];

/// As images name it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

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

/// Asks it from there, once it listens; the client's address as it is seen.
#[track_caller]
pub fn ask(client: &Namespace, address: IpAddr, port: u16) -> IpAddr {
    let who = url(address, port, "cgi-bin/who");
    within(Duration::from_secs(10), "the server listens", || {
        let quick = ["curl", "-sf", "-g", "--max-time", "1", &who];
        client.run(&quick).output().status.success()
    });
    let seen = client.curl(&who);
    let seen = seen.trim().trim_matches(['[', ']']);
    let seen: IpAddr = seen.parse().unwrap_or_else(|e| panic!("{seen}: {e}"));
    // A socket of IPv6 shows IPv4 as mapped.
    seen.to_canonical()
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

/// An archive of it under this name, as `docker save` writes them; its container
/// sleeps.
#[track_caller]
pub(super) fn archive(room: &Room, name: &str) -> PathBuf {
    let root = directory(room).display().to_string();
    let dir = room.dir().join("archive");
    fs::create_dir(&dir).expect("make the archive's directory");
    let layer = dir.join("layer.tar").display().to_string();
    Cmd::new(&["tar", "-C", &root, "-cf", &layer, "."]).ok();
    let digest = Cmd::new(&["sha256sum", &layer]).ok();
    let digest = digest.split(' ').next().unwrap_or_default();
    let config = json!({
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "infinity"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([
        {"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]},
    ]);
    room.write("archive/config.json", &config.to_string());
    room.write("archive/manifest.json", &manifest.to_string());
    let archive = room.dir().join("archive.tar");
    let dir = dir.display().to_string();
    Cmd::new(&[
        "tar",
        "-C",
        &dir,
        "-cf",
        &archive.display().to_string(),
        ".",
    ])
    .ok();
    archive
}
