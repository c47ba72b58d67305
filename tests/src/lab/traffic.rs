//! Traffic by real tools and plain sockets, from a namespace.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Cmd, Namespace, Output, SOON};

/// One of the two families; every scenario goes through both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The one of a pair of named addresses.
    pub fn of<T: Copy>(self, pair: [T; 2]) -> T {
        pair[self as usize]
    }

    /// The address of a pair of named addresses.
    #[track_caller]
    pub fn ip(self, pair: [&str; 2]) -> IpAddr {
        self.of(pair).parse().expect("an address")
    }

    pub fn any(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    pub fn loopback(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// What [`super::Http`] says of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The client as the server sees it.
    pub peer: IpAddr,
    pub port: u16,
    /// The role of the server's namespace.
    pub server: String,
    pub local: SocketAddr,
}

/// `http://address:port/path`.
pub fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}/{path}", SocketAddr::new(address, port))
}

/// What a `ping` has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    pub sent: u32,
    pub received: u32,
}

impl Ping {
    /// From the summary that ping prints at its end.
    #[track_caller]
    pub fn parse(output: &Output) -> Ping {
        let line = output
            .stdout
            .lines()
            .find(|line| line.contains("packets transmitted"))
            .unwrap_or_else(|| panic!("ping without a summary:\n{output}"));
        let number = |word: &str| {
            let part = line.split(", ").find(|part| part.contains(word))?;
            part.split(' ').next()?.parse().ok()
        };
        Ping {
            sent: number("transmitted").expect("a number"),
            received: number("received").expect("a number"),
        }
    }
}

impl Namespace {
    fn curl_command(&self, url: &str, seconds: &str) -> Cmd {
        self.run(&[
            "curl",
            "-sS",
            "-g",
            "--noproxy",
            "*",
            "--max-time",
            seconds,
            url,
        ])
    }

    /// Fetches by curl; the body.
    #[track_caller]
    pub fn curl(&self, url: &str) -> String {
        self.curl_command(url, "5").ok()
    }

