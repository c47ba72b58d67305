//! The maps, typed, and how what the daemon says turns into their entries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::{
    Ebpf, Pod,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key,
    },
};
use netbpf_common::{
    addr::{ANY, Addr, mapped},
    maps::{
        DropKey, Endpoint, EndpointKey, EndpointStats, Flow, FlowKey, Local, LocalKey, Mapping,
        MappingKey, Outside, OutsideKey, Port, PortData, Source, SourceData, Subnet, SubnetData,
        Uplink, Veth,
        endpoints::{NETWORK_ICC, NETWORK_INTERNAL, NETWORK_MASQUERADE},
        locals::LOCAL_GATEWAY,
        uplinks::UPLINK_ETHERNET,
    },
    names,
};

use super::{
    Result, blocks,
    load::{chain, cpus},
    types::{
        DatapathError, EndpointEntry, LocalEntry, NetworkFlags, PortEntry, SourceEntry,
        SubnetEntry, UplinkEntry,
    },
};

/// The flow tables of one family.
pub(super) struct FlowTables<A: Pod>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
    MappingKey<A>: Pod,
    OutsideKey<A>: Pod,
    Outside<A>: Pod,
{
    pub flows: HashMap<MapData, FlowKey<A>, Flow<A>>,
    pub transient: HashMap<MapData, FlowKey<A>, Flow<A>>,
    pub mappings: HashMap<MapData, MappingKey<A>, Mapping>,
    pub outside: HashMap<MapData, OutsideKey<A>, Outside<A>>,
    /// Entries that the table of established flows has room for.
    pub max_entries: usize,
}

pub(super) struct Tables {
    pub endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    pub veths: HashMap<MapData, u32, Veth>,
    pub uplinks: HashMap<MapData, u32, Uplink>,
    pub sources: LpmTrie<MapData, SourceData, Source>,
    pub locals: HashMap<MapData, LocalKey, Local>,
    pub subnets: LpmTrie<MapData, SubnetData, Subnet>,
    pub ports: LpmTrie<MapData, PortData, Port>,
    pub generations: Array<MapData, u32>,
    pub endpoint_stats: PerCpuArray<MapData, EndpointStats>,
    pub endpoint_drops: HashMap<MapData, DropKey, u64>,
    pub drops: PerCpuArray<MapData, u64>,
    cpus: usize,
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| DatapathError::other("open maps", format!("no map {name}")))?;
    M::try_from(map).map_err(|e| DatapathError::other(format!("open map {name}"), chain(&e)))
}

/// The size of a map that is not taken yet.
fn entries(ebpf: &Ebpf, name: &'static str) -> Result<usize> {
    let failed = |e: &dyn std::error::Error| {
        DatapathError::other(format!("read the size of map {name}"), chain(e))
    };
    let Some(Map::HashMap(data)) = ebpf.map(name) else {
        return Err(DatapathError::other("open maps", format!("no map {name}")));
    };
    Ok(data.info().map_err(|e| failed(&e))?.max_entries() as usize)
}

impl FlowTables<[u8; 4]> {
    pub(super) fn open4(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(FlowTables {
            max_entries: entries(ebpf, names::FLOWS4)?,
            flows: take(ebpf, names::FLOWS4)?,
            transient: take(ebpf, names::TRANSIENT4)?,
            mappings: take(ebpf, names::MAPPINGS4)?,
            outside: take(ebpf, names::OUTSIDE4)?,
        })
    }
}

impl FlowTables<[u8; 16]> {
    pub(super) fn open6(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(FlowTables {
            max_entries: entries(ebpf, names::FLOWS6)?,
            flows: take(ebpf, names::FLOWS6)?,
            transient: take(ebpf, names::TRANSIENT6)?,
            mappings: take(ebpf, names::MAPPINGS6)?,
            outside: take(ebpf, names::OUTSIDE6)?,
        })
    }
}

