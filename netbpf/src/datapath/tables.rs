//! The maps, typed, and how what the daemon says turns into their entries.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key,
    },
};
use netbpf_common::{
    addr::{Addr, OfFamily, mapped, unmapped},
    flow::Timeouts,
    maps::{
        AllowData, Asked, AskedKey, Backend, BackendKey, Client, DropKey, Endpoint, EndpointKey,
        EndpointStats, Flow, FlowKey, FragmentKey, FragmentOf, Handed, HandedKey, HostConn, Local,
        LocalKey, Mapping, MappingKey, Outside, OutsideKey, Peer, PeerKey, Pool, Port, PortData,
        PortKey, Published, Share, Source, SourceData, Subnet, SubnetData, Uplink, Veth, VethSlot,
        endpoints::{
            CONTAINER_SHIFT, NETWORK_ICC, NETWORK_INTERNAL, NETWORK_MASQUERADE, NETWORK_SHADOWED,
        },
        locals::LOCAL_GATEWAY,
        uplinks::{UPLINK_EARLY_DROP, UPLINK_ETHERNET},
    },
    names,
};

use super::{
    Result,
    endpoints::Slots,
    load::{chain, cpus},
    pages::Paged,
    subnets::Areas,
    types::{
        DatapathError, EarlyDrop, EndpointEntry, LocalEntry, NetworkFlags, SourceEntry,
        SubnetEntry, UplinkEntry,
    },
};
use crate::sys::fault;

/// The flow tables of one family.
pub(super) struct FlowTables<A: OfFamily> {
    pub flows: Paged<FlowKey<A>, Flow<A>>,
    pub mappings: Paged<MappingKey<A>, Mapping<A>>,
    pub outside: Paged<OutsideKey<A>, Outside<A>>,
    pub fragments: Paged<FragmentKey<A>, FragmentOf<A>>,
    /// When silent flows are over.
    pub timeouts: Timeouts,
    /// What seemed to be of no use at the last collection.
    pub suspects: Suspects<A>,
}

/// Seen twice, it goes.
pub(super) struct Suspects<A> {
    /// Outside ports without an owner: one that was just taken has none yet.
    pub outside: HashSet<OutsideKey<A>>,
    /// Flows of ports that were taken back, which answer for a while.
    pub ended: HashSet<FlowKey<A>>,
    /// Mappings that several flows were made with, long ago: whether one of them goes on is
    /// seen with the next collection.
    pub mappings: HashSet<MappingKey<A>>,
}

impl<A> Default for Suspects<A> {
    fn default() -> Self {
        Suspects {
            outside: HashSet::new(),
            ended: HashSet::new(),
            mappings: HashSet::new(),
        }
    }
}

pub(super) struct Tables {
    pub endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    pub veths: HashMap<MapData, u32, Veth>,
    pub veth_slots: Slots,
    pub uplinks: HashMap<MapData, u32, Uplink>,
    pub sources: LpmTrie<MapData, SourceData, Source>,
    pub locals: HashMap<MapData, LocalKey, Local>,
    pub subnets: LpmTrie<MapData, SubnetData, Subnet>,
    pub areas: Areas,
    pub ports: LpmTrie<MapData, PortData, Port>,
    pub published: Array<MapData, Published>,
    pub reserved: Array<MapData, Pool>,
    pub shares: HashMap<MapData, u32, Share>,
    pub backends: HashMap<MapData, BackendKey, Backend>,
    pub allows: LpmTrie<MapData, AllowData, u32>,
    pub clients: Paged<Addr, Client>,
    pub host_conns: Paged<u64, HostConn>,
    pub host_peers: Paged<PeerKey, Peer>,
    pub host_asked: Paged<AskedKey, Asked>,
    pub handed: Paged<HandedKey, Handed>,
    pub answered: Paged<HandedKey, Handed>,
    pub generations: Array<MapData, u32>,
    pub endpoint_stats: PerCpuArray<MapData, EndpointStats>,
    pub endpoint_drops: HashMap<MapData, DropKey, u64>,
    pub drops: PerCpuArray<MapData, u64>,
    cpus: usize,
}

