//! What containers ask the host for that is not ours to answer. Mostly a program of the host
//! answers; but others beside us may have the kernel translate it, as Docker does with what
//! it publishes, and then the answer is forwarded like anything that nobody asked for. So
//! the question is noted, and its answer known: as it arrives, from whoever was made to
//! answer, and as it leaves, when it comes from where the container has asked.

use netbpf_common::{
    maps::{
        FragmentOf, Handed, HandedKey, Veth,
        endpoints::NETWORK_INTERNAL,
        fragments::FRAGMENT_TICKS,
        host::{ASKED_TICKS, CONNECTION_TICKS},
    },
    packet::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, icmp},
    time::{TICKS_PER_SECOND, Ticks, since},
};

use super::{fragment, port::may_begin, sockets::is_peer_of_host};
use crate::{
    ctx::{Skb, now},
    family::{Family, Packet, Room, scratch},
    maps::{ANSWERED, HANDED, Questions},
};

/// Instead of an endpoint: the answer is as it arrives.
pub const UNTRANSLATED: u32 = 0;

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP)
}

/// Notes the packet that is worked on, which is for the host's stack, if it is a question:
/// nothing that a container answers the host with, and nothing of a network that is to have
/// no way out. Of TCP and SCTP the first packet is one, and the rest costs nothing.
#[inline(never)]
pub fn note<F: Family>(skb: &Skb, veth: &Veth) -> u32 {
    if let Ok((p, room)) = scratch::<F>()
        && veth.flags & NETWORK_INTERNAL == 0
        && !p.ip.later_fragment
        && may_begin(&p.t)
    {
        ask::<F>(skb, veth, p, room);
    }
    0
}

#[inline(always)]
fn ask<F: Family>(skb: &Skb, veth: &Veth, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) {
    let (ip, t) = (&p.ip, &p.t);
    if !has_ports(ip.protocol) {
        return;
    }
    let key = HandedKey {
        addr: F::mapped(ip.src),
        host: F::mapped(ip.dst),
        port: t.sport,
        host_port: t.dport,
        protocol: ip.protocol,
        reserved: [0; 3],
    };
    let asked = Handed {
        seen: now(),
        endpoint: veth.endpoint,
    };
    match refresh(&key, asked) {
        Known::JustNow => return,
        Known::Before => {}
        Known::Not => {
            // A datagram may be an answer, too: to a socket of the host that talks to it alone.
            if ip.protocol == IPPROTO_UDP
                && is_peer_of_host::<F>(skb, room, (ip.src, t.sport), (ip.dst, t.dport))
            {
                return;
            }
            let _ = HANDED.insert(&key, &asked, 0);
        }
    }
    // The one may have been pushed out without the other: seen to once a second.
    let anybody = key.from_anybody();
    if matches!(refresh(&anybody, asked), Known::Not) {
        let _ = HANDED.insert(&anybody, &asked, 0);
    }
}

/// Whether a question has been asked by the same endpoint.
enum Known {
    Not,
    Before,
    /// Within the last second.
    JustNow,
}

/// From now on it is asked now.
#[inline(always)]
fn refresh(key: &HandedKey, asked: Handed) -> Known {
    let Some(known) = HANDED.get_ptr_mut(key) else {
        return Known::Not;
    };
    // SAFETY: readable as long as the program runs; should it have become another's
    // meanwhile, that one lasts a little longer.
    let known = unsafe { &mut *known };
    if known.endpoint != asked.endpoint {
        return Known::Not;
    }
    if since(asked.seen, known.seen) < TICKS_PER_SECOND {
        return Known::JustNow;
    }
    known.seen = asked.seen;
    Known::Before
}

/// Is the packet that is worked on an answer, or an error about a question? As it leaves for
/// that endpoint, then from the address that was asked; or [`UNTRANSLATED`].
#[inline(never)]
pub fn is_answer<F: Family>(skb: &Skb, endpoint: u32) -> u32 {
    match scratch::<F>() {
        Ok((p, room)) => answers::<F>(skb, p, room, endpoint).into(),
        Err(_) => 0,
    }
}

#[inline(always)]
fn answers<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    endpoint: u32,
) -> bool {
    let translated = endpoint != UNTRANSLATED;
    if p.ip.later_fragment {
        return is_remembered::<F>(p, room);
    }
    let is_error = icmp::is_about_flow(p.ip.protocol, p.t.flags);
    let (host, port, host_port, protocol) = if is_error {
        if F::call_parse_quote(skb) == 0 || room.quoted.src != p.ip.dst {
            return false;
        }
        let (quote, t) = (&room.quoted, &room.quoted_t);
        // Whoever has sent it, the kernel translates its source as that of an answer
        // (`nf_nat_icmp_reply_translation`).
        if translated && p.ip.src != quote.dst {
            return false;
        }
        (quote.dst, t.sport, t.dport, quote.protocol)
    } else {
        (p.ip.src, p.t.dport, p.t.sport, p.ip.protocol)
    };
    if !has_ports(protocol) {
        return false;
    }
    // What begins a connection answers nobody.
    if !is_error && protocol != IPPROTO_UDP && may_begin(&p.t) {
        return false;
    }
    let question = HandedKey {
        addr: F::mapped(p.ip.dst),
        host: F::mapped(host),
        port,
        host_port,
        protocol,
        reserved: [0; 3],
    };
    let key = if translated {
        question
    } else {
        question.from_anybody()
    };
    let time = now();
    if let Some(known) = find(&ANSWERED, &key, endpoint, time) {
        // Of a connection the container's packets are not noted.
        if protocol != IPPROTO_UDP && !is_error && since(time, known.seen) >= TICKS_PER_SECOND {
            known.seen = time;
        }
    } else if find(&HANDED, &key, endpoint, time).is_none() {
        return false;
    } else if translated && !is_error {
        let answered = Handed {
            seen: time,
            endpoint,
        };
        // Where there is no room, it may be pushed out by other questions.
        let _ = ANSWERED.insert(&question, &answered, 0);
        let _ = ANSWERED.insert(&question.from_anybody(), &answered, 0);
    }
    if p.ip.more_fragments {
        remember::<F>(p, room, time);
    }
    true
}

/// A question that may be answered still; of that endpoint, if the answer is translated.
#[inline(always)]
fn find(
    table: &Questions,
    key: &HandedKey,
    endpoint: u32,
    time: Ticks,
) -> Option<&'static mut Handed> {
    let known = table.get_ptr_mut(key)?;
    // SAFETY: as in `refresh`.
    let known = unsafe { &mut *known };
    let rest = if key.protocol == IPPROTO_UDP {
        ASKED_TICKS
    } else {
        CONNECTION_TICKS
    };
    let is_its = endpoint == UNTRANSLATED || known.endpoint == endpoint;
    (is_its && since(time, known.seen) <= rest).then_some(known)
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
