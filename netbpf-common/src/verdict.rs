//! How the way of a packet through a program ends.

use crate::drop::DropReason;

/// The kinds of a [`Coded`] verdict. Every path through a program ends in one of
/// these, and one place turns it into counters, events and a return code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not ours, or for the host: the kernel's stack takes it as it is.
    Pass,
    /// For the host's own stack, from a container: counted as sent by it.
    ToHost,
    /// Into the container behind a host-side veth.
    Deliver,
    /// Out by a device; the neighbour is resolved by the kernel.
    Forward,
    /// The same by a device whose packets have no Ethernet header.
    ForwardBare,
    /// To a program of the host that asked by `lo`, the same way back.
    ToLoopback,
    /// The packet was rewritten into an answer (ARP, ND, ICMP error) that goes
    /// back where it came from.
    Answer,
    /// Thrown away, or answered with the ICMP error that says why.
    Drop,
}

/// A verdict in one register.
///
/// An enum that goes through the stack of an eBPF program has fields that only
/// some variants set; the compiler loads them before it looks which variant it
/// is, and the verifier refuses the load. Here every bit is always set.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coded(u64);

const PASS: u64 = 0;
const TO_HOST: u64 = 1;
const DELIVER: u64 = 2;
const FORWARD: u64 = 3;
const FORWARD_BARE: u64 = 4;
const ANSWER: u64 = 5;
const TO_LOOPBACK: u64 = 6;
const DROP: u64 = 7;
const TO_PORT: u64 = 8;
const TO_MASQUERADE: u64 = 9;
const TO_ND: u64 = 10;
const TO_QUOTED: u64 = 11;
const TO_FRAGMENT: u64 = 12;
const TO_HAIRPIN: u64 = 13;
const NOT_FOLLOWED: u64 = 14;
const TO_FLOW: u64 = 15;
const TO_TUNNEL: u64 = 16;

/// The largest endpoint index that a coded verdict holds.
pub const MAX_ENDPOINT: u32 = 0xffff;

impl Coded {
    pub const PASS: Coded = Coded(PASS);
    pub const TO_HOST: Coded = Coded(TO_HOST);
    pub const ANSWER: Coded = Coded(ANSWER);
    pub const TO_LOOPBACK: Coded = Coded(TO_LOOPBACK);
    /// No end yet: the step that begins flows to published ports is next.
    pub const TO_PORT: Coded = Coded(TO_PORT);
    /// No end yet: the step that begins masqueraded flows is next.
    pub const TO_MASQUERADE: Coded = Coded(TO_MASQUERADE);
    /// No end yet: the step that answers neighbour discovery is next.
    pub const TO_ND: Coded = Coded(TO_ND);

    /// No end yet: the flow of the packet, if there is one, is next.
    pub const TO_FLOW: Coded = Coded(TO_FLOW);
    /// No end yet: the step that translates ICMP errors is next.
    pub const TO_QUOTED: Coded = Coded(TO_QUOTED);
    /// No end yet: the step that follows later fragments is next.
    pub const TO_FRAGMENT: Coded = Coded(TO_FRAGMENT);
    /// No end yet: the packet has left one container under an address of the host, for a
    /// port there that is another container's.
    pub const TO_HAIRPIN: Coded = Coded(TO_HAIRPIN);
    /// No end yet: the step that puts packets into VXLAN, or takes them out, is next.
    pub const TO_TUNNEL: Coded = Coded(TO_TUNNEL);
    /// No end yet: the packet belongs to no flow.
    pub const NOT_FOLLOWED: Coded = Coded(NOT_FOLLOWED);

    #[inline(always)]
    pub const fn deliver(ifindex: u32, endpoint: u32) -> Coded {
        Coded(DELIVER | ((endpoint & MAX_ENDPOINT) as u64) << 16 | (ifindex as u64) << 32)
    }

    #[inline(always)]
    pub const fn forward(ifindex: u32, ethernet: bool) -> Coded {
        Coded(if ethernet { FORWARD } else { FORWARD_BARE } | (ifindex as u64) << 32)
    }

    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Coded {
        Coded(DROP | (reason as u64) << 8)
    }

    /// Number of the reason, when this is a drop.
    #[inline(always)]
    pub const fn dropped(self) -> Option<u8> {
        if self.0 as u8 as u64 == DROP {
            Some((self.0 >> 8) as u8)
        } else {
            None
        }
    }

    /// What kind of verdict it is; the operands are read by the methods below,
    /// each where it means something.
    #[inline(always)]
    pub const fn kind(self) -> Kind {
        match self.0 & 0xff {
            PASS => Kind::Pass,
            TO_HOST => Kind::ToHost,
            DELIVER => Kind::Deliver,
            FORWARD => Kind::Forward,
            FORWARD_BARE => Kind::ForwardBare,
            ANSWER => Kind::Answer,
            TO_LOOPBACK => Kind::ToLoopback,
            _ => Kind::Drop,
        }
    }

    #[inline(always)]
    pub const fn endpoint(self) -> u32 {
        (self.0 >> 16) as u32 & MAX_ENDPOINT
    }

    #[inline(always)]
    pub const fn ifindex(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As a function's return value.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Coded {
        Coded(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_read_back() {
        let deliver = Coded::deliver(u32::MAX, 4095);
        assert_eq!(deliver.kind(), Kind::Deliver);
        assert_eq!((deliver.ifindex(), deliver.endpoint()), (u32::MAX, 4095));
        assert_eq!(Coded::forward(7, true).kind(), Kind::Forward);
        assert_eq!(Coded::forward(7, false).kind(), Kind::ForwardBare);
        assert_eq!(Coded::forward(7, false).ifindex(), 7);
        let reason = DropReason::HostUnreachable;
        assert_eq!(Coded::drop(reason).dropped(), Some(reason as u8));
        assert_eq!(Coded::PASS.dropped(), None);
    }
}
