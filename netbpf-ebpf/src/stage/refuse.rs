//! Turns a packet into the ICMP error that answers it (RFC 792, RFC 4443).

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use netbpf_common::{
    drop::DropReason,
    packet::{IPPROTO_ICMP, IPPROTO_ICMPV6, Read as _, checksum, eth, icmp, ipv4, ipv6},
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
    if error::<F>(skb, p, room, reason)? {
        Ok(Coded::ANSWER)
    } else {
        Err(reason)
    }
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

    if l3 != 0 {
        let b = skb.bytes::<12>(0).ok_or(DropReason::Malformed)?;
        let to = [b[6], b[7], b[8], b[9], b[10], b[11]];
        let by = [b[0], b[1], b[2], b[3], b[4], b[5]];
        skb.store(0, &eth::header(to, by, F::ETHERTYPE))?;
    }
    if F::IS_V6 {
        let len = (message_len as u16).to_be_bytes();
        skb.store(l3, &[0x60, 0, 0, 0, len[0], len[1], IPPROTO_ICMPV6, 64])?;
        skb.store(l3 + ipv6::SRC, &F::mapped(from))?;
        skb.store(l3 + ipv6::DST, &F::mapped(ip.src))?;
    } else {
        let (s, d) = (F::mapped(from), F::mapped(ip.src));
        let len = ((ipv4::LEN as u32 + message_len) as u16).to_be_bytes();
        let mut header = [
            0x45,
            0xc0,
            len[0],
            len[1],
            0,
            0,
            0,
            0,
            64,
            IPPROTO_ICMP,
            0,
            0,
            s[12],
            s[13],
            s[14],
            s[15],
            d[12],
            d[13],
            d[14],
            d[15],
        ];
        let c = (!(checksum::fold(sum(&header, 0)) as u16)).to_ne_bytes();
        header[10] = c[0];
        header[11] = c[1];
        skb.store(l3, &header)?;
    }
    skb.store(l3 + F::HEADER, &message)?;
    Ok(true)
}