pub(super) fn take<M: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| DatapathError::other("open maps", format!("no map {name}")))?;
    M::try_from(map).map_err(|e| DatapathError::other(format!("open map {name}"), chain(&e)))
}

impl FlowTables<[u8; 4]> {
    pub(super) fn open4(ebpf: &mut Ebpf, timeouts: Timeouts) -> Result<Self> {
        Ok(FlowTables {
            timeouts,
            flows: Paged::take(ebpf, names::FLOWS4)?,
            mappings: Paged::take(ebpf, names::MAPPINGS4)?,
            outside: Paged::take(ebpf, names::OUTSIDE4)?,
            fragments: Paged::take(ebpf, names::FRAGMENTS4)?,
            suspects: Suspects::default(),
        })
    }
}

impl FlowTables<[u8; 16]> {
    pub(super) fn open6(ebpf: &mut Ebpf, timeouts: Timeouts) -> Result<Self> {
        Ok(FlowTables {
            timeouts,
            flows: Paged::take(ebpf, names::FLOWS6)?,
            mappings: Paged::take(ebpf, names::MAPPINGS6)?,
            outside: Paged::take(ebpf, names::OUTSIDE6)?,
            fragments: Paged::take(ebpf, names::FRAGMENTS6)?,
            suspects: Suspects::default(),
        })
    }
}

impl Tables {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Tables {
            endpoints: take(ebpf, names::ENDPOINTS)?,
            veths: take(ebpf, names::VETHS)?,
            veth_slots: Slots::open(ebpf)?,
            uplinks: take(ebpf, names::UPLINKS)?,
            sources: take(ebpf, names::SOURCES)?,
            locals: take(ebpf, names::LOCALS)?,
            subnets: take(ebpf, names::SUBNETS)?,
            areas: Areas::open(ebpf)?,
            ports: take(ebpf, names::PORTS)?,
            published: take(ebpf, names::PUBLISHED)?,
            reserved: take(ebpf, names::RESERVED)?,
            shares: take(ebpf, names::SHARES)?,
            backends: take(ebpf, names::BACKENDS)?,
            allows: take(ebpf, names::ALLOWS)?,
            clients: Paged::take(ebpf, names::CLIENTS)?,
            host_conns: Paged::take(ebpf, names::HOST_CONNS)?,
            host_peers: Paged::take(ebpf, names::HOST_PEERS)?,
            host_asked: Paged::take(ebpf, names::HOST_ASKED)?,
            handed: Paged::take(ebpf, names::HANDED)?,
            answered: Paged::take(ebpf, names::ANSWERED)?,
            generations: take(ebpf, names::GENERATIONS)?,
            endpoint_stats: take(ebpf, names::ENDPOINT_STATS)?,
            endpoint_drops: take(ebpf, names::ENDPOINT_DROPS)?,
            drops: take(ebpf, names::DROPS)?,
            cpus: cpus()?,
        })
    }

    /// A per-CPU value of zeros.
    pub(super) fn zeros<T: Pod + Default>(&self) -> Result<PerCpuValues<T>> {
        PerCpuValues::try_from(vec![T::default(); self.cpus])
            .map_err(|e| pin_io("make a per-CPU value", e))
    }
}

fn pin_io(step: &str, source: std::io::Error) -> DatapathError {
    DatapathError::Io {
        step: step.into(),
        source,
    }
}

/// The error number of a failed map operation.
fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

