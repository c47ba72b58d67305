//! The steps of a packet's way. Each ends in a `Coded` or hands on.

pub mod antispoof;
pub mod arp;
pub mod asked;
pub mod deliver;
pub mod displaced;
pub mod evict;
pub mod flow;
pub mod fragment;
pub mod handed;
pub mod icmp_error;
pub mod local;
pub mod masquerade;
pub mod nd;
pub mod overlay;
pub mod pool;
pub mod port;
pub mod refuse;
pub mod renew;
pub mod route;
pub mod sibling;
pub mod sockets;
pub mod translate;

use netbpf_common::{drop::DropReason, verdict::Coded};

/// A step's outcome: `Err` is a drop without an answer.
pub type Step<T = Coded> = Result<T, DropReason>;
