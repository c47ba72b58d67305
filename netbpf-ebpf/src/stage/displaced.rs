//! Ports of the host that a container may have outside, too.

use netbpf_common::maps::OutsideKey;

use super::{local, pool};
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
///
/// Nearly all end with the first look: no flow of a container has, or had, packets that arrive
/// at the port.
#[inline(always)]
pub fn is_from_free<F: Family>(skb: &Skb, l3: usize) -> bool {
    let Some((port, src, protocol)) = F::plain_source(skb, l3) else {
        return false;
    };
    let is_unknown = local::are_marked() && !pool::is_expected(protocol, port);
    is_unknown && !pool::is_displaced(protocol, port) || is_free::<F>(src, port, protocol)
}
