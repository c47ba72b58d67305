//! The clsact qdisc, which holds filters where the kernel has no TCX.

use netlink_packet_core::NetlinkDeserializable;
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{Netlink, connection::Anything};
use crate::sys::Result;

/// Its handle, `ffff:`.
const HANDLE: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
/// Where filters hang below it.
const SIDES: [Side; 2] = [Side::Ingress, Side::Egress];

/// Which packets of a device a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Ingress,
    Egress,
}

impl Side {
    const fn minor(self) -> u16 {
        match self {
            Side::Ingress => TcHandle::MIN_INGRESS,
            Side::Egress => TcHandle::MIN_EGRESS,
        }
    }
}

/// A filter of a device, of whatever kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `bpf`, `flower`, …
    pub kind: String,
    /// Number of its program, of those that are one.
    pub program: Option<u32>,
    pub name: Option<String>,
}

impl Netlink {
    /// The filters on one side of a device, in the order in which they run.
    pub fn filters(&mut self, ifindex: u32, side: Side) -> Result<Vec<Filter>> {
        self.filter_messages(ifindex, side, |answer| match answer {
            RouteNetlinkMessage::NewTrafficFilter(message) => parse(&message),
            _ => None,
        })
    }

    fn filter_messages<A: NetlinkDeserializable, T>(
        &mut self,
        ifindex: u32,
        side: Side,
        wanted: impl Fn(A) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut message = TcMessage::default();
        message.header.index = ifindex as i32;
        message.header.parent = TcHandle {
            major: 0xffff,
            minor: side.minor(),
        };
        self.dump(
            || format!("list the filters of device {ifindex}"),
            RouteNetlinkMessage::GetTrafficFilter(message),
            wanted,
        )
    }

    /// Whether a device has a clsact qdisc, or one of the kind `ingress` in its place.
    pub fn has_clsact(&mut self, ifindex: u32) -> Result<bool> {
        let mut message = TcMessage::default();
        message.header.index = ifindex as i32;
        // By handle: by its parent one is found that was there once.
        message.header.handle = HANDLE;
        let what = || format!("look up the clsact qdisc of device {ifindex}");
        match self.get(what, RouteNetlinkMessage::GetQueueDiscipline(message)) {
            // The kernel says that there is one, and mostly not what it is
            // (`qdisc_get_notify`: only to listeners, where nobody asks for an echo).
            Ok(_) => Ok(true),
            Err(e) if e.is_gone() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes a device's clsact qdisc when no filter is left on either side of
    /// it: with it they would go. `false`: it is still in use, or gone.
    pub fn remove_unused_clsact(&mut self, ifindex: u32) -> Result<bool> {
        for side in SIDES {
            // Also one that cannot be read.
            let any = self.filter_messages(ifindex, side, |any: Anything| Some(any))?;
            if !any.is_empty() {
                return Ok(false);
            }
        }
        let mut message = TcMessage::default();
        message.header.index = ifindex as i32;
        message.header.handle = HANDLE;
        message.header.parent = TcHandle::CLSACT;
        let removed = self.request(
            || format!("remove the clsact qdisc of device {ifindex}"),
            RouteNetlinkMessage::DelQueueDiscipline(message),
            0,
        );
        match removed {
            Ok(()) => Ok(true),
            Err(e) if e.is_gone() || e.errno() == Some(libc::EINVAL) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// `None` for the head of a priority, which comes before its filters.
fn parse(message: &TcMessage) -> Option<Filter> {
    if u32::from(message.header.handle) == 0 {
        return None;
    }
    let mut filter = Filter {
        kind: String::new(),
        program: None,
        name: None,
    };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(*id),
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                            filter.name = Some(name.clone());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(filter)
}
