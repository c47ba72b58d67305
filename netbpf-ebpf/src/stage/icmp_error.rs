//! ICMP errors about packets of known flows: translated outside, and inside, where
//! they quote the packet (RFC 5508 section 4). They keep no flow alive and end none
//! (RFC 5508 REQ-6).

use netbpf_common::{
    drop::DropReason,
    maps::flows::ARRIVAL_UPLINK,
    packet::{
        Read as _, checksum, icmp, tcp,
        tuple::{self, Ip, Transport, TransportKind},
    },
    verdict::Coded,
};

use super::{Step, flow, local, translate::NewTuple};
use crate::{
    ctx::{Skb, now},
    family::{Family, Packet, Room},
};

/// Bytes at the head of an ICMP error that are made readable: its own headers, and
/// those of the packet that it quotes.
const QUOTED: u32 = 192;

/// Leaves the quoted packet in the room, where it has what identifies a flow.
#[inline(always)]
pub fn parse<F: Family>(skb: &Skb, p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> Option<()> {
    skb.pull(QUOTED);
    room.quoted = F::parse(skb, (p.ip.l4 & 0x3fff) + icmp::LEN)?;
    // Whatever else it is, it has no ports by which to find a flow.
    if room.quoted.opaque || room.quoted.later_fragment {
        return None;
    }
    let l4 = room.quoted.l4 & 0x3fff;
    room.quoted_t = tuple::quoted(skb, room.quoted.protocol, l4)?;
    let least = match room.quoted_t.kind {
        TransportKind::Other => 0,
        _ => icmp::LEN,
    };
    (room.quoted_t.identifies_flow() && l4 + least <= end(p)).then_some(())
}

/// Where the error ends, as it says itself: what is behind is not of it, nor of what its
/// checksum covers.
#[inline(always)]
fn end<A>(p: &Packet<A>) -> usize {
    (p.l3 & 0xf) + p.ip.total_len as usize
}

/// Follows the flow of the quoted packet. `NOT_FOLLOWED`: the error is about none of ours.
/// `sender`: as in [`flow::follow`].
#[inline(always)]
pub fn follow<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    sender: u32,
) -> Step {
    if F::call_parse_quote(skb) == 0 {
        return Ok(Coded::NOT_FOLLOWED);
    }
    let l4 = p.ip.l4 & 0x3fff;
    let (quote, t) = (room.quoted, room.quoted_t);
    room.forward_key = quote.key_of_answer(&t, p.key.arrival);
    // It goes to whom the packet came from, or somebody made it up.
    if p.ip.dst != quote.src {
        return Ok(Coded::NOT_FOLLOWED);
    }
    let Some((found, taken)) = flow::led::<F>(room, sender) else {
        return Ok(Coded::NOT_FOLLOWED);
    };
    // Any router may say it, but nobody on a wire is within our subnets, and what the stack
    // would call martian does not get to a container either.
    if p.key.arrival == ARRIVAL_UPLINK {
        if local::subnet::<F>(room, p.ip.src).is_some() {
            return Err(DropReason::SpoofedSubnet);
        }
        if F::is_multicast(p.ip.src) || local::host::<F>(room, p.ip.src).is_some() {
            return Ok(Coded::NOT_FOLLOWED);
        }
    }
    if p.ip.hop_limit <= taken.hops() {
        return Err(DropReason::HopLimit);
    }
    let verdict = flow::direct::<F>(skb, p, found, &taken, room, now())?;
    rewrite_quote::<F>(skb, (l4 + icmp::CHECKSUM, end(p)), &quote, &t, &room.new)?;
    // A router on the way complains under its own address, the peer under the one
    // that the receiver knows it by.
    let src = if p.ip.src == quote.dst {
        room.new.src
    } else {
        p.ip.src
    };
    let (l3, dst) = (p.l3 & 0xf, room.new.dst);
    if F::IS_V6 {
        let diff = F::addr_diff((p.ip.src, p.ip.dst), (src, dst));
        skb.pseudo_checksum(l4 + icmp::CHECKSUM, diff, false, true)?;
    }
    F::rewrite(skb, l3, taken.hops(), src, dst)?;
    flow::address::<F>(skb, p.l3, &taken)?;
    Ok(verdict)
}

/// Makes the quoted packet the one that the receiver of the error has sent. `check` is
/// where the checksum of the error stands, `end` where the error ends.
#[inline(always)]
fn rewrite_quote<F: Family>(
    skb: &Skb,
    (check, end): (usize, usize),
    quote: &Ip<F::Addr>,
    t: &Transport,
    new: &NewTuple<F::Addr>,
) -> Step<()> {
    let l4 = quote.l4 & 0x3fff;
    let diff = F::addr_diff((quote.src, quote.dst), (new.dst, new.src));
    let ports = [(t.sport, new.dport), (t.dport, new.sport)];
    // Where the transport checksum stands, and what of the change it covers.
    let (own_check, addresses) = match t.kind {
        TransportKind::Tcp => (tcp::CHECKSUM, true),
        TransportKind::Udp => (tcp::UDP_CHECKSUM, true),
        TransportKind::EchoRequest | TransportKind::EchoReply => (icmp::CHECKSUM, F::IS_V6),
        // Its checksum covers ports, which never change.
        _ => (0, false),
    };
    // Of IPv4, the header's own checksum makes up for its addresses.
    if F::IS_V6 {
        skb.diff_checksum(check, diff)?;
    }
    // Eight bytes of a segment do not reach to its checksum.
    if own_check != 0
        && l4 + own_check + 2 <= end
        && let Some(old) = skb.u16(l4 + own_check)
        && !(matches!(t.kind, TransportKind::Udp) && old == 0)
    {
        let mut sum = u32::from(!old.to_be());
        if addresses {
            sum += checksum::fold(diff);
        }
        for (from, to) in ports {
            sum += u32::from(!from.to_be()) + u32::from(to.to_be());
        }
        let mut fresh = u16::from_be(checksum::finish(sum));
        if fresh == 0 && matches!(t.kind, TransportKind::Udp) {
            fresh = 0xffff;
        }
        skb.field_checksum(check, old, fresh, false)?;
        skb.store(l4 + own_check, &fresh.to_be_bytes())?;
    }
    for (from, to) in ports {
        if from != to {
            skb.field_checksum(check, from, to, false)?;
        }
    }
    let (s, d) = (new.dport.to_be_bytes(), new.sport.to_be_bytes());
    match t.kind {
        TransportKind::EchoRequest => skb.store(l4 + icmp::ID, &s)?,
        TransportKind::EchoReply => skb.store(l4 + icmp::ID, &d)?,
        TransportKind::Tcp | TransportKind::Udp => skb.store(l4, &[s[0], s[1], d[0], d[1]])?,
        // Those of SCTP never change, and what else there is has none.
        TransportKind::Sctp | TransportKind::Icmp | TransportKind::Other => {}
    }
    let l3 = (check - icmp::CHECKSUM + icmp::LEN) & 0x3fff;
    F::rewrite(skb, l3, 0, new.dst, new.src)
}
