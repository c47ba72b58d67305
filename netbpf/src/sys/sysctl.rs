//! `/proc/sys/net` of the calling thread's network namespace.

use std::{fs, io::Write, path::PathBuf};

use super::{Result, SysError};

fn path(name: &[&str]) -> PathBuf {
    let mut path = PathBuf::from("/proc/sys/net");
    path.extend(name);
    path
}

/// The value of a sysctl below `net`; `None` where there is no such thing. Parts
/// are given one by one as device names may contain dots.
pub fn read(name: &[&str]) -> Result<Option<String>> {
    match fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(SysError::io(
            format!("read sysctl net.{}", name.join(".")),
            e,
        )),
    }
}

/// Writes a sysctl below `net`. Long lists go out in pieces, which the kernel
/// puts together as long as the file stays open.
pub fn write(name: &[&str], value: &str) -> Result<()> {
    let what = || format!("write sysctl net.{}", name.join("."));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(path(name))
        .map_err(|e| SysError::io(what(), e))?;
    file.write_all(value.as_bytes())
        .map_err(|e| SysError::io(what(), e))
}

/// Whether devices of this namespace can have IPv6 addresses.
pub fn has_ipv6() -> bool {
    matches!(read(&["ipv6", "conf", "all", "disable_ipv6"]), Ok(Some(v)) if v == "0")
}
