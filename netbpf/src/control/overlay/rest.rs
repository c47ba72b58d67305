//! Addresses that were given back lately, by whichever node: they rest before they are
//! given out automatically, lest somebody takes the new container for the old one.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::cluster::{Changed, Key, View};

/// For so long.
pub const REST: Duration = Duration::from_secs(60);

/// What the next daemon is to know: network, address, and when by `CLOCK_BOOTTIME`, in
/// milliseconds.
pub type Kept = Vec<(String, IpAddr, u64)>;

#[derive(Default)]
pub struct Resting {
    /// When, by network and address.
    since: HashMap<String, HashMap<IpAddr, Instant>>,
    /// The cluster's last picture that was looked at.
    before: Option<Arc<View>>,
    /// Given back by this node without anybody having had it, as an attach has failed, and
    /// not seen to leave the picture yet.
    unused: HashMap<String, HashSet<IpAddr>>,
}

impl Resting {
    pub fn begin(&mut self, network: &str, ip: IpAddr, now: Instant) {
        if let Some(unused) = self.unused.get_mut(network) {
            unused.remove(&ip);
        }
        let of = self.since.entry(network.to_owned()).or_default();
        of.insert(ip, now);
    }

    /// Nobody has had it: it need not rest when it leaves the picture.
    pub fn was_unused(&mut self, network: &str, ip: IpAddr) {
        let of = self.unused.entry(network.to_owned()).or_default();
        of.insert(ip);
    }

    fn leaves(&mut self, network: &str, ip: IpAddr, now: Instant) {
        let unused = self.unused.get_mut(network);
        if !unused.is_some_and(|of| of.remove(&ip)) {
            self.begin(network, ip, now);
        }
    }

    pub fn keep(&self, now: Instant, boottime_ms: u64) -> Kept {
        let all = self.since.iter().flat_map(|(network, of)| {
            let of = of.iter().map(move |(ip, since)| (network, ip, since));
            of.map(|(network, ip, since)| {
                let ago = now.duration_since(*since).as_millis() as u64;
                (network.clone(), *ip, boottime_ms.saturating_sub(ago))
            })
        });
        all.collect()
    }

    pub fn resume(&mut self, kept: Kept, now: Instant, boottime_ms: u64) {
        for (network, ip, since) in kept {
            let ago = Duration::from_millis(boottime_ms.saturating_sub(since));
            if let Some(since) = now.checked_sub(ago).filter(|_| ago < REST) {
                self.begin(&network, ip, since);
            }
        }
    }

    pub fn is_resting(&self, network: &str, ip: IpAddr, now: Instant) -> bool {
        let since = self.since.get(network).and_then(|of| of.get(&ip));
        since.is_some_and(|since| now.duration_since(*since) < REST)
    }

    /// When the first of a network that still rests may be given out, if there is one.
    pub fn next_end(&self, network: &str, v6: bool, now: Instant) -> Option<Duration> {
        let all = self.since.get(network)?.iter();
        let left = all
            .filter(|(ip, _)| ip.is_ipv6() == v6)
            .map(|(_, since)| REST.saturating_sub(now.duration_since(*since)));
        left.filter(|left| !left.is_zero()).min()
    }

    /// What has left the cluster's picture since it was looked at last.
    pub fn follow(&mut self, changed: &Changed, now: Instant) {
        for of in self.since.values_mut() {
            of.retain(|_, since| now.duration_since(*since) < REST);
        }
        self.since.retain(|_, of| !of.is_empty());
        let view = &changed.view;
        match (&changed.keys, self.before.replace(view.clone())) {
            // Also what has come and gone in between.
            (Some(keys), _) => {
                for key in keys {
                    if let Key::Address { network, ip } = key
                        && view.address(network, *ip).is_none()
                    {
                        self.leaves(network, *ip, now);
                    }
                }
            }
            (None, Some(before)) => {
                for (network, of) in before.addresses.iter() {
                    for ip in of.keys().filter(|ip| view.address(network, **ip).is_none()) {
                        self.leaves(network, *ip, now);
                    }
                }
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 7, 0, last].into()
    }

    fn view(addresses: &[u8]) -> Arc<View> {
        let mut view = View::new("n1");
        for last in addresses {
            let of = br#"{"v":1,"node":"n2","endpoint":"web"}"#;
            view.put(&key(*last), of, 1).expect("an address");
        }
        Arc::new(view)
    }

    fn key(last: u8) -> Key {
        Key::Address {
            network: "front".into(),
            ip: ip(last),
        }
    }

    fn changed(addresses: &[u8], keys: Option<&[u8]>) -> Changed {
        let keys = keys.map(|keys| keys.iter().map(|last| key(*last)).collect());
        Changed {
            view: view(addresses),
            seen: 0,
            keys: keys as Option<BTreeSet<Key>>,
        }
    }

    #[test]
    fn a_rest_goes_on_in_the_next_daemon() {
        let mut resting = Resting::default();
        let (began, boottime) = (Instant::now(), 5_000_000);
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        resting.begin("front", ip(2), began);
        resting.begin("front", ip(3), at(20));
        let kept = resting.keep(at(30), boottime);
        // Down for ten seconds; by another clock as far as an `Instant` goes.
        let mut next = Resting::default();
        let up = at(1000);
        next.resume(kept.clone(), up, boottime + 10_000);
        let after = |seconds: u64| up + Duration::from_secs(seconds);
        assert!(next.is_resting("front", ip(2), after(19)));
        assert!(!next.is_resting("front", ip(2), after(20)));
        assert!(next.is_resting("front", ip(3), after(39)));
        assert!(!next.is_resting("front", ip(3), after(40)));
        assert!(!next.is_resting("back", ip(2), up));
        // Down for longer than it rests.
        let mut late = Resting::default();
        late.resume(kept, up, boottime + 60_000);
        assert!(!late.is_resting("front", ip(3), up));
    }

    #[test]
    fn what_leaves_the_picture_rests_for_a_minute() {
        let mut resting = Resting::default();
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        // What was never there does not rest.
        resting.follow(&changed(&[2, 3, 4], None), now);
        assert!(!resting.is_resting("front", ip(2), now));
        // Told by key, with one that has come and gone in between.
        resting.follow(&changed(&[3, 4, 5], Some(&[2, 5, 9])), now);
        for (last, rests) in [(2, true), (3, false), (5, false), (9, true)] {
            assert_eq!(resting.is_resting("front", ip(last), now), rests, "{last}");
        }
        assert!(!resting.is_resting("back", ip(2), now));
        // Listed anew.
        resting.follow(&changed(&[4, 5], None), at(30));
        assert!(resting.is_resting("front", ip(3), at(30)));
        assert!(resting.is_resting("front", ip(2), at(59)));
        assert!(!resting.is_resting("front", ip(2), at(60)));
        assert_eq!(
            resting.next_end("front", false, at(59)),
            Some(Duration::from_secs(1))
        );
        assert_eq!(resting.next_end("front", true, at(59)), None);
        // What nobody has had is free at once, once.
        resting.was_unused("front", ip(4));
        resting.follow(&changed(&[5], Some(&[4])), at(60));
        assert!(!resting.is_resting("front", ip(4), at(60)));
        resting.follow(&changed(&[5], Some(&[4])), at(60));
        assert!(resting.is_resting("front", ip(4), at(60)));
        resting.follow(&changed(&[4, 5], Some(&[4])), at(120));
        // Nothing is remembered for ever.
        resting.follow(&changed(&[4, 5], Some(&[])), at(121));
        assert!(resting.since.is_empty());
    }
}
