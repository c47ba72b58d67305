//! Devices.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth,
        InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
        LinkXdp, State,
    },
    nsid::{NsidAttribute, NsidMessage},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use super::{Events, Hear, Netlink};
use crate::sys::{Result, SysError};

/// Device group of our veths' host ends ("nbp" in ASCII): what is in it can be
/// removed at once.
const GROUP: u32 = 0x6e_6270;

/// Group of those that are to be removed next.
const LEAVING: u32 = GROUP + 1;

/// A device, as far as we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    pub alias: Option<String>,
    pub mtu: u32,
    pub mac: Vec<u8>,
    /// Administratively up.
    pub up: bool,
    /// Able to send: has carrier and its queues run.
    pub running: bool,
    pub loopback: bool,
    /// Number of the device at the other end, in its namespace, or below this one.
    pub peer: Option<u32>,
    /// Our namespace's number for the one that the peer is in.
    pub peer_namespace: Option<i32>,
    /// Port of a bridge, bond or the like.
    pub enslaved: bool,
    /// Has an Ethernet header; without it (tun, WireGuard, ppp) packets begin
    /// with the IP header.
    pub ethernet: bool,
    /// `net.ipv4.conf.DEVICE.forwarding`.
    pub forwards4: bool,
    /// `net.ipv6.conf.DEVICE.forwarding`, and not `disable_ipv6`.
    pub forwards6: bool,
}

/// A veth pair to be made, the other end directly in another namespace.
#[derive(Clone, Copy, Debug)]
pub struct VethPair<'a> {
    pub name: &'a str,
    pub mac: [u8; 6],
    pub peer_name: &'a str,
    pub peer_mac: [u8; 6],
    pub peer_namespace: BorrowedFd<'a>,
    pub mtu: u16,
}

/// A VXLAN device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundVxlan {
    pub name: String,
    pub port: u16,
    /// It was made in another namespace than the one it is in.
    pub moved: bool,
}

impl FoundVxlan {
    /// `None` for devices of other kinds.
    fn of(message: &LinkMessage) -> Option<FoundVxlan> {
        let mut found = FoundVxlan {
            name: String::new(),
            port: 0,
            moved: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => found.name.clone_from(name),
                LinkAttribute::LinkNetNsId(_) => found.moved = true,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        let LinkInfo::Data(InfoData::Vxlan(data)) = info else {
                            continue;
                        };
                        let port = data.iter().find_map(|info| match info {
                            InfoVxlan::Port(port) => Some(*port),
                            _ => None,
                        });
                        found.port = port.unwrap_or(0);
                    }
                }
                _ => {}
            }
        }
        (found.port != 0).then_some(found)
    }
}

/// A VXLAN device to be made.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    pub name: &'a str,
    pub vni: u32,
    pub port: u16,
    pub local: IpAddr,
}

