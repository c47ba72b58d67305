//! A thin client of the API: one connection for each request.

mod transport;

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

pub use self::transport::{ClientError, Lines};
use crate::{
    api::{Done, TeardownSpec, VersionInfo},
    model::*,
};

pub type Result<T> = std::result::Result<T, ClientError>;

/// Speaks to the daemon behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Where the daemon listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/netbpf/netbpf.sock";

impl Client {
    /// Of the socket that is named, or that `NETBPF_SOCKET` names, or the default one.
    pub fn find(named: Option<&Path>) -> Self {
        let from_environment = || std::env::var_os("NETBPF_SOCKET").filter(|path| !path.is_empty());
        Client::new(
            named
                .map(PathBuf::from)
                .or_else(|| from_environment().map(PathBuf::from))
                .unwrap_or_else(|| DEFAULT_SOCKET.into()),
        )
    }

    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Client {
            socket: socket.into(),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn network_create(&self, spec: &NetworkSpec) -> Result<NetworkInfo> {
        self.send("POST", "/v1/networks", Some(spec)).await
    }

    pub async fn networks(&self) -> Result<Vec<NetworkInfo>> {
        self.get("/v1/networks").await
    }

    pub async fn network(&self, name: &str) -> Result<NetworkInfo> {
        self.get(&format!("/v1/networks/{}", encode(name))).await
    }

    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let path = format!("/v1/networks/{}", encode(name));
        let Done {} = self.send("DELETE", &path, NO_BODY).await?;
        Ok(())
    }

    pub async fn network_prune(&self) -> Result<Vec<String>> {
        self.send("POST", "/v1/networks/prune", NO_BODY).await
    }

    pub async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        self.get("/v1/nodes").await
    }

    pub async fn node(&self, name: &str) -> Result<NodeInfo> {
        self.get(&format!("/v1/nodes/{}", encode(name))).await
    }

    pub async fn node_remove(&self, name: &str) -> Result<()> {
        let path = format!("/v1/nodes/{}", encode(name));
        let Done {} = self.send("DELETE", &path, NO_BODY).await?;
        Ok(())
    }

    pub async fn node_drain(&self, name: &str, drained: bool) -> Result<NodeInfo> {
        let path = format!("/v1/nodes/{}/drain", encode(name));
        self.send("POST", &path, Some(&DrainSpec { drained })).await
    }

    pub async fn attach(&self, spec: &AttachSpec) -> Result<EndpointInfo> {
        self.send("POST", "/v1/endpoints", Some(spec)).await
    }

    pub async fn detach(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let path = format!(
            "/v1/endpoints/{}{}",
            encode(name),
            query(&[("network", network)])
        );
        self.send("DELETE", &path, NO_BODY).await
    }

    pub async fn endpoints(&self, filter: &EndpointFilter) -> Result<Vec<EndpointInfo>> {
        let EndpointFilter {
            network,
            container_id,
        } = filter;
        let query = query(&[
            ("network", network.as_deref()),
            ("container_id", container_id.as_deref()),
        ]);
        self.get(&format!("/v1/endpoints{query}")).await
    }

    /// What of the endpoints of a name is not as it was made.
    pub async fn check(&self, name: &str, spec: &CheckSpec) -> Result<Vec<Difference>> {
        let path = format!("/v1/endpoints/{}/check", encode(name));
        self.send("POST", &path, Some(spec)).await
    }

    /// Takes away what a container engine has attached.
    pub async fn detach_of_engine(&self, spec: &DetachSpec) -> Result<Vec<EndpointInfo>> {
        self.send("POST", "/v1/detach", Some(spec)).await
    }

    pub async fn endpoint(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let query = query(&[("network", network)]);
        self.get(&format!("/v1/endpoints/{}{query}", encode(name)))
            .await
    }

    pub async fn publish(&self, name: &str, spec: &PublishSpec) -> Result<EndpointInfo> {
        let path = format!("/v1/endpoints/{}/ports", encode(name));
        self.send("POST", &path, Some(spec)).await
    }

    pub async fn unpublish(&self, name: &str, spec: &UnpublishSpec) -> Result<EndpointInfo> {
        let path = format!("/v1/endpoints/{}/ports", encode(name));
        self.send("DELETE", &path, Some(spec)).await
    }

    pub async fn update(&self, name: &str, spec: &UpdateSpec) -> Result<EndpointInfo> {
        let path = format!("/v1/endpoints/{}", encode(name));
        self.send("PATCH", &path, Some(spec)).await
    }

    pub async fn ports(&self, endpoint: Option<&str>) -> Result<Vec<PortOf>> {
        let query = query(&[("endpoint", endpoint)]);
        self.get(&format!("/v1/ports{query}")).await
    }

    pub async fn flows(&self, filter: &FlowFilter) -> Result<Vec<FlowInfo>> {
        self.get(&format!("/v1/flows{}", of_flows(filter))).await
    }

    pub async fn flows_flush(&self, filter: &FlowFilter) -> Result<FlushInfo> {
        let path = format!("/v1/flows{}", of_flows(filter));
        self.send("DELETE", &path, NO_BODY).await
    }

    pub async fn drops(
        &self,
        endpoint: Option<&str>,
        network: Option<&str>,
    ) -> Result<Vec<DropInfo>> {
        let query = query(&[("endpoint", endpoint), ("network", network)]);
        self.get(&format!("/v1/drops{query}")).await
    }

    /// Events from now on, until the daemon ends.
    pub async fn events(&self, filter: &EventFilter) -> Result<Lines> {
        let drops = filter.drops.then_some("true");
        let query = query(&[
            ("drops", drops),
            ("endpoint", filter.endpoint.as_deref()),
            ("network", filter.network.as_deref()),
        ]);
        transport::lines(&self.socket, &format!("/v1/events{query}")).await
    }

    pub async fn status(&self) -> Result<StatusInfo> {
        self.get("/v1/status").await
    }

    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        self.get("/v1/doctor").await
    }

    pub async fn teardown(&self, purge: bool) -> Result<()> {
        let spec = TeardownSpec { purge };
        let Done {} = self.send("POST", "/v1/teardown", Some(&spec)).await?;
        Ok(())
    }

    pub async fn reload(&self) -> Result<ReloadInfo> {
        self.send("POST", "/v1/reload", NO_BODY).await
    }

    pub async fn version(&self) -> Result<VersionInfo> {
        self.get("/v1/version").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send("GET", path, NO_BODY).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&B>,
    ) -> Result<T> {
        transport::request(&self.socket, method, path, body).await
    }
}

