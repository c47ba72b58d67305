//! What `netbpf doctor` finds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that `netbpf doctor` looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    pub check: Check,
    pub severity: Severity,
    /// What it is about: `device up0`, `endpoint web on front`, `map ports`.
    pub object: String,
    /// One line for people.
    pub message: String,
    /// What to do; empty where nothing is to be done.
    pub advice: String,
}

/// How bad it is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// It works, but less well or less surely than it could.
    Warning,
    /// Something does not work, or not for all.
    Error,
}

/// What `netbpf doctor` looks at.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The daemon answers.
    Daemon,
    /// The kernel has what is needed; what of it is used.
    Kernel,
    /// The process may do what it has to.
    Capabilities,
    /// The directory of pins is in a bpf file system.
    Bpffs,
    /// A cgroup of version 2 holds published ports.
    Cgroup,
    /// The host has IPv6.
    Ipv6,
    /// The store can be read, and says what the daemon knows.
    Store,
    /// Gateway addresses and unreachable routes are there.
    Network,
    /// Interfaces, addresses, routes and neighbour entries of endpoints are as they were
    /// made, on the host and in the container.
    Endpoint,
    /// Nothing of ours is left that belongs to nothing.
    Stray,
    /// Our programs hang where they should, and everything is pinned.
    Program,
    /// No program of others comes before ours.
    ForeignProgram,
    /// The maps have the entries that they should have.
    Map,
    /// The maps have room.
    MapUsage,
    /// No route or address of others is within our subnets.
    Overlap,
    /// The host-side interfaces forward.
    Forwarding,
    /// Filtering by source address drops nothing of ours.
    RpFilter,
    /// The host's firewall lets containers and host talk.
    Firewall,
    /// No way out is narrower than the networks.
    Mtu,
    /// Published ports are among `ip_local_reserved_ports`.
    ReservedPorts,
    /// No program of the host has a published port.
    Port,
    /// There is a way out, and our programs are on it.
    Uplink,
    /// Dropped packets that tell of a mistake in the host's settings.
    Drops,
    /// No event was lost.
    Events,
    /// Time-outs are not less than the RFCs ask for.
    Timeouts,
    /// What the daemon remarked on when it started.
    Start,
}

impl Check {
    /// As JSON has it.
    pub fn label(self) -> String {
        let json = serde_json::to_value(self).unwrap_or_default();
        json.as_str().unwrap_or_default().into()
    }
}

impl Severity {
    pub const fn label(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}
