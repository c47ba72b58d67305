//! Short connections, one after the other.

use std::{
    io::{self, Read, Write},
    mem,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Namespace, SOON, within};

/// Connects, has a line echoed, closes, some hundred times a second.
pub struct Knocks {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    handle: JoinHandle<Vec<String>>,
}

impl Knocks {
    /// To a [`super::TcpEcho`], by whatever way; waits for the first ones.
    #[track_caller]
    pub fn start(space: &Namespace, to: SocketAddr) -> Knocks {
        let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let handle = thread::spawn({
            let (space, stop, made) = (space.clone(), stop.clone(), made.clone());
            move || space.enter(|| knock_on(to, &stop, &made))
        });
        let knocks = Knocks { stop, made, handle };
        knocks.wait_for_more(&format!("connections to {to}"));
        knocks
    }

    /// Waits until some more have been made.
    #[track_caller]
    pub fn wait_for_more(&self, what: &str) {
        let goal = self.made.load(Ordering::Relaxed) + 10;
        within(SOON, what, || {
            self.made.load(Ordering::Relaxed) >= goal || self.handle.is_finished()
        });
    }

    /// Ends it; fails where one was not made, or lost a packet. How many there were.
    #[track_caller]
    pub fn finish_whole(self) -> u64 {
        self.wait_for_more("connections go on");
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.handle.join().expect("the thread of connections");
        assert!(
            failed.is_empty(),
            "{} failed: {:?}",
            failed.len(),
            failed.first()
        );
        self.made.load(Ordering::Relaxed)
    }
}

fn knock_on(to: SocketAddr, stop: &AtomicBool, made: &AtomicU64) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match knock(to) {
            Ok(0) => {}
            Ok(lost) => failed.push(format!("{to}: {lost} segments were sent anew")),
            Err(error) => failed.push(format!("{to}: {error}")),
        }
        made.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(3));
    }
    failed
}

/// One connection; how many of its segments had to be sent anew.
fn knock(to: SocketAddr) -> io::Result<u32> {
    let limit = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"knock\n")?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer)?;
    // SAFETY: integers alone.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`.
    let asked = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    match asked {
        0 => Ok(info.tcpi_total_retrans),
        _ => Err(io::Error::last_os_error()),
    }
}
