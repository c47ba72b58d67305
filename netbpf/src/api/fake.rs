//! A [`Service`] in memory, for tests of API, client and daemon.

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, stream};
use netbpf_common::drop::DropReason;

use super::Service;
use crate::{
    control::EventStream,
    datapath::Stats,
    error::{Code, Error, Result},
    metrics::Figures,
    model::*,
    settings::Settings,
};

#[derive(Clone, Default)]
pub struct Fake {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    networks: Vec<NetworkInfo>,
    endpoints: Vec<EndpointInfo>,
    torn_down: Vec<bool>,
    shut_down: bool,
    reloaded: Vec<Settings>,
    drops_asked: Vec<(Option<String>, Option<String>)>,
    flows_asked: Vec<FlowFilter>,
    flushed: Vec<FlowFilter>,
    is_ill: bool,
}

impl Fake {
    /// With which `purge` it was torn down, each time.
    pub fn torn_down(&self) -> Vec<bool> {
        self.inner.lock().unwrap().torn_down.clone()
    }

    /// From now on its doctor finds an error.
    pub fn fall_ill(&self) {
        self.inner.lock().unwrap().is_ill = true;
    }

    /// Whether it was told to finish.
    pub fn shut_down(&self) -> bool {
        self.inner.lock().unwrap().shut_down
    }

    /// What it was told to go on with, each time.
    pub fn reloaded(&self) -> Vec<Settings> {
        self.inner.lock().unwrap().reloaded.clone()
    }

    /// The filters that flows were asked for with.
    pub fn flows_asked(&self) -> Vec<FlowFilter> {
        self.inner.lock().unwrap().flows_asked.clone()
    }

    /// The filters that flows were flushed with.
    pub fn flushed(&self) -> Vec<FlowFilter> {
        self.inner.lock().unwrap().flushed.clone()
    }

    /// The filters that drops were asked for with.
    pub fn drops_asked(&self) -> Vec<(Option<String>, Option<String>)> {
        self.inner.lock().unwrap().drops_asked.clone()
    }

    fn no_network(name: &str) -> Error {
        Error::new(Code::NotFound, format!("there is no network {name:?}"))
    }

    fn no_endpoint(name: &str) -> Error {
        Error::new(Code::NotFound, format!("there is no endpoint {name:?}"))
    }
}

fn matches(endpoint: &EndpointInfo, name: &str, network: Option<&str>) -> bool {
    endpoint.name == name && network.is_none_or(|network| endpoint.network == network)
}

/// A node as `node ls` might show it.
pub fn node(name: &str) -> NodeInfo {
    NodeInfo {
        name: name.into(),
        address: Some([192, 0, 2, 1].into()),
        state: NodeState::Alive,
        drained: false,
        this: name == "n1",
        mtu: Some(1500),
        version: "0.1.0".into(),
        blocks: Vec::new(),
        endpoints: 0,
    }
}

/// An endpoint as `attach` might answer it.
pub fn endpoint(spec: AttachSpec) -> EndpointInfo {
    EndpointInfo {
        name: spec.name,
        network: spec.network.unwrap_or_else(|| "default".into()),
        container_id: spec.engine.as_ref().map(|e| e.container_id.clone()),
        engine: spec.engine.as_ref().map(|e| e.kind),
        netns: match spec.netns {
            NetnsRef::Netns(path) => path,
            NetnsRef::Opened(open) => open.path,
            NetnsRef::Pid(pid) => format!("/proc/{pid}/ns/net"),
        },
        ifname: spec.ifname.unwrap_or_else(|| "eth0".into()),
        host_ifname: "nb1".into(),
        host_ifindex: 7,
        mac: "02:00:00:00:00:01".into(),
        ipv4: Some("172.20.0.2/20".into()),
        ipv6: None,
        gateway: Some([172, 20, 0, 1].into()),
        gateway6: None,
        default_route: true,
        default_route6: false,
        mtu: 1500,
        aliases: spec.aliases,
        links: spec.links,
        ports: ports(&spec.publish),
        labels: spec.labels,
        rx_bytes: 0,
        rx_packets: 0,
        tx_bytes: 0,
        tx_packets: 0,
        dropped_packets: 0,
        created_at: "2026-01-01T00:00:00Z".into(),
        dns: DnsInfo::default(),
    }
}

/// Only `HOST_PORT:CONTAINER_PORT`.
fn ports(specs: &[String]) -> Vec<PortInfo> {
    let ports = specs.iter().filter_map(|spec| {
        let (host, container) = spec.split_once(':')?;
        Some(PortInfo {
            protocol: Protocol::Tcp,
            host_ip: "*".into(),
            host_port: host.parse().ok()?,
            host_port_end: None,
            container_port: container.parse().ok()?,
            allow: Vec::new(),
            weight: 1,
            affinity: None,
        })
    });
    ports.collect()
}

