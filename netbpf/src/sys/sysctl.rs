//! `/proc/sys/net` of one network namespace.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};

use super::{Result, SysError, fault};

/// The settings of one family in the namespace of the thread that opened them.
///
/// The directory is kept open as the way there is long: the kernel's entries for
/// `/proc/sys/net/ipv4` of all namespaces that anybody has looked at hang on one hash
/// chain, which every look-up by path walks (`proc_sys_compare`).
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    directory: OwnedFd,
}

/// The settings of a namespace.
#[derive(Debug)]
pub struct Sysctls {
    pub ipv4: Family,
    /// `None` where the kernel has no IPv6.
    pub ipv6: Option<Family>,
}

impl Family {
    /// `None` where the kernel has no such family.
    pub fn open(name: &'static str) -> Result<Option<Family>> {
        let path = Path::new("/proc/sys/net").join(name);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(&path, flags, Mode::empty()) {
            Ok(directory) => Ok(Some(Family { name, directory })),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(SysError::io(
                format!("open {}", path.display()),
                io::Error::from(e),
            )),
        }
    }

    /// `ipv4` or `ipv6`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The value of a setting; `None` where there is no such thing. Parts are given
    /// one by one as device names may contain dots.
    pub fn read(&self, name: &[&str]) -> Result<Option<String>> {
        match read_whole(|| self.file(name, OFlag::O_RDONLY)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(SysError::io(format!("read sysctl {}", self.full(name)), e)),
        }
    }

    /// Writes a setting. Long lists go out in pieces, which the kernel puts together
    /// as long as the file stays open.
    pub fn write(&self, name: &[&str], value: &str) -> Result<()> {
        let file = self.file(name, OFlag::O_WRONLY);
        file.and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|e| SysError::io(format!("write sysctl {}", self.full(name)), e))?;
        fault::point("after", || format!("writing sysctl {}", self.full(name)));
        Ok(())
    }

    /// Lets a device have IPv6 addresses: engines switch that off for containers that
    /// they give none.
    pub fn enable_ipv6(&self, device: &str) -> Result<()> {
        let name = ["conf", device, "disable_ipv6"];
        match self.read(&name)?.as_deref() {
            Some("1") => self.write(&name, "0"),
            _ => Ok(()),
        }
    }

    fn file(&self, name: &[&str], flags: OFlag) -> io::Result<File> {
        let path: PathBuf = name.iter().collect();
        let file = openat(
            &self.directory,
            &path,
            flags | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(file.into())
    }

    fn full(&self, name: &[&str]) -> String {
        format!("net.{}.{}", self.name, name.join("."))
    }
}

impl Sysctls {
    /// Those of the calling thread's namespace.
    pub fn open() -> Result<Sysctls> {
        let ipv4 = Family::open("ipv4")?.ok_or_else(|| SysError::NotFound {
            what: "directory /proc/sys/net/ipv4".into(),
        })?;
        Ok(Sysctls {
            ipv4,
            ipv6: Family::open("ipv6")?,
        })
    }

    /// Why this namespace has no IPv6; `None` where it has. The gateways' addresses
    /// are on `lo`.
    pub fn ipv6_disabled(&self) -> Option<String> {
        let late;
        let ipv6 = match &self.ipv6 {
            Some(ipv6) => ipv6,
            // The module may have been loaded since.
            None => match Family::open("ipv6") {
                Ok(Some(ipv6)) => {
                    late = ipv6;
                    &late
                }
                Ok(None) => return Some("the kernel has no IPv6".into()),
                Err(e) => return Some(e.to_string()),
            },
        };
        for device in ["all", "lo"] {
            match ipv6.read(&["conf", device, "disable_ipv6"]) {
                Ok(Some(value)) if value == "0" => {}
                Ok(_) => return Some(format!("net.ipv6.conf.{device}.disable_ipv6=1")),
                Err(e) => return Some(e.to_string()),
            }
        }
        None
    }

    /// Whether devices of this namespace can have IPv6 addresses.
    pub fn has_ipv6(&self) -> bool {
        self.ipv6_disabled().is_none()
    }
}

/// A sysctl's text by one read(2): lists of ports are told to the first read
/// alone (`proc_do_large_bitmap`), cut off where the buffer ends. So a buffer that
/// came back full is asked again with a larger one.
fn read_whole(open: impl Fn() -> io::Result<File>) -> io::Result<String> {
    // All ports, each by itself, are 200 KiB; the kernel takes less than 4 MiB.
    const SIZES: [usize; 3] = [4 * 1024, 64 * 1024, 2 * 1024 * 1024];
    for size in SIZES {
        let mut buffer = vec![0; size];
        let mut file = open()?;
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
