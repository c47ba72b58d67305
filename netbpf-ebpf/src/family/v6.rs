//! IPv6.

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_redir_neigh, bpf_sock_tuple};
use netbpf_common::{
    addr::{Addr, Addr6},
    drop::DropReason,
    maps::{Uplink, Veth, VethSlot, subnets::area6},
    packet::{self, Read, eth, icmp, ipv6, tuple::Ip, vxlan},
    verdict::Coded,
};

use crate::{
    calls,
    ctx::{Skb, sum_diff},
    maps::{self, EvictableFlows, Flows, Fragments, Mappings, OutsidePorts},
    stage::{evict::Outcome, masquerade::Ask, pool::Wanted, port::Client},
};

use super::{AF_INET6, Family, V6, is_segment};

#[inline(always)]
fn words(a: Addr6) -> [u32; 4] {
    // SAFETY: same size, any bytes are valid.
    unsafe { core::mem::transmute(a) }
}

#[inline(always)]
fn bytes(w: [u32; 4]) -> Addr6 {
    // SAFETY: same size, any bytes are valid.
    unsafe { core::mem::transmute(w) }
}

impl Family for V6 {
    type Addr = Addr6;
    const VERSION: u8 = 6;
    const ETHERTYPE: u16 = eth::TYPE_IPV6;
    const AF: u8 = AF_INET6;
    const IS_V6: bool = true;
    const UNSPECIFIED: Addr6 = [0; 16];
    const HEADER: usize = ipv6::LEN;
    const SOCKET_TUPLE: u32 = 36;

