//! The two halves of a masqueraded flow, once it has its outside port.

use aya_ebpf::bindings::BPF_NOEXIST;
use netbpf_common::{
    flow::{State, state},
    maps::{
        FlowKey,
        flows::{
            ARRIVAL_HAIRPIN, ARRIVAL_UPLINK, Expects, FLOW_HAIRPIN, FLOW_OF_HOST, FLOW_ORIGINAL,
            FLOW_TO_CONTAINER, KIND_MASQUERADE, SCOPE_HOST,
        },
    },
    packet::{tcp, tuple::TransportKind},
    time::since,
};

use crate::stage::{
    Step,
    flow::{self, timeout_ticks},
    local,
    renew::{give_up, renew},
    sockets::host_has,
};
use crate::{
    calls,
    ctx::{Skb, now},
    family::{Family, Packet, Room},
};

use super::{
    HAIRPIN, OF_HOST, OUTWARD,
    outside::{EEXIST, FULL, TAKEN},
    pool,
};

/// Outcome of [`record`].
pub(super) const WRITTEN: u32 = 1;

/// Which sockets of the host may have the tuple, and are to be asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Ask {
    /// None: it was asked when the port was taken.
    Nothing,
    /// Such as have a connection with it; of UDP also such as have the port, as any of them
    /// may be about to be answered.
    Connections,
    /// Also such as listen on the port.
    All,
}

impl Ask {
    #[inline(always)]
    pub const fn from_number(number: u32) -> Ask {
        match number {
            0 => Ask::Nothing,
            1 => Ask::Connections,
            _ => Ask::All,
        }
    }
}

/// Whose flow it is that begins.
pub(super) struct Owner {
    endpoint: u32,
    pub(super) scope: u32,
    ifindex: u32,
    mac: [u8; 6],
}

#[inline(always)]
pub(super) fn owner<A>(skb: &Skb, room: &Room<A>) -> Step<Owner> {
    if room.begins == OF_HOST {
        return Ok(Owner {
            endpoint: 0,
            scope: SCOPE_HOST,
            ifindex: 0,
            mac: [0; 6],
        });
    }
    let veth = local::veth()?;
    Ok(Owner {
        endpoint: veth.endpoint,
        scope: veth.scope,
        ifindex: skb.ifindex(),
        mac: veth.mac,
    })
}

/// Writes both halves; the reverse one first, since it must not be another's.
#[inline(always)]
pub fn record<F: Family>(
    skb: &Skb,
    p: &Packet<F::Addr>,
    room: &mut Room<F::Addr>,
    outside_port: u16,
    ask: Ask,
) -> u32 {
    let Ok(owner) = owner(skb, room) else {
        return FULL;
    };
    let (ip, t, time, seen) = (&p.ip, &p.t, now(), room.seen);
    if ask != Ask::Nothing {
        let (remote, own) = ((ip.dst, t.dport), (room.way.src, outside_port));
        if host_has::<F>(skb, room, remote, own, ip.protocol, ask == Ask::All) {
            return TAKEN;
        }
    }
    let way = &room.way;
    let echo = matches!(t.kind, TransportKind::EchoRequest);
    room.forward_key = p.key;
    room.reverse_key = FlowKey {
        src: ip.dst,
        dst: way.src,
        sport: if echo { 0 } else { t.dport },
        dport: outside_port,
        protocol: ip.protocol,
        reserved: 0,
        arrival: match room.begins {
            HAIRPIN => ARRIVAL_HAIRPIN,
            _ => ARRIVAL_UPLINK,
        },
    };
    // Field by field: a whole flow built on the stack would not fit there.
    let forward = &mut room.forward;
    forward.packets = skb.segments();
    forward.bytes = u64::from(skb.len());
    forward.src = way.src;
    forward.dst = ip.dst;
    forward.sport = outside_port;
    forward.dport = if echo { 0 } else { t.dport };
    forward.ifindex = way.ifindex;
    forward.endpoint = owner.endpoint;
    forward.slot = 0;
    forward.other_arrival = room.reverse_key.arrival;
    forward.sender = owner.endpoint;
    forward.generation = 0;
    forward.last_seen = time;
    forward.created = time;
    forward.checked = time;
    forward.next_hop = way.next_hop;
    forward.mac = [0; 6];
    forward.kind = KIND_MASQUERADE;
    forward.flags = FLOW_ORIGINAL
        | match room.begins {
            OUTWARD => way.flow_flags(),
            HAIRPIN => FLOW_HAIRPIN,
            _ => FLOW_OF_HOST,
        };
    forward.seen = seen;
    forward.mtu = way.flow_mtu();
    forward.expects = Expects::after_own_syn(match t.kind {
        TransportKind::Tcp => calls::window_scale(skb.raw(), ip.l4 as u32) as u8,
        _ => tcp::NO_SCALE,
    });
    forward.removed = 0;
    forward.reserved_addr = F::UNSPECIFIED;
    room.reverse = room.forward;
    room.reverse.packets = 0;
    room.reverse.bytes = 0;
    room.reverse.src = ip.dst;
    room.reverse.dst = ip.src;
    room.reverse.sport = if echo { 0 } else { t.dport };
    room.reverse.dport = t.sport;
    room.reverse.ifindex = owner.ifindex;
    room.reverse.next_hop = F::UNSPECIFIED;
    room.reverse.mac = owner.mac;
    room.reverse.flags = match room.begins {
        OF_HOST => FLOW_OF_HOST,
        _ => FLOW_TO_CONTAINER,
    };
    room.reverse.other_arrival = p.key.arrival;
    room.reverse.sender = 0;
    room.reverse.seen = 0;
    room.reverse.expects = Expects::after_syn(t.seq);
    room.reverse.mtu = 0;
    if room.past != 0 && renew::<F>(room) {
        room.past = 0;
        return WRITTEN;
    }
    give_up::<F>(p, room);
    if F::call_clear() == 0 {
        return TAKEN;
    }
    pool::expect(&room.reverse_key);
    match flow::insert::<F>(room, u64::from(BPF_NOEXIST)) {
        Ok(()) => WRITTEN,
        // Another CPU was first.
        Err(EEXIST) => TAKEN,
        Err(_) => FULL,
    }
}

/// Whether the reverse key in the room is nobody's, or a flow's of before: that of the
/// same container and port, or one that is over or expired. Such a one goes.
#[inline(always)]
pub fn clear<F: Family>(p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> bool {
    let Some(held) = flow::find::<F>(&room.reverse_key) else {
        return true;
    };
    if held.dst != p.ip.src || held.dport != p.t.sport || held.other_arrival != p.key.arrival {
        room.other_key = room.reverse_key.reverse(held);
        let (time, protocol) = (now(), p.ip.protocol);
        let (mut seen, mut silent) = (0, since(time, held.last_seen));
        if let Some(other) = flow::find::<F>(&room.other_key) {
            seen = other.seen;
            silent = silent.min(since(time, other.last_seen));
        }
        // Also where the daemon, which collects what is over, is away.
        if !state(protocol, seen, held.seen).is_over()
            && silent <= timeout_ticks(protocol, State::Established)
        {
            return false;
        }
        flow::remove::<F>(&room.other_key);
    }
    flow::remove::<F>(&room.reverse_key);
    true
}
