//! What stands under the keys: JSON with a version, so that daemons of several
//! releases can tell what they find.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Deref,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::model::{Labels, SubnetInfo};

/// Of the values that this release writes and reads.
pub const VERSION: u32 = 1;

/// A network of the driver `overlay`; there on every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    /// From 1 to 16,777,215, and no other network's.
    pub vni: u32,
    pub subnets: Vec<SubnetInfo>,
    /// Of packets inside, in bytes; `None`: what the uplink of each node leaves.
    #[serde(default)]
    pub mtu: Option<u16>,
    pub internal: bool,
    pub icc: bool,
    pub masquerade: bool,
    #[serde(default)]
    pub labels: Labels,
    /// For people: clocks of two machines are never compared.
    pub created_at: String,
    /// The node on which it was asked for.
    pub created_by: String,
}

impl Network {
    /// The subnet of that address's family.
    pub fn subnet_of(&self, v6: bool) -> Option<&SubnetInfo> {
        self.subnets.iter().find(|s| s.gateway.is_ipv6() == v6)
    }
}

/// This node, as it tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Me {
    pub name: String,
    /// Random, kept by the store: tells two daemons of one name apart.
    pub id: String,
    /// VTEP: where VXLAN for this node goes, and what it comes from.
    pub address: IpAddr,
    /// Of the uplink, in bytes.
    pub mtu: u32,
    /// UDP port of VXLAN.
    pub port: u16,
    /// Destination of frames inside that are for this node.
    #[serde(with = "mac")]
    pub mac: [u8; 6],
    /// Of the daemon.
    pub version: String,
}

impl Default for Me {
    fn default() -> Self {
        Me {
            name: String::new(),
            id: String::new(),
            address: Ipv4Addr::UNSPECIFIED.into(),
            mtu: 1500,
            port: 4789,
            mac: [0; 6],
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// Stands as long as the node's lease lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Of [`Me`].
    pub id: String,
}

/// Stands while a node is to get nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The node on which it was asked for.
    pub by: String,
}

/// Whose VNI it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VniOf {
    pub network: String,
}

/// Whose block it is: addresses in it that are nobody else's are reached there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockOf {
    pub node: String,
}

/// Whose address it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressOf {
    pub node: String,
    pub endpoint: String,
}

/// An endpoint on a node, for its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: String,
    pub name: String,
    pub node: String,
    /// What its engine calls the container.
    #[serde(default)]
    pub container: Option<String>,
    pub addresses: Vec<IpAddr>,
    #[serde(with = "mac")]
    pub mac: [u8; 6],
    /// Further names on the network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// For people.
    pub created_at: String,
}

/// A block of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    pub network: String,
    pub block: IpNet,
}

/// A record as it stands in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    pub record: T,
    /// etcd's revision of the write: a comparison with it notices every later one.
    pub revision: i64,
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.record
    }
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(flatten)]
    record: &'a T,
}

/// The value of a key.
pub fn encode<T: Serialize>(record: &T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Versioned { v: VERSION, record })
}

/// Why a value is passed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("version {0} is not known here")]
    Version(u64),
    #[error("{0}")]
    Json(String),
    #[error("it is said to be {0}")]
    OfAnother(String),
    #[error("the key is of no kind that is known here")]
    Key,
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Unreadable::Json(error.to_string())
    }
}

/// Reads a value. Keys that it does not know are of a newer release, which keeps the
/// version as long as older ones may pass over them.
pub fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    let Version { v } = serde_json::from_slice(value)?;
    match v == u64::from(VERSION) {
        true => Ok(serde_json::from_slice(value)?),
        false => Err(Unreadable::Version(v)),
    }
}

/// `02:00:0a:07:00:01`.
mod mac {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(mac: &[u8; 6], serializer: S) -> Result<S::Ok, S::Error> {
        let [a, b, c, d, e, f] = mac;
        serializer.collect_str(&format_args!(
            "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"
        ))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 6], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let digits = |part: &&str| part.len() == 2 && !part.starts_with('+');
            let part = parts.next().filter(digits);
            let parsed = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte =
                parsed.ok_or_else(|| D::Error::custom(format!("{text:?} is no MAC address")))?;
        }
        match parts.next() {
            None => Ok(mac),
            Some(_) => Err(D::Error::custom(format!("{text:?} is no MAC address"))),
        }
    }
}
