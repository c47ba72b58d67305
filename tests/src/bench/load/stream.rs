//! A stream as fast as one CPU can send and receive it.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use super::{Sample, socket};
use crate::bench::Options;

/// Windows grow meanwhile; it does not count.
const WARM_UP: Duration = Duration::from_millis(100);

/// As iperf3 does.
const CHUNK: usize = 128 << 10;

pub fn send(address: SocketAddr, options: &Options) -> io::Result<()> {
    let mut stream = socket::connect(address)?;
    let chunk = vec![0x55; CHUNK];
    let end = Instant::now() + WARM_UP + options.slice();
    while Instant::now() < end {
        stream.write_all(&chunk)?;
    }
    Ok(())
}

pub fn receive(listener: &TcpListener) -> io::Result<Sample> {
    let mut stream = socket::accept(listener)?;
    let mut buffer = vec![0; CHUNK];
    let began = Instant::now();
    while began.elapsed() < WARM_UP {
        if stream.read(&mut buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (counted, mut bytes) = (Instant::now(), 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => bytes += n,
        }
    }
    Ok(Sample {
        value: bytes as f64 * 8.0 / counted.elapsed().as_nanos() as f64,
        p99: None,
    })
}
