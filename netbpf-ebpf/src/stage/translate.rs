//! Rewrites addresses and ports with all checksums.

use netbpf_common::{
    drop::DropReason,
    packet::{icmp, tcp, tuple::TransportKind},
};

use super::Step;
use crate::{
    ctx::Skb,
    family::{Family, Packet},
};

/// What a packet's tuple becomes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NewTuple<A> {
    pub src: A,
    pub dst: A,
    pub sport: u16,
    pub dport: u16,
}

/// Rewrites the packet, and lowers its hop limit by `hops` (0 or 1). The helpers for the
/// transport checksum come first, as they end the life of packet pointers.
#[inline(always)]
pub fn rewrite<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    new: &NewTuple<F::Addr>,
    hops: u8,
) -> Step<()> {
    let (ip, t, l3) = (&p.ip, &p.t, p.l3 & 0xf);
    // The verifier loses the bounds of a value that went through the stack.
    let l4 = ip.l4 & 0x3fff;
    let udp = matches!(t.kind, TransportKind::Udp);
    let check = match t.kind {
        TransportKind::Tcp => l4 + tcp::CHECKSUM,
        TransportKind::Udp => l4 + tcp::UDP_CHECKSUM,
        _ => l4 + icmp::CHECKSUM,
    };
    match t.kind {
        TransportKind::Tcp | TransportKind::Udp => {
            let diff = F::addr_diff((ip.src, ip.dst), (new.src, new.dst));
            skb.pseudo_checksum(check, diff, udp, F::IS_V6)?;
            if new.sport != t.sport {
                skb.field_checksum(check, t.sport, new.sport, udp)?;
            }
            if new.dport != t.dport {
                skb.field_checksum(check, t.dport, new.dport, udp)?;
            }
            let (s, d) = (new.sport.to_be_bytes(), new.dport.to_be_bytes());
            F::rewrite(skb, l3, hops, new.src, new.dst)?;
            skb.write(l4, [s[0], s[1], d[0], d[1]])
        }
        TransportKind::EchoRequest | TransportKind::EchoReply => {
            let (from, to) = match t.kind {
                TransportKind::EchoRequest => (t.sport, new.sport),
                _ => (t.dport, new.dport),
            };
            if F::IS_V6 {
                let diff = F::addr_diff((ip.src, ip.dst), (new.src, new.dst));
                skb.pseudo_checksum(check, diff, false, true)?;
            }
            if from != to {
                skb.field_checksum(check, from, to, false)?;
            }
            F::rewrite(skb, l3, hops, new.src, new.dst)?;
            skb.write(l4 + icmp::ID, to.to_be_bytes())
        }
        // Its checksum is a CRC over ports and payload, not over the addresses.
        TransportKind::Sctp if new.sport == t.sport && new.dport == t.dport => {
            F::rewrite_bare(skb, l3, hops, new.src, new.dst)
        }
        // Nothing of it covers the addresses; see `masquerade`.
        TransportKind::Other => F::rewrite_bare(skb, l3, hops, new.src, new.dst),
        TransportKind::Sctp | TransportKind::Icmp => Err(DropReason::Protocol),
    }
}
