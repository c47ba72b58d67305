//! A program of a host or container, for tests of what programs notice: one
//! connection, one datagram or one bind, and what the kernel says of it.
//!
//! Prints one line of JSON ([`Heard`]); a failed call ends it with 1 and the error's
//! name on stderr.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use netbpf_tests::lab::Heard;
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, getpeername,
        getsockname, setsockopt, socket, sockopt,
    },
};

/// For an answer that comes at once: less than the limit of whoever runs us.
const TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Parser)]
enum Call {
    /// Connects by TCP and fetches a page.
    Tcp(Talk),
    /// Sends a datagram from a socket that is not connected.
    Udp(Talk),
    /// Sends datagrams one after the other from a socket that is not connected, until
    /// it is ended, and says of each whether it was answered.
    UdpStream(Talk),
    /// The same from a connected socket, which hears of errors.
    UdpConnectedStream(Talk),
    /// Sends a datagram from a connected socket.
    UdpConnected(Talk),
    /// Answers datagrams at an address, and says so when it is there.
    UdpEcho { address: SocketAddr },
    /// Binds, and listens where that means something.
    Bind(Bind),
    /// Holds a TCP connection open until its input ends, and says how the connection
    /// was: with `--send`, a line is sent and read back first.
    Hold(Talk),
    /// Opens many TCP connections, says so, and prints the number that comes by each: more
    /// than one process may have descriptors for.
    Crowd(Crowd),
}

#[derive(clap::Args)]
struct Crowd {
    to: SocketAddr,
    count: usize,
}

#[derive(clap::Args)]
struct Talk {
    to: SocketAddr,
    /// Binds the socket first.
    #[arg(long)]
    bind: Option<SocketAddr>,
}

#[derive(clap::Args)]
struct Bind {
    #[arg(value_parser = ["tcp", "udp"])]
    protocol: String,
    address: SocketAddr,
    #[arg(long)]
    reuse_port: bool,
    #[arg(long)]
    v6only: bool,
    /// `SO_MARK`.
    #[arg(long)]
    mark: Option<u32>,
}

fn main() -> ExitCode {
    let done = match Call::parse() {
        Call::Tcp(talk) => tcp(&talk),
        Call::Udp(talk) => udp(&talk),
        Call::UdpStream(talk) => udp_stream(open(SockType::Datagram, &talk), Some(talk.to)),
        Call::UdpConnectedStream(talk) => udp_stream(connected(SockType::Datagram, &talk), None),
        Call::UdpConnected(talk) => udp_connected(&talk),
        Call::UdpEcho { address } => udp_echo(address),
        Call::Bind(bind) => bound(&bind),
        Call::Hold(talk) => hold(&talk),
        Call::Crowd(crowd) => open_many(&crowd),
    };
    match done {
        Ok(heard) => {
            println!("{}", serde_json::to_string(&heard).unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let name = error.raw_os_error().map(Errno::from_raw);
            eprintln!(
                "{}",
                name.map_or_else(|| error.to_string(), |n| format!("{n:?}"))
            );
            ExitCode::FAILURE
        }
    }
}

fn open(kind: SockType, talk: &Talk) -> io::Result<OwnedFd> {
    let family = match talk.to.ip() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(address) = talk.bind {
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    }
    Ok(socket)
}

fn connected(kind: SockType, talk: &Talk) -> io::Result<OwnedFd> {
    let socket = open(kind, talk)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(talk.to))?;
    Ok(socket)
}

fn names(socket: &impl std::os::fd::AsRawFd) -> io::Result<Heard> {
    let fd = socket.as_raw_fd();
    let local: SockaddrStorage = getsockname(fd)?;
    let peer = getpeername::<SockaddrStorage>(fd).ok();
    Ok(Heard {
        local: Some(local.to_string()),
        peer: peer.map(|p| p.to_string()),
        ..Heard::default()
    })
}

fn tcp(talk: &Talk) -> io::Result<Heard> {
    // SAFETY: the descriptor is ours alone.
    let mut stream =
        unsafe { TcpStream::from_raw_fd(connected(SockType::Stream, talk)?.into_raw_fd()) };
    let heard = names(&stream)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    Ok(Heard {
        page: serde_json::from_str(body).ok(),
        ..heard
    })
}

