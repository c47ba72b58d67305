//! Who throws, and the programs that are thrown at.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr};

use aya::maps::{Array, Map, MapData};
use netbpf::datapath::GATEWAY_MAC;
use netbpf_common::{
    maps::Config,
    names::{CONFIG, EARLY_DROP, FROM_CONTAINER, FROM_UPLINK, HOST_LOCAL, TO_CONTAINER, TO_UPLINK},
};
use netbpf_tests::{
    lab::{
        Family,
        names::{BACK, CLIENT, FAR, FRONT, HOST, NOBODY, NOWHERE},
    },
    packets::{BROADCAST, Mac},
    rows::{Action, Member, Opened, Rig},
};

use crate::{
    frame::{ends, is_local, is_loopback, ports},
    seeds::{publish, seeds, seeds_of_neighbours},
};

/// Who throws, and at what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lane {
    /// The number of the container.
    Container(usize),
    Uplink,
    /// What the host sends by the uplink.
    Host,
    /// What a container has sent by it.
    Left,
    /// What the host sends to a container, or forwards to it.
    ToContainer {
        forwarded: bool,
    },
    Local,
    Early,
}

/// Those with more to go wrong more often.
pub const LANES: [Lane; 18] = [
    Lane::Container(0),
    Lane::Container(0),
    Lane::Container(0),
    Lane::Container(0),
    Lane::Container(1),
    Lane::Container(2),
    Lane::Uplink,
    Lane::Uplink,
    Lane::Uplink,
    Lane::Uplink,
    Lane::Uplink,
    Lane::Host,
    Lane::Host,
    Lane::Left,
    Lane::ToContainer { forwarded: false },
    Lane::ToContainer { forwarded: true },
    Lane::Local,
    Lane::Early,
];

impl Lane {
    /// Whose packets of before are like those that come by it.
    pub fn of_whose_kind(self) -> Lane {
        match self {
            Lane::Early => Lane::Uplink,
            Lane::Left => Lane::Host,
            Lane::ToContainer { .. } => Lane::ToContainer { forwarded: false },
            other => other,
        }
    }
}

/// Programs of a rig, and packets to begin with.
pub struct Range<'a> {
    pub rig: &'a Rig,
    from_container: Opened,
    from_uplink: Opened,
    to_uplink: Opened,
    to_container: Opened,
    host_local: Opened,
    early_drop: Opened,
    pub seeds: Vec<(Lane, Vec<u8>)>,
    pub macs: Vec<Mac>,
    pub addresses: Vec<IpAddr>,
    config: RefCell<Array<MapData, Config>>,
    /// What containers have asked the host's stack.
    asked: RefCell<BTreeSet<Question>>,
}

/// Who has asked, at which address, and by what.
type Question = (IpAddr, IpAddr, Ports);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ports {
    /// Protocol, and ports from and to.
    Read(u8, [u16; 2]),
    Unread,
}
use Ports::{Read, Unread};

/// What a program made of a packet.
pub struct Outcome {
    pub code: u32,
    pub out: Vec<u8>,
    /// Drops that were counted.
    pub counted: u64,
}

