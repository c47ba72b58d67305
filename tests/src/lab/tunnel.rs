//! A pair of tun devices in two namespaces and a thread between them: a link
//! without Ethernet header, as WireGuard makes one.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Namespace;

/// `TUNSETIFF` of linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// Carries packets between two tun devices until it is dropped.
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Tunnel {
    #[track_caller]
    pub(super) fn start(one: (&Namespace, &str), other: (&Namespace, &str)) -> Tunnel {
        let open = |(space, device): (&Namespace, &str)| {
            space
                .enter(|| open_tun(device))
                .unwrap_or_else(|e| panic!("tun device {device} in {}: {e}", space.name()))
        };
        let (one, other) = (open(one), open(other));
        let stop = Arc::new(AtomicBool::new(false));
        let handle = thread::spawn({
            let stop = stop.clone();
            move || carry(&one, &other, &stop)
        });
        Tunnel {
            stop,
            handle: Some(handle),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(handle) = self.handle.take() {
            _ = handle.join();
        }
    }
}

fn open_tun(name: &str) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // struct ifreq: the name in 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, 40 bytes, which the
    // buffer is.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn carry(one: &File, other: &File, stop: &AtomicBool) {
    let mut packet = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [
            PollFd::new(one.as_fd(), PollFlags::POLLIN),
            PollFd::new(other.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, PollTimeout::from(50_u8)).is_err() {
            return;
        }
        let ready = fds.map(|fd| fd.any().unwrap_or(false));
        for (ready, (mut from, mut to)) in ready.into_iter().zip([(one, other), (other, one)]) {
            if ready && let Ok(length) = from.read(&mut packet) {
                // A device that is down refuses: lost like on a wire.
                _ = to.write_all(&packet[..length]);
            }
        }
    }
}
