//! What differs between IPv4 and IPv6; all else is written once over [`Family`].

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh, bpf_sock_tuple},
    maps::lpm_trie::Key,
};
use netbpf_common::{
    addr::{self, Addr, Addr4, Addr6},
    drop::DropReason,
    maps::{
        AllowData, BackendKey, EndpointKey, Flow, FlowKey, FragmentKey, FragmentOf, LocalKey,
        MappingKey, Outside, OutsideKey, PortData, SourceData, SubnetData, TunnelData, Uplink,
        Veth,
    },
    packet::{
        self, IPPROTO_TCP, IPPROTO_UDP, Read, checksum, eth, icmp, ipv4, ipv6,
        tuple::{Ip, Transport},
        vxlan,
    },
    time::Ticks,
    verdict::Coded,
};

use crate::{
    calls,
    ctx::{Skb, sum_diff},
    maps::{self, Flows, Fragments, Mappings, OutsidePorts, SCRATCH, SCRATCH_LEN, Transient},
    stage::{masquerade::Ask, pool::Wanted, port::Client, route::Way, translate::NewTuple},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Bytes of the offending packet that an ICMP error quotes at most; a multiple
/// of 4. Past the checksum of TCP behind any header, as `bpf_skb_change_tail`
/// does not cut in front of a checksum still to be filled in.
pub const QUOTE: usize = 128;

/// The bytes quoted, aligned so that they are cleared in few stores.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Quote(pub [u8; QUOTE]);

/// What a program works on that does not fit on the stack; lies in the per-CPU
/// map `scratch`.
#[repr(C)]
pub struct Room<A> {
    pub forward: Flow<A>,
    pub reverse: Flow<A>,
    pub forward_key: FlowKey<A>,
    pub reverse_key: FlowKey<A>,
    pub mapping_key: MappingKey<A>,
    pub other_mapping_key: MappingKey<A>,
    pub outside_key: OutsideKey<A>,
    pub outside: Outside<A>,
    /// The packet that an ICMP error quotes.
    pub quoted: Ip<A>,
    pub quoted_t: Transport,
    pub fragment_key: FragmentKey<A>,
    pub fragment: FragmentOf<A>,
    /// What is asked of the FIB.
    pub route_src: A,
    pub route_dst: A,
    pub fib: bpf_fib_lookup,
    pub source_key: Key<SourceData>,
    pub way: Way<A>,
    pub new: NewTuple<A>,
    pub local_key: LocalKey,
    pub endpoint_key: EndpointKey,
    pub subnet_key: Key<SubnetData>,
    pub tunnel_key: Key<TunnelData>,
    /// Number of the node that a packet goes to, and of its network on the wire.
    pub node: u32,
    pub vni: u32,
    pub port_key: Key<PortData>,
    pub allow_key: Key<AllowData>,
    pub backend_key: BackendKey,
    /// Who asks for a published port.
    pub client: Addr,
    /// Whose masqueraded flow begins: [`crate::stage::masquerade::OUTWARD`] and its like.
    pub begins: u32,
    /// What the first half of a new flow has seen.
    pub seen: u8,
    /// Number of the outside address among those with pools.
    pub pool: u32,
    /// The other half of a flow that is in the way.
    pub other_key: FlowKey<A>,
    /// When a mapping that is made now may be taken for another.
    pub expires: Ticks,
    pub socket: bpf_sock_tuple,
    /// Family 0: the neighbour is the kernel's to find.
    pub next_hop: bpf_redir_neigh,
    /// MTU that a packet was too big for.
    pub mtu: u32,
    /// Address that an ICMP error comes from.
    pub answer_from: A,
    pub quote: Quote,
}

/// The packet as parsed, and the key that finds its flow.
#[repr(C)]
pub struct Packet<A> {
    /// Offset of the network header: 14 behind Ethernet, else 0.
    pub l3: usize,
    pub ip: Ip<A>,
    pub t: Transport,
    pub key: FlowKey<A>,
}

/// Bytes of [`SCRATCH`] in front of the room.
const PACKET_LEN: usize = 192;

const _: () = assert!(size_of::<Packet<Addr6>>() <= PACKET_LEN);
const _: () = assert!(size_of::<Room<Addr6>>() <= SCRATCH_LEN - PACKET_LEN);

/// This CPU's packet and working space.
#[inline(always)]
pub fn scratch<F: Family>()
-> Result<(&'static mut Packet<F::Addr>, &'static mut Room<F::Addr>), DropReason> {
    let scratch = SCRATCH
        .get_ptr_mut(0)
        .ok_or(DropReason::Helper)?
        .cast::<u8>();
    // SAFETY: the entry belongs to this CPU, on which programs do not nest; the
    // two parts do not overlap, are large enough and aligned to 8, and are
    // written before they are read.
    unsafe {
        Ok((
            &mut *scratch.cast::<Packet<F::Addr>>(),
            &mut *scratch.add(PACKET_LEN).cast::<Room<F::Addr>>(),
        ))
    }
}

/// An address family.
pub trait Family: Sized {
    type Addr: Copy + PartialEq + 'static;
    const VERSION: u8;
    const ETHERTYPE: u16;
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
    const IS_V6: bool;
    const UNSPECIFIED: Self::Addr;
    /// Bytes of a network header without options.
    const HEADER: usize;
    /// Bytes of a socket tuple of the family.
    const SOCKET_TUPLE: u32;

    fn parse(packet: &impl Read, offset: usize) -> Option<Ip<Self::Addr>>;
    fn mapped(addr: Self::Addr) -> Addr;
    fn from_mapped(addr: Addr) -> Self::Addr;
    fn is_multicast(addr: Self::Addr) -> bool;
    fn is_martian(addr: Self::Addr) -> bool;
    fn is_link_local(addr: Self::Addr) -> bool;

    fn own(veth: &Veth) -> Self::Addr;
    fn gateway(veth: &Veth) -> Self::Addr;
    fn uplink_addr(uplink: &Uplink) -> Self::Addr;

    fn flows() -> &'static Flows<Self::Addr>;
    fn transient() -> &'static Transient<Self::Addr>;
    fn mappings() -> &'static Mappings<Self::Addr>;
    fn outside() -> &'static OutsidePorts<Self::Addr>;
    fn fragments() -> &'static Fragments<Self::Addr>;

    fn fib_set(fib: &mut bpf_fib_lookup, src: Self::Addr, dst: Self::Addr);
    fn fib_src(fib: &bpf_fib_lookup) -> Self::Addr;
    fn fib_dst(fib: &bpf_fib_lookup) -> Self::Addr;
    fn next_hop_set(params: &mut bpf_redir_neigh, addr: Self::Addr);
    fn socket_set(tuple: &mut bpf_sock_tuple, remote: (Self::Addr, u16), local: (Self::Addr, u16));

    /// Rewrites the addresses of the network header at `l3`, and lowers the hop
    /// limit by `hops` (0 or 1). Checksums of the network header are kept right, those
    /// of the transport header are not touched.
    fn rewrite(
        skb: &Skb,
        l3: usize,
        hops: u8,
        src: Self::Addr,
        dst: Self::Addr,
    ) -> Result<(), DropReason>;
    /// The same of a packet without a transport checksum that covers the addresses.
    fn rewrite_bare(
        skb: &Skb,
        l3: usize,
        hops: u8,
        src: Self::Addr,
        dst: Self::Addr,
    ) -> Result<(), DropReason>;
    /// Gives a fragment another identification, which stands at `at`.
    fn renumber(skb: &Skb, l3: usize, at: usize, from: u32, to: u32) -> Result<(), DropReason>;
    /// Source and destination of the network header at `l3`.
    fn addresses(packet: &impl Read, l3: usize) -> Option<(Self::Addr, Self::Addr)>;
    /// Source port, address and protocol of a TCP segment or UDP datagram behind a header
    /// without options; `None` of all else.
    fn plain_source(packet: &impl Read, l3: usize) -> Option<(u16, Self::Addr, u8)>;
    /// Type of service or traffic class.
    fn class(packet: &impl Read, l3: usize) -> Option<u8>;
    /// Writes it anew where only the marks of congestion change.
    fn mark(skb: &Skb, l3: usize, mark: u8) -> Result<(), DropReason>;
    /// Lowers the hop limit by one.
    fn lower_hop_limit(skb: &Skb, l3: usize) -> Result<(), DropReason>;
    /// What the change of both addresses makes to a checksum with pseudo header.
    fn addr_diff(from: (Self::Addr, Self::Addr), to: (Self::Addr, Self::Addr)) -> u32;

    /// ICMP type and code for a reason, when it is to be answered.
    fn icmp_error(reason: DropReason) -> Option<(u8, u8)>;

    /// The steps that are functions of their own; see [`crate::calls`].
    fn call_parse(skb: &Skb, l3: usize, arrival: u16) -> u32;
    fn call_parse_quote(skb: &Skb) -> u32;
    fn call_follow(skb: &Skb, sender: u32) -> Coded;
    fn call_route(skb: &Skb) -> Coded;
    fn call_masquerade(skb: &Skb) -> Coded;
    fn call_port(skb: &Skb, client: Client) -> Coded;
    fn call_refuse(skb: &Skb, reason: DropReason) -> Coded;
    fn call_quoted(skb: &Skb, sender: u32) -> Coded;
    fn call_fragment(skb: &Skb, sender: u32) -> Coded;
    fn call_remember(skb: &Skb) -> Coded;
    fn call_advance(seen: u8, opens: bool, scale: u8) -> Coded;
    fn call_try_outside(skb: &Skb, candidate: u16, idle: bool) -> u32;
    fn call_search(skb: &Skb, wanted: Wanted) -> u32;
    fn call_record(skb: &Skb, port: u16, ask: Ask) -> u32;
    fn call_clear() -> u32;
    fn call_try_source(skb: &Skb, candidate: u16, own: bool) -> u32;
    fn call_enter_tunnel(skb: &Skb) -> Coded;
    fn call_leave_tunnel(skb: &Skb) -> Coded;
    fn call_ask_way(skb: &Skb, node: u32) -> Coded;
    fn call_learn_mtu(skb: &Skb) -> u32;
    fn call_is_free(skb: &Skb, l3: usize) -> u32;
}

pub enum V4 {}
pub enum V6 {}

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

/// TCP or UDP.
#[inline(always)]
fn is_segment(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP)
}

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
    fn own(veth: &Veth) -> Addr4 {
        veth.ipv4
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
    fn transient() -> &'static Transient<Addr4> {
        &maps::TRANSIENT4
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
        sum_diff(&join4(from), &join4(to))
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

#[inline(always)]
fn join4((a, b): (Addr4, Addr4)) -> [u8; 8] {
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
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
    fn own(veth: &Veth) -> Addr6 {
        veth.ipv6
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
    fn transient() -> &'static Transient<Addr6> {
        &maps::TRANSIENT6
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
        // The carries of both differences are folded by whoever adds them.
        let low = sum_diff(&from.0, &to.0);
        let high = sum_diff(&from.1, &to.1);
        let sum = u64::from(low) + u64::from(high);
        (sum as u32).wrapping_add((sum >> 32) as u32)
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
