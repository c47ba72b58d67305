//! The host's own addresses, our endpoints and our subnets.

use aya_ebpf::maps::lpm_trie::Key;
use netbpf_common::{
    addr::Addr,
    drop::DropReason,
    maps::{
        Endpoint, EndpointKey, Local, LocalKey, Subnet, SubnetData, Veth,
        endpoints::{NETWORK_ICC, NETWORK_INTERNAL, NETWORK_MASQUERADE},
        locals::LOCAL_GATEWAY,
    },
    packet::tuple::TransportKind,
};

use super::{Step, pool, port::is_published};
use crate::{
    ctx::Skb,
    family::{Family, Packet, Room},
    maps::{CONFIG, ENDPOINTS, LOCALS, SUBNETS, VETHS},
};

/// The container behind the device whose hook runs.
#[inline(always)]
pub fn veth(skb: &Skb) -> Step<&'static Veth> {
    let ifindex = skb.ifindex();
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    unsafe { VETHS.get(&ifindex) }.ok_or(DropReason::UnknownEndpoint)
}

#[inline(always)]
pub fn host<F: Family>(room: &mut Room<F::Addr>, addr: F::Addr) -> Option<&'static Local> {
    room.local_key = LocalKey {
        addr: F::mapped(addr),
    };
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    unsafe { LOCALS.get(&room.local_key) }
}

/// An address of the host itself, loopback included.
#[inline(always)]
pub fn is_own<F: Family>(room: &mut Room<F::Addr>, addr: F::Addr) -> bool {
    F::is_martian(addr) || host::<F>(room, addr).is_some()
}

/// Is it certain that a packet from outside is for the host's own stack, whatever flows there
/// are? It is to one of its addresses, and to a port that nothing of ours has or had, from
/// nobody who would be refused. `false`: the long way tells.
#[inline(always)]
pub fn is_hosts<F: Family>(p: &Packet<F::Addr>, room: &mut Room<F::Addr>) -> bool {
    let (protocol, port) = (p.ip.protocol, p.t.dport);
    if !matches!(p.t.kind, TransportKind::Tcp | TransportKind::Udp)
        || pool::is_expected(protocol, port)
        || is_published(protocol, F::VERSION, port)
        || CONFIG.get(0).is_none_or(|config| config.arrivals == 0)
    {
        return false;
    }
    host::<F>(room, p.ip.dst).is_some_and(|own| own.flags & LOCAL_GATEWAY == 0)
        && subnet::<F>(room, p.ip.src).is_none()
}

#[inline(always)]
pub fn endpoint<F: Family>(
    room: &mut Room<F::Addr>,
    addr: F::Addr,
    scope: u32,
) -> Option<&'static Endpoint> {
    endpoint_at(room, F::mapped(addr), scope)
}

/// The same by an address of whichever family.
#[inline(always)]
pub fn endpoint_at<A>(room: &mut Room<A>, addr: Addr, scope: u32) -> Option<&'static Endpoint> {
    room.endpoint_key = EndpointKey { scope, addr };
    // SAFETY: as above.
    unsafe { ENDPOINTS.get(&room.endpoint_key) }
}

#[inline(always)]
pub fn subnet<F: Family>(room: &mut Room<F::Addr>, addr: F::Addr) -> Option<&'static Subnet> {
    room.subnet_key = Key::new(
        128,
        SubnetData {
            addr: F::mapped(addr),
        },
    );
    SUBNETS.get(&room.subnet_key)
}

/// May this container talk to that endpoint?
#[inline(always)]
pub fn policy(veth: &Veth, to: &Endpoint) -> Step<()> {
    if veth.network != to.network {
        return Err(DropReason::Isolated);
    }
    if veth.flags & NETWORK_ICC == 0 && veth.endpoint != to.endpoint {
        return Err(DropReason::IccDisabled);
    }
    Ok(())
}

/// Reached from outside under its containers' own addresses.
#[inline(always)]
pub fn is_routed(flags: u32) -> bool {
    flags & (NETWORK_MASQUERADE | NETWORK_INTERNAL) == 0
}
