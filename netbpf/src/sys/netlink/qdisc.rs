//! The clsact qdisc, which holds filters where the kernel has no TCX.

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};

use super::Netlink;
use crate::sys::Result;

/// Its handle, `ffff:`.
const HANDLE: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
/// Where filters hang below it.
const SIDES: [u16; 2] = [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS];

impl Netlink {
    /// Removes a device's clsact qdisc when no filter is left on either side of
    /// it: with it they would go. `false`: it is still in use.
    pub fn remove_unused_clsact(&mut self, ifindex: u32) -> Result<bool> {
        for side in SIDES {
            let mut message = TcMessage::default();
            message.header.index = ifindex as i32;
            message.header.parent = TcHandle {
                major: 0xffff,
                minor: side,
            };
            let filters = self.dump(
                || format!("list the filters of device {ifindex}"),
                RouteNetlinkMessage::GetTrafficFilter(message),
            )?;
            if !filters.is_empty() {
                return Ok(false);
            }
        }
        let mut message = TcMessage::default();
        message.header.index = ifindex as i32;
        message.header.handle = HANDLE;
        message.header.parent = TcHandle::CLSACT;
        self.request(
            || format!("remove the clsact qdisc of device {ifindex}"),
            RouteNetlinkMessage::DelQueueDiscipline(message),
            0,
        )?;
        Ok(true)
    }
}
