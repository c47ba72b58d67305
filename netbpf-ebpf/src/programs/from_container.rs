//! TC ingress of a host-side veth: everything that a container sends.
//!
//! parse → anti-spoof → ARP/ND → flow → local → endpoint → masquerade or route

use aya_ebpf::{macros::classifier, programs::TcContext};
use netbpf_common::{
    drop::DropReason,
    maps::{
        Veth,
        endpoints::{NETWORK_INTERNAL, NETWORK_MASQUERADE},
        flows::arrival_container,
    },
    packet::{
        Read as _, eth,
        tuple::{self, Transport, TransportKind},
    },
    verdict::Verdict,
};

use super::{HEADERS, send};
use crate::{
    ctx::Skb,
    emit,
    family::{Family, Packet, Room, V4, V6, scratch},
    maps::VETHS,
    stage::{
        Step, antispoof, arp, deliver,
        flow::{self, Found},
        local, masquerade, nd, port, refuse, route,
    },
};

#[classifier]
pub fn from_container(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    skb.pull(HEADERS);
    let ifindex = skb.ifindex();
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    let Some(veth) = (unsafe { VETHS.get(&ifindex) }) else {
        emit::dropped(&skb, DropReason::UnknownEndpoint, 0);
        return emit::SHOT;
    };
    let Some(header) = skb.bytes::<{ eth::LEN }>(0) else {
        emit::dropped(&skb, DropReason::Malformed, veth.endpoint);
        return emit::SHOT;
    };
    let src = [
        header[6], header[7], header[8], header[9], header[10], header[11],
    ];
    let ethertype = u16::from_be_bytes([header[12], header[13]]);
    if let Err(reason) = antispoof::mac(src, veth) {
        emit::dropped(&skb, reason, veth.endpoint);
        return emit::SHOT;
    }
    if skb.has_vlan_tag() {
        emit::dropped(&skb, DropReason::Vlan, veth.endpoint);
        return emit::SHOT;
    }
    match ethertype {
        eth::TYPE_IPV4 => ip::<V4>(&skb, veth),
        eth::TYPE_IPV6 => ip::<V6>(&skb, veth),
        eth::TYPE_ARP => {
            let verdict = arp::answer(&skb, veth).unwrap_or_else(Verdict::Drop);
            finish::<V4>(&skb, veth, verdict)
        }
        _ => {
            emit::dropped(&skb, DropReason::EtherType, veth.endpoint);
            emit::SHOT
        }
    }
}

#[inline(never)]
fn ip<F: Family>(skb: &Skb, veth: &Veth) -> i32 {
    let Ok((p, room)) = scratch::<F>() else {
        return emit::SHOT;
    };
    let verdict = match parse::<F>(skb, p) {
        Some(()) => match way::<F>(skb, veth, p, room) {
            Ok(verdict) => verdict,
            Err(reason) if F::icmp_error(reason).is_some() => {
                room.answer_from = F::gateway(veth);
                refuse::answer::<F>(skb, p, room, reason)
            }
            Err(reason) => Verdict::Drop(reason),
        },
        None => Verdict::Drop(DropReason::Malformed),
    };
    finish::<F>(skb, veth, verdict)
}

#[inline(always)]
fn parse<F: Family>(skb: &Skb, p: &mut Packet<F::Addr>) -> Option<()> {
    p.l3 = eth::LEN;
    p.ip = F::parse(skb, eth::LEN)?;
    p.t = if p.ip.later_fragment {
        Transport {
            sport: 0,
            dport: 0,
            kind: TransportKind::Other,
            flags: 0,
        }
    } else {
        tuple::transport(skb, p.ip.protocol, p.ip.l4 & 0x3fff)?
    };
    Some(())
}

#[inline(always)]
fn way<F: Family>(
    skb: &Skb,
    veth: &Veth,
    p: &mut Packet<F::Addr>,
    room: &mut Room<F::Addr>,
) -> Step {
    p.key = p.ip.key(&p.t, arrival_container(veth.scope));
    let p = &*p;
    let (ip, t) = (&p.ip, &p.t);
    if F::IS_V6 && nd::is_nd(ip.protocol, t) {
        return nd::answer::<F>(skb, veth, p);
    }
    if F::is_multicast(ip.dst) {
        return Err(DropReason::Multicast);
    }
    antispoof::addr::<F>(ip, veth)?;
    if F::is_martian(ip.dst) {
        return Err(DropReason::Martian);
    }
    if F::is_link_local(ip.dst) {
        return Err(DropReason::LinkLocal);
    }

    if let Found::Sent(verdict) = flow::follow::<F>(skb, p, room)? {
        return Ok(verdict);
    }

    if local::host::<F>(ip.dst).is_some() {
        return Ok(port::begin::<F>(skb, p, room, Some(veth))?.unwrap_or(Verdict::ToHost));
    }
    if let Some(to) = local::endpoint::<F>(ip.dst, veth.scope) {
        local::policy(veth, to)?;
        let verdict = Verdict::Deliver {
            ifindex: to.ifindex,
            endpoint: to.endpoint,
        };
        deliver::address(skb, eth::LEN, to.mac, F::ETHERTYPE)?;
        return Ok(verdict);
    }
    if let Some(subnet) = local::subnet::<F>(ip.dst) {
        return Err(if subnet.network == veth.network {
            DropReason::HostUnreachable
        } else {
            DropReason::Isolated
        });
    }
    if veth.flags & NETWORK_INTERNAL != 0 {
        return Err(DropReason::Internal);
    }
    if veth.flags & NETWORK_MASQUERADE != 0 {
        if ip.later_fragment {
            return Err(DropReason::Fragment);
        }
        return masquerade::begin::<F>(skb, veth, p, room);
    }
    if ip.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    let way = route::way::<F>(skb, room, skb.ifindex(), ip.src, ip.dst)?;
    F::lower_hop_limit(skb, eth::LEN)?;
    Ok(deliver::forward::<F>(
        room,
        way.ifindex,
        way.ethernet,
        (!way.foreign).then_some(way.next_hop),
    ))
}

#[inline(always)]
fn finish<F: Family>(skb: &Skb, veth: &Veth, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass | Verdict::ToHost => {
            emit::sent(skb, veth.endpoint);
            skb.for_host();
            emit::NEXT
        }
        Verdict::Deliver { ifindex, endpoint } => {
            emit::sent(skb, veth.endpoint);
            emit::received(skb, endpoint);
            skb.redirect_peer(ifindex)
        }
        Verdict::Forward { ifindex } => {
            emit::sent(skb, veth.endpoint);
            send::<F>(skb, ifindex)
        }
        Verdict::ForwardBare { ifindex } => {
            emit::sent(skb, veth.endpoint);
            skb.redirect(ifindex)
        }
        Verdict::Answer => {
            skb.for_host();
            skb.redirect_peer(skb.ifindex())
        }
        Verdict::Refuse(reason) => {
            emit::dropped(skb, reason, veth.endpoint);
            skb.for_host();
            skb.redirect_peer(skb.ifindex())
        }
        Verdict::Drop(reason) => {
            emit::dropped(skb, reason, veth.endpoint);
            emit::SHOT
        }
    }
}
