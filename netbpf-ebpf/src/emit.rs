//! The only place that turns verdicts into counters, events and return codes.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use netbpf_common::{
    drop::DropReason,
    event::{CLOSE_FIN, CLOSE_RESET, EVENT_CLOSE, EVENT_DROP, EVENT_NEW, Event},
    maps::{DropKey, EndpointStats, Flow, FlowKey, flows::FLOW_ORIGINAL},
    packet::{Read, eth, tcp, tuple},
};

use crate::{
    atomic, calls,
    ctx::Skb,
    family::{Family, Packet, V4, V6},
    frame::Frame,
    maps::{CONFIG, DROPS, ENDPOINT_DROPS, ENDPOINT_STATS, EVENTS, EVENTS_LOST},
};

/// `TC_ACT_UNSPEC`: whatever else hangs on the device gets its turn, then the
/// kernel's stack.
pub const NEXT: i32 = -1;
/// `TC_ACT_SHOT`.
pub const SHOT: i32 = 2;

/// Adds to a counter that other CPUs may add to as well.
#[inline(always)]
fn add(counter: *mut u64, value: u64) {
    // SAFETY: `counter` points into a map value; this is its only use here.
    unsafe { atomic::add(counter, value) };
}

#[inline(always)]
fn stats(endpoint: u32) -> Option<&'static mut EndpointStats> {
    // SAFETY: the slot belongs to this CPU, on which programs do not nest.
    ENDPOINT_STATS
        .get_ptr_mut(endpoint)
        .map(|p| unsafe { &mut *p })
}

/// What a packet counts for as it was sent, whatever becomes of it: its bytes, and from bit
/// 32 on how many it stands for. One number takes no stack.
#[derive(Clone, Copy)]
pub struct Sent(u64);

impl Sent {
    #[inline(always)]
    pub fn of(skb: &Skb) -> Sent {
        Sent(skb.segments() << 32 | u64::from(skb.len()))
    }

    #[inline(always)]
    fn packets(self) -> u64 {
        self.0 >> 32
    }

