//! The one list of drop reasons: index of the counter, label of the metric,
//! text of the command and page in docs/drops.md.

macro_rules! reasons {
    ($($number:literal $variant:ident $label:literal $text:literal;)*) => {
        /// Why a packet was dropped. Numbers are never reused.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason {
            $(#[doc = $text] $variant = $number,)*
        }

        impl DropReason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The stable snake_case name: metric label and JSON value.
            pub const fn label(self) -> &'static str {
                match self { $(DropReason::$variant => $label,)* }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(DropReason::$variant => $text,)* }
            }

            /// The reason of a number, as found in a counter or an event.
            pub const fn from_number(number: u8) -> Option<DropReason> {
                match number { $($number => Some(DropReason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    1 Malformed "malformed" "cut short, or a header field that cannot be";
    2 SpoofedMac "spoofed_mac" "the container sent it with a MAC that is not its own";
    3 SpoofedAddress "spoofed_address" "the container sent it with a source address that is not its own";
    4 SpoofedNeighbour "spoofed_neighbour" "an ARP or ND packet of the container claims what is not its own";
    5 Martian "martian" "a loopback or unspecified address on the wire";
    6 Multicast "multicast" "multicast and broadcast are not carried between containers";
    7 Vlan "vlan" "the container sent a VLAN-tagged frame";
    8 EtherType "ether_type" "neither IPv4, IPv6 nor ARP";
    9 Isolated "isolated" "the destination is on another network";
    10 IccDisabled "icc_disabled" "containers of this network may not talk to each other";
    11 Internal "internal" "the network is internal: nothing leaves it";
    12 HostUnreachable "host_unreachable" "no endpoint has this address; answered host-unreachable";
    13 NetUnreachable "net_unreachable" "the host has no route; answered net-unreachable";
    14 Prohibited "prohibited" "the host's routing prohibits it; answered admin-prohibited";
    15 HopLimit "hop_limit" "TTL or hop limit spent; answered time-exceeded";
    16 TooBig "too_big" "larger than the MTU of the way out; answered frag-needed or packet-too-big";
    17 NoFlow "no_flow" "belongs to no known connection and cannot begin one";
    18 FlowTableFull "flow_table_full" "no room for a new connection";
    19 PortsExhausted "ports_exhausted" "no outside port is free for masquerade";
    20 Protocol "protocol" "a protocol that cannot be masqueraded";
    21 Fragment "fragment" "a fragment whose connection is not known";
    22 ContainerAddress "container_address" "from an uplink straight to a container's address";
    23 GatewayAddress "gateway_address" "from an uplink to a network's gateway address";
    24 SpoofedSubnet "spoofed_subnet" "from an uplink with a source within our subnets";
    25 KernelForwarded "kernel_forwarded" "the kernel tried to forward it into a container";
    26 NotUplink "not_uplink" "the route leads out by a device that is no uplink";
    27 NoSourceAddress "no_source_address" "the way out has no address of this family to masquerade to";
    28 UnknownEndpoint "unknown_endpoint" "from a device that belongs to no endpoint";
    29 Helper "helper" "a kernel helper refused to change or redirect the packet";
    30 LinkLocal "link_local" "link-local traffic that is not neighbour discovery";
}

/// Entries of the per-CPU counter array: one per possible number.
pub const COUNTERS: u32 = 64;

const _: () = {
    let mut i = 0;
    while i < DropReason::ALL.len() {
        assert!((DropReason::ALL[i] as u32) < COUNTERS);
        i += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_are_unique_and_lead_back() {
        let mut labels = std::collections::HashSet::new();
        for &reason in DropReason::ALL {
            assert_eq!(DropReason::from_number(reason as u8), Some(reason));
            assert!(labels.insert(reason.label()), "{} twice", reason.label());
        }
        assert_eq!(DropReason::from_number(0), None);
    }
}