impl Tables {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Tables {
            endpoints: take(ebpf, names::ENDPOINTS)?,
            veths: take(ebpf, names::VETHS)?,
            uplinks: take(ebpf, names::UPLINKS)?,
            sources: take(ebpf, names::SOURCES)?,
            locals: take(ebpf, names::LOCALS)?,
            subnets: take(ebpf, names::SUBNETS)?,
            ports: take(ebpf, names::PORTS)?,
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

/// A failed write: a full map is said as such.
pub(super) fn write_error(map: &'static str, max_entries: u32, error: &MapError) -> DatapathError {
    match errno(error) {
        // Of hash maps and of longest-prefix tables.
        Some(libc::E2BIG | libc::ENOSPC) => DatapathError::Full { map, max_entries },
        _ => DatapathError::other(format!("write map {map}"), chain(error)),
    }
}

/// Success, also when there was nothing.
pub(super) fn removed(map: &'static str, result: std::result::Result<(), MapError>) -> Result<()> {
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

pub(super) fn flags(network: NetworkFlags) -> u32 {
    let bit = |set: bool, flag: u32| if set { flag } else { 0 };
    bit(network.icc, NETWORK_ICC)
        | bit(network.internal, NETWORK_INTERNAL)
        | bit(network.masquerade, NETWORK_MASQUERADE)
}

pub(super) fn veth(e: &EndpointEntry) -> Veth {
    let v4 = |ip: Option<Ipv4Addr>| ip.map_or([0; 4], |ip| ip.octets());
    let v6 = |ip: Option<Ipv6Addr>| ip.map_or([0; 16], |ip| ip.octets());
    Veth {
        endpoint: e.index,
        network: e.network,
        flags: flags(e.flags),
        scope: 0,
        ipv4: v4(e.ipv4),
        ipv6: v6(e.ipv6),
        gateway4: v4(e.gateway4),
        gateway6: v6(e.gateway6),
        mac: e.mac,
        mtu: e.mtu,
    }
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
    let v4 = e.ipv4.map(|ip| mapped(ip.octets()));
    let v6 = e.ipv6.map(|ip| ip.octets());
    v4.into_iter()
        .chain(v6)
        .map(|addr| EndpointKey { scope: 0, addr })
}

pub(super) fn uplink(u: &UplinkEntry) -> Uplink {
    Uplink {
        flags: if u.ethernet { UPLINK_ETHERNET } else { 0 },
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
        },
        None => Local {
            flags: 0,
            network: 0,
        },
    };
    (LocalKey { addr: addr(l.addr) }, value)
}

/// Prefix length of a destination among 16-byte addresses.
fn mapped_prefix(net: ipnet::IpNet) -> u32 {
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

/// The entries of a published port: one per block and family.
pub(super) fn port(p: &PortEntry, generation: u32) -> Vec<(Key<PortData>, Port)> {
    let wildcard = p.host_ip.is_none_or(|ip| ip.is_unspecified());
    let host = p.host_ip.filter(|_| !wildcard).map_or(ANY, addr);
    let wanted = |family: u8| match p.host_ip {
        None => true,
        Some(IpAddr::V4(_)) => family == 4,
        Some(IpAddr::V6(_)) => family == 6,
    };
    let backends = [
        (4, p.endpoint.ipv4.map(IpAddr::V4)),
        (6, p.endpoint.ipv6.map(IpAddr::V6)),
    ];
    let mut entries = Vec::new();
    for (family, backend) in backends {
        let Some(backend) = backend.filter(|_| wanted(family)) else {
            continue;
        };
        for block in blocks::blocks(&p.host_ports) {
            let data = PortData {
                protocol: p.protocol,
                family,
                addr: host,
                port_be: block.first.to_be_bytes(),
            };
            // Protocol, family and address whole, then the bits of the block.
            entries.push((
                Key::new(144 + block.bits, data),
                Port {
                    slot: p.slot,
                    generation,
                    endpoint: p.endpoint.index,
                    network: p.endpoint.network,
                    ifindex: p.endpoint.device.ifindex,
                    flags: 0,
                    backends: 1,
                    network_flags: flags(p.endpoint.flags) as u16,
                    host_port: *p.host_ports.start(),
                    container_port: p.container_port,
                    container_addr: addr(backend),
                    mac: p.endpoint.mac,
                    reserved: [0; 2],
                },
            ));
        }
    }
    entries
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
        table
            .insert(key, value, 0)
            .map_err(|e| write_error(name, 4096, &e))?;
    }
    for key in held {
        if !wanted.iter().any(|(w, _)| same(w, &key)) {
            removed(name, table.remove(&key))?;
        }
    }
    Ok(())
}
