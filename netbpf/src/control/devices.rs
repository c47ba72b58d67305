//! The host's ends of endpoints, looked at every few seconds: those that are gone, and
//! what others have changed of those that are there.

use std::collections::BTreeSet;

use super::{Inner, detach, plan, repair::Kind, seen::Seen, state::State, uplinks};
use crate::{
    error::Result,
    store::EndpointRecord,
    sys::netlink::{Address, Link, Netlink},
};

/// Looks whether there is anything to be checked, while changes go on: to list a thousand
/// devices takes longer than an attach.
pub struct Watch {
    host: Netlink,
    /// Devices of others and all addresses, as they were found right.
    last: Option<(Vec<Link>, Vec<Address>)>,
}

impl Watch {
    pub fn open() -> Result<Watch> {
        Ok(Watch {
            host: Netlink::open()?,
            last: None,
        })
    }

    /// Whether something is not as it was, or as it should be.
    pub fn differs(&mut self, inner: &Inner) -> Result<bool> {
        // In this order: an endpoint that comes in between is not missed.
        let seen = inner.seen();
        let (ours, others): (Vec<Link>, Vec<Link>) = {
            let links = self.host.links()?.into_iter();
            links.partition(|link| plan::is_host_ifname(&link.name))
        };
        let now = (others, self.host.addresses()?);
        let present: BTreeSet<u32> = ours.iter().map(|l| l.ifindex).collect();
        let mut endpoints = seen.endpoints.values();
        let differs = self.last.as_ref() != Some(&now)
            || endpoints.any(|e| !present.contains(&e.host_ifindex))
            || seen.uplinks.iter().any(|u| u.failed.is_some())
            // Routes are not looked at here.
            || inner.datapath.wants_sources();
        self.last = Some(now);
        Ok(differs)
    }

    /// What was found was not put right.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

/// Endpoints and uplinks as the devices are that are there.
pub fn check(inner: &Inner, state: &mut State) -> Result<()> {
    let gone = missing(inner, state);
    uplinks::refresh(inner, state).and(gone)
}

/// Endpoints whose devices are no longer there.
pub fn missing(inner: &Inner, state: &mut State) -> Result<()> {
    let present: BTreeSet<u32> = state.host.links()?.iter().map(|l| l.ifindex).collect();
    let missing: BTreeSet<u32> = state
        .endpoints
        .values()
        .filter(|e| !present.contains(&e.host_ifindex))
        .map(|e| e.index)
        .collect();
    detach::gone(inner, state, &missing)
}

/// Writing `net.ipv4.ip_forward`, as engines beside us do, resets the setting of
/// every device, ours included; the kernel then answers our programs no route. Looks at the
/// devices that are meant, all unless some were heard of. Keeps no change waiting: a device
/// that goes meanwhile has no setting.
pub fn keep_forwarding(inner: &Inner, seen: &Seen, heard_of: Option<&BTreeSet<u32>>) {
    for record in seen.endpoints.values() {
        if heard_of.is_none_or(|devices| devices.contains(&record.host_ifindex)) {
            keep_device_forwarding(record, inner, heard_of.is_some());
        }
    }
}

fn keep_device_forwarding(record: &EndpointRecord, inner: &Inner, was_heard: bool) {
    let ipv6 = inner.sysctls.ipv6.as_ref().filter(|_| inner.ipv6);
    for family in [Some(&inner.sysctls.ipv4), ipv6].into_iter().flatten() {
        let name = ["conf", &record.host_ifname, "forwarding"];
        let lost = matches!(family.read(&name), Ok(Some(value)) if value == "0");
        if !lost {
            continue;
        }
        tracing::warn!(
            device = record.host_ifname,
            family = family.name(),
            was_heard,
            "forwarding was switched off on our device; it is on again"
        );
        match family.write(&name, "1") {
            Ok(()) => inner.repairs.count(Kind::Forwarding),
            Err(error) => {
                let (device, family) = (&record.host_ifname, family.name());
                tracing::warn!(device, family, %error, "and it stays off");
            }
        }
    }
}