    #[inline(always)]
    fn call_parse(skb: &Skb, l3: usize, arrival: u16) -> u32 {
        calls::parse_v6(skb.raw(), l3 as u32, arrival.into())
    }
    #[inline(always)]
    fn call_parse_quote(skb: &Skb) -> u32 {
        calls::parse_quote_v6(skb.raw())
    }
    #[inline(always)]
    fn call_follow(skb: &Skb, sender: u32) -> Coded {
        Coded::from_bits(calls::follow_v6(skb.raw(), sender))
    }
    #[inline(always)]
    fn call_route(skb: &Skb) -> Coded {
        Coded::from_bits(calls::route_v6(skb.raw()))
    }
    #[inline(always)]
    fn call_masquerade(skb: &Skb) -> Coded {
        Coded::from_bits(calls::masquerade_v6(skb.raw()))
    }
    #[inline(always)]
    fn call_port(skb: &Skb, client: Client) -> Coded {
        Coded::from_bits(calls::port_v6(skb.raw(), client as u32))
    }
    #[inline(always)]
    fn call_refuse(skb: &Skb, reason: DropReason) -> Coded {
        Coded::from_bits(calls::refuse_v6(skb.raw(), reason as u32))
    }
    #[inline(always)]
    fn call_quoted(skb: &Skb, sender: u32) -> Coded {
        Coded::from_bits(calls::quoted_v6(skb.raw(), sender))
    }
    #[inline(always)]
    fn call_fragment(skb: &Skb, sender: u32) -> Coded {
        Coded::from_bits(calls::fragment_v6(skb.raw(), sender))
    }
    #[inline(always)]
    fn call_remember(skb: &Skb) -> Coded {
        Coded::from_bits(calls::remember_v6(skb.raw()))
    }
    #[inline(always)]
    fn call_advance(seen: u8, opens: bool, scale: u8) -> Coded {
        Coded::from_bits(calls::advance_v6(seen.into(), opens.into(), scale.into()))
    }
    #[inline(always)]
    fn call_try_outside(skb: &Skb, candidate: u16, idle: bool) -> u32 {
        calls::try_outside_v6(skb.raw(), candidate.into(), idle.into())
    }
    #[inline(always)]
    fn call_search(skb: &Skb, wanted: Wanted) -> u32 {
        calls::search_v6(skb.raw(), wanted as u32)
    }
    #[inline(always)]
    fn call_record(skb: &Skb, port: u16, ask: Ask) -> u32 {
        calls::record_v6(skb.raw(), port.into(), ask as u32)
    }
    #[inline(always)]
    fn call_clear() -> u32 {
        calls::clear_v6()
    }
    #[inline(always)]
    fn call_place(used: bool, take: bool) -> Outcome {
        calls::place_v6(used.into(), take.into())
    }
    #[inline(always)]
    fn call_try_source(skb: &Skb, candidate: u16, own: bool) -> u32 {
        calls::try_source_v6(skb.raw(), candidate.into(), own.into())
    }
    #[inline(always)]
    fn call_enter_tunnel(skb: &Skb) -> Coded {
        Coded::from_bits(calls::enter_tunnel_v6(skb.raw()))
    }
    #[inline(always)]
    fn call_leave_tunnel(skb: &Skb) -> Coded {
        Coded::from_bits(calls::leave_tunnel_v6(skb.raw()))
    }
    #[inline(always)]
    fn call_ask_way(skb: &Skb, node: u32) -> Coded {
        Coded::from_bits(calls::ask_way_v6(skb.raw(), node))
    }
    #[inline(always)]
    fn call_learn_mtu(skb: &Skb) -> u32 {
        calls::learn_mtu_v6(skb.raw())
    }
    #[inline(always)]
    fn call_is_free(skb: &Skb, l3: usize) -> u32 {
        calls::is_free_v6(skb.raw(), l3 as u32)
    }
    #[inline(always)]
    fn parse(packet: &impl Read, offset: usize) -> Option<Ip<Addr6>> {
        ipv6::parse(packet, offset)
    }
    #[inline(always)]
    fn mapped(addr: Addr6) -> Addr {
        addr
    }
    #[inline(always)]
    fn from_mapped(a: Addr) -> Addr6 {
        a
    }
    #[inline(always)]
    fn is_multicast(addr: Addr6) -> bool {
        ipv6::is_multicast(addr)
    }
    #[inline(always)]
    fn is_martian(addr: Addr6) -> bool {
        ipv6::is_martian(addr)
    }
    #[inline(always)]
    fn is_link_local(addr: Addr6) -> bool {
        ipv6::is_link_local(addr)
    }
    #[inline(always)]
    fn area(addr: Addr6) -> u16 {
        area6(addr)
    }
    #[inline(always)]
    fn own(veth: &Veth) -> Addr6 {
        veth.ipv6
    }
    #[inline(always)]
    fn is_near(slot: &VethSlot, addr: Addr6) -> bool {
        let (own, addr, mask) = (words(slot.veth.ipv6), words(addr), words(slot.mask6));
        let differ = |word: usize| (own[word] ^ addr[word]) & mask[word];
        differ(0) | differ(1) | differ(2) | differ(3) == 0
    }
    #[inline(always)]
    fn gateway(veth: &Veth) -> Addr6 {
        veth.gateway6
    }
    #[inline(always)]
    fn uplink_addr(uplink: &Uplink) -> Addr6 {
        uplink.ipv6
    }
    #[inline(always)]
    fn flows() -> &'static Flows<Addr6> {
        &maps::FLOWS6
    }
    #[inline(always)]
    fn evictable() -> &'static EvictableFlows<Addr6> {
        &maps::EVICTABLE6
    }
    #[inline(always)]
    fn mappings() -> &'static Mappings<Addr6> {
        &maps::MAPPINGS6
    }
    #[inline(always)]
    fn outside() -> &'static OutsidePorts<Addr6> {
        &maps::OUTSIDE6
    }
    #[inline(always)]
    fn fragments() -> &'static Fragments<Addr6> {
        &maps::FRAGMENTS6
    }
    #[inline(always)]
    fn renumber(skb: &Skb, _: usize, at: usize, _: u32, to: u32) -> Result<(), DropReason> {
        skb.store_covered(at, &to.to_be_bytes())
    }
    #[inline(always)]
    fn addresses(packet: &impl Read, l3: usize) -> Option<(Addr6, Addr6)> {
        if packet.u8(l3)? >> 4 != 6 {
            return None;
        }
        let src = packet.bytes::<16>(l3 + ipv6::SRC)?;
        Some((src, packet.bytes::<16>(l3 + ipv6::DST)?))
    }
    #[inline(always)]
    fn plain_source(packet: &impl Read, l3: usize) -> Option<(u16, Addr6, u8)> {
        let b = packet.bytes::<8>(l3)?;
        let src = packet.bytes::<16>(l3 + ipv6::SRC)?;
        let port = packet.u16(l3 + ipv6::LEN)?;
        (b[0] >> 4 == 6 && is_segment(b[6])).then_some((port, src, b[6]))
    }
    #[inline(always)]
    fn class(packet: &impl Read, l3: usize) -> Option<u8> {
        let b = packet.bytes::<2>(l3)?;
        Some(b[0] << 4 | b[1] >> 4)
    }
    #[inline(always)]
    fn mark(skb: &Skb, l3: usize, mark: u8) -> Result<(), DropReason> {
        use packet::Read as _;
        let second = skb.u8(l3 + 1).ok_or(DropReason::Malformed)?;
        skb.store_covered(l3 + 1, &[second & !(vxlan::ECN_MASK << 4) | mark << 4])
    }
    #[inline(always)]
    fn fib_set(fib: &mut bpf_fib_lookup, src: Addr6, dst: Addr6) {
        fib.__bindgen_anon_3.ipv6_src = words(src);
        fib.__bindgen_anon_4.ipv6_dst = words(dst);
    }
    #[inline(always)]
    fn fib_src(fib: &bpf_fib_lookup) -> Addr6 {
        // SAFETY: the union holds integers only.
        bytes(unsafe { fib.__bindgen_anon_3.ipv6_src })
    }
    #[inline(always)]
    fn fib_dst(fib: &bpf_fib_lookup) -> Addr6 {
        // SAFETY: as above.
        bytes(unsafe { fib.__bindgen_anon_4.ipv6_dst })
    }
    #[inline(always)]
    fn next_hop_set(params: &mut bpf_redir_neigh, addr: Addr6) {
        params.nh_family = u32::from(AF_INET6);
        params.__bindgen_anon_1.ipv6_nh = words(addr);
    }
    #[inline(always)]
    fn socket_set(tuple: &mut bpf_sock_tuple, remote: (Addr6, u16), local: (Addr6, u16)) {
        tuple.__bindgen_anon_1.ipv6 =
            aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                saddr: words(remote.0),
                daddr: words(local.0),
                sport: remote.1.to_be(),
                dport: local.1.to_be(),
            };
    }
    #[inline(always)]
    fn rewrite(skb: &Skb, l3: usize, hops: u8, src: Addr6, dst: Addr6) -> Result<(), DropReason> {
        if hops != 0 {
            Self::lower_hop_limit(skb, l3)?;
        }
        skb.write(l3 + ipv6::SRC, src)?;
        skb.write(l3 + ipv6::DST, dst)
    }
    #[inline(always)]
    fn rewrite_bare(
        skb: &Skb,
        l3: usize,
        hops: u8,
        src: Addr6,
        dst: Addr6,
    ) -> Result<(), DropReason> {
        if hops != 0 {
            Self::lower_hop_limit(skb, l3)?;
        }
        skb.store_covered(l3 + ipv6::SRC, &src)?;
        skb.store_covered(l3 + ipv6::DST, &dst)
    }
    #[inline(always)]
    fn lower_hop_limit(skb: &Skb, l3: usize) -> Result<(), DropReason> {
        use packet::Read as _;
        let hop_limit = skb.u8(l3 + ipv6::HOP_LIMIT).ok_or(DropReason::Malformed)?;
        skb.store_covered(l3 + ipv6::HOP_LIMIT, &[hop_limit.wrapping_sub(1)])
    }
    #[inline(always)]
    fn addr_diff(from: (Addr6, Addr6), to: (Addr6, Addr6)) -> u32 {
        let both = |(a, b)| {
            let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (words(a), words(b));
            [a0, a1, a2, a3, b0, b1, b2, b3]
        };
        sum_diff(&both(from), &both(to))
    }
    #[inline(always)]
    fn icmp_error(reason: DropReason) -> Option<(u8, u8)> {
        match reason {
            DropReason::HostUnreachable => {
                Some((icmp::V6_UNREACHABLE, icmp::V6_ADDRESS_UNREACHABLE))
            }
            DropReason::NetUnreachable => Some((icmp::V6_UNREACHABLE, icmp::V6_NO_ROUTE)),
            DropReason::Prohibited => Some((icmp::V6_UNREACHABLE, icmp::V6_ADMIN_PROHIBITED)),
            DropReason::HopLimit => Some((icmp::V6_TIME_EXCEEDED, 0)),
            DropReason::TooBig => Some((icmp::V6_TOO_BIG, 0)),
            DropReason::Unpublished => Some((icmp::V6_UNREACHABLE, icmp::V6_PORT_UNREACHABLE)),
            _ => None,
        }
    }
}
