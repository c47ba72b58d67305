//! What netbpf is tested with.
//!
//! - [`lab`]: hosts, wires and containers as network namespaces, traffic by
//!   real tools, assertions on JSON. Scenarios are in `tests/*.rs`.
//! - [`rows`]: single packets through the real programs by the kernel's
//!   test-run, with maps before and counters after.
//! - [`scenes`]: what must hold however programs hang and on every kernel.
//! - [`bench`]: netbpf against what people have, interleaved in one run.
//! - [`clients`]: real container engines, each on a host of the lab.
//! - [`nodes`]: nodes' parts in a cluster, with a real etcd.
//! - [`debian`]: a root directory to install packages in.
//! - [`packets`]: frames with right checksums, for both.
//!
//! Nothing here touches the machine's own interfaces, routes or settings; what
//! a test makes is gone when it ends, also by a panic.

pub mod bench;
pub mod clients;
pub mod debian;
pub mod lab;
pub mod nodes;
pub mod packets;
pub mod rows;
pub mod scenes;
