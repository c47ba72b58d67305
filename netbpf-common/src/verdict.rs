//! How the way of a packet through a program ends.

use crate::drop::DropReason;

/// Every path through a program ends in one of these, and one place
/// (`emit` in `netbpf-ebpf`) turns it into counters, events and a return code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours, or for the host: the kernel's stack takes it as it is.
    Pass,
    /// For the host's own stack, from a container: counted as sent by it.
    ToHost,
    /// Into the container behind this host-side veth.
    Deliver { ifindex: u32, endpoint: u32 },
    /// Out by this device; the neighbour is resolved by the kernel.
    Forward { ifindex: u32 },
    /// The same by a device whose packets have no Ethernet header.
    ForwardBare { ifindex: u32 },
    /// The packet was rewritten into an answer (ARP, ND, ICMP error) that goes
    /// back where it came from.
    Answer,
    /// Answered with an ICMP error in place of the packet, which counts as
    /// dropped under this reason.
    Refuse(DropReason),
    /// Thrown away.
    Drop(DropReason),
}
