//! Ping-pong of one byte on an open connection.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    time::Instant,
};

use super::{Sample, socket};
use crate::bench::{Options, stats::percentile};

/// Round trips before it counts.
pub const WARM_UP: usize = 200;

pub fn serve(listener: &TcpListener) -> io::Result<()> {
    let mut stream = socket::accept(listener)?;
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

pub fn run(address: SocketAddr, options: &Options) -> io::Result<Sample> {
    let mut stream = socket::connect(address)?;
    let mut byte = [7];
    for _ in 0..WARM_UP {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    let mut times = Vec::with_capacity(100_000);
    let end = Instant::now() + options.slice();
    let mut before = Instant::now();
    while before < end {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        let after = Instant::now();
        times.push((after - before).as_nanos() as f64 / 1e3);
        before = after;
    }
    sample(times)
}

/// Median and 99th percentile.
pub fn sample(mut times: Vec<f64>) -> io::Result<Sample> {
    times.sort_by(f64::total_cmp);
    Ok(Sample {
        value: percentile(&times, 0.5).ok_or_else(|| io::Error::other("no time was taken"))?,
        p99: percentile(&times, 0.99),
    })
}
