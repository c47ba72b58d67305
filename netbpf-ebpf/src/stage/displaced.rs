//! Ports of the host that a container may have outside, too.

use netbpf_common::maps::OutsideKey;

use super::pool;
use crate::{ctx::Skb, family::Family};

/// Nobody has it outside, and nobody had when the host's packets with it were changed.
#[inline(always)]
pub fn is_free<F: Family>(outside: F::Addr, port: u16, protocol: u8) -> bool {
    let key = OutsideKey {
        outside,
        port,
        protocol,
        reserved: 0,
    };
    // SAFETY: entries of `outside` are written once.
    unsafe { F::outside().get(&key) }.is_none() && !pool::is_displaced(protocol, port)
}

/// The same of the source of a packet; `false` also where it takes more to read it.
#[inline(always)]
pub fn is_from_free<F: Family>(skb: &Skb, l3: usize) -> bool {
    match F::plain_source(skb, l3) {
        Some((port, src, protocol)) => is_free::<F>(src, port, protocol),
        None => false,
    }
}
