//! Settings of the host and of the daemon.

use std::net::IpAddr;

use netbpf_common::flow::Timeouts;

use super::findings::{Findings, count};
use crate::{
    control::{portset::PortSet, uplinks::Uplink},
    model::{Check, Finding},
};

/// `forwarding` of a host-side veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    pub device: String,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    pub is_on: bool,
}

/// Without it the kernel answers our programs no route.
pub fn forwarding(settings: &[Forwarding]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Forwarding);
    for setting in settings.iter().filter(|s| !s.is_on) {
        let (device, family) = (&setting.device, setting.family);
        found.error(
            format!("device {device}"),
            format!("net.{family}.conf.{device}.forwarding is 0: its container reaches nothing outside"),
            "the daemon puts it back within three seconds; where it does not stay, look for who writes net.ipv4.ip_forward or net.ipv6.conf.all.forwarding",
        );
    }
    let message = format!("{} forward", count(settings.len(), "setting"));
    found.or_ok("forwarding", message)
}

/// The filter by source address of a host-side veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpFilter {
    pub device: String,
    /// The larger one of the device's and of `all`'s.
    pub value: u8,
    pub address: IpAddr,
    /// The host's own packets to the address go by this device.
    pub leads_back: bool,
}

/// Packets that our programs carry never meet it: it is asked of what comes to the host
/// itself. Of that a strict filter drops what the host would answer by another device.
pub fn rp_filter(filters: &[RpFilter]) -> Vec<Finding> {
    let mut found = Findings::of(Check::RpFilter);
    for filter in filters.iter().filter(|f| f.value == 1 && !f.leads_back) {
        found.error(
            format!("device {}", filter.device),
            format!(
                "rp_filter=1 drops what {} sends to the host, which would answer by another device",
                filter.address
            ),
            format!(
                "let the host's way to it lead by {0}, or set net.ipv4.conf.all.rp_filter=2 and net.ipv4.conf.{0}.rp_filter=2",
                filter.device
            ),
        );
    }
    found.or_ok("rp_filter", "it drops nothing of ours")
}

/// The size of what a network's endpoints send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkMtu {
    pub network: String,
    pub mtu: u32,
}

pub fn mtu(networks: &[NetworkMtu], uplinks: &[Uplink]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Mtu);
    for NetworkMtu { network, mtu } in networks {
        for uplink in uplinks.iter().filter(|u| u.entry.mtu < *mtu) {
            let (name, least) = (&uplink.entry.device.name, uplink.entry.mtu);
            found.warning(
                format!("network {network}"),
                format!("its containers have MTU {mtu}, uplink {name} has {least}: what is larger is answered with its size"),
                format!("where senders do not heed that, make the network anew with --mtu {least}, or attach anew"),
            );
        }
    }
    found.or_ok("networks", "no uplink has a smaller MTU")
}

/// Published ports that the kernel may give to others.
pub fn reserved(wanted: &PortSet, reserved: &PortSet) -> Vec<Finding> {
    let mut found = Findings::of(Check::ReservedPorts);
    let lacking = wanted.difference(reserved);
    if !lacking.is_empty() {
        found.warning(
            "net.ipv4.ip_local_reserved_ports",
            format!("it lacks the published ports {lacking}: the kernel may choose them for programs, which are refused then"),
            "publish or unpublish any port, or restart the daemon: both write it anew",
        );
    }
    found.or_ok(
        "net.ipv4.ip_local_reserved_ports",
        "it has the published ports that it should have",
    )
}

pub fn timeouts(timeouts: &Timeouts) -> Vec<Finding> {
    let mut found = Findings::of(Check::Timeouts);
    for timeout in timeouts.all() {
        if let Some((least, rfc)) = timeout.least.filter(|(least, _)| timeout.seconds < *least) {
            found.warning(
                format!("timeout {}", timeout.name),
                format!(
                    "{} s is less than the {least} s of {rfc}: silent connections may break",
                    timeout.seconds
                ),
                format!("set timeout {}={least}s, or leave it out", timeout.name),
            );
        }
    }
    found.or_ok("timeouts", "none is less than the RFCs ask for")
}

/// Ways out that are there, and those that the daemon was told to use.
pub fn uplinks(uplinks: &[Uplink], wanted: &[String]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Uplink);
    for uplink in uplinks {
        if let Some(why) = &uplink.failed {
            let name = &uplink.entry.device.name;
            found.error(
                format!("device {name}"),
                format!("our programs do not hang on it: {why}"),
                "take off what is in the way; the daemon tries again every few seconds",
            );
        }
    }
    let is_there = |name: &str| uplinks.iter().any(|u| u.entry.device.name == name);
    for name in wanted.iter().filter(|name| !is_there(name)) {
        found.warning(
            format!("device {name}"),
            "it is awaited as an uplink: there is no such device that is up and has an address",
            "bring it up and give it an address, or correct --uplink",
        );
    }
    if uplinks.is_empty() {
        found.warning(
            "uplinks",
            "there is none: containers reach nothing outside of this host",
            "give a device of the host an address and bring it up",
        );
    }
    let names: Vec<&str> = uplinks
        .iter()
        .map(|u| u.entry.device.name.as_str())
        .collect();
    found.or_ok("uplinks", names.join(", "))
}

