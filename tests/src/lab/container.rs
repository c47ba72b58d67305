//! A container: a namespace that has been attached.

use std::{net::IpAddr, ops::Deref};

use netbpf::model::EndpointInfo;

use super::{Family, Host, Namespace};

/// A namespace with one endpoint or more of one name.
pub struct Container {
    host: Host,
    space: Namespace,
    /// The endpoint as the first attach printed it.
    pub info: EndpointInfo,
}

impl Deref for Container {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.space
    }
}

impl Container {
    pub(super) fn new(host: Host, space: Namespace, info: EndpointInfo) -> Container {
        Container { host, space, info }
    }

    /// The endpoint's name.
    pub fn endpoint(&self) -> &str {
        &self.info.name
    }

    /// Its address on the first network.
    #[track_caller]
    pub fn addr(&self, family: Family) -> IpAddr {
        address_of(&self.info, family)
    }

    /// The gateway of its first network.
    #[track_caller]
    pub fn gateway(&self, family: Family) -> IpAddr {
        let gateway = match family {
            Family::V4 => self.info.gateway.map(IpAddr::V4),
            Family::V6 => self.info.gateway6.map(IpAddr::V6),
        };
        gateway.unwrap_or_else(|| panic!("{} has no {family:?} gateway", self.info.name))
    }

    /// Attaches it to a further network.
    #[track_caller]
    pub fn attach(&self, flags: &[&str]) -> EndpointInfo {
        self.host.attach(&self.space, &self.info.name, flags)
    }

    #[track_caller]
    pub fn detach(&self) {
        self.host.netbpf(&["detach", &self.info.name]).ok();
    }

    #[track_caller]
    pub fn publish(&self, spec: &str) {
        self.host
            .netbpf(&["publish", &self.info.name, "-p", spec])
            .ok();
    }

    #[track_caller]
    pub fn unpublish(&self, spec: &str) {
        self.host
            .netbpf(&["unpublish", &self.info.name, "-p", spec])
            .ok();
    }
}

/// The address of an endpoint, without its prefix length.
#[track_caller]
pub fn address_of(info: &EndpointInfo, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => &info.ipv4,
        Family::V6 => &info.ipv6,
    };
    let text = text
        .as_deref()
        .unwrap_or_else(|| panic!("{} has no {family:?} address", info.name));
    let (address, _) = text.split_once('/').expect("address/prefix");
    address.parse().expect("an address")
}
