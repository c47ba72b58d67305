use std::{collections::BTreeSet, net::SocketAddr};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::*;
use crate::api::{Service, fake::Fake};

async fn fetch(address: SocketAddr, path: &str) -> (u16, String, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "metrics");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let of_type = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, of_type, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn metrics_are_served_and_nothing_else() {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Fake::default(), std::future::pending()));
    let (status, of_type, text) = fetch(address, "/metrics").await;
    assert_eq!((status, of_type.as_str()), (200, CONTENT_TYPE));
    for line in [
        "netbpf_forwarded_packets_total 5",
        "netbpf_forwarded_bytes_total 400",
        "netbpf_dropped_packets_total{reason=\"isolated\"} 7",
        "netbpf_dropped_packets_total{reason=\"martian\"} 0",
        "netbpf_endpoints{network=\"front\"} 2",
        "netbpf_events_lost_total 5",
        "netbpf_repairs_total{kind=\"route\"} 2",
        "netbpf_netlink_overruns_total 3",
        "# TYPE netbpf_forwarded_packets_total counter",
        "# TYPE netbpf_endpoints gauge",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
    let (status, _, text) = fetch(address, "/").await;
    assert_eq!((status, text.as_str()), (404, "metrics are at /metrics\n"));
}

/// Every metric that the dashboard asks for is one, and with labels that it has.
#[test]
fn the_dashboard_asks_for_what_is_there() {
    let text = include_str!("../../../packaging/grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().unwrap());
    let queries: Vec<&str> = targets.map(|t| t["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 10);
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut asked = BTreeSet::new();
    for query in queries {
        for word in query.split(|c| !is_of_name(c)) {
            if word.starts_with("netbpf_") {
                assert!(METRICS.iter().any(|m| m.name == word), "{word} in {query}");
                asked.insert(word);
            }
        }
    }
    let unasked: Vec<_> = METRICS.iter().filter(|m| !asked.contains(m.name)).collect();
    let unasked: Vec<_> = unasked.iter().map(|m| m.name).collect();
    assert_eq!(
        unasked,
        [
            "netbpf_endpoint_rx_packets_total",
            "netbpf_endpoint_tx_packets_total",
            "netbpf_uplinks"
        ],
        "the dashboard shows the rest"
    );
}

#[tokio::test]
async fn what_cannot_be_listened_on_is_said() {
    let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let taken = first.local_addr().unwrap();
    let error = bind(taken).await.unwrap_err();
    assert_eq!(error.code, crate::error::Code::PortInUse);
    assert!(error.message.contains(&taken.to_string()), "{error}");
    let error = bind("192.0.2.1:1".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.code, crate::error::Code::InvalidArgument);
}

#[tokio::test]
async fn each_metric_has_its_name_once_and_as_prometheus_wants_it() {
    let names: BTreeSet<_> = METRICS.iter().map(|m| m.name).collect();
    assert_eq!(names.len(), METRICS.len());
    let text = text(&Fake::default().figures().await.unwrap()).unwrap();
    for metric in METRICS {
        let is_counter = metric.kind.as_str() == "counter";
        assert_eq!(
            metric.name.ends_with("_total"),
            is_counter,
            "{}",
            metric.name
        );
        let samples = text.lines().filter(|l| l.starts_with(metric.name));
        let samples: Vec<_> = samples.collect();
        let is_of_endpoint = metric.labels.contains(&"endpoint");
        let may_be_none = is_of_endpoint || metric.labels == ["map"];
        assert!(!samples.is_empty() || may_be_none, "{}", metric.name);
        for sample in samples {
            let labels = metric.labels.iter();
            assert!(
                labels.clone().all(|l| sample.contains(&format!("{l}=\""))),
                "{sample}"
            );
        }
    }
}
