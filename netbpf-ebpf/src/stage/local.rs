//! The host's own addresses, our endpoints and our subnets.

use netbpf_common::{
    drop::DropReason,
    maps::{
        Endpoint, EndpointKey, Local, LocalKey, Subnet, SubnetData, Veth,
        endpoints::{NETWORK_ICC, NETWORK_INTERNAL, NETWORK_MASQUERADE},
    },
};

use super::Step;
use crate::{
    family::Family,
    maps::{ENDPOINTS, LOCALS, SUBNETS},
};

#[inline(always)]
pub fn host<F: Family>(addr: F::Addr) -> Option<&'static Local> {
    let key = LocalKey {
        addr: F::mapped(addr),
    };
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    unsafe { LOCALS.get(&key) }
}

#[inline(always)]
pub fn endpoint<F: Family>(addr: F::Addr, scope: u32) -> Option<&'static Endpoint> {
    let key = EndpointKey {
        scope,
        addr: F::mapped(addr),
    };
    // SAFETY: as above.
    unsafe { ENDPOINTS.get(&key) }
}

#[inline(always)]
pub fn subnet<F: Family>(addr: F::Addr) -> Option<&'static Subnet> {
    let key = aya_ebpf::maps::lpm_trie::Key::new(
        128,
        SubnetData {
            addr: F::mapped(addr),
        },
    );
    SUBNETS.get(&key)
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