impl Netlink {
    /// The device of that name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let message = LinkUnspec::new_with_name(name).build();
        self.get_link(|| format!("look up device {name}"), message)
    }

    /// Whether a veth of ours is there and its other end's namespace is. One that
    /// dies lets go of its devices some time later.
    pub fn other_end_lives(&mut self, ifindex: u32, name: &str) -> Result<bool> {
        let Some(link) = self.link_by_index(ifindex)?.filter(|l| l.name == name) else {
            return Ok(false);
        };
        let (Some(peer), Some(namespace)) = (link.peer, link.peer_namespace) else {
            return Ok(true);
        };
        // Its number is taken away when it begins to die.
        if namespace < 0 {
            return Ok(false);
        }
        let mut message = LinkUnspec::new_with_index(peer).build();
        message.attributes.push(LinkAttribute::IfNetnsId(namespace));
        match self.get_link(|| format!("look up the other end of {name}"), message) {
            Ok(found) => Ok(found.is_some()),
            // No reference can be had of one that nobody is in (`maybe_get_net`).
            Err(e) if e.errno() == Some(libc::EINVAL) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub fn link_by_index(&mut self, ifindex: u32) -> Result<Option<Link>> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        self.get_link(|| format!("look up device {ifindex}"), message)
    }

    fn get_link(
        &mut self,
        what: impl Fn() -> String,
        mut message: LinkMessage,
    ) -> Result<Option<Link>> {
        skip_stats(&mut message);
        match self.get(what, RouteNetlinkMessage::GetLink(message)) {
            Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(Some(Link::from(&message))),
            Ok(_) => Ok(None),
            Err(e) if e.is_gone() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All devices of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        skip_stats(&mut message);
        self.dump(
            || "list devices".into(),
            RouteNetlinkMessage::GetLink(message),
            |answer| match answer {
                RouteNetlinkMessage::NewLink(m) => Some(Link::from(&m)),
                _ => None,
            },
        )
    }

    /// Devices with an XDP program, by ifindex, and the program's number.
    pub fn xdp_programs(&mut self) -> Result<Vec<(u32, u32)>> {
        let mut message = LinkMessage::default();
        skip_stats(&mut message);
        self.dump(
            || "list XDP programs".into(),
            RouteNetlinkMessage::GetLink(message),
            |answer| match answer {
                RouteNetlinkMessage::NewLink(m) => Some((m.header.index, xdp(&m)?)),
                _ => None,
            },
        )
    }

    /// Makes a veth pair; both ends are down.
    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(pair.peer_name)
            .address(pair.peer_mac.to_vec())
            .mtu(u32::from(pair.mtu))
            .setns_by_fd(pair.peer_namespace.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(pair.name, pair.peer_name)
            .address(pair.mac.to_vec())
            .mtu(u32::from(pair.mtu))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.request(
            || format!("make veth pair {} and {}", pair.name, pair.peer_name),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .map_err(|error| match error.errno() {
            Some(libc::EOPNOTSUPP) => SysError::Unsupported {
                feature: "veth devices (CONFIG_VETH)",
            },
            _ => error,
        })
    }

    /// Makes an ordinary VXLAN device that takes in packets at that address and port;
    /// `None` where another device has the port for all networks
    /// (`VXLAN_F_COLLECT_METADATA`).
    pub fn add_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<bool> {
        let builder = LinkVxlan::new(vxlan.name, vxlan.vni)
            .port(vxlan.port)
            .learning(false);
        let message = match vxlan.local {
            IpAddr::V4(local) => builder.local(local),
            IpAddr::V6(local) => builder.local6(local).udp_zero_csum6_rx(true),
        };
        let done = self.request(
            || format!("make VXLAN device {}", vxlan.name),
            RouteNetlinkMessage::NewLink(message.build()),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match done {
            Ok(()) => Ok(true),
            Err(error) => match error.errno() {
                Some(libc::EEXIST) => Ok(false),
                Some(libc::EOPNOTSUPP) => Err(SysError::Unsupported {
                    feature: "VXLAN devices (CONFIG_VXLAN)",
                }),
                _ => Err(error),
            },
        }
    }

    /// The VXLAN devices of the namespace and those that were made here and are elsewhere
    /// by now, in namespaces that are known here: as Docker has them.
    pub fn vxlans(&mut self) -> Result<Vec<FoundVxlan>> {
        let mut found = self.vxlans_in(None)?;
        let namespaces = self.dump(
            || "list namespaces".into(),
            RouteNetlinkMessage::GetNsId(NsidMessage::default()),
            |answer| match answer {
                RouteNetlinkMessage::NewNsId(message) => Some(message),
                _ => None,
            },
        )?;
        for message in namespaces {
            let ids = message.attributes.iter();
            let id = ids.filter_map(|attribute| match attribute {
                NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                _ => None,
            });
            for id in id {
                match self.vxlans_in(Some(id)) {
                    Ok(elsewhere) => found.extend(elsewhere.into_iter().filter(|v| v.moved)),
                    // It is about to die.
                    Err(e) if e.is_gone() || e.errno() == Some(libc::EINVAL) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(found)
    }

    fn vxlans_in(&mut self, namespace: Option<i32>) -> Result<Vec<FoundVxlan>> {
        let mut message = LinkMessage::default();
        skip_stats(&mut message);
        // The kernel leaves all others out.
        let kind = LinkInfo::Kind(InfoKind::Vxlan);
        message.attributes.push(LinkAttribute::LinkInfo(vec![kind]));
        let id = namespace.map(LinkAttribute::IfNetnsId);
        message.attributes.extend(id);
        self.dump(
            || "list VXLAN devices".into(),
            RouteNetlinkMessage::GetLink(message),
            |answer| match answer {
                RouteNetlinkMessage::NewLink(m) => FoundVxlan::of(&m),
                _ => None,
            },
        )
    }

    /// What a host's end is to have before it is up. In the same message as `up`, or
    /// after it, the change would be told as one of a device without carrier, at which
    /// the kernel walks all IPv6 routes (`rt6_sync_down_dev`).
    pub fn mark_host_end(&mut self, ifindex: u32, alias: &str, ipv6: bool) -> Result<()> {
        let mut message = LinkUnspec::new_with_index(ifindex)
            .alias(alias)
            .link_group(GROUP);
        if ipv6 {
            // No link-local address, and nobody asked whether it is free.
            let inet6 = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            message = message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![
                AfSpecUnspec::Inet6(vec![inet6]),
            ]));
        }
        self.request(
            || format!("mark device {ifindex}"),
            RouteNetlinkMessage::SetLink(message.build()),
            0,
        )
    }

    pub fn set_mtu(&mut self, ifindex: u32, mtu: u16) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).mtu(mtu.into()).build();
        self.request(
            || format!("set the MTU of device {ifindex} to {mtu}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    pub fn set_up(&mut self, ifindex: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).up().build();
        self.request(
            || format!("bring up device {ifindex}"),
            RouteNetlinkMessage::SetLink(message),
            0,
        )
    }

    /// Removes a device, and with a veth its other end; one that is gone is
    /// success.
    pub fn delete_link(&mut self, ifindex: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex).build();
        let done = self.request(
            || format!("remove device {ifindex}"),
            RouteNetlinkMessage::DelLink(message),
            0,
        );
        match done {
            Err(e) if e.is_gone() => Ok(()),
            other => other,
        }
    }

    /// Removes all devices that were marked by [`Netlink::mark_host_end`].
    pub fn delete_our_links(&mut self) -> Result<()> {
        self.delete_group(GROUP)
    }

    /// Removes devices. The kernel waits once for all, not 15 ms for each.
    pub fn delete_links(&mut self, ifindexes: &[u32]) -> Result<()> {
        if let [one] = ifindexes {
            return self.delete_link(*one);
        }
        for ifindex in ifindexes {
            let message = LinkUnspec::new_with_index(*ifindex)
                .link_group(LEAVING)
                .build();
            let done = self.request(
                || format!("put device {ifindex} among those to be removed"),
                RouteNetlinkMessage::SetLink(message),
                0,
            );
            match done {
                Err(e) if !e.is_gone() => return Err(e),
                _ => {}
            }
        }
        self.delete_group(LEAVING)
    }

    fn delete_group(&mut self, group: u32) -> Result<()> {
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .link_group(group)
            .build();
        let done = self.request(
            || "remove our devices".into(),
            RouteNetlinkMessage::DelLink(message),
            0,
        );
        match done {
            Err(e) if e.is_gone() => Ok(()),
            other => other,
        }
    }

    /// Waits until a device that is up can send. Since 6.8 the kernel brings its
    /// state up to date when asked; before, its work queue does so in its own
    /// time and packets sent meanwhile are lost.
    pub fn wait_running(&mut self, ifindex: u32, timeout: Duration) -> Result<()> {
        let what = || format!("wait for carrier of device {ifindex}");
        let is_running = |this: &mut Netlink| match this.link_by_index(ifindex)? {
            Some(link) => Ok(link.running),
            None => Err(SysError::NotFound {
                what: format!("device {ifindex}"),
            }),
        };
        if is_running(self)? {
            return Ok(());
        }
        let deadline = Instant::now() + timeout;
        // Listens before it asks again, so that the change cannot slip by.
        let mut events = Events::open(Hear::Nothing)?;
        while !is_running(self)? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(SysError::io(what(), timed_out));
            }
            events.wait(left)?;
        }
        Ok(())
    }
}

fn xdp(message: &LinkMessage) -> Option<u32> {
    let of = |xdp: &LinkXdp| match xdp {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    };
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Xdp(all) => all.iter().find_map(of),
            _ => None,
        })
}

