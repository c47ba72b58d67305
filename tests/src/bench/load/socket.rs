//! Sockets as all measures use them: limited in time, those of TCP cubic and without delay.

use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd as _},
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect as connect_to,
        listen as listen_on, setsockopt, socket, sockopt,
    },
    time::TimeVal,
};

/// No call of ours takes longer.
const LIMIT: Duration = Duration::from_secs(3);

/// A listener in the namespace of the calling thread.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen_on(&socket, Backlog::new(128)?)?;
    Ok(socket.into())
}

/// A connection from the namespace of the calling thread.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = new(address)?;
    connect_to(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}

/// A UDP socket at that address, in the namespace of the calling thread.
pub fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    limit(&socket)?;
    Ok(socket)
}

/// One that sends to that address.
pub fn datagrams_to(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let socket = datagrams(any)?;
    socket.connect(address)?;
    Ok(socket)
}

/// Takes a connection, with limits as on all.
pub fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept()?;
    limit(&stream)?;
    Ok(stream)
}

fn new(address: SocketAddr) -> io::Result<std::os::fd::OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Accepted sockets inherit both.
    setsockopt(&socket, sockopt::TcpCongestion, &OsString::from("cubic"))?;
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    limit(&socket)?;
    Ok(socket)
}

fn limit(socket: &impl AsFd) -> io::Result<()> {
    let limit = TimeVal::new(LIMIT.as_secs().cast_signed(), 0);
    setsockopt(socket, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(socket, sockopt::SendTimeout, &limit)?;
    Ok(())
}
