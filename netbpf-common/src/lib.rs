//! What the eBPF programs and the daemon share: the layout of every map, the
//! list of drop reasons, the form of an event, and packet logic that is pure
//! enough to be tested on any machine.
//!
//! Nothing here touches the kernel. The programs add the packet access and the
//! maps (`netbpf-ebpf`), the daemon fills the maps (`netbpf::datapath`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod addr;
pub mod drop;
pub mod event;
pub mod flow;
pub mod maps;
pub mod mix;
pub mod names;
pub mod packet;
pub mod time;
pub mod verdict;