impl Service for Fake {
    async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkInfo> {
        let mut inner = self.inner.lock().unwrap();
        if inner.networks.iter().any(|n| n.name == spec.name) {
            let message = format!("network {:?} exists already", spec.name);
            return Err(Error::new(Code::AlreadyExists, message));
        }
        let made = NetworkInfo {
            name: spec.name,
            driver: spec.driver,
            subnets: Vec::new(),
            mtu: spec.mtu.unwrap_or(1500),
            vni: None,
            internal: spec.internal,
            icc: spec.icc,
            masquerade: spec.masquerade,
            parent: None,
            labels: spec.labels,
            endpoints: Vec::new(),
        };
        inner.networks.push(made.clone());
        Ok(made)
    }

    async fn networks(&self) -> Result<Vec<NetworkInfo>> {
        Ok(self.inner.lock().unwrap().networks.clone())
    }

    /// A network called `panic` does, and `hang` never comes.
    async fn network(&self, name: &str) -> Result<NetworkInfo> {
        match name {
            "panic" => panic!("as the test asked for"),
            "hang" => pending().await,
            _ => {}
        }
        let inner = self.inner.lock().unwrap();
        let found = inner.networks.iter().find(|n| n.name == name);
        found.cloned().ok_or_else(|| Fake::no_network(name))
    }

    async fn network_remove(&self, name: &str) -> Result<()> {
        let mut inner = self.inner.lock().unwrap();
        let before = inner.networks.len();
        inner.networks.retain(|n| n.name != name);
        if inner.networks.len() == before {
            return Err(Fake::no_network(name));
        }
        Ok(())
    }

    async fn network_prune(&self) -> Result<Vec<String>> {
        let mut inner = self.inner.lock().unwrap();
        Ok(inner.networks.drain(..).map(|n| n.name).collect())
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        Ok(vec![node("n1"), node("n2")])
    }

    async fn node(&self, name: &str) -> Result<NodeInfo> {
        let mut nodes = self.nodes().await?.into_iter();
        nodes
            .find(|node| node.name == name)
            .ok_or_else(|| Error::new(Code::NotFound, format!("there is no node {name:?}")))
    }

    async fn node_remove(&self, name: &str) -> Result<()> {
        self.node(name).await.map(drop)
    }

    async fn node_drain(&self, name: &str, drained: bool) -> Result<NodeInfo> {
        let node = self.node(name).await?;
        Ok(NodeInfo { drained, ..node })
    }

    async fn attach(&self, spec: AttachSpec) -> Result<EndpointInfo> {
        let made = endpoint(spec);
        self.inner.lock().unwrap().endpoints.push(made.clone());
        Ok(made)
    }

    async fn detach(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let mut inner = self.inner.lock().unwrap();
        let all = std::mem::take(&mut inner.endpoints);
        let (gone, kept) = all.into_iter().partition(|e| matches(e, name, network));
        inner.endpoints = kept;
        Ok(gone)
    }

    async fn endpoints(&self, filter: EndpointFilter) -> Result<Vec<EndpointInfo>> {
        let mut all = self.inner.lock().unwrap().endpoints.clone();
        if let Some(network) = &filter.network {
            all.retain(|e| e.network == *network);
        }
        if let Some(id) = &filter.container_id {
            all.retain(|e| e.container_id.as_ref() == Some(id));
        }
        Ok(all)
    }

    async fn detach_of_engine(&self, spec: DetachSpec) -> Result<Vec<EndpointInfo>> {
        let mut inner = self.inner.lock().unwrap();
        let is_meant =
            |e: &EndpointInfo| e.engine == Some(spec.engine) && e.container_id == spec.container_id;
        let (gone, left) = inner.endpoints.drain(..).partition(is_meant);
        inner.endpoints = left;
        Ok(gone)
    }

    async fn check(&self, name: &str, spec: CheckSpec) -> Result<Vec<Difference>> {
        let found = self.endpoint(name, spec.network.as_deref()).await;
        found.map(|_| Vec::new())
    }

    async fn endpoint(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let inner = self.inner.lock().unwrap();
        let found: Vec<_> = inner
            .endpoints
            .iter()
            .filter(|e| matches(e, name, network))
            .cloned()
            .collect();
        if found.is_empty() {
            return Err(Fake::no_endpoint(name));
        }
        Ok(found)
    }

    async fn publish(&self, name: &str, spec: PublishSpec) -> Result<EndpointInfo> {
        let mut inner = self.inner.lock().unwrap();
        let found = inner
            .endpoints
            .iter_mut()
            .find(|e| matches(e, name, spec.network.as_deref()))
            .ok_or_else(|| Fake::no_endpoint(name))?;
        found.ports.extend(ports(&spec.publish));
        Ok(found.clone())
    }

    async fn update(&self, name: &str, spec: UpdateSpec) -> Result<EndpointInfo> {
        let found = self.endpoint(name, spec.network.as_deref()).await?;
        found
            .into_iter()
            .next()
            .ok_or_else(|| Fake::no_endpoint(name))
    }

