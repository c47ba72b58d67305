//! Who we are, and how a process is started as root. Only what needs it is:
//! everything that is built is built as the calling user.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Directories that an ordinary user's `PATH` lacks on Debian.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Whether we are root already.
pub fn is_root() -> bool {
    status_field("Uid").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

/// A field of our own `/proc/self/status`.
pub fn status_field(name: &str) -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| {
        Some(
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .to_owned(),
        )
    })
}

/// A command that runs as root with these variables, by sudo where need be. sudo
/// clears the environment and sets a `PATH` of its own, hence `env`.
pub fn as_root(program: impl AsRef<OsStr>, variables: &[(&str, &OsStr)]) -> Command {
    let mut command = if is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    let mut path = OsString::from("PATH=");
    path.push(search_path());
    command.arg(path);
    for (name, value) in variables {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

/// Finds a command the way root would.
pub fn which(command: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|dir| dir.join(command))
        .find(|path| path.is_file())
}

/// `PATH` with the system's directories.
fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = env::split_paths(&path).collect();
    for dir in SYSTEM_DIRECTORIES.map(Path::new) {
        if !all.iter().any(|known| known == dir) {
            all.push(dir.to_path_buf());
        }
    }
    env::join_paths(all).unwrap_or(path)
}
