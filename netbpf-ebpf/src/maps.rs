//! The maps, with the names of `netbpf_common::names`. Sizes here are the least
//! that make sense; the loader sets them from the configuration.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use netbpf_common::{
    addr::{Addr, Addr4, Addr6},
    drop::COUNTERS,
    event::Event,
    maps::{
        AllowData, Asked, AskedKey, Backend, BackendKey, Client, Config, DropKey, Endpoint,
        EndpointKey, EndpointStats, Evictable, Flow, FlowKey, FragmentKey, FragmentOf, Handed,
        HandedKey, HostConn, Local, LocalKey, Mapping, MappingKey, Node, Outside, OutsideKey, Peer,
        PeerKey, Pool, Port, PortData, Published, RecordKey, RecordPart, Share, Source, SourceData,
        Subnet, SubnetData, Tunnel, TunnelKey, Uplink, Veth, VethSlot, Vni,
        endpoints::{SIBLINGS as SIBLING_ENTRIES, VETH_SLOTS as VETH_SLOT_ENTRIES},
        evictable::OCCUPANCY as OCCUPANCY_ENTRIES,
        fragments::FRAGMENTED,
        host::HANDED as HANDED_ENTRIES,
        overlay::{NODES as NODE_ENTRIES, TUNNELS as TUNNEL_ENTRIES},
        pools::{ARRIVALS as ARRIVAL_ENTRIES, POOL_KINDS, POOLS as POOL_ENTRIES},
        published::PUBLISHED_ENTRIES,
        subnets::AREAS as AREA_ENTRIES,
    },
};

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<EndpointKey, Endpoint, 1024> = HashMap::new();

#[btf_map(name = "veths")]
pub static VETHS: HashMap<u32, Veth, 1024> = HashMap::new();

#[btf_map(name = "veth_slots")]
pub static VETH_SLOTS: Array<VethSlot, { VETH_SLOT_ENTRIES as usize }> = Array::new();

#[btf_map(name = "siblings")]
pub static SIBLINGS: Array<Pool, { SIBLING_ENTRIES as usize }> = Array::new();

#[btf_map(name = "uplinks")]
pub static UPLINKS: HashMap<u32, Uplink, 256> = HashMap::new();

#[btf_map(name = "sources")]
pub static SOURCES: LpmTrie<SourceData, Source, 4096> = LpmTrie::new();

#[btf_map(name = "locals")]
pub static LOCALS: HashMap<LocalKey, Local, 4096> = HashMap::new();

#[btf_map(name = "subnets")]
pub static SUBNETS: LpmTrie<SubnetData, Subnet, 4096> = LpmTrie::new();

#[btf_map(name = "areas")]
pub static AREAS: Array<Pool, { AREA_ENTRIES as usize }> = Array::new();

#[btf_map(name = "vnis")]
pub static VNIS: HashMap<u32, Vni, 4096, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "nodes")]
pub static NODES: Array<Node, { NODE_ENTRIES as usize }> = Array::new();

#[btf_map(name = "vteps")]
pub static VTEPS: HashMap<Addr, u32, { NODE_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "tunnels")]
pub static TUNNELS: HashMap<TunnelKey, Tunnel, { TUNNEL_ENTRIES as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map(name = "published")]
pub static PUBLISHED: Array<Published, { PUBLISHED_ENTRIES as usize }> = Array::new();

#[btf_map(name = "shares")]
pub static SHARES: HashMap<u32, Share, 4096, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "backends")]
pub static BACKENDS: HashMap<BackendKey, Backend, 16384, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "allows")]
pub static ALLOWS: LpmTrie<AllowData, u32, 65536> = LpmTrie::new();

#[btf_map(name = "clients")]
pub static CLIENTS: LruHashMap<Addr, Client, 65536> = LruHashMap::new();

#[btf_map(name = "host_conns")]
pub static HOST_CONNS: HashMap<u64, HostConn, 65536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "host_peers")]
pub static HOST_PEERS: LruHashMap<PeerKey, Peer, 16384> = LruHashMap::new();

#[btf_map(name = "host_asked")]
pub static HOST_ASKED: LruHashMap<AskedKey, Asked, 16384> = LruHashMap::new();

pub type Questions = LruHashMap<HandedKey, Handed, { HANDED_ENTRIES as usize }>;

#[btf_map(name = "handed")]
pub static HANDED: Questions = LruHashMap::new();

#[btf_map(name = "answered")]
pub static ANSWERED: Questions = LruHashMap::new();

