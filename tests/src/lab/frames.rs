//! Frames as they are: sent and seen by a packet socket on a device.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};

use super::Namespace;

/// A packet socket on a device: sends frames as given, sees all that passes.
/// It sees what comes before the programs at TC ingress do.
pub struct Wiretap {
    fd: OwnedFd,
}

impl Wiretap {
    #[track_caller]
    pub fn open(space: &Namespace, device: &str) -> Wiretap {
        Wiretap::open_for(space, device, libc::ETH_P_ALL)
    }

    /// One that sees what comes of this type, and that behind the programs at TC ingress.
    #[track_caller]
    pub fn behind(space: &Namespace, device: &str, ether_type: i32) -> Wiretap {
        Wiretap::open_for(space, device, ether_type)
    }

    /// One that sends only.
    #[track_caller]
    pub(super) fn sender(space: &Namespace, device: &str) -> Wiretap {
        Wiretap::open_for(space, device, 0)
    }

    #[track_caller]
    fn open_for(space: &Namespace, device: &str, protocol: i32) -> Wiretap {
        space
            .enter(|| open(device, protocol))
            .unwrap_or_else(|e| panic!("packet socket on {device} in {}: {e}", space.name()))
    }

    /// Sends a whole frame.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.fd.as_raw_fd(), frame, MsgFlags::empty()).expect("send a frame");
        assert_eq!(sent, frame.len());
    }

    /// The first frame within that time for which `wanted` holds.
    pub fn find(&self, time: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let frame = self.next(left)?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// The frames that have been seen so far.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.next(Duration::ZERO)).collect()
    }

    fn next(&self, time: Duration) -> Option<Vec<u8>> {
        use std::os::fd::AsFd as _;
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        if poll(&mut fds, time).ok()? == 0 {
            return None;
        }
        let mut buffer = vec![0; 65_536];
        let length = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

fn open(device: &str, protocol: i32) -> io::Result<Wiretap> {
    let index = nix::net::if_::if_nametoindex(device)?;
    let protocol = (protocol as u16).to_be();
    // SAFETY: socket takes no pointers; the descriptor is checked and owned at
    // once.
    let fd = unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from(protocol),
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as i32;
    // SAFETY: the address is a sockaddr_ll of the given length and outlives the
    // call.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Wiretap { fd })
}