/// What the daemon remarked on when it started.
pub fn notes(notes: &[String]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Start);
    for note in notes {
        found.warning(
            "daemon",
            note,
            "see to what it says, then restart the daemon",
        );
    }
    found.or_ok("daemon", "it started without a remark")
}

#[cfg(test)]
mod tests {
    use super::{super::findings::tests::short, *};
    use crate::{
        datapath::{Device, EarlyDrop, UplinkEntry},
        model::Severity::{Error, Ok, Warning},
    };

    fn uplink(name: &str, mtu: u32) -> Uplink {
        Uplink {
            entry: UplinkEntry {
                device: Device {
                    name: name.into(),
                    ifindex: 2,
                },
                mtu,
                ethernet: true,
                xdp: false,
                ipv4: None,
                ipv6: None,
            },
            addresses: Vec::new(),
            early: EarlyDrop::Tc(None),
            failed: None,
        }
    }

    #[test]
    fn a_veth_that_does_not_forward() {
        let setting = |is_on| Forwarding {
            device: "nb1".into(),
            family: "ipv4",
            is_on,
        };
        assert_eq!(short(&forwarding(&[setting(true)])), [(Ok, "forwarding")]);
        assert_eq!(
            short(&forwarding(&[setting(false)])),
            [(Error, "device nb1")]
        );
    }

    #[test]
    fn a_strict_filter_hurts_where_the_way_back_is_another() {
        let filter = |value, leads_back| RpFilter {
            device: "nb1".into(),
            value,
            address: "10.0.0.2".parse().unwrap(),
            leads_back,
        };
        let fine = [filter(0, false), filter(2, false), filter(1, true)];
        assert_eq!(short(&rp_filter(&fine)), [(Ok, "rp_filter")]);
        let found = rp_filter(&[filter(1, false)]);
        assert_eq!(short(&found), [(Error, "device nb1")]);
    }

    #[test]
    fn an_uplink_that_is_narrower_than_a_network() {
        let front = NetworkMtu {
            network: "front".into(),
            mtu: 1500,
        };
        let uplinks = [uplink("eth0", 1500), uplink("wg0", 1420)];
        let found = mtu(std::slice::from_ref(&front), &uplinks);
        assert_eq!(short(&found), [(Warning, "network front")]);
        assert!(found[0].message.contains("wg0"), "{found:?}");
        assert_eq!(short(&mtu(&[front], &uplinks[..1])), [(Ok, "networks")]);
    }

    #[test]
    fn ports_that_are_not_reserved() {
        let object = "net.ipv4.ip_local_reserved_ports";
        let (wanted, some) = (PortSet::parse("40000-40002"), PortSet::parse("40000"));
        assert_eq!(short(&reserved(&wanted, &wanted)), [(Ok, object)]);
        let found = reserved(&wanted, &some);
        assert_eq!(short(&found), [(Warning, object)]);
        assert!(found[0].message.contains("40001-40002"), "{found:?}");
    }

    #[test]
    fn time_outs_below_what_the_rfcs_ask_for() {
        let mut given = Timeouts::DEFAULT;
        assert_eq!(short(&timeouts(&given)), [(Ok, "timeouts")]);
        given.udp = 5;
        assert_eq!(short(&timeouts(&given)), [(Warning, "timeout udp")]);
    }

    #[test]
    fn uplinks_that_are_missing_or_refuse() {
        let mut eth0 = uplink("eth0", 1500);
        let there = std::slice::from_ref(&eth0);
        assert_eq!(short(&uplinks(there, &[])), [(Ok, "uplinks")]);
        let found = uplinks(there, &["eth1".into()]);
        assert_eq!(short(&found), [(Warning, "device eth1")]);
        assert_eq!(short(&uplinks(&[], &[])), [(Warning, "uplinks")]);
        eth0.failed = Some("no".into());
        assert_eq!(short(&uplinks(&[eth0], &[])), [(Error, "device eth0")]);
    }

    #[test]
    fn remarks_of_the_start() {
        assert_eq!(short(&notes(&[])), [(Ok, "daemon")]);
        assert_eq!(short(&notes(&["x".into()])), [(Warning, "daemon")]);
    }
}
