//! The only user of aya: loads the programs, pins them and the maps, hangs them
//! on devices and keeps the maps right.
//!
//! All methods block for microseconds to a few milliseconds (`open`: some
//! hundred) and may be called from any thread of the daemon's network namespace.

mod types;

pub use types::*;

use std::{collections::HashSet, path::Path};

/// The MAC that every container sees as its gateway's, and that every host-side
/// veth has, so that the kernel takes frames to it as its own.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x6e, 0x65, 0x74, 0x62, 0x70];

/// Programs and maps in the kernel.
pub struct Datapath {}

pub type Result<T, E = DatapathError> = std::result::Result<T, E>;

impl Datapath {
    /// Takes over the maps pinned under `options.bpffs` or makes them, loads
    /// the programs of this binary and pins them. Attachments of an earlier
    /// daemon go on with the earlier programs until they are attached anew.
    pub fn open(options: &Options) -> Result<Self> {
        let _ = options;
        unimplemented!()
    }

    /// How programs hang on devices on this kernel.
    pub fn attach_kind(&self) -> AttachKind {
        unimplemented!()
    }

    /// Hangs `from_container` and `to_container` on a host-side veth; replaces
    /// the programs atomically where they hang already.
    pub fn attach_veth(&self, device: &Device) -> Result<()> {
        let _ = device;
        unimplemented!()
    }

    /// Hangs `from_uplink` on an uplink and writes its entry.
    pub fn attach_uplink(&self, uplink: &UplinkEntry) -> Result<()> {
        let _ = uplink;
        unimplemented!()
    }

    /// Takes our programs off a device, and its pins and entries away; a device
    /// that is gone is success.
    pub fn detach(&self, device: &Device) -> Result<()> {
        let _ = device;
        unimplemented!()
    }

    /// Devices that have pins of ours, by ifindex.
    pub fn attached(&self) -> Result<HashSet<u32>> {
        unimplemented!()
    }

    /// Writes an endpoint's entries, new or changed.
    pub fn set_endpoint(&self, endpoint: &EndpointEntry) -> Result<()> {
        let _ = endpoint;
        unimplemented!()
    }

    /// Removes an endpoint's entries, flows and counters; idempotent.
    pub fn remove_endpoint(&self, endpoint: &EndpointEntry) -> Result<()> {
        let _ = endpoint;
        unimplemented!()
    }

    /// Removes entries of endpoints other than these indexes; returns how many.
    pub fn retain_endpoints(&self, indexes: &HashSet<u32>) -> Result<usize> {
        let _ = indexes;
        unimplemented!()
    }

    /// Makes the table of the host's own addresses just this.
    pub fn set_locals(&self, locals: &[LocalEntry]) -> Result<()> {
        let _ = locals;
        unimplemented!()
    }

    /// Makes the table of our subnets just this.
    pub fn set_subnets(&self, subnets: &[SubnetEntry]) -> Result<()> {
        let _ = subnets;
        unimplemented!()
    }

    /// Publishes a port or range; replaces what the same slot had.
    pub fn publish(&self, port: &PortEntry) -> Result<()> {
        let _ = port;
        unimplemented!()
    }

    /// Takes a published port back; its flows are followed no more. Idempotent.
    pub fn unpublish(&self, port: &PortEntry) -> Result<()> {
        let _ = port;
        unimplemented!()
    }

    /// Removes entries of slots other than these; returns how many.
    pub fn retain_ports(&self, slots: &HashSet<u32>) -> Result<usize> {
        let _ = slots;
        unimplemented!()
    }

    /// An endpoint's counters.
    pub fn stats(&self, index: u32) -> Result<Stats> {
        let _ = index;
        unimplemented!()
    }

    /// Drops by reason: of all, or of one endpoint. Reasons without drops are
    /// left out.
    pub fn drops(&self, endpoint: Option<u32>) -> Result<Vec<DropCount>> {
        let _ = endpoint;
        unimplemented!()
    }

    /// All live flows.
    pub fn flows(&self) -> Result<Vec<FlowRecord>> {
        unimplemented!()
    }

    /// Removes expired flows and unused mappings.
    pub fn collect(&self) -> Result<Collected> {
        unimplemented!()
    }

    pub fn map_usage(&self) -> Result<Vec<MapUsage>> {
        unimplemented!()
    }

    pub fn program_usage(&self) -> Result<Vec<ProgramUsage>> {
        unimplemented!()
    }

    /// Removes every link, filter, program and map pin under `bpffs`; works
    /// without an open datapath. Devices that are gone are passed over.
    pub fn teardown(bpffs: &Path) -> Result<()> {
        let _ = bpffs;
        unimplemented!()
    }
}
