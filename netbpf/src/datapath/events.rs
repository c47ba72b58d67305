//! What the programs tell, as long as somebody listens.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
};

use aya::maps::{Array, Map, MapData, PerCpuArray, RingBuf};
use netbpf_common::{
    drop::DropReason,
    event::{
        CLOSE_DETACHED, CLOSE_FIN, CLOSE_FLUSHED, CLOSE_RESET, CLOSE_TIMEOUT, CLOSE_UNPUBLISHED,
        EVENT_CLOSE, EVENT_DROP, EVENT_NEW, Event,
    },
    maps::Config,
    names,
};
use tokio::io::unix::AsyncFd;

use super::{
    Datapath, Result,
    attach::monotonic,
    flows::kind_label,
    load::{chain, change_config},
    tables::ip,
    types::DatapathError,
};

/// Records that are handed on at a time.
const BATCH: usize = 256;

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Both sides of a TCP connection have closed it.
    Closed,
    /// One side of a TCP connection has reset it.
    Reset,
    /// No packet came for as long as its time-out.
    Timeout,
    /// Its published port was taken back.
    Unpublished,
    /// Its endpoint is no more.
    Detached,
    /// It was forgotten on request.
    Flushed,
}

impl Close {
    pub const fn label(self) -> &'static str {
        match self {
            Close::Closed => "closed",
            Close::Reset => "reset",
            Close::Timeout => "timeout",
            Close::Unpublished => "unpublished",
            Close::Detached => "detached",
            Close::Flushed => "flushed",
        }
    }

    const fn of_number(number: u8) -> Option<Close> {
        Some(match number {
            CLOSE_FIN => Close::Closed,
            CLOSE_RESET => Close::Reset,
            CLOSE_TIMEOUT => Close::Timeout,
            CLOSE_UNPUBLISHED => Close::Unpublished,
            CLOSE_DETACHED => Close::Detached,
            CLOSE_FLUSHED => Close::Flushed,
            _ => return None,
        })
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    New,
    Close(Close),
    Drop(DropReason),
}

/// Both sides of a packet or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub protocol: u8,
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// As it leaves, of flows.
    pub new: Option<(SocketAddr, SocketAddr)>,
}

/// Something that a program or the daemon tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    pub happened: Happened,
    /// Index, 0 when none is known.
    pub endpoint: u32,
    /// Device that the packet came by; 0 where no packet tells of it.
    pub ifindex: u32,
    /// Bytes of the packet.
    pub length: u32,
    /// `publish`, `masquerade` or `local`, of flows.
    pub kind: Option<&'static str>,
    /// Of packets that have one.
    pub tuple: Option<Tuple>,
}

impl EventRecord {
    /// `None` for what a later program may tell.
    fn of(event: &Event) -> Option<EventRecord> {
        let happened = match event.event {
            EVENT_NEW => Happened::New,
            EVENT_CLOSE => Happened::Close(Close::of_number(event.reason)?),
            EVENT_DROP => Happened::Drop(DropReason::from_number(event.reason)?),
            _ => return None,
        };
        let is_flow = !matches!(happened, Happened::Drop(_));
        let at = |addr, port| SocketAddr::new(event_ip(addr, event.family), port);
        Some(EventRecord {
            time: event.time,
            happened,
            endpoint: event.endpoint,
            ifindex: event.ifindex,
            length: event.len,
            kind: is_flow.then(|| kind_label(event.kind)),
            tuple: (event.family != 0).then(|| Tuple {
                protocol: event.protocol,
                src: at(event.src, event.sport),
                dst: at(event.dst, event.dport),
                new: is_flow.then(|| {
                    let src = at(event.new_src, event.new_sport);
                    (src, at(event.new_dst, event.new_dport))
                }),
            }),
        })
    }
}

fn event_ip(addr: [u8; 16], family: u8) -> IpAddr {
    match family {
        4 => ip(addr),
        _ => addr.into(),
    }
}

/// The programs tell as long as this lives. There is one at a time.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    config: Array<MapData, Config>,
    lost: PerCpuArray<MapData, u64>,
    lost_before: u64,
}

impl Datapath {
    /// Events that the buffer had no room for, since the maps are there.
    pub fn events_lost(&self) -> Result<u64> {
        lost(&self.lost_counter()?)
    }

    fn lost_counter(&self) -> Result<PerCpuArray<MapData, u64>> {
        let wrong = |e| DatapathError::other("open the events", chain(&e));
        PerCpuArray::try_from(Map::PerCpuArray(self.open_map(names::EVENTS_LOST)?)).map_err(wrong)
    }

    fn open_map(&self, name: &str) -> Result<MapData> {
        MapData::from_id(self.map_id(name)?)
            .map_err(|e| DatapathError::other(format!("open map {name}"), chain(&e)))
    }