/// Counters are half of what the kernel would tell of each device.
fn skip_stats(message: &mut LinkMessage) {
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message.header.interface_family = AddressFamily::Unspec;
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Link {
        let mut link = Link {
            ifindex: message.header.index,
            name: String::new(),
            alias: None,
            mtu: 0,
            mac: Vec::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            running: false,
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            peer: None,
            peer_namespace: None,
            enslaved: false,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            forwards4: false,
            forwards6: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(*id),
                LinkAttribute::Link(peer) => link.peer = Some(*peer),
                LinkAttribute::Controller(controller) => link.enslaved = *controller != 0,
                LinkAttribute::OperState(state) => {
                    link.running = matches!(state, State::Up | State::Unknown);
                }
                LinkAttribute::AfSpecUnspec(families) => {
                    families
                        .iter()
                        .for_each(|family| link.note_settings(family));
                }
                _ => {}
            }
        }
        link
    }
}

impl Link {
    fn note_settings(&mut self, family: &AfSpecUnspec) {
        match family {
            AfSpecUnspec::Inet(settings) => {
                for setting in settings {
                    if let AfSpecInet::DevConf(conf) = setting {
                        self.forwards4 = conf.forwarding != 0;
                    }
                }
            }
            AfSpecUnspec::Inet6(settings) => {
                for setting in settings {
                    if let AfSpecInet6::DevConf(conf) = setting {
                        self.forwards6 = conf.forwarding != 0 && conf.disable_ipv6 == 0;
                    }
                }
            }
            _ => {}
        }
    }
}
