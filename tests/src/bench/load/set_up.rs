//! Connect, one request of one byte and its answer, close.
//!
//! The server closes first, as of HTTP/1.0: it is the one that then waits (RFC 9293, section
//! 3.6). Were it the client, finding a port that is not waiting would be half of what is
//! measured after some thousand connections, the same in all worlds.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    time::Instant,
};

use super::{Sample, round_trip::sample, socket};
use crate::bench::Options;

/// Connections before it counts.
const WARM_UP: usize = 50;

pub fn serve(listener: &TcpListener, options: &Options) -> io::Result<()> {
    let mut byte = [0];
    for _ in 0..WARM_UP + options.connections() {
        let mut stream = socket::accept(listener)?;
        stream.read_exact(&mut byte)?;
        stream.write_all(&byte)?;
    }
    Ok(())
}

pub fn run(address: SocketAddr, options: &Options) -> io::Result<Sample> {
    for _ in 0..WARM_UP {
        one(address)?;
    }
    let mut times = Vec::with_capacity(options.connections());
    for _ in 0..options.connections() {
        let before = Instant::now();
        one(address)?;
        times.push(before.elapsed().as_nanos() as f64 / 1e3);
    }
    sample(times)
}

fn one(address: SocketAddr) -> io::Result<()> {
    let mut stream = socket::connect(address)?;
    let mut byte = [7];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    match stream.read(&mut byte)? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was asked for")),
    }
}