/// What came of writing to a map.
pub(super) trait Written {
    /// The map's name is said where it did not succeed, and of a full map its room.
    fn written(self, map: &'static str, max_entries: u32) -> Result<()>;
}

impl Written for std::result::Result<(), MapError> {
    fn written(self, map: &'static str, max_entries: u32) -> Result<()> {
        fault::point("after", || format!("writing to map {map}"));
        self.map_err(|error| match errno(&error) {
            // Of hash maps and of longest-prefix tables.
            Some(libc::E2BIG | libc::ENOSPC) => DatapathError::Full { map, max_entries },
            _ => DatapathError::other(format!("write map {map}"), chain(&error)),
        })
    }
}

/// Success, also when there was nothing.
pub(super) fn removed(map: &'static str, result: std::result::Result<(), MapError>) -> Result<()> {
    fault::point("after", || format!("removing from map {map}"));
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(DatapathError::other(
            format!("remove from map {map}"),
            chain(&error),
        )),
    }
}

pub(super) fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(super) fn ip(addr: Addr) -> IpAddr {
    match unmapped(addr) {
        Some(v4) => v4.into(),
        None => addr.into(),
    }
}

pub(super) fn flags(network: NetworkFlags) -> u32 {
    let bit = |set: bool, flag: u32| if set { flag } else { 0 };
    bit(network.icc, NETWORK_ICC)
        | bit(network.internal, NETWORK_INTERNAL)
        | bit(network.masquerade, NETWORK_MASQUERADE)
        | bit(
            network.overlay.is_some_and(|at| at.shadowed),
            NETWORK_SHADOWED,
        )
}

pub(super) fn veth(e: &EndpointEntry) -> Veth {
    let v4 = |ip: Option<Ipv4Addr>| ip.map_or([0; 4], |ip| ip.octets());
    let v6 = |ip: Option<Ipv6Addr>| ip.map_or([0; 16], |ip| ip.octets());
    Veth {
        endpoint: e.index,
        network: e.network,
        flags: flags(e.flags) | (e.container as u32) << CONTAINER_SHIFT,
        scope: scope(e),
        ipv4: v4(e.ipv4.map(|net| net.addr())),
        ipv6: v6(e.ipv6.map(|net| net.addr())),
        gateway4: v4(e.gateway4),
        gateway6: v6(e.gateway6),
        mac: e.mac,
        mtu: e.mtu,
        vni: e.flags.overlay.map_or(0, |at| at.vni),
    }
}

pub(super) fn veth_slot(e: &EndpointEntry) -> VethSlot {
    let none = VethSlot::unplaced(veth(e));
    VethSlot {
        ifindex: e.device.ifindex,
        mask4: e.ipv4.map_or(none.mask4, |net| net.netmask().octets()),
        mask6: e.ipv6.map_or(none.mask6, |net| net.netmask().octets()),
        ..none
    }
}

/// Of an endpoint's addresses.
pub(super) fn scope(e: &EndpointEntry) -> u32 {
    e.flags.overlay.map_or(0, |at| at.scope)
}

pub(super) fn endpoint(e: &EndpointEntry) -> Endpoint {
    Endpoint {
        endpoint: e.index,
        network: e.network,
        flags: flags(e.flags),
        ifindex: e.device.ifindex,
        mac: e.mac,
        reserved: [0; 2],
    }
}

/// The keys under which an endpoint's addresses are found.
pub(super) fn endpoint_keys(e: &EndpointEntry) -> impl Iterator<Item = EndpointKey> {
    let v4 = e.ipv4.map(|net| mapped(net.addr().octets()));
    let v6 = e.ipv6.map(|net| net.addr().octets());
    v4.into_iter().chain(v6).map(|addr| EndpointKey {
        scope: scope(e),
        addr,
    })
}

pub(super) fn uplink(u: &UplinkEntry, early: &EarlyDrop) -> Uplink {
    let bit = |set: bool, flag: u32| if set { flag } else { 0 };
    Uplink {
        flags: bit(u.ethernet, UPLINK_ETHERNET) | bit(*early == EarlyDrop::Xdp, UPLINK_EARLY_DROP),
        mtu: u.mtu,
        ipv4: u.ipv4.map_or([0; 4], |ip| ip.octets()),
        ipv6: u.ipv6.map_or([0; 16], |ip| ip.octets()),
    }
}

