//! One file per table: key, value, size. Every type is `repr(C)`, made of
//! integers and byte arrays, without implicit padding: what is not named is
//! still compared in a key.
//!
//! Addresses are in network byte order, ports and all other numbers in the
//! byte order of the machine, so that `bpftool map dump` reads right.

pub mod config;
pub mod counters;
pub mod endpoints;
pub mod evictable;
pub mod flows;
pub mod fragments;
pub mod host;
pub mod locals;
pub mod mappings;
pub mod overlay;
pub mod pools;
pub mod ports;
pub mod published;
pub mod records;
pub mod sources;
pub mod subnets;
pub mod uplinks;

pub use config::Config;
pub use counters::{DropKey, EndpointStats};
pub use endpoints::{Endpoint, EndpointKey, Veth, VethSlot};
pub use evictable::Evictable;
pub use flows::{Flow, FlowKey};
pub use fragments::{FragmentKey, FragmentOf};
pub use host::{Asked, AskedKey, Handed, HandedKey, HostConn, Peer, PeerKey};
pub use locals::{Local, LocalKey};
pub use mappings::{Mapping, MappingKey, Outside, OutsideKey};
pub use overlay::{Node, Tunnel, TunnelKey, Vni};
pub use pools::Pool;
pub use ports::{AllowData, AllowKey, Backend, BackendKey, Client, Port, PortData, PortKey, Share};
pub use published::Published;
pub use records::{RecordKey, RecordPart};
pub use sources::{Source, SourceData, SourceKey};
pub use subnets::{Subnet, SubnetData, SubnetKey};
pub use uplinks::Uplink;
