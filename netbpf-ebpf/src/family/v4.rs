//! IPv4.

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_redir_neigh, bpf_sock_tuple};
use netbpf_common::{
    addr::{self, Addr, Addr4},
    drop::DropReason,
    maps::{Uplink, Veth, VethSlot, subnets::area4},
    packet::{self, Read, checksum, eth, icmp, ipv4, tuple::Ip, vxlan},
    verdict::Coded,
};

use crate::{
    calls,
    ctx::{Skb, sum_diff},
    maps::{self, EvictableFlows, Flows, Fragments, Mappings, OutsidePorts},
    stage::{evict::Outcome, masquerade::Ask, pool::Wanted, port::Client},
};

use super::{AF_INET, Family, V4, is_segment};

/// The checksum of an IPv4 header after 16-bit words changed (RFC 1624 eqn. 3).
#[inline(always)]
fn adjust(check: u32, from: u32, to: u32) -> u32 {
    check + (!from & 0xffff) + (to & 0xffff)
}

impl Family for V4 {
    type Addr = Addr4;
    const VERSION: u8 = 4;
    const ETHERTYPE: u16 = eth::TYPE_IPV4;
    const AF: u8 = AF_INET;
    const IS_V6: bool = false;
    const UNSPECIFIED: Addr4 = [0; 4];
    const HEADER: usize = ipv4::LEN;
    const SOCKET_TUPLE: u32 = 12;

