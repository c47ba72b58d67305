//! What the kernel alone takes for a container's devices, addresses, routes and
//! qdisc: the part of an attach that no daemon can make faster.

use std::{net::IpAddr, os::fd::AsFd, time::Duration};

use ipnet::IpNet;
use netbpf::sys::{
    self,
    netlink::{AddressKind, Netlink, Route, RouteTarget, VethPair},
    netns,
    sysctl::Sysctls,
};

use super::daemon::milliseconds;
use crate::lab::{Namespace, names::Net};

const DEVICE: &str = "bare0";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const LO: u32 = 1;
const READY: Duration = Duration::from_secs(2);

/// A container's devices in milliseconds; they are removed again.
pub fn attach(host: &Namespace, space: &Namespace, net: &Net) -> f64 {
    host.enter(|| {
        let mut ours = Netlink::open().expect("a netlink socket");
        let sysctls = Sysctls::open().expect("the host's settings");
        let peer = netns::Namespace::open(space.path()).expect("the container's namespace");
        let time = milliseconds(|| {
            make(&mut ours, &sysctls, &peer, net).unwrap_or_else(|e| panic!("bare devices: {e}"));
        });
        let link = ours.link(DEVICE).expect("it can be asked for");
        ours.delete_link(link.expect("it is there").ifindex)
            .expect("it can be removed");
        time
    })
}

fn make(
    ours: &mut Netlink,
    sysctls: &Sysctls,
    peer: &netns::Namespace,
    net: &Net,
) -> sys::Result<()> {
    ours.add_veth(&VethPair {
        name: DEVICE,
        mac: [2, 0, 0, 0, 0, 8],
        peer_name: "eth0",
        peer_mac: MAC,
        peer_namespace: peer.as_fd(),
        mtu: 1500,
    })?;
    // The qdisc that programs hang on, on kernels of any age.
    aya::programs::tc::qdisc_add_clsact(DEVICE).expect("clsact");
    let forwarding = ["conf", DEVICE, "forwarding"];
    sysctls.ipv4.write(&forwarding, "1")?;
    if let Some(ipv6) = &sysctls.ipv6 {
        ipv6.write(&forwarding, "1")?;
    }
    let ifindex = ours.link(DEVICE)?.map_or(0, |l| l.ifindex);
    ours.mark_host_end(ifindex, "bare", sysctls.ipv6.is_some())?;
    ours.set_up(ifindex)?;

    let open = || Ok::<_, sys::SysError>((Netlink::open()?, Sysctls::open()?));
    let (mut theirs, settings) = peer.run(open)??;
    if let Some(ipv6) = &settings.ipv6 {
        ipv6.write(&["conf", "eth0", "accept_dad"], "0")?;
    }
    let eth0 = theirs.link("eth0")?.map_or(0, |l| l.ifindex);
    theirs.set_up(LO)?;
    theirs.set_up(eth0)?;
    for (address, gateway) in net.absent.iter().zip(net.gateways) {
        let address: IpAddr = address.parse().expect("an address");
        let gateway: IpAddr = gateway.parse().expect("an address");
        let length = if address.is_ipv4() { 16 } else { 64 };
        let with_prefix = IpNet::new(address, length).expect("a prefix");
        theirs.add_address(eth0, with_prefix, AddressKind::Container)?;
        theirs.set_neighbour(eth0, gateway, MAC)?;
        theirs.set_route(&Route::default_via(gateway, eth0))?;
        if let IpAddr::V6(address) = address {
            theirs.wait_local(address, READY)?;
        }
        ours.set_neighbour(ifindex, address, MAC)?;
        let target = RouteTarget {
            ifindex,
            gateway: None,
            source: Some(gateway),
        };
        ours.set_route(&Route::via_device(IpNet::from(address), target))?;
    }
    ours.wait_running(ifindex, READY)
}