const NO_BODY: Option<&()> = None;

/// A name as one segment of a path or as a value of a query.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte.into());
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The query of those values that are given.
fn query(values: &[(&str, Option<&str>)]) -> String {
    let mut out = String::new();
    for (key, value) in values {
        if let Some(value) = value {
            out.push(if out.is_empty() { '?' } else { '&' });
            out.push_str(&format!("{key}={}", encode(value)));
        }
    }
    out
}

/// The query of a filter of flows.
fn of_flows(filter: &FlowFilter) -> String {
    let FlowFilter {
        endpoint,
        network,
        protocol,
        state,
        kind,
        src,
        dst,
        reply_src,
        reply_dst,
    } = filter;
    query(&[
        ("endpoint", endpoint.as_deref()),
        ("network", network.as_deref()),
        ("protocol", protocol.as_deref()),
        ("state", state.as_deref()),
        ("kind", kind.as_deref()),
        ("src", src.as_deref()),
        ("dst", dst.as_deref()),
        ("reply_src", reply_src.as_deref()),
        ("reply_dst", reply_dst.as_deref()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_segment() {
        assert_eq!(encode("web-1.a_b~"), "web-1.a_b~");
        assert_eq!(encode("a/b c?ü"), "a%2Fb%20c%3F%C3%BC");
    }

    #[test]
    fn query_holds_what_is_given() {
        assert_eq!(query(&[("endpoint", None), ("network", None)]), "");
        assert_eq!(
            query(&[("endpoint", None), ("network", Some("a&b"))]),
            "?network=a%26b"
        );
        assert_eq!(
            query(&[("endpoint", Some("web")), ("network", Some("front"))]),
            "?endpoint=web&network=front"
        );
    }
}
