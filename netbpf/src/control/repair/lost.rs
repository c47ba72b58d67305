//! Addresses that the host has lost: what leaves masqueraded by one of them is never
//! answered, and a sender that goes on would keep its flow for ever. Linux forgets such
//! connections as well (`nf_nat_masquerade`: `masq_inet_event`).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    control::{Inner, uplinks::is_link_local},
    datapath::FlowRecord,
    error::Result,
};

/// An address that returns in this time was not lost: of IPv6 they go with each device
/// that goes down.
const GRACE: Duration = Duration::from_secs(10);

/// Since when.
#[derive(Default)]
pub struct Lost(Mutex<HashMap<IpAddr, Instant>>);

impl Lost {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host had these addresses and has those.
    pub fn note(&self, before: &[IpAddr], now: &[IpAddr]) {
        let mut lost = self.lock();
        lost.retain(|address, _| !now.contains(address));
        let gone = before.iter().filter(|address| !now.contains(address));
        // Nothing is masqueraded by the others, which come and go with every device.
        for address in gone.filter(|address| !is_link_local(**address) && !address.is_loopback()) {
            lost.entry(*address).or_insert_with(Instant::now);
        }
    }

    pub fn any(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Those that are lost by now.
    fn take(&self, now: Instant) -> Vec<IpAddr> {
        let mut lost = self.lock();
        let is_due = |since: &Instant| now.duration_since(*since) >= GRACE;
        let due: Vec<IpAddr> = lost
            .iter()
            .filter(|(_, since)| is_due(since))
            .map(|(address, _)| *address)
            .collect();
        lost.retain(|_, since| !is_due(since));
        due
    }
}

/// Forgets the flows that are masqueraded by addresses that the host has lost.
pub fn forget(inner: &Inner) -> Result<()> {
    let lost = inner.lost.take(Instant::now());
    if lost.is_empty() {
        return Ok(());
    }
    let tell = |event| inner.monitor.tell(event);
    let by_lost = |flow: &FlowRecord| flow.kind == "masquerade" && lost.contains(&flow.reply_dst.0);
    let flushed = inner.datapath.flush(by_lost, &tell);
    // The next look tries again.
    let flushed = flushed.inspect_err(|_| inner.lost.note(&lost, &[]))?;
    if flushed.flows > 0 {
        tracing::info!(
            flows = flushed.flows,
            ?lost,
            "masqueraded flows end: the host has lost their address"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_returns_was_not_lost() {
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        let lost = Lost::default();
        lost.note(&[a, b], &[b, c]);
        lost.note(&[b, c], &[c]);
        assert!(lost.any());
        // Not yet.
        assert!(lost.take(Instant::now()).is_empty());
        lost.note(&[c], &[a, c]);
        assert_eq!(lost.take(Instant::now() + GRACE), [b]);
        assert!(!lost.any());
    }
}
