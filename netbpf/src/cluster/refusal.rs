//! Why the cluster does not let this node have something.

use std::net::IpAddr;

use ipnet::IpNet;
use netbpf_common::packet::vxlan::MAX_VNI;

use crate::error::{Code, Error};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing is known to have happened; after a time-out it may have.
    #[error("the cluster cannot be reached: {0}")]
    Away(String),
    /// Its lease has ended, or somebody has removed its entry: soon it is there again.
    #[error("the cluster cannot be reached: this node is being registered anew")]
    Unregistered,
    #[error("the name of this node, {node:?}, is another daemon's in the cluster (id {id})")]
    Conflict { node: String, id: String },
    #[error("network {0:?} not found")]
    NoNetwork(String),
    #[error("network {0:?} already exists")]
    NetworkExists(String),
    #[error("network {network:?} is in use by endpoint {endpoint:?} on node {node:?}{}", others(*.more))]
    NetworkInUse {
        network: String,
        endpoint: String,
        node: String,
        more: usize,
    },
    #[error("vni {0} is not between 1 and {MAX_VNI}")]
    BadVni(u32),
    #[error("vni {vni} is network {network:?}'s")]
    Vni { vni: u32, network: String },
    #[error("no VNI is free")]
    NoVni,
    #[error("subnet {subnet} overlaps {other} of network {network:?}")]
    Overlap {
        subnet: IpNet,
        other: IpNet,
        network: String,
    },
    #[error("endpoint {endpoint:?} on network {network:?} already exists, on node {node:?}")]
    Name {
        network: String,
        endpoint: String,
        node: String,
    },
    #[error(
        "address {ip} on network {network:?} is in use by endpoint {endpoint:?} on node {node:?}"
    )]
    Address {
        network: String,
        ip: IpAddr,
        node: String,
        endpoint: String,
    },
    #[error("network {network:?} has no free block of {} addresses", family(*.v6))]
    Exhausted { network: String, v6: bool },
    #[error("network {network:?} has no {} subnet", family(*.v6))]
    NoSubnet { network: String, v6: bool },
    #[error("block {block} of network {network:?} has address {ip} of endpoint {endpoint:?}")]
    BlockInUse {
        network: String,
        block: IpNet,
        ip: IpAddr,
        endpoint: String,
    },
    #[error("node {0:?} is drained: nothing new comes to it")]
    Drained(String),
    #[error("node {0:?} not found")]
    NoNode(String),
    #[error("node {0:?} is alive: stop its daemon first")]
    NodeAlive(String),
    /// Of a newer release, or broken.
    #[error("the value of key {0:?} in etcd cannot be read")]
    Unreadable(String),
    /// Others were quicker again and again.
    #[error("{0} was changed by others at the same time, again and again")]
    Busy(String),
    #[error("etcd: {0}")]
    Etcd(String),
}

fn others(more: usize) -> String {
    match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

fn family(v6: bool) -> &'static str {
    match v6 {
        true => "IPv6",
        false => "IPv4",
    }
}

impl Refusal {
    pub fn code(&self) -> Code {
        match self {
            Refusal::Away(_) | Refusal::Unregistered | Refusal::Etcd(_) => Code::ClusterUnavailable,
            Refusal::Conflict { .. }
            | Refusal::Drained(_)
            | Refusal::NodeAlive(_)
            | Refusal::Unreadable(_)
            | Refusal::Busy(_) => Code::Conflict,
            Refusal::NoNetwork(_) | Refusal::NoNode(_) => Code::NotFound,
            Refusal::NetworkExists(_) | Refusal::Vni { .. } | Refusal::Name { .. } => {
                Code::AlreadyExists
            }
            Refusal::NetworkInUse { .. } => Code::NetworkInUse,
            Refusal::BadVni(_) | Refusal::NoSubnet { .. } => Code::InvalidArgument,
            Refusal::NoVni | Refusal::Exhausted { .. } => Code::PoolExhausted,
            Refusal::Overlap { .. } => Code::SubnetOverlap,
            Refusal::Address { .. } | Refusal::BlockInUse { .. } => Code::AddressInUse,
        }
    }
}

impl Refusal {
    /// With what was to be done, where the cluster could not even be asked.
    pub fn about(self, what: &str) -> Error {
        match self.code() {
            code @ Code::ClusterUnavailable => Error::new(code, format!("{what}: {self}")),
            _ => self.into(),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::new(refusal.code(), refusal.to_string())
    }
}
