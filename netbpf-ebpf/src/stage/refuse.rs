//! Turns a packet into what answers it: the ICMP error that says why it was dropped
//! (RFC 792, RFC 4443), or a TCP reset (RFC 9293).

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use netbpf_common::{
    drop::DropReason,
    packet::{
        IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, Read as _, checksum, eth, icmp, ipv4, ipv6, tcp,
    },
    verdict::Coded,
};

use super::Step;
use crate::{
    ctx::{PACKET_HOST, Skb, now, sum},
    family::{Family, Packet, QUOTE, Quote, Room},
};

/// Errors that a CPU sends per tick of 16.8 ms: about 1,000 a second, as Linux
/// allows (`icmp_msgs_per_sec`; RFC 4443 section 2.4 (f)).
const ERRORS_PER_TICK: u32 = 17;

#[repr(C)]
struct Budget {
    tick: u32,
    sent: u32,
}

#[btf_map(name = "icmp_budget")]
static BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

#[inline(always)]
fn within_budget() -> bool {
    let Some(budget) = BUDGET.get_ptr_mut(0) else {
        return false;
    };
    let tick = now();
    // SAFETY: the slot belongs to this CPU, on which programs do not nest.
    let budget = unsafe { &mut *budget };
    if budget.tick != tick {
        *budget = Budget { tick, sent: 0 };
    }
    budget.sent += 1;
    budget.sent <= ERRORS_PER_TICK
}

/// Makes of the packet its answer, from `room.answer_from` to its source, where
/// it is to be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
#[inline(always)]
pub fn answer<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    reason: DropReason,
) -> Step {
    let answered = if reason == DropReason::Unpublished && p.ip.protocol == IPPROTO_TCP {
        reset::<F>(skb, p)?
    } else {
        error::<F>(skb, p, room, reason)?
    };
    if answered {
        Ok(Coded::ANSWER)
    } else {
        Err(reason)
    }
}

/// The reset for a segment of a connection that is no more (RFC 9293 section
/// 3.10.7.1). `false`: not to be answered.
#[inline(always)]
fn reset<F: Family>(skb: &Skb, p: &Packet<F::Addr>) -> Step<bool> {
    let (ip, l3) = (&p.ip, p.l3 & 0xf);
    // Options and extension headers were for the segment, not for its answer, and
    // cutting them out is not worth the while.
    if ip.l4 != l3 + F::HEADER || p.t.flags & tcp::RST != 0 || ip.later_fragment {
        return Ok(false);
    }
    let l4 = l3 + F::HEADER;
    let Some(b) = skb.bytes::<{ tcp::LEN }>(l4) else {
        return Ok(false);
    };
    let header_len = (F::HEADER + (b[tcp::OFFSET] >> 4) as usize * 4) as u32;
    let payload = u32::from(ip.total_len).wrapping_sub(header_len);
    let seq = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
    let (seq, ack, flags) = if b[tcp::FLAGS] & tcp::ACK != 0 {
        ([b[8], b[9], b[10], b[11]], [0; 4], tcp::RST)
    } else {
        let octets = u32::from(b[tcp::FLAGS] & tcp::SYN != 0);
        let next = seq.wrapping_add(payload).wrapping_add(octets);
        ([0; 4], next.to_be_bytes(), tcp::RST | tcp::ACK)
    };
    let mut segment = [
        b[2], b[3], b[0], b[1], seq[0], seq[1], seq[2], seq[3], ack[0], ack[1], ack[2], ack[3],
        0x50, flags, 0, 0, 0, 0, 0, 0,
    ];
    let pseudo = [0, 0, 0, tcp::LEN as u8, 0, 0, 0, IPPROTO_TCP];
    let seed = sum(
        &segment,
        sum(&pseudo, sum_of_addresses::<F>(ip.dst, ip.src)),
    );
    let c = (!(checksum::fold(seed) as u16)).to_ne_bytes();
    segment[tcp::CHECKSUM] = c[0];
    segment[tcp::CHECKSUM + 1] = c[1];
    skb.change_tail((l4 + tcp::LEN) as u32)?;
    turn_link_header::<F>(skb, l3)?;
    write_header::<F>(skb, l3, (ip.dst, ip.src), IPPROTO_TCP, tcp::LEN as u32)?;
    skb.store(l4, &segment)?;
    Ok(true)
}

/// Of both addresses in a pseudo header; the carries are folded later.
#[inline(always)]
fn sum_of_addresses<F: Family>(from: F::Addr, to: F::Addr) -> u32 {
    let (from, to) = (F::mapped(from), F::mapped(to));
    if F::IS_V6 {
        return sum(&from, sum(&to, 0));
    }
    // Without what makes them 16 bytes.
    let both = [
        from[12], from[13], from[14], from[15], to[12], to[13], to[14], to[15],
    ];
    sum(&both, 0)
}

