//! `pools`: which outside ports are in use, so that a free one is found at once. `idle`:
//! at which of them a flow of TCP ended, so that its mapping may be taken over.
//! `reserved`: which ones masquerade never gives out, whatever the address. `displaced`:
//! ports of the host's own packets that leave with another one (see `to_uplink`); a mark
//! that is no longer needed costs a look-up and no more, so that it stays.
//!
//! `arrivals`: ports of the host at which packets of flows may arrive by an uplink, so that what
//! comes to others is known for the host's own without a look at the flows; their marks stay,
//! too.
//!
//! All are bit maps. The first two are no more than hints: the insert into `outside*`
//! decides. Their bits are set by the programs and put right by the daemon, every 10 seconds.
//! Those of `arrivals` and `siblings` are set before the flow is there: half by the programs,
//! half by the daemon, for flows of programs that knew nothing of it (see [`arrivals_index`]).

use crate::{
    assert_layout,
    packet::{IPPROTO_TCP, IPPROTO_UDP},
};

/// Words of 64 bits in a pool.
pub const POOL_WORDS: usize = 1024;

/// Host addresses that have pools; behind others, ports are tried in turn.
pub const POOL_ADDRESSES: u32 = 32;

/// Pools of an address, by [`pool_kind`].
pub const POOL_KINDS: u32 = 3;

/// Entries of `pools` and `idle`.
pub const POOLS: u32 = POOL_ADDRESSES * POOL_KINDS;

/// Entries of `arrivals`.
pub const ARRIVALS: u32 = 4;

/// The entry of `arrivals` for TCP or UDP, with the marks that programs or the daemon set:
/// each writes its own, as the daemon writes all bits of one at once.
#[inline(always)]
pub const fn arrivals_index(protocol: u8, by_daemon: bool) -> u32 {
    pool_kind(protocol) + 2 * by_daemon as u32
}

/// Value of all five, of `siblings` and of `areas`: bit `n % 64` of word `n / 64` is port `n`, or
/// whatever else has the number `n`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub words: [u64; POOL_WORDS],
}
assert_layout!(Pool, 8192);

impl Pool {
    pub const EMPTY: Pool = Pool {
        words: [0; POOL_WORDS],
    };

    pub const FULL: Pool = Pool {
        words: [u64::MAX; POOL_WORDS],
    };

    /// Are all marks of the other one here as well?
    pub fn includes(&self, other: &Pool) -> bool {
        let mut words = self.words.iter().zip(&other.words);
        words.all(|(own, other)| other & !own == 0)
    }

    pub fn has(&self, port: u16) -> bool {
        self.words[usize::from(port / 64)] & (1 << (port % 64)) != 0
    }

    /// Marks a port, or takes its mark away.
    pub fn put(&mut self, port: u16, mark: bool) {
        let (word, bit) = (&mut self.words[usize::from(port / 64)], 1 << (port % 64));
        if mark {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }
}

/// Ports of TCP, ports of UDP, identifiers of ICMP: the entries of `reserved` and
/// `displaced`, and those of an address in `pools` and `idle`.
#[inline(always)]
pub const fn pool_kind(protocol: u8) -> u32 {
    match protocol {
        IPPROTO_TCP => 0,
        IPPROTO_UDP => 1,
        _ => 2,
    }
}

/// The entry of `pools` and `idle` for an address by its number in `locals`, which is not 0.
#[inline(always)]
pub const fn pool_index(number: u32, protocol: u8) -> u32 {
    number.wrapping_sub(1).wrapping_mul(POOL_KINDS) + pool_kind(protocol)
}
