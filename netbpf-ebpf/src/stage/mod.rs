//! The steps of a packet's way. Each ends in a `Verdict` or hands on.

pub mod antispoof;
pub mod arp;
pub mod deliver;
pub mod flow;
pub mod local;
pub mod masquerade;
pub mod nd;
pub mod port;
pub mod refuse;
pub mod route;
pub mod translate;

use netbpf_common::{drop::DropReason, verdict::Verdict};

/// A step's outcome: `Err` is a drop without an answer.
pub type Step<T = Verdict> = Result<T, DropReason>;
