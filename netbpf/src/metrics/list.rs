//! The metrics: name, meaning, and where each value comes from.

use netbpf_common::drop::DropReason;
use prometheus::{
    IntCounterVec, IntGaugeVec, Opts, TextEncoder, core::Collector,
    process_collector::ProcessCollector, proto::MetricFamily,
};

use super::Figures;
use crate::{
    error::{Error, Result},
    model::{ClusterInfo, EndpointInfo, PortInfo},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Never becomes less.
    Counter,
    Gauge,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    samples: fn(&Figures) -> Samples,
}

/// Values of the labels, and the value that they have.
type Samples = Vec<(Vec<String>, u64)>;

/// All of ours.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "netbpf_build_info",
        kind: Kind::Gauge,
        labels: &["version", "kernel", "node"],
        help: "1, and in the labels what runs where.",
        samples: |f| {
            let labels = [&f.status.version, &f.status.kernel, &f.status.node];
            vec![(labels.map(Clone::clone).to_vec(), 1)]
        },
    },
    Metric {
        name: "netbpf_forwarded_packets_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Packets that were carried into or out of containers; from one to another counts at both.",
        samples: |f| one(f.total.rx_packets + f.total.tx_packets),
    },
    Metric {
        name: "netbpf_forwarded_bytes_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Bytes of these packets.",
        samples: |f| one(f.total.rx_bytes + f.total.tx_bytes),
    },
    Metric {
        name: "netbpf_dropped_packets_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Packets that were dropped; the reasons are those of `netbpf drops`.",
        samples: dropped,
    },
    Metric {
        name: "netbpf_endpoints",
        kind: Kind::Gauge,
        labels: &["network"],
        help: "Endpoints on the network.",
        samples: |f| {
            let networks = f.networks.iter();
            networks
                .map(|(name, endpoints)| (vec![name.clone()], *endpoints as u64))
                .collect()
        },
    },
    Metric {
        name: "netbpf_cluster_connected",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while etcd answers, 0 while it does not; absent without a cluster.",
        samples: |f| of_cluster(f, |c| vec![(Vec::new(), u64::from(c.state == "connected"))]),
    },
    Metric {
        name: "netbpf_cluster_nodes",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Nodes that have registered, alive and away.",
        samples: |f| {
            of_cluster(f, |c| {
                let alive = c.nodes - c.nodes_away;
                let states = [("alive", alive), ("away", c.nodes_away)];
                let samples = states.map(|(state, nodes)| (vec![state.into()], nodes as u64));
                samples.into()
            })
        },
    },
    Metric {
        name: "netbpf_cluster_repairs_total",
        kind: Kind::Counter,
        labels: &["what"],
        help: "Entries found not to be as they should: what was known of etcd, and the programs' tables.",
        samples: |f| {
            of_cluster(f, |c| {
                let what = [("etcd", c.drift_repaired), ("tables", c.tables_repaired)];
                what.map(|(what, repairs)| (vec![what.into()], repairs))
                    .into()
            })
        },
    },
    Metric {
        name: "netbpf_endpoint_rx_packets_total",
        kind: Kind::Counter,
        labels: ENDPOINT,
        help: "Packets that the container has received, our answers among them.",
        samples: |f| each(f, |e| e.rx_packets),
    },
    Metric {
        name: "netbpf_endpoint_rx_bytes_total",
        kind: Kind::Counter,
        labels: ENDPOINT,
        help: "Bytes into the container.",
        samples: |f| each(f, |e| e.rx_bytes),
    },
    Metric {
        name: "netbpf_endpoint_tx_packets_total",
        kind: Kind::Counter,
        labels: ENDPOINT,
        help: "Packets that the container has sent, dropped ones among them.",
        samples: |f| each(f, |e| e.tx_packets),
    },
    Metric {
        name: "netbpf_endpoint_tx_bytes_total",
        kind: Kind::Counter,
        labels: ENDPOINT,
        help: "Bytes out of the container.",
        samples: |f| each(f, |e| e.tx_bytes),
    },
    Metric {
        name: "netbpf_endpoint_dropped_packets_total",
        kind: Kind::Counter,
        labels: ENDPOINT,
        help: "Packets of or to the container that were dropped.",
        samples: |f| each(f, |e| e.dropped_packets),
    },
    Metric {
        name: "netbpf_published_ports",
        kind: Kind::Gauge,
        labels: &["protocol"],
        help: "Ports of the host that lead to containers; a range counts each.",
        samples: published,
    },
    Metric {
        name: "netbpf_uplinks",
        kind: Kind::Gauge,
        labels: &[],
        help: "Devices by which the outside is reached.",
        samples: |f| one(f.status.uplinks.len() as u64),
    },
    Metric {
        name: "netbpf_map_entries",
        kind: Kind::Gauge,
        labels: &["map"],
        help: "Entries of a map (docs/maps.md); arrays and ring buffers have none to count.",
        samples: |f| {
            let maps = f.status.maps.iter();
            maps.filter_map(|map| Some((vec![map.name.clone()], map.entries?)))
                .collect()
        },
    },
    Metric {
        name: "netbpf_map_max_entries",
        kind: Kind::Gauge,
        labels: &["map"],
        help: "Entries that the map has room for; a ring buffer's are bytes.",
        samples: |f| {
            let maps = f.status.maps.iter();
            // What hangs on sockets has no size of its own.
            maps.filter(|map| map.max_entries > 0)
                .map(|map| (vec![map.name.clone()], map.max_entries))
                .collect()
        },
    },
    Metric {
        name: "netbpf_events_lost_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Events that `netbpf monitor` could not hear of, because the buffer was full.",
        samples: |f| one(f.events_lost),
    },
    Metric {
        name: "netbpf_repairs_total",
        kind: Kind::Counter,
        labels: &["kind"],
        help: "What others had undone on the host and the daemon put back since it started: address, forwarding, interface, neighbour, pin, program, route.",
        samples: |f| {
            let repairs = f.repairs.iter();
            repairs
                .map(|(kind, count)| (vec![(*kind).to_owned()], *count))
                .collect()
        },
    },
    Metric {
        name: "netbpf_netlink_overruns_total",
        kind: Kind::Counter,
        labels: &[],
        help: "How often more devices, addresses and routes changed at a time than the daemon could be told of, so that it looked at all of them.",
        samples: |f| one(f.overruns),
    },
    Metric {
        name: "netbpf_notes",
        kind: Kind::Gauge,
        labels: &[],
        help: "What `netbpf status` remarks on, such as an uplink that is awaited; 0 when all is well.",
        samples: |f| one(f.status.notes.len() as u64),
    },
];