    /// Fetches from [`super::Http`]; how the server saw it.
    #[track_caller]
    pub fn fetch(&self, address: IpAddr, port: u16) -> Seen {
        let body = self.curl(&url(address, port, ""));
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("not our server ({e}): {body}"))
    }

    /// Fetches 4 MiB; fails when one byte is missing.
    #[track_caller]
    pub fn fetch_big(&self, address: IpAddr, port: u16) {
        let body = self.curl_command(&url(address, port, "big"), "8").ok();
        assert_eq!(body.len(), super::server::BIG);
    }

    /// Sends 1 MiB to [`super::TcpEcho`], which comes back; `set` has the connection
    /// first.
    #[track_caller]
    pub fn echo_big(&self, to: SocketAddr, set: impl FnOnce(&TcpStream)) {
        let time = Some(Duration::from_secs(8));
        let mut stream = self
            .enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))
            .unwrap_or_else(|e| panic!("connect {to} from {}: {e}", self.name()));
        stream.set_read_timeout(time).expect("a time-out");
        stream.set_write_timeout(time).expect("a time-out");
        set(&stream);
        let mut writer = stream.try_clone().expect("a second handle");
        let sent = vec![b'x'; 1 << 20];
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&sent).expect("sent"));
            let mut back = vec![0; sent.len()];
            stream.read_exact(&mut back).expect("comes back");
            assert!(back == sent);
        });
    }

    /// Fails when something can be fetched there, with an answer or within 1 s.
    #[track_caller]
    pub fn cannot_fetch(&self, address: IpAddr, port: u16) -> Output {
        self.curl_command(&url(address, port, ""), "1").fails()
    }

    /// Fails when something can be fetched there, or nobody says so at once.
    #[track_caller]
    pub fn is_refused(&self, address: IpAddr, port: u16) {
        // 7: could not connect; 28 would be a time-out.
        self.curl_command(&url(address, port, ""), "5").exits(7);
    }

    fn ping_command(&self, address: IpAddr, arguments: &[&str]) -> Cmd {
        let address = address.to_string();
        let mut argv = vec!["ping", "-n"];
        argv.extend(arguments);
        argv.push(&address);
        self.run(&argv)
    }

    /// One echo, answered.
    #[track_caller]
    pub fn ping(&self, address: IpAddr) {
        self.ping_command(address, &["-c1", "-W5"]).ok();
    }

    /// Echoes that are not answered; what ping printed.
    #[track_caller]
    pub fn cannot_ping(&self, address: IpAddr) -> Output {
        self.ping_command(address, &["-c1", "-W1"]).fails()
    }

    /// One echo with further arguments, whatever becomes of it.
    #[track_caller]
    pub fn ping_with(&self, address: IpAddr, arguments: &[&str]) -> Output {
        let mut all = vec!["-c1", "-W1"];
        all.extend(arguments);
        self.ping_command(address, &all).output()
    }

    /// Starts that many echoes, one every 10 ms.
    #[track_caller]
    pub fn ping_stream(&self, address: IpAddr, count: u32) -> super::Background {
        let count = count.to_string();
        self.ping_command(address, &["-q", "-i", "0.01", "-c", &count, "-W", "5"])
            .timeout(Duration::from_secs(60))
            .spawn()
    }

    /// Starts echoes, one every 2 ms, until it is interrupted.
    #[track_caller]
    pub fn ping_on(&self, address: IpAddr) -> super::Background {
        self.ping_command(address, &["-q", "-i", "0.002", "-W", "5"])
            .timeout(Duration::from_secs(300))
            .spawn()
    }

    /// A connected UDP socket of this namespace.
    #[track_caller]
    pub fn udp(&self, to: SocketAddr) -> UdpSocket {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = self.enter(|| {
            let socket = UdpSocket::bind((family.any(), 0))?;
            socket.connect(to).map(|()| socket)
        });
        socket.unwrap_or_else(|e| panic!("udp to {to} from {}: {e}", self.name()))
    }

    /// Sends a datagram to [`super::UdpEcho`]; the address that it saw. The
    /// answer counts only when it comes from the address that was asked.
    #[track_caller]
    pub fn ask_udp(&self, address: IpAddr, port: u16) -> IpAddr {
        let to = SocketAddr::new(address, port);
        let socket = self.udp(to);
        ask(&socket, SOON)
            .unwrap_or_else(|e| panic!("no answer of {to}/udp to {}: {e}", self.name()))
            .ip()
    }

    /// Fails when a datagram there is answered within half a second.
    #[track_caller]
    pub fn cannot_ask_udp(&self, address: IpAddr, port: u16) {
        let to = SocketAddr::new(address, port);
        let answer = ask(&self.udp(to), Duration::from_millis(500));
        assert!(answer.is_err(), "{to}/udp answered: it saw {answer:?}");
    }
}

/// One question to [`super::UdpEcho`] on a connected socket: the sender's
/// address as the server saw it.
pub fn ask(socket: &UdpSocket, time: Duration) -> io::Result<SocketAddr> {
    ask_with(socket, b"hello", time)
}

/// The same with this as the question, which comes back whole.
pub fn ask_with(socket: &UdpSocket, question: &[u8], time: Duration) -> io::Result<SocketAddr> {
    socket.set_read_timeout(Some(time))?;
    socket.send(question)?;
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer)?;
    let answer = &buffer[..length];
    if !answer.ends_with(question) {
        return Err(io::Error::other(format!("{length} other bytes")));
    }
    let text = String::from_utf8_lossy(answer);
    let seen = text.split(' ').next().unwrap_or_default();
    seen.parse()
        .map_err(|_| io::Error::other(format!("not our server: {text}")))
}

/// The answer to [`ask`] where one must come.
#[track_caller]
pub fn answer_of(socket: &UdpSocket) -> SocketAddr {
    ask(socket, SOON).expect("an answer")
}

/// Fails when a datagram is lost that goes to where nobody listens, and not refused.
/// Kernels limit the rate of their errors, over all namespaces together: a second one may
/// be needed.
#[track_caller]
pub fn refuses(socket: &UdpSocket) {
    let time = Some(Duration::from_millis(500));
    socket.set_read_timeout(time).expect("a time-out");
    let mut error = None;
    for _ in 0..8 {
        socket.send(b"anybody?").expect("send");
        let kind = socket.recv(&mut [0; 16]).expect_err("nobody").kind();
        if kind == io::ErrorKind::ConnectionRefused {
            return;
        }
        error = Some(kind);
    }
    panic!("not refused: {error:?}");
}