    /// Lets the programs tell; what is heard is read by [`Events::next`]. To be called
    /// within a runtime.
    pub fn listen(&self) -> Result<Events> {
        let wrong = |e| DatapathError::other("open the events", chain(&e));
        let mut ring =
            RingBuf::try_from(Map::RingBuf(self.open_map(names::EVENTS)?)).map_err(wrong)?;
        // What was told to who listened last.
        while ring.next().is_some() {}
        // SAFETY: the ring owns its descriptor, and gives the same one as long as it
        // lives.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(|source| DatapathError::Io {
            step: "wait for events".into(),
            source: source.into(),
        })?;
        let config = Array::try_from(Map::Array(self.open_map(names::CONFIG)?)).map_err(wrong)?;
        let mut events = Events {
            ring,
            config,
            lost: self.lost_counter()?,
            lost_before: 0,
        };
        events.lost()?;
        events.switch(1)?;
        Ok(events)
    }
}

impl Events {
    /// Waits for records and appends them; returns how many were lost since, because
    /// the buffer was full.
    pub async fn next(&mut self, records: &mut VecDeque<EventRecord>) -> Result<u64> {
        let failed = |source: io::Error| DatapathError::Io {
            step: "wait for events".into(),
            source,
        };
        let mut ready = self.ring.readable_mut().await.map_err(failed)?;
        let ring = ready.get_inner_mut();
        let mut read = 0;
        while read < BATCH {
            let Some(item) = ring.next() else { break };
            read += 1;
            if item.len() >= size_of::<Event>() {
                // SAFETY: as long as that, and of integers alone: any bytes are valid.
                let event = unsafe { item.as_ptr().cast::<Event>().read_unaligned() };
                records.extend(EventRecord::of(&event));
            }
        }
        if read < BATCH {
            ready.clear_ready();
        }
        self.lost()
    }

    /// Lost since it was asked for last.
    fn lost(&mut self) -> Result<u64> {
        let all = lost(&self.lost)?;
        let lost = all.saturating_sub(self.lost_before);
        self.lost_before = all;
        Ok(lost)
    }

    fn switch(&mut self, events: u32) -> Result<()> {
        change_config(&mut self.config, |config| config.events = events)
    }
}

fn lost(counter: &PerCpuArray<MapData, u64>) -> Result<u64> {
    let failed = |e| DatapathError::other("read lost events", chain(&e));
    Ok(counter.get(&0, 0).map_err(failed)?.iter().sum())
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Err(error) = self.switch(0) {
            tracing::warn!(%error, "the programs go on telling events");
        }
    }
}

/// An end that no packet tells of.
pub(super) fn closed(
    close: Close,
    endpoint: u32,
    kind: &'static str,
    tuple: Tuple,
) -> Result<EventRecord> {
    Ok(EventRecord {
        time: monotonic()?,
        happened: Happened::Close(close),
        endpoint,
        ifindex: 0,
        length: 0,
        kind: Some(kind),
        tuple: Some(tuple),
    })
}

#[cfg(test)]
mod tests {
    use netbpf_common::maps::flows::KIND_PUBLISH;

    use super::*;

    fn event(what: u8, reason: u8) -> Event {
        Event {
            time: 5,
            event: what,
            reason,
            family: 4,
            protocol: 6,
            kind: KIND_PUBLISH,
            reserved: [0; 3],
            ifindex: 3,
            endpoint: 7,
            len: 60,
            sport: 4000,
            dport: 8080,
            src: netbpf_common::addr::mapped([192, 0, 2, 2]),
            dst: netbpf_common::addr::mapped([192, 0, 2, 1]),
            new_src: netbpf_common::addr::mapped([192, 0, 2, 2]),
            new_dst: netbpf_common::addr::mapped([10, 10, 1, 2]),
            new_sport: 4000,
            new_dport: 80,
            reserved2: 0,
        }
    }

    #[test]
    fn records_have_both_tuples_of_flows_and_one_of_drops() {
        let new = EventRecord::of(&event(EVENT_NEW, 0)).unwrap();
        let tuple = new.tuple.unwrap();
        assert_eq!(tuple.dst.to_string(), "192.0.2.1:8080");
        assert_eq!(tuple.new.unwrap().1.to_string(), "10.10.1.2:80");
        assert_eq!(new.kind, Some("publish"));
        let drop = EventRecord::of(&event(EVENT_DROP, DropReason::Isolated as u8)).unwrap();
        assert_eq!(drop.happened, Happened::Drop(DropReason::Isolated));
        assert_eq!((drop.kind, drop.tuple.unwrap().new), (None, None));
    }

    #[test]
    fn what_a_later_program_tells_is_passed_over() {
        assert_eq!(EventRecord::of(&event(9, 0)), None);
        assert_eq!(EventRecord::of(&event(EVENT_DROP, 0)), None);
        assert_eq!(EventRecord::of(&event(EVENT_CLOSE, 0)), None);
    }
}