    #[inline(always)]
    fn call_parse(skb: &Skb, l3: usize, arrival: u16) -> u32 {
        calls::parse_v4(skb.raw(), l3 as u32, arrival.into())
    }
    #[inline(always)]
    fn call_parse_quote(skb: &Skb) -> u32 {
        calls::parse_quote_v4(skb.raw())
    }
    #[inline(always)]
    fn call_follow(skb: &Skb, sender: u32) -> Coded {
        Coded::from_bits(calls::follow_v4(skb.raw(), sender))
    }
    #[inline(always)]
    fn call_route(skb: &Skb) -> Coded {
        Coded::from_bits(calls::route_v4(skb.raw()))
    }
    #[inline(always)]
    fn call_masquerade(skb: &Skb) -> Coded {
        Coded::from_bits(calls::masquerade_v4(skb.raw()))
    }
    #[inline(always)]
    fn call_port(skb: &Skb, client: Client) -> Coded {
        Coded::from_bits(calls::port_v4(skb.raw(), client as u32))
    }
    #[inline(always)]
    fn call_refuse(skb: &Skb, reason: DropReason) -> Coded {
        Coded::from_bits(calls::refuse_v4(skb.raw(), reason as u32))
    }
    #[inline(always)]
    fn call_quoted(skb: &Skb, sender: u32) -> Coded {
        Coded::from_bits(calls::quoted_v4(skb.raw(), sender))
    }
    #[inline(always)]
    fn call_fragment(skb: &Skb, sender: u32) -> Coded {
        Coded::from_bits(calls::fragment_v4(skb.raw(), sender))
    }
    #[inline(always)]
    fn call_remember(skb: &Skb) -> Coded {
        Coded::from_bits(calls::remember_v4(skb.raw()))
    }
    #[inline(always)]
    fn call_advance(seen: u8, opens: bool, scale: u8) -> Coded {
        Coded::from_bits(calls::advance_v4(seen.into(), opens.into(), scale.into()))
    }
    #[inline(always)]
    fn call_try_outside(skb: &Skb, candidate: u16, idle: bool) -> u32 {
        calls::try_outside_v4(skb.raw(), candidate.into(), idle.into())
    }
    #[inline(always)]
    fn call_search(skb: &Skb, wanted: Wanted) -> u32 {
        calls::search_v4(skb.raw(), wanted as u32)
    }
    #[inline(always)]
    fn call_record(skb: &Skb, port: u16, ask: Ask) -> u32 {
        calls::record_v4(skb.raw(), port.into(), ask as u32)
    }
    #[inline(always)]
    fn call_clear() -> u32 {
        calls::clear_v4()
    }
    #[inline(always)]
    fn call_place(used: bool, take: bool) -> Outcome {
        calls::place_v4(used.into(), take.into())
    }
    #[inline(always)]
    fn call_try_source(skb: &Skb, candidate: u16, own: bool) -> u32 {
        calls::try_source_v4(skb.raw(), candidate.into(), own.into())
    }
    #[inline(always)]
    fn call_enter_tunnel(skb: &Skb) -> Coded {
        Coded::from_bits(calls::enter_tunnel_v4(skb.raw()))
    }
    #[inline(always)]
    fn call_leave_tunnel(skb: &Skb) -> Coded {
        Coded::from_bits(calls::leave_tunnel_v4(skb.raw()))
    }
    #[inline(always)]
    fn call_ask_way(skb: &Skb, node: u32) -> Coded {
        Coded::from_bits(calls::ask_way_v4(skb.raw(), node))
    }
    #[inline(always)]
    fn call_learn_mtu(skb: &Skb) -> u32 {
        calls::learn_mtu_v4(skb.raw())
    }
    #[inline(always)]
    fn call_is_free(skb: &Skb, l3: usize) -> u32 {
        calls::is_free_v4(skb.raw(), l3 as u32)
    }
    #[inline(always)]
    fn parse(packet: &impl Read, offset: usize) -> Option<Ip<Addr4>> {
        ipv4::parse(packet, offset)
    }
    #[inline(always)]
    fn mapped(addr: Addr4) -> Addr {
        addr::mapped(addr)
    }
    #[inline(always)]
    fn from_mapped(a: Addr) -> Addr4 {
        [a[12], a[13], a[14], a[15]]
    }
    #[inline(always)]
    fn is_multicast(addr: Addr4) -> bool {
        ipv4::is_multicast(addr)
    }
    #[inline(always)]
    fn is_martian(addr: Addr4) -> bool {
        ipv4::is_martian(addr)
    }
    #[inline(always)]
    fn is_link_local(addr: Addr4) -> bool {
        ipv4::is_link_local(addr)
    }
    #[inline(always)]
    fn area(addr: Addr4) -> u16 {
        area4(addr)
    }
    #[inline(always)]
    fn own(veth: &Veth) -> Addr4 {
        veth.ipv4
    }
    #[inline(always)]
    fn is_near(slot: &VethSlot, addr: Addr4) -> bool {
        let word = u32::from_ne_bytes;
        (word(slot.veth.ipv4) ^ word(addr)) & word(slot.mask4) == 0
    }
    #[inline(always)]
    fn gateway(veth: &Veth) -> Addr4 {
        veth.gateway4
    }
    #[inline(always)]
    fn uplink_addr(uplink: &Uplink) -> Addr4 {
        uplink.ipv4
    }
    #[inline(always)]
    fn flows() -> &'static Flows<Addr4> {
        &maps::FLOWS4
    }
    #[inline(always)]
    fn evictable() -> &'static EvictableFlows<Addr4> {
        &maps::EVICTABLE4
    }
    #[inline(always)]
    fn mappings() -> &'static Mappings<Addr4> {
        &maps::MAPPINGS4
    }
    #[inline(always)]
    fn outside() -> &'static OutsidePorts<Addr4> {
        &maps::OUTSIDE4
    }
    #[inline(always)]
    fn fragments() -> &'static Fragments<Addr4> {
        &maps::FRAGMENTS4
    }
    #[inline(always)]
    fn renumber(skb: &Skb, l3: usize, at: usize, from: u32, to: u32) -> Result<(), DropReason> {
        use packet::Read as _;
        let old = skb.u16(l3 + ipv4::CHECKSUM).ok_or(DropReason::Malformed)?;
        let check = checksum::finish(adjust(u32::from(!old), from, to));
        skb.write(l3 + ipv4::CHECKSUM, check.to_be_bytes())?;
        skb.write(at, (to as u16).to_be_bytes())
    }
    #[inline(always)]
    fn addresses(packet: &impl Read, l3: usize) -> Option<(Addr4, Addr4)> {
        let b = packet.bytes::<{ ipv4::LEN }>(l3)?;
        let is_whole = b[0] >> 4 == 4 && b[0] & 0x0f >= 5;
        let (src, dst) = ([b[12], b[13], b[14], b[15]], [b[16], b[17], b[18], b[19]]);
        is_whole.then_some((src, dst))
    }
    #[inline(always)]
    fn plain_source(packet: &impl Read, l3: usize) -> Option<(u16, Addr4, u8)> {
        let b = packet.bytes::<{ ipv4::LEN + 4 }>(l3)?;
        // Of a datagram in fragments not even the first.
        let is_plain = b[0] == 0x45 && b[6] & 0x3f == 0 && b[7] == 0 && is_segment(b[9]);
        let port = u16::from_be_bytes([b[20], b[21]]);
        is_plain.then_some((port, [b[12], b[13], b[14], b[15]], b[9]))
    }
    #[inline(always)]
    fn class(packet: &impl Read, l3: usize) -> Option<u8> {
        packet.u8(l3 + 1)
    }
    #[inline(always)]
    fn mark(skb: &Skb, l3: usize, mark: u8) -> Result<(), DropReason> {
        use packet::Read as _;
        let b = skb.bytes::<12>(l3).ok_or(DropReason::Malformed)?;
        let (from, to) = ([b[0], b[1]], [b[0], b[1] & !vxlan::ECN_MASK | mark]);
        let word = |b: [u8; 2]| u32::from(u16::from_be_bytes(b));
        let old = word([b[10], b[11]]);
        let check = checksum::finish(adjust(!old & 0xffff, word(from), word(to)));
        skb.write(l3 + ipv4::CHECKSUM, check.to_be_bytes())?;
        skb.write(l3, to)
    }
    #[inline(always)]
    fn fib_set(fib: &mut bpf_fib_lookup, src: Addr4, dst: Addr4) {
        fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(src);
        fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(dst);
    }
    #[inline(always)]
    fn fib_src(fib: &bpf_fib_lookup) -> Addr4 {
        // SAFETY: the union holds integers only.
        unsafe { fib.__bindgen_anon_3.ipv4_src }.to_ne_bytes()
    }
    #[inline(always)]
    fn fib_dst(fib: &bpf_fib_lookup) -> Addr4 {
        // SAFETY: as above.
        unsafe { fib.__bindgen_anon_4.ipv4_dst }.to_ne_bytes()
    }
    #[inline(always)]
    fn next_hop_set(params: &mut bpf_redir_neigh, addr: Addr4) {
        params.nh_family = u32::from(AF_INET);
        params.__bindgen_anon_1.ipv6_nh = [u32::from_ne_bytes(addr), 0, 0, 0];
    }
    #[inline(always)]
    fn socket_set(tuple: &mut bpf_sock_tuple, remote: (Addr4, u16), local: (Addr4, u16)) {
        tuple.__bindgen_anon_1.ipv4 =
            aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                saddr: u32::from_ne_bytes(remote.0),
                daddr: u32::from_ne_bytes(local.0),
                sport: remote.1.to_be(),
                dport: local.1.to_be(),
            };
    }
    #[inline(always)]
    fn rewrite(skb: &Skb, l3: usize, hops: u8, src: Addr4, dst: Addr4) -> Result<(), DropReason> {
        use packet::Read as _;
        // TTL, protocol, checksum, source, destination: 12 bytes from TTL on.
        let b = skb
            .bytes::<12>(l3 + ipv4::TTL)
            .ok_or(DropReason::Malformed)?;
        let word = |b: &[u8], i: usize| u32::from(u16::from_be_bytes([b[i], b[i + 1]]));
        let new = [
            b[0].wrapping_sub(hops),
            b[1],
            0,
            0,
            src[0],
            src[1],
            src[2],
            src[3],
            dst[0],
            dst[1],
            dst[2],
            dst[3],
        ];
        let mut check = !word(&b, 2) & 0xffff;
        check = adjust(check, word(&b, 0), word(&new, 0));
        check = adjust(check, word(&b, 4), word(&new, 4));
        check = adjust(check, word(&b, 6), word(&new, 6));
        check = adjust(check, word(&b, 8), word(&new, 8));
        check = adjust(check, word(&b, 10), word(&new, 10));
        let c = checksum::finish(check).to_be_bytes();
        skb.write(
            l3 + ipv4::TTL,
            [
                new[0], new[1], c[0], c[1], new[4], new[5], new[6], new[7], new[8], new[9],
                new[10], new[11],
            ],
        )
    }
    #[inline(always)]
    fn rewrite_bare(
        skb: &Skb,
        l3: usize,
        hops: u8,
        src: Addr4,
        dst: Addr4,
    ) -> Result<(), DropReason> {
        Self::rewrite(skb, l3, hops, src, dst)
    }
    #[inline(always)]
    fn lower_hop_limit(skb: &Skb, l3: usize) -> Result<(), DropReason> {
        use packet::Read as _;
        let b = skb
            .bytes::<4>(l3 + ipv4::TTL)
            .ok_or(DropReason::Malformed)?;
        let from = u32::from(u16::from_be_bytes([b[0], b[1]]));
        let check = u32::from(!u16::from_be_bytes([b[2], b[3]]));
        let c = checksum::finish(adjust(check, from, from.wrapping_sub(0x100))).to_be_bytes();
        skb.write(l3 + ipv4::TTL, [b[0].wrapping_sub(1), b[1], c[0], c[1]])
    }
    #[inline(always)]
    fn addr_diff(from: (Addr4, Addr4), to: (Addr4, Addr4)) -> u32 {
        let both = |(a, b)| [u32::from_ne_bytes(a), u32::from_ne_bytes(b)];
        sum_diff(&both(from), &both(to))
    }
    #[inline(always)]
    fn icmp_error(reason: DropReason) -> Option<(u8, u8)> {
        match reason {
            DropReason::HostUnreachable => Some((icmp::UNREACHABLE, icmp::HOST_UNREACHABLE)),
            DropReason::NetUnreachable => Some((icmp::UNREACHABLE, icmp::NET_UNREACHABLE)),
            DropReason::Prohibited => Some((icmp::UNREACHABLE, icmp::ADMIN_PROHIBITED)),
            DropReason::HopLimit => Some((icmp::TIME_EXCEEDED, 0)),
            DropReason::TooBig => Some((icmp::UNREACHABLE, icmp::FRAG_NEEDED)),
            DropReason::Unpublished => Some((icmp::UNREACHABLE, icmp::PORT_UNREACHABLE)),
            _ => None,
        }
    }
}
