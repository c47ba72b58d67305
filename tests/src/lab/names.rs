//! Named addresses, shared by all tests (RFC 5737 and 3849 outside, RFC 1918
//! and ULA inside).

/// The wire between host and client.
pub const HOST_WIRE: [&str; 2] = ["192.0.2.1/24", "2001:db8:1::1/64"];
pub const CLIENT_WIRE: [&str; 2] = ["192.0.2.2/24", "2001:db8:1::2/64"];
pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
pub const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];
/// On the wire's subnet, but nobody has it.
pub const NOBODY: [&str; 2] = ["192.0.2.99", "2001:db8:1::99"];

/// A second wire, to another client.
pub const HOST_WIRE_B: [&str; 2] = ["198.51.100.1/24", "2001:db8:2::1/64"];
pub const CLIENT_WIRE_B: [&str; 2] = ["198.51.100.2/24", "2001:db8:2::2/64"];
pub const HOST_B: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
pub const CLIENT_B: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];

/// A further subnet, behind the clients.
pub const FAR_WIRE: [&str; 2] = ["203.0.113.2/24", "2001:db8:3::2/64"];
pub const FAR: [&str; 2] = ["203.0.113.2", "2001:db8:3::2"];
pub const FAR_NET: [&str; 2] = ["203.0.113.0/24", "2001:db8:3::/64"];

/// Nobody routes there.
pub const NOWHERE: [&str; 2] = ["198.18.0.1", "2001:db8:ffff::1"];

/// Networks of containers.
pub const FRONT: Net = Net {
    name: "front",
    subnets: ["10.10.1.0/24", "fd10:1::/64"],
    gateways: ["10.10.1.1", "fd10:1::1"],
    absent: ["10.10.1.200", "fd10:1::200"],
};
pub const BACK: Net = Net {
    name: "back",
    subnets: ["10.10.2.0/24", "fd10:2::/64"],
    gateways: ["10.10.2.1", "fd10:2::1"],
    absent: ["10.10.2.200", "fd10:2::200"],
};

/// Those of an overlay network, as flags.
pub const SUBNETS: [&str; 4] = ["--subnet", "10.30.0.0/16", "--subnet", "fd30::/64"];

/// A network that tests make by name, IPv4 first, IPv6 second.
pub struct Net {
    pub name: &'static str,
    pub subnets: [&'static str; 2],
    pub gateways: [&'static str; 2],
    /// Within the subnets, held by no endpoint.
    pub absent: [&'static str; 2],
}
