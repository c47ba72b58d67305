//! Rows: one packet through one of the real programs by the kernel's test-run,
//! with maps before, and verdict, packet and counters after. Counters that a
//! row does not name must not move.
//!
//! What test-run cannot show: the device that a redirect leads to (the
//! destination MAC of the packet tells), VLAN tags (the kernel takes them off on
//! reception, before TC) and programs of devices without Ethernet header. The packet is
//! for the device's own host (`PACKET_HOST`) only when its destination MAC is the device's.

pub mod overlay;
mod rig;
mod row;

pub use rig::{
    Member, OPEN, OPTIONS, Opened, ROOMY, Rig, RigOptions, TC_ACT_SHOT, Uplink, backend,
    pinned_array, service, with_rig, with_rig_of,
};
pub use row::{Action, Out, Row};
