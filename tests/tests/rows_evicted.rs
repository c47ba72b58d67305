//! Which flows are evicted when more begin than there is room for: the oldest of those that
//! are opening or over, unless it was used; never one that is established. Through the real
//! programs by the kernel's test-run, for both families.

use std::{collections::BTreeSet, time::Duration};

use aya::maps::{Array, Map, MapData};
use netbpf_common::{
    maps::evictable::established_index,
    names::{FLOWS4, FLOWS6, FROM_CONTAINER, FROM_UPLINK, OCCUPANCY},
    time::{TICK_SHIFT, ticks},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{CLIENT, HOST},
    },
    packets::Segment,
    rows::{self, OPTIONS, Rig, RigOptions, with_rig_of},
};

const UDP: u8 = 17;
const REDIRECT: u32 = 7;

/// That may be established, and as many that are opening or over.
const MOST: u16 = 64;
const FEW: RigOptions = RigOptions {
    max_flows: MOST as u32,
    ..OPTIONS
};

/// A container's service, asked by clients with different ports.
struct Service<'a> {
    rig: &'a Rig,
    family: Family,
}

impl Service<'_> {
    fn new(rig: &Rig, family: Family) -> Service<'_> {
        Service { rig, family }
    }

    #[track_caller]
    fn goes(&self, program: &str, ifindex: u32, packet: &[u8]) {
        let (code, _) = self.rig.run(program, ifindex, packet);
        assert_eq!(code, REDIRECT, "{program}, {:?}", self.family);
    }

    /// A datagram of the client with that port.
    #[track_caller]
    fn ask(&self, port: u16) {
        let (client, host) = (self.family.ip(CLIENT), self.family.ip(HOST));
        let way = self.rig.by_uplink(client, host);
        let packet = way.udp(port, 5300, b"?");
        self.goes(FROM_UPLINK, self.rig.uplink.entry.device.ifindex, &packet);
    }

    #[track_caller]
    fn answer(&self, port: u16) {
        let packet = self
            .rig
            .from(&self.rig.web, self.family.ip(CLIENT))
            .udp(53, port, b"!");
        self.goes(FROM_CONTAINER, self.rig.web.ifindex(), &packet);
    }

    /// Asked, answered and asked again.
    #[track_caller]
    fn establish(&self, port: u16) {
        self.ask(port);
        self.answer(port);
        self.ask(port);
    }

    /// A segment to a container's outside, as the container sends it.
    #[track_caller]
    fn sends(&self, port: u16, flags: &str) {
        let way = self.rig.from(&self.rig.web, self.family.ip(CLIENT));
        let packet = way.tcp(port, 80, flags, b"");
        self.goes(FROM_CONTAINER, self.rig.web.ifindex(), &packet);
    }

    /// What comes back for it.
    #[track_caller]
    fn comes_back(&self, port: u16, flags: &str) {
        let (client, host) = (self.family.ip(CLIENT), self.family.ip(HOST));
        let packet = self.rig.by_uplink(client, host).tcp(80, port, flags, b"");
        self.goes(FROM_UPLINK, self.rig.uplink.entry.device.ifindex, &packet);
    }

    /// The clients' ports of the flows that are there, none of which lacks a half.
    #[track_caller]
    fn there(&self) -> BTreeSet<u16> {
        let flows = self.rig.datapath.flows().expect("flows");
        let of_family = flows
            .iter()
            .filter(|flow| flow.src.0.is_ipv4() == (self.family == Family::V4));
        let ports: BTreeSet<u16> = of_family.map(|flow| flow.src.1).collect();
        let map = self.family.of([FLOWS4, FLOWS6]);
        let usage = self.rig.datapath.map_usage().expect("usage");
        let halves = usage.iter().find(|usage| usage.name == map);
        let halves = halves.and_then(|usage| usage.entries);
        assert_eq!(halves, Some(ports.len() as u64 * 2), "{ports:?}");
        ports
    }

    /// How many are counted as established.
    fn established(&self) -> u64 {
        let index = established_index(self.family == Family::V6);
        self.counts().get(&index, 0).expect("a count")
    }

    fn counts(&self) -> Array<MapData, u64> {
        let data = MapData::from_pin(self.rig.bpffs().join(OCCUPANCY)).expect("pinned");
        Array::try_from(Map::Array(data)).expect("an array")
    }
}

