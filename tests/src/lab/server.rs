//! Servers in a namespace, as threads: they bind there and then serve from
//! anywhere, since a socket stays where it was made.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};

use super::Namespace;

/// How often a server looks whether it shall end.
const TICK: Duration = Duration::from_millis(50);

/// Bytes of `GET /big`.
pub const BIG: usize = 4 << 20;

/// Bytes of datagrams that wait for [`UdpEcho`].
const ROOM: usize = 16 << 20;

/// A running server thread.
struct Thread {
    stop: Arc<AtomicBool>,
    peers: Arc<Mutex<Vec<SocketAddr>>>,
    local: SocketAddr,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    fn peers(&self) -> Vec<IpAddr> {
        let peers = self.peers.lock().unwrap();
        peers.iter().map(|peer| peer.ip()).collect()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(handle) = self.handle.take() {
            _ = handle.join();
        }
    }
}

/// A web server that answers with what it sees: [`super::Seen`]. `/big` gives
/// 4 MiB.
pub struct Http(Thread);

impl Http {
    /// Listens on a port of all addresses, both families.
    #[track_caller]
    pub fn start(space: &Namespace, port: u16) -> Http {
        Http::start_on(space, &format!("[::]:{port}"))
    }

    #[track_caller]
    pub fn start_on(space: &Namespace, address: &str) -> Http {
        let role = space.role().to_owned();
        Http(serve_tcp(space, address, move |stream, peer| {
            answer(stream, peer, &role)
        }))
    }

    /// Who has connected so far.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.0.peers()
    }
}

fn answer(stream: TcpStream, peer: SocketAddr, role: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = &stream;
    let mut request = Vec::new();
    let mut byte = [0; 512];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match reader.read(&mut byte)? {
            0 => return Ok(()),
            n => request.extend(&byte[..n]),
        }
    }
    let local = canonical(stream.local_addr()?);
    let body = if request.starts_with(b"GET /big ") {
        vec![b'x'; BIG]
    } else {
        format!(
            "{{\"peer\":\"{}\",\"port\":{},\"server\":\"{role}\",\"local\":\"{local}\"}}\n",
            peer.ip(),
            peer.port()
        )
        .into_bytes()
    };
    let mut writer = &stream;
    write!(
        writer,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    writer.write_all(&body)
}

/// A server that sends back what it gets on a TCP connection.
pub struct TcpEcho(Thread);

impl TcpEcho {
    #[track_caller]
    pub fn start(space: &Namespace, port: u16) -> TcpEcho {
        TcpEcho(serve_tcp(space, &format!("[::]:{port}"), |stream, _| {
            // The listener's limit is not the connection's.
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let (mut reader, mut writer) = (&stream, &stream);
            io::copy(&mut reader, &mut writer).map(|_| ())
        }))
    }

    pub fn peers(&self) -> Vec<IpAddr> {
        self.0.peers()
    }
}

#[track_caller]
fn serve_tcp(
    space: &Namespace,
    address: &str,
    work: impl Fn(TcpStream, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
) -> Thread {
    let listener = space.bind_tcp(address);
    let tick = TimeVal::milliseconds(TICK.as_millis() as i64);
    setsockopt(&listener, sockopt::ReceiveTimeout, &tick).expect("SO_RCVTIMEO");
    let local = listener.local_addr().expect("local address");
    let work = Arc::new(work);
    start(local, move |stop, peers| {
        while !stop.load(Ordering::Relaxed) {
            let Ok((stream, peer)) = listener.accept() else {
                continue;
            };
            let peer = canonical(peer);
            peers.lock().unwrap().push(peer);
            let work = work.clone();
            thread::spawn(move || work(stream, peer));
        }
    })
}

/// A server that answers each datagram with the sender's address as it sees it,
/// a blank and the datagram.
pub struct UdpEcho(Thread);

impl UdpEcho {
    #[track_caller]
    pub fn start(space: &Namespace, port: u16) -> UdpEcho {
        UdpEcho::start_on(space, &format!("[::]:{port}"))
    }

    #[track_caller]
    pub fn start_on(space: &Namespace, address: &str) -> UdpEcho {
        let socket = space.bind_udp(address);
        // A flood must not fill it while our thread waits for its turn: what is lost then
        // is not lost on its way.
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).expect("SO_RCVBUFFORCE");
        socket.set_read_timeout(Some(TICK)).expect("SO_RCVTIMEO");
        let local = socket.local_addr().expect("local address");
        UdpEcho(start(local, move |stop, peers| {
            let mut buffer = vec![0; 1 << 16];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                let seen = canonical(peer);
                peers.lock().unwrap().push(seen);
                let mut answer = format!("{seen} ").into_bytes();
                answer.extend(&buffer[..length]);
                _ = socket.send_to(&answer, peer);
            }
        }))
    }

    pub fn peers(&self) -> Vec<IpAddr> {
        self.0.peers()
    }

    pub fn local(&self) -> SocketAddr {
        self.0.local
    }
}

fn start(
    local: SocketAddr,
    work: impl FnOnce(Arc<AtomicBool>, Arc<Mutex<Vec<SocketAddr>>>) + Send + 'static,
) -> Thread {
    let stop = Arc::new(AtomicBool::new(false));
    let peers = Arc::default();
    let handle = thread::spawn({
        let (stop, peers) = (stop.clone(), Arc::clone(&peers));
        move || work(stop, peers)
    });
    Thread {
        stop,
        peers,
        local,
        handle: Some(handle),
    }
}

/// A v4-mapped address as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