impl<'a> Range<'a> {
    pub fn new(rig: &'a Rig) -> Range<'a> {
        publish(rig);
        let macs = vec![
            rig.web.mac(),
            rig.app.mac(),
            rig.other.mac(),
            GATEWAY_MAC,
            rig.uplink.mac,
            rig.uplink.neighbour,
            BROADCAST,
            [0x33, 0x33, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 9],
            [0; 6],
        ];
        let named = [
            HOST,
            CLIENT,
            FAR,
            NOBODY,
            NOWHERE,
            FRONT.gateways,
            BACK.gateways,
        ];
        let special = [
            ["127.0.0.1", "::1"],
            ["0.0.0.0", "::"],
            ["224.0.0.1", "ff02::1"],
            ["255.255.255.255", "ff05::2"],
            ["169.254.7.7", "fe80::7"],
            ["10.10.1.255", "::ffff:10.10.1.2"],
            ["240.0.0.1", "2001:db8:1::"],
        ];
        let texts = named.into_iter().chain(special);
        let texts = texts.chain([FRONT.absent, BACK.absent]).flatten();
        let mut addresses: Vec<IpAddr> = texts.map(|text| text.parse().unwrap()).collect();
        for family in Family::BOTH {
            addresses.extend([&rig.web, &rig.app, &rig.other].map(|member| member.ip(family)));
        }
        let config = MapData::from_pin(rig.bpffs().join(CONFIG)).expect("the config");
        let config = Array::try_from(Map::Array(config)).expect("an array");
        let mut range = Range {
            rig,
            from_container: rig.open(FROM_CONTAINER),
            from_uplink: rig.open(FROM_UPLINK),
            to_uplink: rig.open(TO_UPLINK),
            to_container: rig.open(TO_CONTAINER),
            host_local: rig.open(HOST_LOCAL),
            early_drop: rig.open(EARLY_DROP),
            seeds: Vec::new(),
            macs,
            addresses,
            config: RefCell::new(config),
            asked: RefCell::default(),
        };
        range.seeds = Family::BOTH
            .iter()
            .flat_map(|&family| seeds(rig, family))
            .collect();
        range.seeds.extend(seeds_of_neighbours(rig));
        range
    }

    pub fn member(&self, number: usize) -> &Member {
        [&self.rig.web, &self.rig.app, &self.rig.other][number]
    }

    pub fn lane(&self, lane: Lane) -> (&Opened, u32, u32) {
        let uplink = self.rig.uplink.entry.device.ifindex;
        let web = self.rig.web.ifindex();
        match lane {
            Lane::Container(number) => {
                let own = self.member(number).ifindex();
                (&self.from_container, own, own)
            }
            Lane::Uplink => (&self.from_uplink, uplink, uplink),
            Lane::Host => (&self.to_uplink, 0, uplink),
            Lane::Left => (&self.to_uplink, web, uplink),
            Lane::ToContainer { forwarded: false } => (&self.to_container, 0, web),
            Lane::ToContainer { forwarded: true } => (&self.to_container, uplink, web),
            Lane::Local => (&self.host_local, 0, 1),
            Lane::Early => (&self.early_drop, 0, 0),
        }
    }

    fn drops(&self) -> u64 {
        let drops = self.rig.datapath.drops(None).expect("drops");
        drops.into_iter().map(|(_, count)| count).sum()
    }

    /// `None` where the kernel makes no packet of it, or sends none like it that way.
    pub fn throw(&self, lane: Lane, packet: &[u8]) -> Option<Outcome> {
        // By `lo`, from the host to itself.
        let is_own = |address| is_local(address) || is_loopback(address);
        if lane == Lane::Local && !ends(packet).is_none_or(|e| is_own(e.from) && is_own(e.to)) {
            return None;
        }
        let (program, came_by, ifindex) = self.lane(lane);
        let before = self.drops();
        let (code, out) = program.run(came_by, ifindex, packet)?;
        if let (Lane::Container(_), Some(sent)) = (lane, ends(packet))
            && Action::from_code(code) == Some(Action::Pass)
        {
            // Behind extension headers, whatever is there.
            let ports = ports(packet).map_or(Unread, |(protocol, ports)| Read(protocol, ports));
            self.asked.borrow_mut().insert((sent.from, sent.to, ports));
        }
        Some(Outcome {
            code,
            out,
            counted: self.drops() - before,
        })
    }

    /// What becomes of a packet by the uplink where the programs do not go by marks.
    pub fn the_long_way(&self, packet: &[u8]) -> (u32, Vec<u8>) {
        let switch = |marked| {
            let mut config = self.config.borrow_mut();
            let value = config.get(&0, 0).expect("the config");
            let value = Config { marked, ..value };
            config.set(0, value, 0).expect("the config");
        };
        switch(0);
        let (program, came_by, ifindex) = self.lane(Lane::Uplink);
        let done = program.run(came_by, ifindex, packet);
        switch(1);
        done.expect("a packet")
    }

    /// Has a container asked the host's stack what this may answer? `translated`: from the
    /// address that was asked, and not from anybody. What can be read of an answer counts.
    pub fn is_answer(&self, packet: &[u8], translated: bool) -> bool {
        let Some(came) = ends(packet) else {
            return false;
        };
        let answered = ports(packet);
        let asked = self.asked.borrow();
        let mut asked = asked.iter().filter(|(container, host, _)| {
            *container == came.to && (!translated || *host == came.from)
        });
        asked.any(|(_, _, question)| match (question, answered) {
            (Read(protocol, [own, at]), Some((answers, [from, to]))) => {
                *protocol == answers && *own == to && (!translated || *at == from)
            }
            (Unread, _) | (_, None) => true,
        })
    }

    /// Begins flows of every kind anew.
    pub fn begin(&self) {
        self.rig.datapath.flush(|_| true, &|_| {}).expect("flush");
        for (lane, packet) in &self.seeds {
            self.throw(*lane, packet);
        }
    }
}