/// Not 0 for sockets of the host that have something in [`HOST_CONNS`] or
/// [`HOST_PEERS`].
#[btf_map(name = "host_marks")]
pub static HOST_MARKS: SkStorage<u32> = SkStorage::new();

/// New flows to shared ports.
#[btf_map(name = "turns")]
pub static TURNS: PerCpuArray<u32, 1> = PerCpuArray::new();

#[btf_map(name = "ports")]
pub static PORTS: LpmTrie<PortData, Port, 65536> = LpmTrie::new();

#[btf_map(name = "generations")]
pub static GENERATIONS: Array<u32, 65536> = Array::new();

// A host pays for the flows that it has, not for those that there is room for.
pub type Flows<A> = HashMap<FlowKey<A>, Flow<A>, 1024, NO_PREALLOC>;
pub type EvictableFlows<A> = Array<Evictable<A>, 1024>;
pub type Mappings<A> = HashMap<MappingKey<A>, Mapping<A>, 1024, NO_PREALLOC>;
pub type OutsidePorts<A> = HashMap<OutsideKey<A>, Outside<A>, 1024, NO_PREALLOC>;

#[btf_map(name = "flows4")]
pub static FLOWS4: Flows<Addr4> = HashMap::new();
#[btf_map(name = "flows6")]
pub static FLOWS6: Flows<Addr6> = HashMap::new();
#[btf_map(name = "evictable4")]
pub static EVICTABLE4: EvictableFlows<Addr4> = Array::new();
#[btf_map(name = "evictable6")]
pub static EVICTABLE6: EvictableFlows<Addr6> = Array::new();
#[btf_map(name = "occupancy")]
pub static OCCUPANCY: Array<u64, { OCCUPANCY_ENTRIES as usize }> = Array::new();
#[btf_map(name = "mappings4")]
pub static MAPPINGS4: Mappings<Addr4> = HashMap::new();
#[btf_map(name = "mappings6")]
pub static MAPPINGS6: Mappings<Addr6> = HashMap::new();
#[btf_map(name = "outside4")]
pub static OUTSIDE4: OutsidePorts<Addr4> = HashMap::new();
#[btf_map(name = "outside6")]
pub static OUTSIDE6: OutsidePorts<Addr6> = HashMap::new();

#[btf_map(name = "pools")]
pub static POOLS: Array<Pool, { POOL_ENTRIES as usize }> = Array::new();
#[btf_map(name = "idle")]
pub static IDLE: Array<Pool, { POOL_ENTRIES as usize }> = Array::new();
#[btf_map(name = "reserved")]
pub static RESERVED: Array<Pool, { POOL_KINDS as usize }> = Array::new();
#[btf_map(name = "displaced")]
pub static DISPLACED: Array<Pool, { POOL_KINDS as usize }> = Array::new();
#[btf_map(name = "arrivals")]
pub static ARRIVALS: Array<Pool, { ARRIVAL_ENTRIES as usize }> = Array::new();

pub type Fragments<A> = LruHashMap<FragmentKey<A>, FragmentOf<A>, { FRAGMENTED as usize }>;

#[btf_map(name = "fragments4")]
pub static FRAGMENTS4: Fragments<Addr4> = LruHashMap::new();
#[btf_map(name = "fragments6")]
pub static FRAGMENTS6: Fragments<Addr6> = LruHashMap::new();

#[btf_map(name = "fragment_id")]
pub static FRAGMENT_ID: Array<u64, 1> = Array::new();

#[btf_map(name = "endpoint_stats")]
pub static ENDPOINT_STATS: PerCpuArray<EndpointStats, 1024> = PerCpuArray::new();

#[btf_map(name = "endpoint_drops")]
pub static ENDPOINT_DROPS: HashMap<DropKey, u64, 4096, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<u64, { COUNTERS as usize }> = PerCpuArray::new();

#[btf_map(name = "events")]
pub static EVENTS: RingBuf<Event, { 256 * 1024 }> = RingBuf::new();

#[btf_map(name = "events_lost")]
pub static EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// For the daemon alone.
#[btf_map(name = "records")]
pub static RECORDS: HashMap<RecordKey, RecordPart, 4096, NO_PREALLOC> = HashMap::new();

/// Bytes of [`SCRATCH`].
pub const SCRATCH_LEN: usize = if cfg!(feature = "next-programs") {
    2048
} else {
    1696
};

/// Working space that the 512 bytes of stack have no room for; see
/// [`crate::family::Room`]. One entry is enough: TC programs run with softirqs
/// off and do not nest within one CPU; where one redirects, the next begins after its end.
#[repr(C, align(8))]
pub struct Scratch {
    pub bytes: [u64; SCRATCH_LEN / 8],
}

#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
