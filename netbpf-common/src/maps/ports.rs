//! `ports`: published ports. A longest-prefix table in which protocol and
//! address are always compared whole and a prefix covers an aligned block of
//! ports, so that a range of 10,000 costs some ten entries. Looked up by the
//! exact address first, then by [`crate::addr::ANY`]; `published` says before
//! that whether a look is worth it.
//!
//! `shares` and `backends`: the endpoints behind a port that several share.
//! `allows`: the clients that a port is limited to.

use crate::{addr::Addr, assert_layout, mix::mixed};

/// What a prefix of `ports` is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortData {
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6: the wildcard address is the same in both families.
    pub family: u8,
    /// An address of the host, or [`crate::addr::ANY`].
    pub addr: Addr,
    /// Network byte order, since a prefix counts from the high bit.
    pub port_be: [u8; 2],
}
assert_layout!(PortData, 20);

/// Key of `ports` (`struct bpf_lpm_trie_key_u8`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// Bits compared: [`PORT_PREFIX`] for one port, one less for each doubling
    /// of the block.
    pub prefix_len: u32,
    pub data: PortData,
}
assert_layout!(PortKey, 24);

/// Prefix length of a single port.
pub const PORT_PREFIX: u32 = 160;

/// Only clients in `allows` may begin a flow; the host itself always may.
pub const PORT_ALLOW: u32 = 1 << 0;
/// A client address keeps its backend ([`Share`]).
pub const PORT_AFFINITY: u32 = 1 << 1;
/// Programs of the host may bind the port: an engine holds it.
pub const PORT_UNHELD: u32 = 1 << 2;

/// Value of `ports`: a block of host ports and who is behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The only backend. Of a shared port one of them.
    pub backend: Backend,
    /// Key of `shares`; 0 for a port with one backend.
    pub share: u32,
    /// `PORT_*`.
    pub flags: u32,
    /// First part of the keys of `allows`.
    pub allow: u32,
    /// Explicit padding, 0.
    pub reserved: u32,
}
assert_layout!(Port, 64);

/// The endpoint that a published port leads to, as one of its published ranges says.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Index in `generations`, the same for all blocks of a published range.
    pub slot: u32,
    /// What `generations[slot]` was when this was written. A flow is followed
    /// only while they agree (moby#8795).
    pub generation: u32,
    /// Index in `endpoint_stats`.
    pub endpoint: u32,
    pub network: u32,
    /// Host-side veth of the endpoint.
    pub ifindex: u32,
    /// First host port of the published range and the container port that it
    /// maps to; the others follow in step.
    pub host_port: u16,
    pub container_port: u16,
    pub container_addr: Addr,
    /// The container's MAC.
    pub mac: [u8; 6],
    /// Of the container's addresses, as in [`crate::maps::EndpointKey`].
    pub scope: u16,
}
assert_layout!(Backend, 48);

/// log2 of the places of a [`Share`].
pub const SHARE_BITS: u32 = 12;

/// Places of a [`Share`]: a weight is met to 1 in 4,096.
pub const SHARE_PLACES: usize = 1 << SHARE_BITS;

/// Value of `shares`: the number of the backend in each place, as many places for
/// each as its weight says. When backends come and go only as many places change
/// as must.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub places: [u8; SHARE_PLACES],
}
assert_layout!(Share, SHARE_PLACES);

/// The place for the `turn`th of equal flows: turns are spread evenly over the
/// places, whatever their number (golden ratio, Knuth 6.4).
#[inline(always)]
pub const fn place_of_turn(turn: u32) -> u32 {
    mixed(turn, SHARE_BITS)
}

/// The place for a client (finaliser of MurmurHash3).
#[inline(always)]
pub const fn place_of_client(client: &Addr) -> u32 {
    let high = u64::from_ne_bytes([
        client[0], client[1], client[2], client[3], client[4], client[5], client[6], client[7],
    ]);
    let low = u64::from_ne_bytes([
        client[8], client[9], client[10], client[11], client[12], client[13], client[14],
        client[15],
    ]);
    let mut h = high.rotate_left(32) ^ low;
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (h >> (64 - SHARE_BITS)) as u32
}

/// Key of `backends`, whose value is a [`Backend`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    pub share: u32,
    /// As in [`Share::places`].
    pub number: u32,
}
assert_layout!(BackendKey, 8);

/// What a prefix of `allows` is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllowData {
    /// [`Port::allow`].
    pub allow: u32,
    /// The client.
    pub addr: Addr,
}
assert_layout!(AllowData, 20);

/// Key of `allows` (`struct bpf_lpm_trie_key_u8`): the list is always compared whole,
/// so the prefix length is 32 more than the client's (128 for IPv4). The value is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllowKey {
    pub prefix_len: u32,
    pub data: AllowData,
}
assert_layout!(AllowKey, 24);

/// Value of `clients`, whose key is the client's address (LRU): how many flows it
/// began by published ports lately.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Number of the time window, see [`crate::maps::config::CLIENT_WINDOW_SHIFT`].
    pub window: u32,
    pub flows: u32,
}
assert_layout!(Client, 8);

/// Bits of a whole [`AllowData`].
pub const ALLOW_PREFIX: u32 = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_as_places_are() {
        let place = |turn: u32| place_of_turn(turn) as usize;
        for quarter in [0, 1, 3] {
            let places = quarter * SHARE_PLACES / 4..(quarter + 1) * SHARE_PLACES / 4;
            // From any turn on, and also where another port has every second turn.
            for step in [1, 2] {
                let turns = (777..10_777).filter(|t| places.contains(&place(t * step)));
                let count = turns.count();
                assert!((2_475..2_525).contains(&count), "{count} of 10,000");
            }
        }
    }

    #[test]
    fn clients_side_by_side_are_spread() {
        let mut low = 0;
        for last in 0..10_000u32 {
            let [_, _, c, d] = last.to_be_bytes();
            let client = crate::addr::mapped([10, 0, c, d]);
            low += u32::from(place_of_client(&client) < SHARE_PLACES as u32 / 4);
        }
        assert!(
            (2_350..2_650).contains(&low),
            "{low} in a quarter of the places"
        );
    }
}
