//! The one list of drop reasons: index of the counter, label of the metric,
//! text of the command and, with what to do about each, page in docs/drops.md.

macro_rules! reasons {
    ($($number:literal $variant:ident $label:literal $text:literal $advice:literal;)*) => {
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

            /// What to do about it.
            pub const fn advice(self) -> &'static str {
                match self { $(DropReason::$variant => $advice,)* }
            }

            /// The reason of a number, as found in a counter or an event.
            pub const fn from_number(number: u8) -> Option<DropReason> {
                match number { $($number => Some(DropReason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    1 Malformed "malformed" "cut short, or a header field that cannot be"
        "capture in the container; a driver or tool that builds packets itself is the usual cause";
    2 SpoofedMac "spoofed_mac" "the container sent it with a MAC that is not its own"
        "let the container use the MAC that `netbpf inspect` shows; nested bridges and macvlan need endpoints of their own";
    3 SpoofedAddress "spoofed_address" "the container sent it with a source address that is not its own"
        "let the container use the addresses that `netbpf inspect` shows; look for addresses or routed networks added inside it";
    4 SpoofedNeighbour "spoofed_neighbour" "an ARP or ND packet of the container claims what is not its own"
        "the container claims another's address: look for keepalived, arping or a second address in it";
    5 Martian "martian" "a loopback or unspecified address on the wire"
        "look for a program that sends to or from 127.0.0.0/8, ::1 or 0.0.0.0 by a device other than lo";
    6 Multicast "multicast" "multicast and broadcast are not carried between containers"
        "mostly mDNS, DHCP or MLD and harmless; name peers by address where a program relies on it";
    7 Vlan "vlan" "the container sent a VLAN-tagged frame"
        "make VLANs on the host, not in the container";
    8 EtherType "ether_type" "neither IPv4, IPv6 nor ARP"
        "LLDP and the like: harmless";
    9 Isolated "isolated" "the destination is on another network"
        "attach one of the two to the other's network, or publish the port";
    10 IccDisabled "icc_disabled" "containers of this network may not talk to each other"
        "publish the port, or make the network without --no-icc";
    11 Internal "internal" "the network is internal: nothing leaves or enters it"
        "meant so; attach the container to a second network to let it out";
    12 HostUnreachable "host_unreachable" "no endpoint has this address; answered host-unreachable"
        "the peer is detached or the address is old: see `netbpf ps`";
    13 NetUnreachable "net_unreachable" "the host has no route; answered net-unreachable"
        "add the route on the host: `ip route get ADDRESS` must name a device";
    14 Prohibited "prohibited" "the host's routing prohibits it; answered admin-prohibited"
        "look at the host's rules: `ip rule` and `ip route show table all type prohibit`";
    15 HopLimit "hop_limit" "TTL or hop limit spent; answered time-exceeded"
        "traceroute does this on purpose; else look for a routing loop";
    16 TooBig "too_big" "larger than the MTU of the way out; answered frag-needed or packet-too-big"
        "path MTU discovery at work; where it goes on, set --mtu on the network to the smallest on the way";
    17 NoFlow "no_flow" "belongs to no known connection and cannot begin one"
        "a connection older than the last teardown or longer idle than its time-out: the peer has to connect anew";
    18 FlowTableFull "flow_table_full" "no room for a new connection"
        "raise --max-flows, which takes effect after `netbpf teardown`; `netbpf flows` shows who holds them";
    19 PortsExhausted "ports_exhausted" "no outside port is free for masquerade"
        "one container has too many connections, or the range is narrow: see `netbpf flows` and ip_local_port_range";
    20 Protocol "protocol" "a protocol that cannot be masqueraded"
        "attach to a network made with --no-masquerade, or tunnel the protocol in UDP";
    21 Fragment "fragment" "a fragment whose connection is not known, or VXLAN in fragments"
        "lower the MTU in the container so that it sends no fragments; of VXLAN, raise that of the wire between the nodes";
    22 ContainerAddress "container_address" "from an uplink straight to a container's address"
        "publish the port, or make the network with --no-masquerade where it is to be reached by address; or an answer by Docker's DNAT to what the container asked the host too long ago";
    23 GatewayAddress "gateway_address" "from an uplink to a network's gateway address"
        "reach the host under its own addresses";
    24 SpoofedSubnet "spoofed_subnet" "from an uplink with a source within our subnets"
        "somebody on the wire uses our subnet: choose another with --subnet, or look for the sender";
    25 KernelForwarded "kernel_forwarded" "the kernel tried to forward it into a container"
        "another program routes into our subnets (ip_forward with a route or DNAT of its own): publish the port instead; or an answer to what the container asked the host too long ago";
    26 NotUplink "not_uplink" "the route leads out by a device that is no uplink"
        "give the device an address and bring it up, or add it to --uplink; see the uplinks in `netbpf status`";
    27 NoSourceAddress "no_source_address" "the way out has no address of this family to masquerade to"
        "give the way out an address of this family";
    28 UnknownEndpoint "unknown_endpoint" "from a device that belongs to no endpoint"
        "a moment of attach or detach; where it goes on, restart the daemon, which puts the maps right";
    29 Helper "helper" "a kernel helper refused to change or redirect the packet"
        "should not be: report it with `netbpf status` and the kernel's version";
    30 LinkLocal "link_local" "link-local traffic that is not neighbour discovery"
        "link-local addresses are not carried: use the container's own address";
    31 ForwardingOff "forwarding_off" "the host's end of the veth lost its forwarding setting, without which the kernel answers no route"
        "something wrote net.ipv4.ip_forward or net.ipv6.conf.all.forwarding, which resets every device; the daemon puts it back within three seconds";
    32 Unpublished "unpublished" "its published port was taken back; answered with a reset or port unreachable"
        "meant so: the rest of connections that ended with `netbpf unpublish`";
    33 NotAllowed "not_allowed" "the published port is not for this client"
        "add the client to the port's allow list: `netbpf update NAME -p published=…,allow=…`";
    34 ClientRate "client_rate" "one client began more connections by published ports than --client-rate lets it"
        "raise --client-rate where many clients come by one address; else block the client in front of the host";
    35 UnknownVni "unknown_vni" "VXLAN for a network that is not on this node"
        "a moment of making or removing an overlay network; where it goes on, another node has one that this one was not told of: see the cluster in `netbpf status`";
    36 UnknownNode "unknown_node" "VXLAN from an address that is no node's"
        "add the sender as a node of the cluster, or stop it; a node whose address changed says so within seconds";
    37 OverlaySource "overlay_source" "VXLAN from a node where the address inside does not live"
        "somebody forges it, or an address moved a moment ago: compare `netbpf node ls` with the sender";
    38 VxlanFromContainer "vxlan_from_container" "the container sent VXLAN to a node"
        "let it use another UDP port than --vxlan-port: what a node takes in as VXLAN is its own";
    39 Congested "congested" "marked congested on the way through a tunnel, though its sender knows nothing of ECN (RFC 6040)"
        "congestion on the path between the nodes, as if a router had dropped it";
    40 OverlayAddress "overlay_address" "VXLAN for an address that no container on this node has"
        "the container is gone, or moved a moment ago; where it goes on, the sender's table is old: compare both nodes' `netbpf network inspect`";
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
