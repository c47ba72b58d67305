//! What goes through each endpoint a second, from two looks at its counters.

use std::{collections::HashMap, time::Duration};

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    cli::output::{Columns, Show, plain},
    model::{DropInfo, EndpointInfo, StatusInfo},
};

/// The counters as they were at a moment.
pub struct Sample {
    /// Since any beginning.
    pub at: Duration,
    /// RFC 3339.
    pub time: String,
    pub status: StatusInfo,
    pub endpoints: Vec<EndpointInfo>,
    pub drops: Vec<DropInfo>,
}

/// Rates of all and of each endpoint, the busiest first.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TopInfo {
    /// RFC 3339.
    pub time: String,
    pub node: String,
    /// Seconds that the rates are of.
    pub interval: f64,
    /// Connections that are followed.
    pub flows: u64,
    /// Into all of these containers.
    #[serde(flatten)]
    pub rates: Rates,
    pub endpoints: Vec<EndpointRates>,
    pub drops: Vec<DropRate>,
    /// What `status` remarks on.
    pub notes: Vec<String>,
}

/// As the container sees it: rx is into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Rates {
    /// Bits a second.
    pub rx_rate: u64,
    /// Bits a second.
    pub tx_rate: u64,
    /// Packets a second.
    pub rx_packet_rate: u64,
    /// Packets a second.
    pub tx_packet_rate: u64,
    /// Packets a second.
    pub drop_rate: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct EndpointRates {
    pub name: String,
    pub network: String,
    pub host_ifname: String,
    #[serde(flatten)]
    pub rates: Rates,
}

/// Dropped packets of one reason.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DropRate {
    pub reason: String,
    /// Packets a second.
    pub drop_rate: u64,
}

/// What the first endpoint has most of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Bits in both directions
    #[default]
    Total,
    /// Bits into the container
    Rx,
    /// Bits out of the container
    Tx,
    /// Dropped packets
    Drops,
    /// By name
    Name,
}

impl Rates {
    fn plus(self, other: Rates) -> Rates {
        Rates {
            rx_rate: self.rx_rate + other.rx_rate,
            tx_rate: self.tx_rate + other.tx_rate,
            rx_packet_rate: self.rx_packet_rate + other.rx_packet_rate,
            tx_packet_rate: self.tx_packet_rate + other.tx_packet_rate,
            drop_rate: self.drop_rate + other.drop_rate,
        }
    }
}

impl TopInfo {
    pub fn between(before: &Sample, after: &Sample, order: Order) -> TopInfo {
        let interval = after.at.saturating_sub(before.at).as_secs_f64().max(1e-3);
        let per_second = |from: u64, to: u64, times: u64| {
            (to.saturating_sub(from) as f64 * times as f64 / interval).round() as u64
        };
        let last: HashMap<_, _> = before.endpoints.iter().map(|e| (identity(e), e)).collect();
        let mut endpoints: Vec<_> = after
            .endpoints
            .iter()
            .map(|now| {
                // One that is new has carried all of it since.
                let last = last.get(&identity(now)).copied();
                let rate = |of: fn(&EndpointInfo) -> u64, times| {
                    per_second(last.map_or(0, of), of(now), times)
                };
                EndpointRates {
                    name: now.name.clone(),
                    network: now.network.clone(),
                    host_ifname: now.host_ifname.clone(),
                    rates: Rates {
                        rx_rate: rate(|e| e.rx_bytes, 8),
                        tx_rate: rate(|e| e.tx_bytes, 8),
                        rx_packet_rate: rate(|e| e.rx_packets, 1),
                        tx_packet_rate: rate(|e| e.tx_packets, 1),
                        drop_rate: rate(|e| e.dropped_packets, 1),
                    },
                }
            })
            .collect();
        sort(&mut endpoints, order);
        let counted = |drops: &[DropInfo], reason: &str| {
            let found = drops.iter().find(|d| d.reason == reason);
            found.map_or(0, |d| d.packets)
        };
        let drops = after.drops.iter().map(|now| DropRate {
            reason: now.reason.clone(),
            drop_rate: per_second(counted(&before.drops, &now.reason), now.packets, 1),
        });
        let mut drops: Vec<_> = drops.filter(|d| d.drop_rate > 0).collect();
        drops.sort_by_key(|d| std::cmp::Reverse(d.drop_rate));
        let all = endpoints.iter().map(|e| e.rates);
        let mut rates = all.fold(Rates::default(), Rates::plus);
        // Of some packets nobody knows whose they were.
        let of_reasons = drops.iter().map(|d| d.drop_rate).sum();
        rates.drop_rate = rates.drop_rate.max(of_reasons);
        TopInfo {
            time: after.time.clone(),
            node: after.status.node.clone(),
            interval,
            flows: flows(&after.status),
            rates,
            endpoints,
            drops,
            notes: after.status.notes.clone(),
        }
    }
}

