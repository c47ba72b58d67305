//! Bit maps of outside ports: where a free one is, or one whose flow is over, found in a
//! bounded number of steps however many are in use.

use netbpf_common::{
    maps::{
        FlowKey, Pool,
        flows::ARRIVAL_UPLINK,
        pools::{POOL_WORDS, arrivals_index, pool_index, pool_kind},
    },
    packet::{IPPROTO_TCP, IPPROTO_UDP},
};

use crate::{
    ctx::opaque,
    maps::{ARRIVALS, DISPLACED, IDLE, POOLS, RESERVED},
};

const WORD_MASK: u32 = POOL_WORDS as u32 - 1;

/// Which ports are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Wanted {
    /// Any that masquerade gives out.
    Any,
    /// Those that are not in use.
    Free,
    /// Those at which a flow ended.
    Idle,
}

impl Wanted {
    #[inline(always)]
    pub const fn from_number(number: u32) -> Wanted {
        match number {
            0 => Wanted::Any,
            1 => Wanted::Free,
            _ => Wanted::Idle,
        }
    }
}

/// The first port from `start` on, and from 0 on after the last one, that is wanted
/// under the address with that number, and not reserved; 0: none.
///
/// The loop is over all 1,024 words, so that a last free port is found; it mostly ends
/// with its first step.
#[inline(always)]
pub fn next(wanted: Wanted, number: u32, protocol: u8, start: u16) -> u16 {
    let Some(reserved) = RESERVED.get(pool_kind(protocol)) else {
        return 0;
    };
    let index = pool_index(number, protocol);
    let (pool, invert) = match wanted {
        Wanted::Any => (None, 0),
        // Of an address without pools, all are.
        Wanted::Free => (POOLS.get(index), 0),
        Wanted::Idle => match IDLE.get(index) {
            Some(idle) => (Some(idle), u64::MAX),
            None => return 0,
        },
    };
    let start = u32::from(start);
    let mut i = 0;
    // The word that the search begins in is looked at twice: from the start on, and whole.
    while i <= POOL_WORDS as u32 {
        let index = ((start >> 6) + i) & WORD_MASK;
        let mut word = reserved.words[index as usize];
        if let Some(pool) = pool {
            word |= pool.words[index as usize] ^ invert;
        }
        if i == 0 {
            word |= (1 << (start & 63)) - 1;
        }
        if word != u64::MAX {
            return (index << 6 | (!word).trailing_zeros()) as u16;
        }
        i += 1;
    }
    0
}

/// May masquerade give out the port at all?
#[inline(always)]
pub fn is_reserved(protocol: u8, port: u16) -> bool {
    RESERVED
        .get(pool_kind(protocol))
        .is_none_or(|reserved| has(reserved, port))
}

/// May there be packets of the host that leave with another port than this?
#[inline(always)]
pub fn is_displaced(protocol: u8, port: u16) -> bool {
    DISPLACED
        .get(pool_kind(protocol))
        .is_some_and(|displaced| has(displaced, port))
}

/// Packets of the host with this port leave with another one from now on.
#[inline(always)]
pub fn displace(protocol: u8, port: u16) {
    set(DISPLACED.get_ptr_mut(pool_kind(protocol)), port);
}

/// Packets with this key may arrive from now on. To be called before the flow is there.
#[inline(always)]
pub fn expect<A>(key: &FlowKey<A>) {
    let (protocol, port) = (key.protocol, key.dport);
    if key.arrival != ARRIVAL_UPLINK || !matches!(protocol, IPPROTO_TCP | IPPROTO_UDP) {
        return;
    }
    let index = arrivals_index(protocol, false);
    // Mostly it is marked: no other CPU's cache is disturbed.
    if !ARRIVALS.get(index).is_some_and(|marked| has(marked, port)) {
        set(ARRIVALS.get_ptr_mut(index), port);
    }
}

/// May packets of a flow arrive at this port of TCP or UDP?
#[inline(always)]
pub fn is_expected(protocol: u8, port: u16) -> bool {
    let marked = |by_daemon| ARRIVALS.get(arrivals_index(protocol, by_daemon));
    match (marked(false), marked(true)) {
        (Some(own), Some(daemons)) => has(own, port) || has(daemons, port),
        _ => true,
    }
}

/// Marks a port as in use by a mapping that is not idle, as far as is known.
#[inline(always)]
pub fn take(number: u32, protocol: u8, port: u16) {
    let index = pool_index(number, protocol);
    set(POOLS.get_ptr_mut(index), port);
    let Some(idle) = IDLE.get_ptr_mut(index) else {
        return;
    };
    let (word, bit) = place(idle, port);
    // SAFETY: as in `set`. Mostly the bit is not set: no other CPU's cache is disturbed.
    unsafe {
        if *word & bit != 0 {
            let others = !bit;
            core::arch::asm!("lock *(u64 *)({p} + 0) &= {v}", p = in(reg) word, v = in(reg) others);
        }
    }
}

/// Marks a port as one at which a flow ended.
#[inline(always)]
pub fn note_idle(number: u32, protocol: u8, port: u16) {
    set(IDLE.get_ptr_mut(pool_index(number, protocol)), port);
}

#[inline(always)]
pub(super) fn set(pool: Option<*mut Pool>, port: u16) {
    let Some(pool) = pool else {
        return;
    };
    let (word, bit) = place(pool, port);
    // SAFETY: within the map value, which is as long as the program runs. Other CPUs set
    // other bits of the word at the same time; the target has no fetch_or in Rust.
    unsafe {
        core::arch::asm!("lock *(u64 *)({p} + 0) |= {v}", p = in(reg) word, v = in(reg) bit);
    }
}

#[inline(always)]
pub(super) fn has(pool: &Pool, port: u16) -> bool {
    pool.words[word_of(port)] & (1 << (port & 63)) != 0
}

/// The mask says nothing to the compiler, which knows how large a port is; the verifier may
/// not.
#[inline(always)]
fn word_of(port: u16) -> usize {
    opaque(usize::from(port >> 6)) & (POOL_WORDS - 1)
}

#[inline(always)]
fn place(pool: *mut Pool, port: u16) -> (*mut u64, u64) {
    let index = word_of(port);
    // SAFETY: the index is within the words.
    let word = unsafe { pool.cast::<u64>().add(index) };
    (word, 1 << (port & 63))
}
