//! The host's own addresses, our endpoints and our subnets.

use aya_ebpf::maps::lpm_trie::Key;
use netbpf_common::{
    addr::Addr,
    drop::DropReason,
    maps::{
        Endpoint, EndpointKey, Local, LocalKey, Subnet, SubnetData, Veth, VethSlot,
        endpoints::{NETWORK_ICC, NETWORK_INTERNAL, NETWORK_MASQUERADE, veth_slot},
        subnets::area_index,
    },
    packet::tuple::TransportKind,
};

use super::{Step, pool, port::is_published};
use crate::{
    ctx::Skb,
    family::{self, Family, Packet, Room},
    maps::{AREAS, CONFIG, ENDPOINTS, LOCALS, SUBNETS, VETH_SLOTS, VETHS},
};

/// Finds the container behind the device whose hook runs; from where [`veth`] takes it until the
/// program's end.
///
/// It is copied, as the verifier would go through all that follows once for each of the two
/// maps that it may be in.
#[inline(always)]
pub fn find(skb: &Skb) -> Step<&'static VethSlot> {
    let ifindex = skb.ifindex();
    let sender = family::sender()?;
    // SAFETY: of this CPU, on which programs do not nest; what was found for the packet before
    // is of no more use.
    let sender = unsafe { &mut *sender };
    match VETH_SLOTS.get(veth_slot(ifindex)) {
        Some(slot) if slot.ifindex == ifindex => copy(sender, slot),
        _ => sender.ifindex = 0,
    }
    // Also where the daemon has begun to write the slot in between: then it is of nobody, or of
    // somebody else.
    if sender.ifindex != ifindex {
        // SAFETY: entries are replaced whole by the daemon; a reader sees either.
        let veth = unsafe { VETHS.get(&ifindex) }.ok_or(DropReason::UnknownEndpoint)?;
        unplaced(sender, veth, ifindex);
    }
    Ok(sender)
}

/// Word by word, without the call that the compiler makes of an assignment.
#[inline(always)]
fn copy(to: &mut VethSlot, from: &VethSlot) {
    const WORDS: usize = size_of::<VethSlot>() / size_of::<u64>();
    let (to, from) = (
        core::ptr::from_mut(to).cast::<u64>(),
        core::ptr::from_ref(from).cast::<u64>(),
    );
    for word in 0..WORDS {
        // SAFETY: both are aligned to 8, and a multiple of 8 long. The daemon may write `from`.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// What [`find`] says of a device that has no place. Whether another address is near it does
/// not know: none is.
#[inline(never)]
fn unplaced(to: &mut VethSlot, veth: &Veth, ifindex: u32) {
    *to = VethSlot::unplaced(*veth);
    to.ifindex = ifindex;
}

/// The container behind the device whose hook runs, which [`find`] has found: of
/// `from_container` alone.
#[inline(always)]
pub fn veth() -> Step<&'static Veth> {
    let sender = family::sender()?;
    // SAFETY: nothing writes it any more.
    Ok(unsafe { &(*sender).veth })
}

/// What is asked of the container behind a device; `None` where there is none.
#[inline(always)]
pub fn of_veth<T>(ifindex: u32, ask: impl Fn(&Veth) -> T) -> Option<T> {
    match VETH_SLOTS.get(veth_slot(ifindex)) {
        Some(slot) if slot.ifindex == ifindex => Some(ask(&slot.veth)),
        // SAFETY: entries are replaced whole by the daemon; a reader sees either.
        _ => unsafe { VETHS.get(&ifindex) }.map(ask),
    }
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
/// are? It is to a port that nothing of ours has or had, and has nothing to do with any of our
/// subnets, in which all containers and gateways are. `false`: the long way tells.
#[inline(always)]
pub fn is_hosts<F: Family>(p: &Packet<F::Addr>) -> bool {
    let (protocol, port) = (p.ip.protocol, p.t.dport);
    matches!(p.t.kind, TransportKind::Tcp | TransportKind::Udp)
        && are_marked()
        && !pool::is_expected(protocol, port)
        && !is_published(protocol, F::VERSION, port)
        && !is_in_area::<F>(p.ip.dst)
        && !is_in_area::<F>(p.ip.src)
}

/// Do the marks in `arrivals`, `siblings` and `areas` say all that there is?
#[inline(always)]
pub fn are_marked() -> bool {
    CONFIG.get(0).is_some_and(|config| config.marked != 0)
}

/// Does the address begin as those of one of our subnets do?
#[inline(always)]
fn is_in_area<F: Family>(addr: F::Addr) -> bool {
    match AREAS.get(area_index(F::IS_V6)) {
        Some(areas) => pool::has(areas, F::area(addr)),
        None => true,
    }
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
    if are_marked() && !is_in_area::<F>(addr) {
        return None;
    }
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