const ENDPOINT: &[&str] = &["endpoint", "network"];

fn of_cluster(f: &Figures, samples: impl Fn(&ClusterInfo) -> Samples) -> Samples {
    f.status.cluster.as_ref().map(samples).unwrap_or_default()
}

fn one(value: u64) -> Samples {
    vec![(Vec::new(), value)]
}

fn each(figures: &Figures, value: fn(&EndpointInfo) -> u64) -> Samples {
    let endpoints = figures.endpoints.iter();
    endpoints
        .map(|e| (vec![e.name.clone(), e.network.clone()], value(e)))
        .collect()
}

/// Every reason, so that a counter does not begin with its first drop.
fn dropped(figures: &Figures) -> Samples {
    let count = |reason| {
        let mut counts = figures.drops.iter();
        counts
            .find(|(of, _)| *of == reason)
            .map_or(0, |(_, count)| *count)
    };
    let reasons = DropReason::ALL.iter();
    reasons
        .map(|&reason| (vec![reason.label().into()], count(reason)))
        .collect()
}

fn published(figures: &Figures) -> Samples {
    use crate::model::Protocol::{Sctp, Tcp, Udp};

    let ports = |port: &PortInfo| {
        let end = port.host_port_end.unwrap_or(port.host_port);
        u64::from(end - port.host_port) + 1
    };
    [(Tcp, "tcp"), (Udp, "udp"), (Sctp, "sctp")]
        .map(|(protocol, label)| {
            let all = figures.endpoints.iter().flat_map(|e| &e.ports);
            let of = all.filter(|port| port.protocol == protocol);
            (vec![label.to_owned()], of.map(ports).sum())
        })
        .into()
}

/// The metrics in Prometheus' text format 0.0.4.
pub fn text(figures: &Figures) -> Result<String> {
    let mut families = Vec::new();
    for metric in METRICS {
        families.extend(collect(metric, figures).map_err(Error::internal)?);
    }
    families.extend(ProcessCollector::for_self().collect());
    TextEncoder::new()
        .encode_to_string(&families)
        .map_err(Error::internal)
}

fn collect(metric: &Metric, figures: &Figures) -> prometheus::Result<Vec<MetricFamily>> {
    let samples = (metric.samples)(figures);
    // A family of nothing is no family to the encoder.
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    let options = Opts::new(metric.name, metric.help);
    match metric.kind {
        Kind::Counter => {
            let counter = IntCounterVec::new(options, metric.labels)?;
            for (labels, value) in &samples {
                counter.get_metric_with_label_values(labels)?.inc_by(*value);
            }
            Ok(counter.collect())
        }
        Kind::Gauge => {
            let gauge = IntGaugeVec::new(options, metric.labels)?;
            for (labels, value) in &samples {
                let value = i64::try_from(*value).unwrap_or(i64::MAX);
                gauge.get_metric_with_label_values(labels)?.set(value);
            }
            Ok(gauge.collect())
        }
    }
}
