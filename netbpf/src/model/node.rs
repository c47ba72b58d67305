//! Nodes, and how they stand to each other.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cidr, yes};

/// A node of the cluster, or the only one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeInfo {
    pub name: String,
    /// Where other nodes reach it; null while it is not known.
    pub address: Option<IpAddr>,
    pub state: NodeState,
    /// It gets no new endpoint on overlay networks.
    pub drained: bool,
    /// The node that was asked.
    pub this: bool,
    /// Of its uplink, in bytes.
    pub mtu: Option<u32>,
    /// Of its daemon.
    pub version: String,
    /// Blocks of addresses out of which it serves its containers.
    pub blocks: Vec<BlockInfo>,
    /// How many it has on overlay networks; without a cluster, on all.
    pub endpoints: usize,
}

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Alive,
    /// Its lease has ended: its endpoints leave listings, its routes stay.
    Away,
}

/// A block of a network's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockInfo {
    pub network: String,
    #[schemars(with = "Cidr")]
    pub block: IpNet,
}

/// Whether a node is to get nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainSpec {
    /// False: it may get new endpoints again.
    #[serde(default = "yes")]
    pub drained: bool,
}

/// How this node stands to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterInfo {
    /// `starting` (etcd has never answered), `connected`, `away`, or `conflict`: another
    /// daemon has this node's name.
    pub state: String,
    /// Since when; null while it is starting.
    pub since: Option<String>,
    /// The member of etcd that is, or was, spoken to.
    pub url: Option<String>,
    /// Why etcd did not answer, the last time.
    pub error: Option<String>,
    pub members: Vec<MemberInfo>,
    /// Of etcd; all up to there is in the tables of this node.
    pub revision: i64,
    /// Nodes that have registered, and how many of them are away.
    pub nodes: usize,
    pub nodes_away: usize,
    /// Entries that were found to differ from etcd, and put right.
    pub drift_repaired: u64,
    /// Entries of the programs' tables that others had changed, and that were put right.
    pub tables_repaired: u64,
    /// Keys in etcd whose value cannot be read here.
    pub unreadable: usize,
}

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberInfo {
    pub name: String,
    pub urls: Vec<String>,
    pub leader: bool,
}
