//! Names of maps and programs, as they are pinned and shown. Map names hold to
//! the kernel's limit of 15 characters (`BPF_OBJ_NAME_LEN`).

pub const CONFIG: &str = "config";
pub const ENDPOINTS: &str = "endpoints";
pub const VETHS: &str = "veths";
pub const VETH_SLOTS: &str = "veth_slots";
pub const SIBLINGS: &str = "siblings";
pub const UPLINKS: &str = "uplinks";
pub const SOURCES: &str = "sources";
pub const LOCALS: &str = "locals";
pub const SUBNETS: &str = "subnets";
pub const AREAS: &str = "areas";
pub const PORTS: &str = "ports";
pub const PUBLISHED: &str = "published";
pub const SHARES: &str = "shares";
pub const BACKENDS: &str = "backends";
pub const ALLOWS: &str = "allows";
pub const CLIENTS: &str = "clients";
pub const HOST_CONNS: &str = "host_conns";
pub const HOST_PEERS: &str = "host_peers";
pub const HOST_ASKED: &str = "host_asked";
pub const HANDED: &str = "handed";
pub const ANSWERED: &str = "answered";
pub const GENERATIONS: &str = "generations";
pub const VNIS: &str = "vnis";
pub const NODES: &str = "nodes";
pub const VTEPS: &str = "vteps";
pub const TUNNELS: &str = "tunnels";
pub const FLOWS4: &str = "flows4";
pub const FLOWS6: &str = "flows6";
pub const EVICTABLE4: &str = "evictable4";
pub const EVICTABLE6: &str = "evictable6";
pub const OCCUPANCY: &str = "occupancy";
pub const MAPPINGS4: &str = "mappings4";
pub const MAPPINGS6: &str = "mappings6";
pub const OUTSIDE4: &str = "outside4";
pub const OUTSIDE6: &str = "outside6";
pub const POOLS: &str = "pools";
pub const IDLE: &str = "idle";
pub const RESERVED: &str = "reserved";
pub const DISPLACED: &str = "displaced";
pub const ARRIVALS: &str = "arrivals";
pub const FRAGMENTS4: &str = "fragments4";
pub const FRAGMENTS6: &str = "fragments6";
pub const FRAGMENT_ID: &str = "fragment_id";
pub const ENDPOINT_STATS: &str = "endpoint_stats";
pub const ENDPOINT_DROPS: &str = "endpoint_drops";
pub const DROPS: &str = "drops";
pub const EVENTS: &str = "events";
/// Records that had no room in `events`, per CPU.
pub const EVENTS_LOST: &str = "events_lost";
/// Sockets of the host with an entry in `host_conns` or `host_peers`.
pub const HOST_MARKS: &str = "host_marks";
/// New flows to shared ports, per CPU.
pub const TURNS: &str = "turns";
/// Copies of the daemon's records.
pub const RECORDS: &str = "records";
/// Per-CPU working space of a program, of no interest outside of it.
pub const SCRATCH: &str = "scratch";

/// ICMP errors sent per CPU and tick.
pub const ICMP_BUDGET: &str = "icmp_budget";

/// Every map, in the order of docs/maps.md.
pub const MAPS: &[&str] = &[
    CONFIG,
    ENDPOINTS,
    VETHS,
    VETH_SLOTS,
    SIBLINGS,
    UPLINKS,
    SOURCES,
    LOCALS,
    SUBNETS,
    AREAS,
    VNIS,
    NODES,
    VTEPS,
    TUNNELS,
    PUBLISHED,
    PORTS,
    SHARES,
    BACKENDS,
    ALLOWS,
    CLIENTS,
    GENERATIONS,
    HOST_CONNS,
    HOST_PEERS,
    HOST_ASKED,
    HANDED,
    ANSWERED,
    HOST_MARKS,
    TURNS,
    FLOWS4,
    FLOWS6,
    EVICTABLE4,
    EVICTABLE6,
    OCCUPANCY,
    MAPPINGS4,
    MAPPINGS6,
    OUTSIDE4,
    OUTSIDE6,
    POOLS,
    IDLE,
    RESERVED,
    DISPLACED,
    ARRIVALS,
    FRAGMENTS4,
    FRAGMENTS6,
    FRAGMENT_ID,
    ENDPOINT_STATS,
    ENDPOINT_DROPS,
    DROPS,
    EVENTS,
    EVENTS_LOST,
    RECORDS,
    SCRATCH,
    ICMP_BUDGET,
];

/// TC ingress of a container's host-side veth.
pub const FROM_CONTAINER: &str = "from_container";
/// TC egress of a container's host-side veth.
pub const TO_CONTAINER: &str = "to_container";
/// TC ingress of an uplink with Ethernet header.
pub const FROM_UPLINK: &str = "from_uplink";
/// TC ingress of an uplink without Ethernet header (tun, WireGuard, ppp).
pub const FROM_UPLINK_L3: &str = "from_uplink_l3";
/// TC egress of an uplink with Ethernet header.
pub const TO_UPLINK: &str = "to_uplink";
/// TC egress of an uplink without.
pub const TO_UPLINK_L3: &str = "to_uplink_l3";

/// XDP on an uplink.
pub const EARLY_DROP: &str = "early_drop";
/// TC egress of `lo`.
pub const HOST_LOCAL: &str = "host_local";

/// Loaded with the first device that wants it: few hosts have one, and verifying it
/// takes the kernel as long as all else together.
pub const AT_NEED: &[&str] = &[FROM_UPLINK_L3, TO_UPLINK_L3];

/// Every program of devices.
pub const PROGRAMS: &[&str] = &[
    FROM_CONTAINER,
    TO_CONTAINER,
    FROM_UPLINK,
    FROM_UPLINK_L3,
    TO_UPLINK,
    TO_UPLINK_L3,
    HOST_LOCAL,
    EARLY_DROP,
];

/// Every program of cgroups, on the sockets of the host's own processes. What undoes
/// what others do comes before them.
pub const HOST_PROGRAMS: &[&str] = &[
    "host_release",
    "host_recvmsg4",
    "host_recvmsg6",
    "host_peername4",
    "host_peername6",
    "host_connect4",
    "host_connect6",
    "host_sendmsg4",
    "host_sendmsg6",
    "host_bind4",
    "host_bind6",
];

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_keeps_the_whole_name() {
        for name in super::MAPS
            .iter()
            .chain(super::PROGRAMS)
            .chain(super::HOST_PROGRAMS)
        {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
