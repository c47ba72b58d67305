//! What passes, and what does not: connections, events and drops.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A live connection, as `netbpf flows` prints it; addresses are `ip:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowInfo {
    /// `tcp`, `udp`, `icmp`, `icmp6`, `sctp` or a number.
    pub protocol: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// `null` of a flow of the host's own, whose tuple a container had already.
    pub endpoint: Option<String>,
    pub network: Option<String>,
    /// `publish`, `masquerade`, `forward` or `local`.
    pub kind: String,
    pub state: String,
    /// Of the packet that began it.
    pub src: String,
    pub dst: String,
    /// Of the answers, as they arrive.
    pub reply_src: String,
    pub reply_dst: String,
    /// Seconds since it began.
    pub age: u64,
    /// Seconds without a packet until it is forgotten.
    pub expires_in: u64,
    pub packets: u64,
    pub bytes: u64,
    pub reply_packets: u64,
    pub reply_bytes: u64,
}

/// What made a connection.
pub const FLOW_KINDS: [&str; 4] = ["publish", "masquerade", "forward", "local"];

/// Which connections are meant: those that fit all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Of this endpoint only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of this network only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmp6`, `sctp` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// In this state only, in the words of the listing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `publish`, `masquerade`, `forward` or `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// `IP`, `IP/LEN`, `IP:PORT`, `[IP6]:PORT` or `:PORT`, like the others here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// Where the packet that began it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// Where the answers come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_src: Option<String>,
    /// Where the answers go, as they arrive: the outside port of a masqueraded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_dst: Option<String>,
}

/// How much `netbpf flows flush` removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlushInfo {
    /// Connections.
    pub flows: u64,
    /// Outside ports that no connection uses any more.
    pub mappings: u64,
}

/// Which events are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    /// Drops only.
    #[serde(default)]
    pub drops: bool,
    /// Of this endpoint only.
    pub endpoint: Option<String>,
    /// Of this network only.
    pub network: Option<String>,
}

/// What an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A connection began.
    New,
    /// A connection ended.
    Close,
    /// A packet was dropped.
    Drop,
    /// Events that were lost here.
    Lost,
}

/// Something that happened, as `netbpf monitor` prints it; addresses are `ip:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventInfo {
    /// RFC 3339, to the microsecond.
    pub time: String,
    pub event: EventKind,
    /// Of drops, those of docs/drops.md; of ends `closed`, `reset`, `timeout`,
    /// `unpublished`, `detached` or `flushed`; of lost events `buffer_full` (the programs told
    /// more than the daemon could read) or `slow_reader` (this reader took too long).
    pub reason: Option<String>,
    /// The container's; null where none is known.
    pub endpoint: Option<String>,
    pub network: Option<String>,
    /// Device of the host that the packet came by.
    pub device: Option<String>,
    /// `publish`, `masquerade` or `local`, of connections.
    pub kind: Option<String>,
    /// `ipv4` or `ipv6`.
    pub family: Option<String>,
    /// `tcp`, `udp`, `icmp`, `icmp6`, `sctp` or a number.
    pub protocol: Option<String>,
    /// Of the packet; of connections, of the one that began it, as it came.
    pub src: Option<String>,
    pub dst: Option<String>,
    /// Of the answers to a connection, as they come: it was translated into the
    /// reverse of these.
    pub reply_src: Option<String>,
    pub reply_dst: Option<String>,
    /// Bytes of the packet.
    pub length: Option<u32>,
    /// How many, of lost events.
    pub lost: Option<u64>,
}

/// One line of `netbpf drops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropInfo {
    /// Stable; docs/drops.md has them all.
    pub reason: String,
    pub packets: u64,
    pub description: String,
}