fn udp(talk: &Talk) -> io::Result<Heard> {
    // SAFETY: as above.
    let socket = unsafe { UdpSocket::from_raw_fd(open(SockType::Datagram, talk)?.into_raw_fd()) };
    socket.send_to(b"hello", talk.to)?;
    received(&socket)
}

fn udp_stream(socket: io::Result<OwnedFd>, to: Option<SocketAddr>) -> io::Result<Heard> {
    const STEP: Duration = Duration::from_millis(50);
    // SAFETY: as above.
    let socket = unsafe { UdpSocket::from_raw_fd(socket?.into_raw_fd()) };
    socket.set_read_timeout(Some(STEP * 4))?;
    let end = Instant::now() + Duration::from_secs(30);
    let mut buffer = [0; 512];
    while Instant::now() < end {
        let sent = match to {
            Some(to) => socket.send_to(b"hello", to),
            None => socket.send(b"hello"),
        };
        match sent.and_then(|_| socket.recv_from(&mut buffer)) {
            Ok((_, from)) => println!("answered by {from}"),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => println!("silent"),
            // A socket without a peer has no use for an address that failed.
            Err(e) if to.is_some() => return Err(e),
            Err(e) => println!("{:?}", Errno::from_raw(e.raw_os_error().unwrap_or(0))),
        }
        io::stdout().flush()?;
        std::thread::sleep(STEP);
    }
    names(&socket)
}

fn udp_connected(talk: &Talk) -> io::Result<Heard> {
    let socket = connected(SockType::Datagram, talk)?;
    // SAFETY: as above.
    let socket = unsafe { UdpSocket::from_raw_fd(socket.into_raw_fd()) };
    socket.send(b"hello")?;
    received(&socket)
}

fn udp_echo(address: SocketAddr) -> io::Result<Heard> {
    let socket = UdpSocket::bind(address)?;
    println!("there");
    let mut buffer = [0; 65536];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let seen = SocketAddr::new(from.ip().to_canonical(), from.port());
        let answer = format!("{seen} {}", String::from_utf8_lossy(&buffer[..length]));
        socket.send_to(answer.as_bytes(), from)?;
    }
}

fn received(socket: &UdpSocket) -> io::Result<Heard> {
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    Ok(Heard {
        from: Some(from.to_string()),
        seen: text.split(' ').next().map(str::to_owned),
        ..names(socket)?
    })
}

fn bound(wanted: &Bind) -> io::Result<Heard> {
    let family = match wanted.address.ip() {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let kind = match wanted.protocol.as_str() {
        "tcp" => SockType::Stream,
        _ => SockType::Datagram,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if wanted.reuse_port {
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if wanted.v6only {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if let Some(mark) = wanted.mark {
        setsockopt(&socket, sockopt::Mark, &mark)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(wanted.address))?;
    let heard = names(&socket)?;
    if kind == SockType::Stream {
        // SAFETY: as above.
        let listener = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1)?)?;
    }
    Ok(heard)
}

fn open_many(crowd: &Crowd) -> io::Result<Heard> {
    let one = |_| TcpStream::connect_timeout(&crowd.to, TIMEOUT);
    let all = (0..crowd.count).map(one).collect::<io::Result<Vec<_>>>()?;
    println!("open");
    io::stdout().flush()?;
    for mut stream in all {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut number = [0; 4];
        stream.read_exact(&mut number)?;
        println!("{}", u32::from_be_bytes(number));
    }
    Ok(Heard::default())
}

/// Says `open` when a line went there and back, then waits: for its input to end, or
/// for the connection's.
fn hold(talk: &Talk) -> io::Result<Heard> {
    // SAFETY: as above.
    let mut stream =
        unsafe { TcpStream::from_raw_fd(connected(SockType::Stream, talk)?.into_raw_fd()) };
    let heard = names(&stream)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"hello\n")?;
    let mut line = [0; 6];
    stream.read_exact(&mut line)?;
    println!("open");
    io::stdout().flush()?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // An end in order is no error, a reset is one.
    match stream.read(&mut line)? {
        0 => Ok(heard),
        _ => Err(io::Error::other("the other side spoke")),
    }
}
