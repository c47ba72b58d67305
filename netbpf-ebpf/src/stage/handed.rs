//! What containers ask the host for that is not ours to answer. Mostly a program of the host
//! answers; but others beside us may have the kernel translate it, as Docker does with what
//! it publishes, and then the answer is forwarded like anything that nobody asked for. So
//! the question is noted, and its answer known: as it arrives, from whoever was made to
//! answer, and as it leaves, when it comes from where the container has asked.

use netbpf_common::{
    maps::{FragmentOf, Handed, HandedKey, fragments::FRAGMENT_TICKS, host::ASKED_TICKS},
    packet::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, icmp},
    time::{TICKS_PER_SECOND, Ticks, since},
};

use super::fragment;
use crate::{
    ctx::{Skb, now},
    family::{Family, Packet, Room, scratch},
    maps::HANDED,
};

/// As long as a connection may rest (RFC 5382 REQ-5).
const REST: Ticks = 7440 * TICKS_PER_SECOND;

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP)
}

/// Notes the packet that is worked on, which is for the host's stack.
#[inline(never)]
pub fn note<F: Family>() -> u32 {
    let Ok((p, _)) = scratch::<F>() else {
        return 0;
    };
    let (ip, t) = (&p.ip, &p.t);
    if ip.later_fragment || !has_ports(ip.protocol) {
        return 0;
    }
    let key = HandedKey {
        addr: F::mapped(ip.src),
        host: F::mapped(ip.dst),
        port: t.sport,
        host_port: t.dport,
        protocol: ip.protocol,
        reserved: [0; 3],
    };
    let time = now();
    if let Some(known) = HANDED.get_ptr_mut(&key) {
        // SAFETY: readable as long as the program runs; should it have become another's
        // meanwhile, that one lasts a little longer.
        let known = unsafe { &mut *known };
        if since(time, known.seen) < TICKS_PER_SECOND {
            return 0;
        }
        known.seen = time;
    } else {
        let _ = HANDED.insert(&key, &Handed { seen: time }, 0);
    }
    // The one may have been pushed out without the other.
    let _ = HANDED.insert(&key.from_anybody(), &Handed { seen: time }, 0);
    0
}

/// Is the packet that is worked on an answer, or an error about a question? `translated`: as
/// it leaves, from the address that was asked.
#[inline(never)]
pub fn is_answer<F: Family>(skb: &Skb, translated: u32) -> u32 {
    match scratch::<F>() {
        Ok((p, room)) => answers::<F>(skb, p, room, translated != 0).into(),
        Err(_) => 0,
    }
}

#[inline(always)]
fn answers<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    translated: bool,
) -> bool {
    if p.ip.later_fragment {
        return is_remembered::<F>(p, room);
    }
    let (host, port, host_port, protocol) = if icmp::is_about_flow(p.ip.protocol, p.t.flags) {
        if F::call_parse_quote(skb) == 0 || room.quoted.src != p.ip.dst {
            return false;
        }
        let (quote, t) = (&room.quoted, &room.quoted_t);
        (quote.dst, t.sport, t.dport, quote.protocol)
    } else {
        (p.ip.src, p.t.dport, p.t.sport, p.ip.protocol)
    };
    if !has_ports(protocol) {
        return false;
    }
    let mut key = HandedKey {
        addr: F::mapped(p.ip.dst),
        host: F::mapped(host),
        port,
        host_port,
        protocol,
        reserved: [0; 3],
    };
    if !translated {
        key = key.from_anybody();
    }
    let Some(known) = HANDED.get_ptr(&key) else {
        return false;
    };
    // SAFETY: readable as long as the program runs.
    let seen = unsafe { (*known).seen };
    let time = now();
    let rest = if protocol == IPPROTO_UDP {
        ASKED_TICKS
    } else {
        REST
    };
    if since(time, seen) > rest {
        return false;
    }
    if p.ip.more_fragments {
        remember::<F>(p, room, time);
    }
    true
}

/// The other fragments have no ports.
#[inline(always)]
fn remember<F: Family>(p: &Packet<F::Addr>, room: &mut Room<F::Addr>, time: Ticks) {
    room.fragment_key = fragment::key::<F>(p);
    room.fragment_key.handed = 1;
    room.fragment = FragmentOf {
        flow: p.key,
        id: p.ip.id,
        seen: time,
    };
    // Where there is no room, they are dropped.
    let _ = F::fragments().insert(&room.fragment_key, &room.fragment, 0);
}

#[inline(always)]
fn is_remembered<F: Family>(p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> bool {
    room.fragment_key = fragment::key::<F>(p);
    room.fragment_key.handed = 1;
    let Some(entry) = F::fragments().get_ptr(&room.fragment_key) else {
        return false;
    };
    // SAFETY: readable as long as the program runs.
    since(now(), unsafe { (*entry).seen }) <= FRAGMENT_TICKS
}