/// One that was attached anew counts from 0 again.
fn identity(endpoint: &EndpointInfo) -> (&str, &str, u32) {
    (&endpoint.name, &endpoint.network, endpoint.host_ifindex)
}

fn sort(endpoints: &mut [EndpointRates], order: Order) {
    use std::cmp::Reverse;

    let most = |of: fn(&Rates) -> u64| move |e: &EndpointRates| Reverse(of(&e.rates));
    // Stable: equals stay in the order of their names.
    endpoints.sort_by(|a, b| (&a.name, &a.network).cmp(&(&b.name, &b.network)));
    match order {
        Order::Total => endpoints.sort_by_key(most(|r| r.rx_rate + r.tx_rate)),
        Order::Rx => endpoints.sort_by_key(most(|r| r.rx_rate)),
        Order::Tx => endpoints.sort_by_key(most(|r| r.tx_rate)),
        Order::Drops => endpoints.sort_by_key(most(|r| r.drop_rate)),
        Order::Name => {}
    }
}

/// Each is two entries, one for each direction.
fn flows(status: &StatusInfo) -> u64 {
    let of = ["flows4", "flows6"];
    let maps = status.maps.iter();
    let entries = maps.filter(|map| of.contains(&map.name.as_str()));
    entries.filter_map(|map| map.entries).sum::<u64>() / 2
}

impl Show for TopInfo {
    fn human(&self, width: Option<u16>) -> String {
        let Rates {
            rx_rate,
            tx_rate,
            rx_packet_rate,
            tx_packet_rate,
            drop_rate,
        } = self.rates;
        let mut lines = vec![
            format!(
                "{}  node {}  endpoints {}  flows {}",
                self.time,
                self.node,
                self.endpoints.len(),
                self.flows
            ),
            format!(
                "in {}bit/s {}pkt/s  out {}bit/s {}pkt/s  dropped {}pkt/s",
                scaled(rx_rate),
                scaled(rx_packet_rate),
                scaled(tx_rate),
                scaled(tx_packet_rate),
                scaled(drop_rate)
            ),
        ];
        if !self.drops.is_empty() {
            let drops = self.drops.iter();
            let drops = drops.map(|d| format!("{} {}/s", d.reason, scaled(d.drop_rate)));
            lines.push(format!("drops: {}", drops.collect::<Vec<_>>().join(", ")));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        lines.push(String::new());
        let header = [
            "ENDPOINT",
            "NETWORK",
            "IN bit/s",
            "IN pkt/s",
            "OUT bit/s",
            "OUT pkt/s",
            "DROPS/s",
            "HOST INTERFACE",
        ];
        // A line each, whatever the width: it is cut off rather than wrapped.
        let mut columns = Columns::new(None, &header);
        for EndpointRates {
            name,
            network,
            host_ifname,
            rates,
        } in &self.endpoints
        {
            columns.row([
                name.clone(),
                network.clone(),
                scaled(rates.rx_rate),
                scaled(rates.rx_packet_rate),
                scaled(rates.tx_rate),
                scaled(rates.tx_packet_rate),
                scaled(rates.drop_rate),
                host_ifname.clone(),
            ]);
        }
        let table = columns.to_string();
        lines.extend(table.lines().map(str::to_owned));
        let cut = |line: String| match width {
            Some(width) => plain(&line).chars().take(width.into()).collect(),
            None => plain(&line),
        };
        lines.into_iter().map(|line| cut(line) + "\n").collect()
    }

    fn names(&self) -> Vec<String> {
        self.endpoints.iter().map(|e| e.name.clone()).collect()
    }
}

/// Three digits and the prefix of SI: `12.3k`.
fn scaled(value: u64) -> String {
    const PREFIXES: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let mut rest = value as f64;
    let mut prefix = 0;
    while rest >= 999.5 && prefix + 1 < PREFIXES.len() {
        rest /= 1000.0;
        prefix += 1;
    }
    let digits = match rest {
        _ if prefix == 0 => 0,
        rest if rest < 9.995 => 2,
        rest if rest < 99.95 => 1,
        _ => 0,
    };
    format!("{rest:.digits$}{}", PREFIXES[prefix])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown = [
            0,
            7,
            999,
            1000,
            9_994,
            9_996,
            12_345,
            999_499,
            999_500,
            12_000_000_000,
        ];
        let texts = shown.map(scaled);
        let wanted = [
            "0", "7", "999", "1.00k", "9.99k", "10.0k", "12.3k", "999k", "1.00M", "12.0G",
        ];
        assert_eq!(texts, wanted);
    }

