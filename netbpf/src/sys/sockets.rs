//! The ports that programs of this namespace hold.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use netbpf_common::maps::config::UNHELD_MARK;

use super::{Result, SysError};

/// Protocols whose sockets can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

/// Addresses and ports that programs listen on (tcp) or are bound to (udp).
/// `::` stands for both families unless the program asked for IPv6 alone, which
/// the list does not tell: see [`is_free`].
pub fn bound(transport: Transport) -> Result<Vec<(IpAddr, u16)>> {
    let files = match transport {
        Transport::Tcp => ["tcp", "tcp6"],
        Transport::Udp => ["udp", "udp6"],
    };
    let mut bound = Vec::new();
    for file in files {
        let path = format!("/proc/thread-self/net/{file}");
        let reader = match File::open(&path) {
            Ok(file) => BufReader::new(file),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(SysError::io(format!("read {path}"), e)),
        };
        for line in reader.lines().skip(1) {
            let line = line.map_err(|e| SysError::io(format!("read {path}"), e))?;
            let Some((address, port, state)) = parse(&line) else {
                continue;
            };
            // The kernel lists listening sockets before all others
            // (tcp_get_idx): the connections of a busy host need no reading.
            if transport == Transport::Tcp && state != TCP_LISTEN {
                break;
            }
            bound.push((address, port));
        }
    }
    Ok(bound)
}

const TCP_LISTEN: u8 = 10;

/// Whether a program could bind that address and port now, in its family alone and
/// if we did not hold it.
/// Some microseconds, where [`bound`] walks all sockets of the host. The socket
/// never listens, so no client notices.
pub fn is_free(transport: Transport, address: IpAddr, port: u16) -> bool {
    can_bind(transport, address, port, true)
}

/// Whether nothing at all has the port there: no connection that is over either, nor a
/// program that is bound to it and does not listen yet.
pub fn is_unused(transport: Transport, address: IpAddr, port: u16) -> bool {
    can_bind(transport, address, port, false)
}

fn can_bind(transport: Transport, address: IpAddr, port: u16, beside_ended: bool) -> bool {
    let kind = match transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let try_bind = || -> nix::Result<()> {
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        // Past our own hold on published ports, where there is one.
        let _ = setsockopt(&socket, sockopt::Mark, &UNHELD_MARK);
        if transport == Transport::Tcp && beside_ended {
            // Lets connections in TIME_WAIT be, but not listeners.
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        }
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        let address = SockaddrStorage::from(SocketAddr::new(address, port));
        bind(socket.as_raw_fd(), &address)
    };
    try_bind().is_ok()
}

/// `sl local_address rem_address st …`, addresses in words of the host's order.
fn parse(line: &str) -> Option<(IpAddr, u16, u8)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |i: usize| -> Option<[u8; 4]> {
        let word = u32::from_str_radix(address.get(i * 8..i * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let address = if address.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let mut bytes = [0; 16];
        for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
            chunk.copy_from_slice(&word(i)?);
        }
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some((address, port, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        assert_eq!(
            parse(v4),
            Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 8080, TCP_LISTEN))
        );
        let v6 = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 07 0";
        assert_eq!(parse(v6), Some((IpAddr::V6(Ipv6Addr::LOCALHOST), 80, 7)));
        let mapped = "   1: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(
            parse(mapped),
            Some((IpAddr::V4(Ipv4Addr::LOCALHOST), 80, TCP_LISTEN))
        );
        assert_eq!(parse("garbage"), None);
    }
}
