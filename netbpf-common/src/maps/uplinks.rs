//! `uplinks`: the devices by which packets leave and come, by ifindex.

use crate::assert_layout;

/// The device carries Ethernet frames; without it (tun, WireGuard, ppp) packets
/// begin with the IP header.
pub const UPLINK_ETHERNET: u32 = 1 << 0;

/// The XDP program `early_drop` hangs on the device, too.
pub const UPLINK_EARLY_DROP: u32 = 1 << 1;

/// Value of `uplinks`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// `UPLINK_*`.
    pub flags: u32,
    pub mtu: u32,
    /// Source address for masquerade where the kernel's FIB lookup does not
    /// tell (before 6.7); 0 where the device has none of the family.
    pub ipv4: [u8; 4],
    pub ipv6: [u8; 16],
}
assert_layout!(Uplink, 28);
