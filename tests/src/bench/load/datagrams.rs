//! UDP: one datagram there and one back, and as many as one CPU can send and receive.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Instant,
};

use super::{
    Sample,
    round_trip::{WARM_UP, sample},
    socket,
};
use crate::bench::Options;

/// Datagrams that are under way at most: all of them have room where they arrive, so that none
/// is lost and sent in vain.
pub const WINDOW: usize = 64;

/// As a question to a name server has.
const PAYLOAD: usize = 64;

/// What ends it, which is no datagram of a measure.
const END: [u8; 1] = [0xff];

/// Sends back the last one of as many.
pub fn serve(socket: &UdpSocket, window: usize) -> io::Result<()> {
    let mut buffer = [0; PAYLOAD];
    let mut count = 0;
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        if buffer[..len] == END {
            return Ok(());
        }
        count += 1;
        if count == window {
            socket.send_to(&buffer[..len], from)?;
            count = 0;
        }
    }
}

pub fn round_trips(address: SocketAddr, options: &Options) -> io::Result<Sample> {
    let socket = socket::datagrams_to(address)?;
    let mut byte = [7];
    let mut one = || -> io::Result<f64> {
        let before = Instant::now();
        socket.send(&byte)?;
        socket.recv(&mut byte)?;
        Ok(before.elapsed().as_nanos() as f64 / 1e3)
    };
    for _ in 0..WARM_UP {
        one()?;
    }
    let mut times = Vec::with_capacity(100_000);
    let end = Instant::now() + options.slice();
    while Instant::now() < end {
        times.push(one()?);
    }
    ends(&socket)?;
    sample(times)
}

/// Thousands a second.
pub fn packets(address: SocketAddr, options: &Options) -> io::Result<Sample> {
    let socket = socket::datagrams_to(address)?;
    let mut buffer = [7; PAYLOAD];
    let mut all = || -> io::Result<()> {
        for _ in 0..WINDOW {
            socket.send(&buffer)?;
        }
        socket.recv(&mut buffer).map(drop)
    };
    for _ in 0..WARM_UP / 10 {
        all()?;
    }
    let (began, mut count) = (Instant::now(), 0);
    while began.elapsed() < options.slice() {
        all()?;
        count += WINDOW;
    }
    let elapsed = began.elapsed();
    ends(&socket)?;
    Ok(Sample {
        value: count as f64 / elapsed.as_secs_f64() / 1e3,
        p99: None,
    })
}

fn ends(socket: &UdpSocket) -> io::Result<()> {
    socket.send(&END).map(drop)
}
