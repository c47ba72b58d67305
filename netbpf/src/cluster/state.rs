//! How this node stands to the cluster, for people.

use std::{net::IpAddr, time::SystemTime};

use ipnet::IpNet;

/// Whether etcd answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// It has never answered this daemon.
    #[default]
    Starting,
    Connected {
        since: SystemTime,
    },
    /// It answers, but another daemon has the name of this node.
    Conflict {
        since: SystemTime,
        /// The other daemon's.
        id: String,
    },
    Away {
        since: SystemTime,
    },
}

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub urls: Vec<String>,
    pub leader: bool,
}

/// Something of this node that has no place in the cluster, since another has it: a
/// cut off node and the rest may have given out the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Clash {
    #[error("endpoint {endpoint:?} is on network {network:?}, which the cluster does not have")]
    NoNetwork { network: String, endpoint: String },
    #[error("endpoint {endpoint:?} on network {network:?} is also on node {node:?}")]
    Name {
        network: String,
        endpoint: String,
        node: String,
    },
    #[error(
        "address {ip} of endpoint {endpoint:?} on network {network:?} is also that of {other:?} \
         on node {node:?}"
    )]
    Address {
        network: String,
        endpoint: String,
        ip: IpAddr,
        node: String,
        other: String,
    },
    #[error(
        "endpoint {endpoint:?} on network {network:?} needs key {key:?}, whose value cannot be read"
    )]
    Unreadable {
        network: String,
        endpoint: String,
        key: String,
    },
    #[error("block {block} of network {network:?} is node {node:?}'s")]
    Block {
        network: String,
        block: IpNet,
        node: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    pub link: Link,
    /// The member that is or was spoken to.
    pub url: Option<String>,
    /// Why etcd could not be reached, or did not do its part, the last time.
    pub last_error: Option<String>,
    /// As etcd has told them.
    pub members: Vec<Member>,
    /// Of etcd, all up to which is in the view.
    pub revision: i64,
    /// Connections so far.
    pub connections: u64,
    /// Entries of the view that were found to differ from etcd, and put right.
    pub drift_repaired: u64,
    /// Keys whose value is of no known version, or broken.
    pub unreadable: usize,
    pub clashes: Vec<Clash>,
}

impl ClusterState {
    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Connected { .. })
    }
}