    #[inline(always)]
    fn bytes(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

/// A packet that the container sent and that goes on.
#[inline(always)]
pub fn sent(sent: Sent, endpoint: u32) {
    if let Some(stats) = stats(endpoint) {
        stats.tx_packets += sent.packets();
        stats.tx_bytes += sent.bytes();
    }
}

/// A packet that the container sent in vain; the code to return.
#[inline(always)]
pub fn refused(sent: Sent, endpoint: u32) -> i32 {
    if let Some(stats) = stats(endpoint) {
        stats.refused_packets += sent.packets();
        stats.refused_bytes += sent.bytes();
    }
    SHOT
}

/// A packet that the container sent and that became our answer to it.
#[inline(always)]
pub fn answered(skb: &Skb, sent: Sent, endpoint: u32) {
    refused(sent, endpoint);
    if let Some(stats) = stats(endpoint) {
        stats.answer_packets += 1;
        stats.answer_bytes += u64::from(skb.len());
    }
}

/// A packet that reaches the container.
#[inline(always)]
pub fn received(skb: &Skb, endpoint: u32) {
    if let Some(stats) = stats(endpoint) {
        stats.rx_packets += skb.segments();
        stats.rx_bytes += u64::from(skb.len());
    }
}

/// A packet that goes nowhere; the code to return. `l3` is the offset of its
/// network header, `endpoint` 0 where none is known.
#[inline(always)]
pub fn dropped(skb: &Skb, l3: usize, reason: u32, endpoint: u32) -> i32 {
    if calls::count_drop(reason, endpoint) != 0 {
        calls::tell_dropped(skb.raw(), l3 as u32, reason, endpoint);
    }
    SHOT
}

/// The counting of [`dropped`]; not 0 when somebody wants to hear of it.
#[inline(always)]
pub fn count_drop(reason: u32, endpoint: u32) -> i32 {
    if let Some(count) = DROPS.get_ptr_mut(reason) {
        // SAFETY: the slot belongs to this CPU, on which programs do not nest.
        unsafe { *count += 1 };
    }
    if endpoint != 0 {
        if let Some(stats) = stats(endpoint) {
            stats.dropped_packets += 1;
        }
        let key = DropKey { endpoint, reason };
        match ENDPOINT_DROPS.get_ptr_mut(&key) {
            Some(count) => add(count, 1),
            // Two CPUs may both find nothing: then the first of two drops goes
            // uncounted here, not in `drops`.
            None => {
                let _ = ENDPOINT_DROPS.insert(&key, &1, 0);
            }
        }
    }
    i32::from(listening())
}

/// The telling of [`dropped`], with the packet's tuple where it has one.
#[inline(always)]
pub fn tell_dropped(skb: &Skb, l3: usize, reason: u32, endpoint: u32) {
    event((skb.ifindex(), skb.len()), EVENT_DROP, endpoint, |event| {
        event.reason = reason as u8;
        match skb.protocol() {
            eth::TYPE_IPV4 => tuple_of::<V4>(skb, l3, event),
            eth::TYPE_IPV6 => tuple_of::<V6>(skb, l3, event),
            _ => {}
        }
    });
}

/// The same of a frame that was dropped before it was a packet.
#[inline(always)]
pub fn tell_early_dropped(frame: &Frame, ethertype: u16, l3: usize, reason: DropReason) {
    event((frame.ifindex(), frame.len()), EVENT_DROP, 0, |event| {
        event.reason = reason as u8;
        match ethertype {
            eth::TYPE_IPV4 => tuple_of::<V4>(frame, l3, event),
            _ => tuple_of::<V6>(frame, l3, event),
        }
    });
}

#[inline(always)]
fn tuple_of<F: Family>(packet: &impl Read, l3: usize, event: &mut Event) {
    let Some(ip) = F::parse(packet, l3) else {
        return;
    };
    event.family = F::VERSION;
    event.protocol = ip.protocol;
    event.src = F::mapped(ip.src);
    event.dst = F::mapped(ip.dst);
    if !ip.later_fragment
        && let Some(t) = tuple::transport(packet, ip.protocol, ip.l4 & 0x3fff)
    {
        event.sport = t.sport;
        event.dport = t.dport;
    }
}

/// A flow began: tells whoever listens.
#[inline(always)]
pub fn began<F: Family>(skb: &Skb, p: &Packet<F::Addr>, new: &Flow<F::Addr>) {
    if listening() {
        event(
            (skb.ifindex(), skb.len()),
            EVENT_NEW,
            new.endpoint,
            |event| {
                event.kind = new.kind;
                event.family = F::VERSION;
                event.protocol = p.ip.protocol;
                event.src = F::mapped(p.ip.src);
                event.dst = F::mapped(p.ip.dst);
                event.sport = p.t.sport;
                event.dport = p.t.dport;
                event.new_src = F::mapped(new.src);
                event.new_dst = F::mapped(new.dst);
                event.new_sport = new.sport;
                event.new_dport = new.dport;
            },
        );
    }
}

/// A packet ended the flow of these halves, that of the packet first: tells whoever
/// listens, in the direction of the packet that began it.
#[inline(always)]
pub fn closed<F: Family>(skb: &Skb, flags: u8, keys: [&FlowKey<F::Addr>; 2], half: &Flow<F::Addr>) {
    if !listening() {
        return;
    }
    let is_original = half.flags & FLOW_ORIGINAL != 0;
    let (original, reply) = match is_original {
        true => (keys[0], keys[1]),
        false => (keys[1], keys[0]),
    };
    let device = (skb.ifindex(), skb.len());
    event(device, EVENT_CLOSE, half.endpoint, |event| {
        event.reason = if flags & tcp::RST != 0 {
            CLOSE_RESET
        } else {
            CLOSE_FIN
        };
        event.kind = half.kind;
        event.family = F::VERSION;
        event.protocol = original.protocol;
        event.src = F::mapped(original.src);
        event.sport = original.sport;
        event.dst = F::mapped(original.dst);
        event.dport = original.dport;
        event.new_src = F::mapped(reply.dst);
        event.new_sport = reply.dport;
        event.new_dst = F::mapped(reply.src);
        event.new_dport = reply.sport;
    });
}

#[inline(always)]
fn listening() -> bool {
    CONFIG.get(0).is_some_and(|config| config.events != 0)
}

/// Writes a record in place; when the buffer is full it is lost, and counted.
#[inline(always)]
fn event((ifindex, len): (u32, u32), event: u8, endpoint: u32, fill: impl FnOnce(&mut Event)) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        if let Some(lost) = EVENTS_LOST.get_ptr_mut(0) {
            // SAFETY: the slot belongs to this CPU, on which programs do not nest.
            unsafe { *lost += 1 };
        }
        return;
    };
    fill(entry.write(Event {
        // SAFETY: takes and touches nothing.
        time: unsafe { bpf_ktime_get_ns() },
        event,
        reason: 0,
        family: 0,
        protocol: 0,
        kind: 0,
        reserved: [0; 3],
        ifindex,
        endpoint,
        len,
        sport: 0,
        dport: 0,
        src: [0; 16],
        dst: [0; 16],
        new_src: [0; 16],
        new_dst: [0; 16],
        new_sport: 0,
        new_dport: 0,
        reserved2: 0,
    }));
    entry.submit(0);
}
