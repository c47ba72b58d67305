//! The host's own addresses, our endpoints and our subnets.

use aya_ebpf::maps::lpm_trie::Key;
use netbpf_common::{
    addr::Addr,
    drop::DropReason,
    maps::{
        Endpoint, EndpointKey, Local, LocalKey, Subnet, SubnetData, Veth,
        endpoints::{NETWORK_ICC, NETWORK_INTERNAL, NETWORK_MASQUERADE},
    },
};

use super::Step;
use crate::{
    ctx::Skb,
    family::{Family, Room},
    maps::{ENDPOINTS, LOCALS, SUBNETS, VETHS},
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
