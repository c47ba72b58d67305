//! One file per hook; each reads as the list of its stages.

mod early_drop;
mod from_container;
mod from_uplink;
mod host_local;
mod sock_addr;
mod to_container;
mod to_uplink;

use netbpf_common::{
    drop::DropReason,
    packet::{
        sctp, tcp,
        tuple::{self, NO_TRANSPORT, TransportKind},
    },
    verdict::{Coded, Kind},
};

use crate::{
    calls,
    ctx::Skb,
    emit,
    family::{Family, Packet, scratch},
};

/// Bytes at the head of a packet that are made readable: link and network
/// header with options, and a transport header.
pub const HEADERS: u32 = 128;

/// Ifindex of `lo` in every network namespace.
pub const LOOPBACK: u32 = 1;

/// What became of [`parse`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// No header of the family.
    Nothing,
    /// Network and transport header, or a later fragment's network header.
    Whole,
    /// A network header whose transport header is cut short, or lies behind more
    /// extension headers than are followed.
    Headless,
}

impl Parsed {
    #[inline(always)]
    fn from_number(number: u32) -> Parsed {
        match number {
            0 => Parsed::Nothing,
            1 => Parsed::Whole,
            _ => Parsed::Headless,
        }
    }
}

/// Parses what can be read directly, and pulls more in only when that is not enough: a
/// TCP segment has just its headers there. Addresses are judged also where there are no
/// ports to be read: a packet that is put together or read further by the stack must not
/// get past the checks.
#[inline(always)]
pub fn parse_into<F: Family>(
    skb: &Skb,
    p: &mut Packet<F::Addr>,
    l3: usize,
    arrival: u16,
) -> Parsed {
    p.l3 = l3;
    p.ip = match F::parse(skb, l3) {
        Some(ip) if !ip.opaque => ip,
        _ => {
            skb.pull(HEADERS);
            let Some(ip) = F::parse(skb, l3) else {
                return Parsed::Nothing;
            };
            ip
        }
    };
    p.t = NO_TRANSPORT;
    let mut parsed = Parsed::Whole;
    if p.ip.opaque {
        parsed = Parsed::Headless;
    } else if !p.ip.later_fragment {
        let l4 = p.ip.l4 & 0x3fff;
        if let Some(t) = tuple::transport(skb, p.ip.protocol, l4) {
            p.t = t;
        } else {
            skb.pull(HEADERS);
            if let Some(t) = tuple::transport(skb, p.ip.protocol, l4) {
                p.t = t;
            } else {
                parsed = Parsed::Headless;
            }
        }
        // What is behind the end is padding, whatever it looks like.
        if !ends_behind::<F>(p, l3) && !skb.is_gso() {
            p.t = NO_TRANSPORT;
            parsed = Parsed::Headless;
        }
    }
    p.key = p.ip.key(&p.t, arrival);
    parsed
}

/// Does the packet, as it says itself, end behind its transport header? One that stands
/// for several may be larger than it can say (BIG TCP).
#[inline(always)]
fn ends_behind<F: Family>(p: &Packet<F::Addr>, l3: usize) -> bool {
    let header = match p.t.kind {
        TransportKind::Tcp => tcp::LEN,
        TransportKind::Sctp => sctp::CHUNK + 1,
        TransportKind::Other => 0,
        _ => 8,
    };
    (p.ip.l4 & 0x3fff) + header <= l3 + p.ip.total_len as usize
}

/// The same as a function of its own.
#[inline(always)]
fn parse<F: Family>(skb: &Skb, l3: usize, arrival: u16) -> Parsed {
    Parsed::from_number(F::call_parse(skb, l3, arrival))
}

/// Is the verdict about what tells the flow of the packet?
#[inline(always)]
fn is_to_follow(verdict: Coded) -> bool {
    verdict == Coded::TO_FLOW || verdict == Coded::TO_QUOTED || verdict == Coded::TO_FRAGMENT
}

/// Follows the flow by what of the packet tells it: its ports, the packet that it
/// quotes, or its datagram's first fragment.
#[inline(always)]
fn follow_by<F: Family>(skb: &Skb, found_by: Coded, sender: u32) -> Coded {
    if found_by == Coded::TO_QUOTED {
        F::call_quoted(skb, sender)
    } else if found_by == Coded::TO_FRAGMENT {
        F::call_fragment(skb, sender)
    } else {
        F::call_follow(skb, sender)
    }
}

/// After a step that begins flows: tells of one that began.
#[inline(always)]
fn begin<F: Family>(skb: &Skb, verdict: Coded) -> Coded {
    if matches!(
        verdict.kind(),
        Kind::Deliver | Kind::Forward | Kind::ForwardBare
    ) {
        calls::tell_began(skb.raw(), u32::from(F::VERSION));
    }
    verdict
}

/// Counts a drop, and turns the packet into the ICMP error that says why, where
/// there is one to be sent: then `ANSWER`.
#[inline(always)]
fn refuse<F: Family>(skb: &Skb, l3: usize, verdict: Coded, endpoint: u32) -> Coded {
    let Some(number) = verdict.dropped() else {
        return verdict;
    };
    emit::dropped(skb, l3, u32::from(number), endpoint);
    match DropReason::from_number(number) {
        Some(reason) if F::icmp_error(reason).is_some() => F::call_refuse(skb, reason),
        _ => verdict,
    }
}

/// Sends a packet to a neighbour of the way out, which the stage left in the room.
#[inline(always)]
fn send<F: Family>(skb: &Skb, ifindex: u32) -> i32 {
    match scratch::<F>() {
        Ok((_, room)) if room.next_hop.nh_family != 0 => {
            skb.redirect_neigh(ifindex, Some(&mut room.next_hop))
        }
        Ok(_) => skb.redirect_neigh(ifindex, None),
        Err(_) => emit::SHOT,
    }
}