/// The clock that flows are stamped by goes on.
fn next_tick() {
    let now = || {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: writes to `time` alone.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
        ticks(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    };
    let before = now();
    while now() == before {
        std::thread::sleep(Duration::from_nanos(1 << (TICK_SHIFT - 2)));
    }
}

/// For each family.
fn each(test: &str, rows: impl Fn(&Service) + Send + Sync) {
    with_rig_of(test, FEW, |rig| {
        rig.publish(1, UDP, 5300, &rig.web, 53);
        for family in Family::BOTH {
            rows(&Service::new(rig, family));
        }
    });
}

#[test]
fn the_oldest_goes_with_both_halves() {
    each("oldest_goes", |service| {
        for port in 1000..1000 + 3 * MOST {
            service.ask(port);
            let oldest = (port + 1).saturating_sub(MOST).max(1000);
            if port % 50 == 0 {
                assert_eq!(service.there(), (oldest..=port).collect());
            }
        }
        let last = 1000 + 3 * MOST;
        assert_eq!(service.there(), (last - MOST..last).collect());
        assert_eq!(service.established(), 0);
    });
}

#[test]
fn one_that_was_used_is_passed_over_once() {
    each("passed_over", |service| {
        (0..MOST).for_each(|n| service.ask(1000 + n));
        next_tick();
        // Nobody answers, but it goes on.
        service.ask(1000);
        service.ask(2000);
        let there = service.there();
        assert!(there.contains(&1000) && !there.contains(&1001), "{there:?}");
        // All others come round: it was not used since.
        (0..MOST).for_each(|n| service.ask(3000 + n));
        assert!(!service.there().contains(&1000));
        // Where all are used, one goes all the same.
        next_tick();
        for port in service.there() {
            service.ask(port);
        }
        service.ask(4000);
        let there = service.there();
        assert!(
            there.contains(&4000) && there.len() == usize::from(MOST),
            "{there:?}"
        );
    });
}

#[test]
fn what_is_established_stays_until_it_is_over() {
    each("established_stays", |service| {
        let kept: BTreeSet<u16> = (500..520).collect();
        for port in &kept {
            service.establish(*port);
        }
        assert_eq!(service.established(), 20);
        (0..3 * MOST).for_each(|n| service.ask(1000 + n));
        assert!(service.there().is_superset(&kept));

        // Of TCP one that ends takes a place as if it had just begun.
        service.sends(30_600, "S");
        service.comes_back(30_600, "SA");
        service.sends(30_600, "A");
        assert_eq!(service.established(), 21);
        (0..2 * MOST).for_each(|n| service.ask(2000 + n));
        assert!(service.there().contains(&30_600));
        service.sends(30_600, "R");
        assert_eq!(service.established(), 20);
        (0..MOST - 1).for_each(|n| service.ask(3000 + n));
        assert!(service.there().contains(&30_600));
        service.ask(4000);
        let there = service.there();
        assert!(
            !there.contains(&30_600) && there.is_superset(&kept),
            "{there:?}"
        );
        assert!(there.contains(&4000) && !there.contains(&2127), "{there:?}");
    });
}

#[test]
fn one_that_ends_when_its_own_place_comes_round_stays() {
    each("own_place", |service| {
        next_tick();
        service.sends(30_700, "S");
        service.comes_back(30_700, "SA");
        service.sends(30_700, "A");
        assert_eq!(service.established(), 1);
        (1..MOST).for_each(|n| service.ask(1000 + n));
        service.sends(30_700, "R");
        assert!(service.there().contains(&30_700));
        assert_eq!(service.established(), 0);
        // It has that place alone.
        (0..MOST).for_each(|n| service.ask(2000 + n));
        assert_eq!(service.there(), (2000..2000 + MOST).collect());
    });
}

/// Whatever ends one, it is taken off the count once.
#[test]
fn what_is_established_no_more_is_not_counted() {
    each("counted_once", |service| {
        let rig = service.rig;
        // Begun anew from the same port, with another number.
        service.sends(30_800, "S");
        service.comes_back(30_800, "SA");
        service.sends(30_800, "A");
        assert_eq!(service.established(), 1);
        let anew = Segment {
            flags: "S",
            seq: 77_777_777,
            ..Segment::default()
        };
        let way = rig.from(&rig.web, service.family.ip(CLIENT));
        let anew = way.segment((30_800, 80), &anew);
        service.goes(FROM_CONTAINER, rig.web.ifindex(), &anew);
        assert_eq!(service.established(), 0);
        assert!(service.there().contains(&30_800));

        // Its port was taken back, and published again.
        service.establish(900);
        assert_eq!(service.established(), 1);
        let taken = rows::service(UDP, 5300, vec![rows::backend(1, &rig.web, 53, 1)]);
        rig.datapath.unpublish(&taken).expect("taken back");
        rig.datapath.end_slot(1).expect("ended");
        rig.publish(1, UDP, 5300, &rig.web, 53);
        service.ask(900);
        assert_eq!(service.established(), 0);
    });
}

/// As programs count it while the daemon that removes flows is away.
#[test]
fn a_count_that_is_wrong_is_put_right() {
    each("wrong_count", |service| {
        service.establish(500);
        let mut counts = service.counts();
        let index = established_index(service.family == Family::V6);
        counts.set(index, 0_u64.wrapping_sub(10), 0).expect("set");
        // More are established than leave room: the others make it among themselves.
        for n in 0..3 * MOST {
            service.establish(1000 + n);
        }
        let all = service.there();
        assert_eq!(all.len(), 2 * usize::from(MOST));
        assert!(all.contains(&500));
        assert_eq!(service.established(), u64::from(MOST));
        service.rig.datapath.collect(&|_| ()).expect("collected");
        assert_eq!(service.established(), u64::from(MOST) + 11);
    });
}

#[test]
fn where_as_many_are_established_as_may_be_the_rest_is_served_but_may_be_evicted() {
    each("all_established", |service| {
        let kept: BTreeSet<u16> = (500..500 + MOST).collect();
        for port in &kept {
            service.establish(*port);
        }
        assert_eq!(service.established(), u64::from(MOST));
        for n in 0..2 * MOST {
            service.establish(1000 + n);
        }
        assert_eq!(service.established(), u64::from(MOST));
        let there = service.there();
        assert!(there.is_superset(&kept) && there.len() == 2 * usize::from(MOST));

        // Removed by the daemon, they are counted with the next collection.
        let flushed = service.rig.datapath.flush(|flow| flow.src.1 < 510, &|_| ());
        assert_eq!(flushed.expect("flushed").flows, 10);
        service.rig.datapath.collect(&|_| ()).expect("collected");
        assert_eq!(service.established(), u64::from(MOST) - 10);
        for n in 0..20 {
            service.establish(3000 + n);
        }
        assert_eq!(service.established(), u64::from(MOST));
        (0..2 * MOST).for_each(|n| service.ask(4000 + n));
        let there = service.there();
        let late = (3000..3010).all(|port| there.contains(&port));
        assert!(late && !there.contains(&3010), "{there:?}");
    });
}
