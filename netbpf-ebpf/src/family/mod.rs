//! What differs between IPv4 and IPv6; all else is written once over [`Family`].

mod v4;
mod v6;

use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh, bpf_sock_tuple},
    maps::lpm_trie::Key,
};
use netbpf_common::{
    addr::{Addr, Addr6},
    drop::DropReason,
    maps::{
        AllowData, BackendKey, EndpointKey, Evictable, Flow, FlowKey, FragmentKey, FragmentOf,
        LocalKey, MappingKey, Outside, OutsideKey, PortData, SourceData, SubnetData, TunnelKey,
        Uplink, Veth, VethSlot,
    },
    packet::{
        IPPROTO_TCP, IPPROTO_UDP, Read,
        tuple::{Ip, Transport},
    },
    time::Ticks,
    verdict::Coded,
};

use crate::{
    ctx::Skb,
    maps::{EvictableFlows, Flows, Fragments, Mappings, OutsidePorts, SCRATCH, SCRATCH_LEN},
    stage::{
        evict::Outcome, masquerade::Ask, pool::Wanted, port::Client, route::Way,
        translate::NewTuple,
    },
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
    pub tunnel_key: TunnelKey,
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
    /// Not 0: the flow of the packet is over, and there to begin anew; it began at `past_created`.
    pub past: u32,
    pub past_created: Ticks,
    /// The flow that is to take a place among those that may be evicted.
    pub evictable: Evictable<A>,
    /// Not 0: it is to, once its change of state is done.
    pub queues: u32,
    /// Who has the place so far.
    pub victim: Evictable<A>,
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
const VETH_LEN: usize = size_of::<VethSlot>();
const PACKET_LEN: usize = 192;

const _: () = assert!(size_of::<Packet<Addr6>>() <= PACKET_LEN);
const _: () = assert!(size_of::<Room<Addr6>>() <= SCRATCH_LEN - VETH_LEN - PACKET_LEN);

/// This CPU's copy of what is known of the container that sends, which is none of the parts of
/// [`scratch`]; [`local::find`] writes it.
///
/// [`local::find`]: crate::stage::local::find
#[inline(always)]
pub fn sender() -> Result<*mut VethSlot, DropReason> {
    let scratch = SCRATCH.get_ptr_mut(0).ok_or(DropReason::Helper)?;
    Ok(scratch.cast())
}

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
            &mut *scratch.add(VETH_LEN).cast::<Packet<F::Addr>>(),
            &mut *scratch.add(VETH_LEN + PACKET_LEN).cast::<Room<F::Addr>>(),
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

    /// Its bit in `areas`.
    fn area(addr: Self::Addr) -> u16;

    fn own(veth: &Veth) -> Self::Addr;
    /// Is it an address of the container's own network?
    fn is_near(slot: &VethSlot, addr: Self::Addr) -> bool;
    fn gateway(veth: &Veth) -> Self::Addr;
    fn uplink_addr(uplink: &Uplink) -> Self::Addr;

    fn flows() -> &'static Flows<Self::Addr>;
    fn evictable() -> &'static EvictableFlows<Self::Addr>;
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
    fn call_place(used: bool, take: bool) -> Outcome;
    fn call_try_source(skb: &Skb, candidate: u16, own: bool) -> u32;
    fn call_enter_tunnel(skb: &Skb) -> Coded;
    fn call_leave_tunnel(skb: &Skb) -> Coded;
    fn call_ask_way(skb: &Skb, node: u32) -> Coded;
    fn call_learn_mtu(skb: &Skb) -> u32;
    fn call_is_free(skb: &Skb, l3: usize) -> u32;
}

pub enum V4 {}
pub enum V6 {}

/// TCP or UDP.
#[inline(always)]
fn is_segment(protocol: u8) -> bool {
    matches!(protocol, IPPROTO_TCP | IPPROTO_UDP)
}
