//! `/proc/sys/net` of the calling thread's network namespace.

use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{Result, SysError};

fn path(name: &[&str]) -> PathBuf {
    let mut path = PathBuf::from("/proc/sys/net");
    path.extend(name);
    path
}

/// The value of a sysctl below `net`; `None` where there is no such thing. Parts
/// are given one by one as device names may contain dots.
pub fn read(name: &[&str]) -> Result<Option<String>> {
    match read_whole(&path(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(SysError::io(
            format!("read sysctl net.{}", name.join(".")),
            e,
        )),
    }
}

/// A sysctl's text by one read(2): lists of ports are told to the first read
/// alone (`proc_do_large_bitmap`), cut off where the buffer ends. So a buffer that
/// came back full is asked again with a larger one.
fn read_whole(path: &Path) -> io::Result<String> {
    // All ports, each by itself, are 200 KiB; the kernel takes less than 4 MiB.
    const SIZES: [usize; 3] = [4 * 1024, 64 * 1024, 2 * 1024 * 1024];
    for size in SIZES {
        let mut buffer = vec![0; size];
        let mut file = fs::File::open(path)?;
        let length = loop {
            match file.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        if length < size {
            buffer.truncate(length);
            return String::from_utf8(buffer)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the value is longer than any that is known",
    ))
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