    fn endpoint(name: &str, index: u32, counters: [u64; 5]) -> EndpointInfo {
        let [rx_bytes, rx_packets, tx_bytes, tx_packets, dropped_packets] = counters;
        let value = serde_json::json!({
            "name": name, "network": "front", "container_id": null, "netns": "n",
            "ifname": "eth0", "host_ifname": format!("nb{index}"), "host_ifindex": index,
            "mac": "02:00:00:00:00:01", "ipv4": null, "ipv6": null, "gateway": null,
            "gateway6": null, "mtu": 1500, "aliases": [], "links": [], "ports": [],
            "labels": {}, "rx_bytes": rx_bytes, "rx_packets": rx_packets,
            "tx_bytes": tx_bytes, "tx_packets": tx_packets,
            "dropped_packets": dropped_packets, "created_at": "2026-01-02T03:04:05Z",
            "dns": {"servers": [], "search": []},
        });
        serde_json::from_value(value).expect("an endpoint")
    }

    fn sample(at: u64, endpoints: Vec<EndpointInfo>, isolated: u64) -> Sample {
        let status = serde_json::json!({
            "version": "0", "node": "n1", "pid": 1, "kernel": "6.1", "uplinks": [],
            "programs": [], "maps": [
                {"name": "flows4", "entries": 6, "max_entries": 10},
                {"name": "flows6", "entries": 2, "max_entries": 10},
                {"name": "ports", "entries": 9, "max_entries": 10},
            ],
            "features": {}, "networks": 1, "endpoints": 2, "notes": [],
        });
        Sample {
            at: Duration::from_secs(at),
            time: "2026-01-02T03:04:05Z".into(),
            status: serde_json::from_value(status).expect("a status"),
            endpoints,
            drops: vec![DropInfo {
                reason: "isolated".into(),
                packets: isolated,
                description: String::new(),
            }],
        }
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let before = vec![
            endpoint("a", 1, [1000, 10, 0, 0, 1]),
            endpoint("b", 2, [0; 5]),
            // It is attached anew below.
            endpoint("c", 3, [9999, 99, 0, 0, 0]),
        ];
        let after = vec![
            endpoint("a", 1, [2000, 20, 500, 4, 3]),
            endpoint("b", 2, [0, 0, 8000, 6, 0]),
            endpoint("c", 4, [4, 2, 0, 0, 0]),
        ];
        let (before, after) = (sample(10, before, 4), sample(12, after, 10));
        let top = TopInfo::between(&before, &after, Order::Total);
        let names = |top: &TopInfo| top.names().join(" ");
        assert_eq!(names(&top), "b a c");
        let a = &top.endpoints[1].rates;
        assert_eq!((a.rx_rate, a.tx_rate), (4000, 2000));
        assert_eq!((a.rx_packet_rate, a.tx_packet_rate, a.drop_rate), (5, 2, 1));
        assert_eq!(top.endpoints[2].rates.rx_rate, 16);
        assert_eq!((top.flows, top.interval), (4, 2.0));
        assert_eq!(top.rates.rx_rate, 4016);
        // Two of the endpoint's are among the six of the reason.
        assert_eq!(top.rates.drop_rate, 3);
        for (order, wanted) in [
            (Order::Rx, "a c b"),
            (Order::Tx, "b a c"),
            (Order::Drops, "a b c"),
            (Order::Name, "a b c"),
        ] {
            assert_eq!(names(&TopInfo::between(&before, &after, order)), wanted);
        }
        let text = top.human(Some(40));
        assert!(text.lines().all(|line| line.len() <= 40), "{text}");
        assert!(text.contains("drops: isolated 3/s\n"), "{text}");
    }
}