    async fn unpublish(&self, name: &str, spec: UnpublishSpec) -> Result<EndpointInfo> {
        let mut inner = self.inner.lock().unwrap();
        let found = inner
            .endpoints
            .iter_mut()
            .find(|e| matches(e, name, spec.network.as_deref()))
            .ok_or_else(|| Fake::no_endpoint(name))?;
        let gone = ports(&spec.publish);
        found.ports.retain(|port| !gone.contains(port));
        Ok(found.clone())
    }

    async fn ports(&self, name: Option<&str>) -> Result<Vec<PortOf>> {
        let inner = self.inner.lock().unwrap();
        let of = inner
            .endpoints
            .iter()
            .filter(|e| name.is_none_or(|name| e.name == name));
        Ok(of
            .flat_map(|e| {
                e.ports.iter().map(|port| PortOf {
                    endpoint: e.name.clone(),
                    network: e.network.clone(),
                    ips: Vec::new(),
                    port: port.clone(),
                })
            })
            .collect())
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowInfo>> {
        self.inner.lock().unwrap().flows_asked.push(filter);
        Ok(Vec::new())
    }

    async fn flows_flush(&self, filter: FlowFilter) -> Result<FlushInfo> {
        self.inner.lock().unwrap().flushed.push(filter);
        Ok(FlushInfo {
            flows: 3,
            mappings: 1,
        })
    }

    async fn drops(&self, endpoint: Option<&str>, network: Option<&str>) -> Result<Vec<DropInfo>> {
        let asked = (endpoint.map(str::to_string), network.map(str::to_string));
        self.inner.lock().unwrap().drops_asked.push(asked);
        Ok(vec![DropInfo {
            reason: "spoofed_source".into(),
            packets: 3,
            description: "not the endpoint's own address".into(),
        }])
    }

    async fn events(&self, filter: EventFilter) -> Result<EventStream> {
        let event = EventInfo {
            time: "2026-01-02T03:04:05.000006Z".into(),
            event: EventKind::Drop,
            reason: Some("isolated".into()),
            endpoint: filter.endpoint,
            network: filter.network,
            device: Some("nb1".into()),
            kind: None,
            family: Some("ipv4".into()),
            protocol: Some("udp".into()),
            src: Some("10.0.0.1:1".into()),
            dst: Some("10.0.0.2:2".into()),
            reply_src: None,
            reply_dst: None,
            length: Some(60),
            lost: None,
        };
        // One event, and the end.
        Ok(stream::once(async { Arc::new(event) }).boxed())
    }

    async fn figures(&self) -> Result<Figures> {
        Ok(Figures {
            status: self.status().await?,
            networks: vec![("front".into(), 2), ("back".into(), 0)],
            endpoints: self.endpoints(EndpointFilter::default()).await?,
            total: Stats {
                rx_packets: 3,
                rx_bytes: 300,
                tx_packets: 2,
                tx_bytes: 100,
                dropped_packets: 1,
                ..Stats::default()
            },
            drops: vec![(DropReason::Isolated, 7)],
            events_lost: 5,
            repairs: vec![("route", 2)],
            overruns: 3,
        })
    }

    async fn status(&self) -> Result<StatusInfo> {
        Ok(StatusInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            node: "n1".into(),
            pid: std::process::id(),
            kernel: "6.1.0".into(),
            uplinks: Vec::new(),
            programs: Vec::new(),
            maps: Vec::new(),
            features: [("tcx".to_string(), "no: clsact".to_string())].into(),
            networks: 0,
            endpoints: 0,
            cluster: Some(ClusterInfo {
                state: "connected".into(),
                since: Some("2026-01-01T00:00:00Z".into()),
                url: Some("http://192.0.2.1:2379".into()),
                error: None,
                members: Vec::new(),
                revision: 7,
                nodes: 3,
                nodes_away: 1,
                drift_repaired: 0,
                tables_repaired: 0,
                unreadable: 0,
            }),
            notes: Vec::new(),
        })
    }

    async fn doctor(&self) -> Result<Vec<Finding>> {
        let finding = |check, severity, object: &str, advice: &str| Finding {
            check,
            severity,
            object: object.into(),
            message: "seen".into(),
            advice: advice.into(),
        };
        let mut all = vec![finding(Check::Kernel, Severity::Ok, "kernel", "")];
        if self.inner.lock().unwrap().is_ill {
            let advice = "restart the daemon";
            all.insert(0, finding(Check::Map, Severity::Error, "map ports", advice));
        }
        Ok(all)
    }

    async fn reload(&self, settings: Settings) -> Result<()> {
        self.inner.lock().unwrap().reloaded.push(settings);
        Ok(())
    }

    async fn teardown(&self, purge: bool) -> Result<()> {
        self.inner.lock().unwrap().torn_down.push(purge);
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.lock().unwrap().shut_down = true;
        Ok(())
    }
}