/// Back to where it came from.
#[inline(always)]
fn turn_link_header<F: Family>(skb: &Skb, l3: usize) -> Step<()> {
    if l3 == 0 {
        return Ok(());
    }
    let b = skb.bytes::<12>(0).ok_or(DropReason::Malformed)?;
    let to = [b[6], b[7], b[8], b[9], b[10], b[11]];
    let by = [b[0], b[1], b[2], b[3], b[4], b[5]];
    skb.store(0, &eth::header(to, by, F::ETHERTYPE))
}

/// A network header without options, for so many bytes behind it.
#[inline(always)]
fn write_header<F: Family>(
    skb: &Skb,
    l3: usize,
    (from, to): (F::Addr, F::Addr),
    protocol: u8,
    payload: u32,
) -> Step<()> {
    let (s, d) = (F::mapped(from), F::mapped(to));
    if F::IS_V6 {
        let len = (payload as u16).to_be_bytes();
        skb.store(l3, &[0x60, 0, 0, 0, len[0], len[1], protocol, 64])?;
        skb.store(l3 + ipv6::SRC, &s)?;
        return skb.store(l3 + ipv6::DST, &d);
    }
    let len = ((ipv4::LEN as u32 + payload) as u16).to_be_bytes();
    // Precedence of network control for ICMP (RFC 1812 section 4.3.2.5).
    let tos = if protocol == IPPROTO_ICMP { 0xc0 } else { 0 };
    let mut header = [
        0x45, tos, len[0], len[1], 0, 0, 0, 0, 64, protocol, 0, 0, s[12], s[13], s[14], s[15],
        d[12], d[13], d[14], d[15],
    ];
    let c = (!(checksum::fold(sum(&header, 0)) as u16)).to_ne_bytes();
    header[ipv4::CHECKSUM] = c[0];
    header[ipv4::CHECKSUM + 1] = c[1];
    skb.store(l3, &header)
}

/// `false`: not to be answered.
#[inline(always)]
fn error<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    reason: DropReason,
) -> Step<bool> {
    let (ip, from, mtu, l3) = (&p.ip, room.answer_from, room.mtu, p.l3 & 0xf);
    let Some((kind, code)) = F::icmp_error(reason) else {
        return Ok(false);
    };
    let about_error = icmp::is_error(ip.protocol, p.t.flags);
    if ip.later_fragment
        || about_error
        || F::is_multicast(ip.dst)
        || ip.src == F::UNSPECIFIED
        || F::is_multicast(ip.src)
        || from == F::UNSPECIFIED
        || skb.pkt_type() != PACKET_HOST
        // Without it a connection hangs; it answers a packet that is big anyway.
        || reason != DropReason::TooBig && !within_budget()
    {
        return Ok(false);
    }
    let available = skb.len().saturating_sub(l3 as u32);
    let quoted = if available > QUOTE as u32 {
        QUOTE as u32
    } else {
        available
    };
    room.quote = Quote([0; QUOTE]);
    skb.load(l3 as u32, &mut room.quote.0, quoted)?;

    let added = F::HEADER + 8;
    skb.change_tail(l3 as u32 + quoted)?;
    skb.make_room(added as i32)?;

    let message_len = 8 + quoted;
    let (next, m) = (mtu.to_be_bytes(), [kind, code]);
    // Frag-needed carries the MTU in its last 16 bits, too-big in all 32.
    let message = match reason {
        DropReason::TooBig => [m[0], m[1], 0, 0, next[0], next[1], next[2], next[3]],
        _ => [m[0], m[1], 0, 0, 0, 0, 0, 0],
    };
    let mut seed = sum(&room.quote.0, sum(&message, 0));
    if F::IS_V6 {
        let len = (message_len as u16).to_be_bytes();
        seed = sum(&[0, 0, len[0], len[1], 0, 0, 0, IPPROTO_ICMPV6], seed);
        seed = sum(&F::mapped(from), sum(&F::mapped(ip.src), seed));
    }
    let c = (!(checksum::fold(seed) as u16)).to_ne_bytes();
    let message = [
        m[0], m[1], c[0], c[1], message[4], message[5], message[6], message[7],
    ];

    turn_link_header::<F>(skb, l3)?;
    let protocol = if F::IS_V6 {
        IPPROTO_ICMPV6
    } else {
        IPPROTO_ICMP
    };
    write_header::<F>(skb, l3, (from, ip.src), protocol, message_len)?;
    skb.store(l3 + F::HEADER, &message)?;
    Ok(true)
}
