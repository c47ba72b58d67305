//! The way out, as the host's own routing says it for the destination.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NO_SRC_ADDR, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_UNREACHABLE, bpf_fib_lookup,
    },
    helpers::bpf_fib_lookup as fib_lookup,
    maps::lpm_trie::Key,
};
use netbpf_common::{
    drop::DropReason,
    maps::{
        SourceData, Uplink,
        flows::{FLOW_ETHERNET, FLOW_FOREIGN_NEXT_HOP},
        sources::SOURCE_PREFIX,
        uplinks::UPLINK_ETHERNET,
    },
    verdict::Coded,
};

use super::Step;
use crate::{
    ctx::Skb,
    family::{Family, Room},
    maps::{SOURCES, UPLINKS},
};

/// Extra flags for the lookup, set by the loader to what the kernel knows:
/// `BPF_FIB_LOOKUP_SKIP_NEIGH` (6.3) and `BPF_FIB_LOOKUP_SRC` (6.7).
#[unsafe(no_mangle)]
static FIB_FLAGS: u32 = 0;

const FIB_LOOKUP_SRC: u32 = 16;

/// A way out.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way<A> {
    pub ifindex: u32,
    pub mtu: u32,
    pub next_hop: A,
    /// The address that the host would send from.
    pub src: A,
    /// Not 0: IPv4 by way of an IPv6 neighbour.
    pub foreign: u32,
    /// Not 0: the device carries Ethernet frames.
    pub ethernet: u32,
    /// Not 0: the FIB was asked for this packet.
    pub asked: u32,
}

impl<A> Way<A> {
    /// As a flow keeps it: `FLOW_ETHERNET`, `FLOW_FOREIGN_NEXT_HOP`.
    #[inline(always)]
    pub fn flow_flags(&self) -> u8 {
        let ethernet = if self.ethernet != 0 { FLOW_ETHERNET } else { 0 };
        let foreign = if self.foreign != 0 {
            FLOW_FOREIGN_NEXT_HOP
        } else {
            0
        };
        ethernet | foreign
    }

    /// The MTU in the 16 bits that a flow has for it.
    #[inline(always)]
    pub fn flow_mtu(&self) -> u16 {
        if self.mtu > 0xffff {
            0xffff
        } else {
            self.mtu as u16
        }
    }
}

/// The uplink behind an ifindex.
#[inline(always)]
pub fn uplink(ifindex: u32) -> Option<&'static Uplink> {
    // SAFETY: entries are replaced whole by the daemon; a reader sees either.
    unsafe { UPLINKS.get(&ifindex) }
}

/// Asks the FIB for the way from `src` (unspecified: the host chooses) to `dst`.
/// The answer stands in `room.way`. The kernel answers only to a device with
/// forwarding on: our host-side veths, by which these packets come.
#[inline(always)]
pub fn way<F: Family>(skb: &Skb, room: &mut Room<F::Addr>, src: F::Addr, dst: F::Addr) -> Step<()> {
    room.route_src = src;
    room.route_dst = dst;
    match F::call_route(skb).dropped() {
        None => Ok(()),
        Some(number) => Err(DropReason::from_number(number).unwrap_or(DropReason::Helper)),
    }
}

/// The asking itself.
#[inline(always)]
pub fn ask<F: Family>(skb: &Skb, room: &mut Room<F::Addr>) -> Step {
    let (src, dst) = (room.route_src, room.route_dst);
    // SAFETY: a constant that the loader wrote before the program was verified.
    let flags = unsafe { core::ptr::read_volatile(&raw const FIB_FLAGS) };
    let choose = src == F::UNSPECIFIED && flags & FIB_LOOKUP_SRC != 0;
    let fib = &mut room.fib;
    // One by one: all at once is a call to memset, whose frame is one too many.
    fib.l4_protocol = 0;
    fib.sport = 0;
    fib.dport = 0;
    fib.__bindgen_anon_1.tot_len = 0;
    fib.__bindgen_anon_2.rt_metric = 0;
    fib.__bindgen_anon_5.tbid = 0;
    fib.smac = [0; 6];
    fib.dmac = [0; 6];
    fib.family = F::AF;
    fib.ifindex = skb.ifindex();
    F::fib_set(fib, src, dst);
    let flags = if choose {
        flags
    } else {
        flags & !FIB_LOOKUP_SRC
    };
    // SAFETY: `fib` is a whole structure.
    let ret = unsafe {
        fib_lookup(
            skb.as_ptr(),
            core::ptr::from_mut(fib),
            size_of::<bpf_fib_lookup>() as i32,
            flags,
        )
    };
    if ret < 0 {
        return Err(DropReason::NetUnreachable);
    }
    match ret as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => {}
        BPF_FIB_LKUP_RET_UNREACHABLE => return Err(DropReason::HostUnreachable),
        BPF_FIB_LKUP_RET_PROHIBIT => return Err(DropReason::Prohibited),
        BPF_FIB_LKUP_RET_NO_SRC_ADDR => return Err(DropReason::NoSourceAddress),
        // Local, broadcast and multicast destinations end here as well, but are
        // dealt with before.
        BPF_FIB_LKUP_RET_NOT_FWDED => return Err(DropReason::NetUnreachable),
        BPF_FIB_LKUP_RET_FWD_DISABLED => return Err(DropReason::ForwardingOff),
        _ => return Err(DropReason::NetUnreachable),
    }
    let ifindex = fib.ifindex;
    let uplink = uplink(ifindex).ok_or(DropReason::NotUplink)?;
    let chosen = if src != F::UNSPECIFIED {
        src
    } else if choose {
        F::fib_src(fib)
    } else {
        source::<F>(&mut room.source_key, ifindex, dst, uplink)
    };
    if ret as u32 == BPF_FIB_LKUP_RET_FRAG_NEEDED && !skb.is_gso() {
        room.mtu = uplink.mtu;
        return Err(DropReason::TooBig);
    }
    room.way = Way {
        ifindex,
        mtu: uplink.mtu,
        next_hop: F::fib_dst(&room.fib),
        src: chosen,
        foreign: u32::from(room.fib.family != F::AF),
        ethernet: uplink.flags & UPLINK_ETHERNET,
        asked: 1,
    };
    Ok(Coded::PASS)
}

/// The address that the host sends from to `dst` by that device, as the daemon read
/// it from the host's routes: this kernel does not tell.
#[inline(always)]
fn source<F: Family>(
    key: &mut Key<SourceData>,
    ifindex: u32,
    dst: F::Addr,
    uplink: &Uplink,
) -> F::Addr {
    let addr = F::mapped(dst);
    *key = Key::new(SOURCE_PREFIX, SourceData { ifindex, addr });
    match SOURCES.get(&*key) {
        Some(source) => F::from_mapped(source.addr),
        None => F::uplink_addr(uplink),
    }
}