pub(super) fn local(l: &LocalEntry) -> (LocalKey, Local) {
    let value = match l.gateway_of {
        Some(network) => Local {
            flags: LOCAL_GATEWAY,
            network,
            pool: 0,
        },
        None => Local {
            flags: 0,
            network: 0,
            pool: 0,
        },
    };
    (LocalKey { addr: addr(l.addr) }, value)
}

/// Prefix length of a destination among 16-byte addresses.
pub(super) fn mapped_prefix(net: ipnet::IpNet) -> u32 {
    let unused = if net.addr().is_ipv4() { 96 } else { 0 };
    unused + u32::from(net.prefix_len())
}

pub(super) fn source(s: &SourceEntry) -> (Key<SourceData>, Source) {
    let data = SourceData {
        ifindex: s.ifindex,
        addr: addr(s.destination.network()),
    };
    let prefix = 32 + mapped_prefix(s.destination);
    (
        Key::new(prefix, data),
        Source {
            addr: addr(s.source),
        },
    )
}

pub(super) fn subnet(s: &SubnetEntry) -> (Key<SubnetData>, Subnet) {
    let prefix = mapped_prefix(s.subnet);
    let data = SubnetData {
        addr: addr(s.subnet.network()),
    };
    (
        Key::new(prefix, data),
        Subnet {
            network: s.network,
            flags: flags(s.flags),
        },
    )
}

/// What such a key is of.
pub(super) fn subnet_of(key: &Key<SubnetData>) -> ipnet::IpNet {
    net(key.data().addr, key.prefix_len())
}

/// The destinations whose addresses begin with that many bits of this one.
fn net(addr: Addr, bits: u32) -> ipnet::IpNet {
    let bits = bits as u8;
    let (ip, bits) = match unmapped(addr) {
        Some(v4) if bits >= 96 => (IpAddr::from(v4), bits - 96),
        _ => (IpAddr::from(addr), bits),
    };
    ipnet::IpNet::new_assert(ip, bits)
}

/// The family of an address in 16-byte form.
pub(super) fn family_of(addr: Addr) -> u8 {
    if unmapped(addr).is_some() { 4 } else { 6 }
}

pub(super) fn port_key(key: &Key<PortData>) -> PortKey {
    PortKey {
        prefix_len: key.prefix_len(),
        data: key.data(),
    }
}

/// The key for clients that a published port is for.
pub(super) fn allow(number: u32, clients: ipnet::IpNet) -> Key<AllowData> {
    let data = AllowData {
        allow: number,
        addr: addr(clients.network()),
    };
    Key::new(32 + mapped_prefix(clients), data)
}

/// The list and the clients of such a key.
pub(super) fn allowed(key: &Key<AllowData>) -> (u32, ipnet::IpNet) {
    let data = key.data();
    (
        data.allow,
        net(data.addr, key.prefix_len().saturating_sub(32)),
    )
}

/// Makes a longest-prefix table of 4,096 entries just this; what is right already is
/// not written again.
pub(super) fn replace_all<K, V>(
    name: &'static str,
    table: &mut LpmTrie<MapData, K, V>,
    wanted: &[(Key<K>, V)],
) -> Result<()>
where
    K: Pod + PartialEq,
    V: Pod + PartialEq,
{
    let same = |a: &Key<K>, b: &Key<K>| a.prefix_len() == b.prefix_len() && a.data() == b.data();
    let held: Vec<Key<K>> = table.keys().flatten().collect();
    for (key, value) in wanted {
        if table.get(key, 0).is_ok_and(|v| v == *value) && held.iter().any(|h| same(h, key)) {
            continue;
        }
        table.insert(key, value, 0).written(name, 4096)?;
    }
    for key in held {
        if !wanted.iter().any(|(w, _)| same(w, &key)) {
            removed(name, table.remove(&key))?;
        }
    }
    Ok(())
}
