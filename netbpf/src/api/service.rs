//! What the API needs of the code behind it. [`Control`] is the one that runs;
//! tests of API and client put a fake in its place.

use std::future::Future;

use crate::{
    control::{Control, EventStream},
    error::Result,
    metrics::Figures,
    model::*,
    settings::Settings,
};

/// The operations that the API offers; see [`Control`] for what each does.
pub trait Service: Clone + Send + Sync + 'static {
    fn network_create(&self, spec: NetworkSpec)
    -> impl Future<Output = Result<NetworkInfo>> + Send;
    fn networks(&self) -> impl Future<Output = Result<Vec<NetworkInfo>>> + Send;
    fn network(&self, name: &str) -> impl Future<Output = Result<NetworkInfo>> + Send;
    fn network_remove(&self, name: &str) -> impl Future<Output = Result<()>> + Send;
    fn network_prune(&self) -> impl Future<Output = Result<Vec<String>>> + Send;
    fn nodes(&self) -> impl Future<Output = Result<Vec<NodeInfo>>> + Send;
    fn node(&self, name: &str) -> impl Future<Output = Result<NodeInfo>> + Send;
    fn node_remove(&self, name: &str) -> impl Future<Output = Result<()>> + Send;
    fn node_drain(
        &self,
        name: &str,
        drained: bool,
    ) -> impl Future<Output = Result<NodeInfo>> + Send;
    fn attach(&self, spec: AttachSpec) -> impl Future<Output = Result<EndpointInfo>> + Send;
    fn detach(
        &self,
        name: &str,
        network: Option<&str>,
    ) -> impl Future<Output = Result<Vec<EndpointInfo>>> + Send;
    fn endpoints(
        &self,
        filter: EndpointFilter,
    ) -> impl Future<Output = Result<Vec<EndpointInfo>>> + Send;
    fn endpoint(
        &self,
        name: &str,
        network: Option<&str>,
    ) -> impl Future<Output = Result<Vec<EndpointInfo>>> + Send;
    fn detach_of_engine(
        &self,
        spec: DetachSpec,
    ) -> impl Future<Output = Result<Vec<EndpointInfo>>> + Send;
    fn check(
        &self,
        name: &str,
        spec: CheckSpec,
    ) -> impl Future<Output = Result<Vec<Difference>>> + Send;
    fn publish(
        &self,
        name: &str,
        spec: PublishSpec,
    ) -> impl Future<Output = Result<EndpointInfo>> + Send;
    fn unpublish(
        &self,
        name: &str,
        spec: UnpublishSpec,
    ) -> impl Future<Output = Result<EndpointInfo>> + Send;
    fn update(
        &self,
        name: &str,
        spec: UpdateSpec,
    ) -> impl Future<Output = Result<EndpointInfo>> + Send;
    fn ports(&self, name: Option<&str>) -> impl Future<Output = Result<Vec<PortOf>>> + Send;
    fn flows(&self, filter: FlowFilter) -> impl Future<Output = Result<Vec<FlowInfo>>> + Send;
    fn flows_flush(&self, filter: FlowFilter) -> impl Future<Output = Result<FlushInfo>> + Send;
    fn drops(
        &self,
        endpoint: Option<&str>,
        network: Option<&str>,
    ) -> impl Future<Output = Result<Vec<DropInfo>>> + Send;
    fn events(&self, filter: EventFilter) -> impl Future<Output = Result<EventStream>> + Send;
    /// What Prometheus reads.
    fn figures(&self) -> impl Future<Output = Result<Figures>> + Send;
    fn status(&self) -> impl Future<Output = Result<StatusInfo>> + Send;
    fn doctor(&self) -> impl Future<Output = Result<Vec<Finding>>> + Send;
    fn reload(&self, settings: Settings) -> impl Future<Output = Result<()>> + Send;
    fn teardown(&self, purge: bool) -> impl Future<Output = Result<()>> + Send;
    fn shutdown(&self) -> impl Future<Output = Result<()>> + Send;
}

impl Service for Control {
    async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkInfo> {
        Control::network_create(self, spec).await
    }

    async fn networks(&self) -> Result<Vec<NetworkInfo>> {
        Control::networks(self).await
    }

    async fn network(&self, name: &str) -> Result<NetworkInfo> {
        Control::network(self, name).await
    }

    async fn network_remove(&self, name: &str) -> Result<()> {
        Control::network_remove(self, name).await
    }

    async fn network_prune(&self) -> Result<Vec<String>> {
        Control::network_prune(self).await
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        Control::nodes(self).await
    }

    async fn node(&self, name: &str) -> Result<NodeInfo> {
        Control::node(self, name).await
    }

    async fn node_remove(&self, name: &str) -> Result<()> {
        Control::node_remove(self, name).await
    }

    async fn node_drain(&self, name: &str, drained: bool) -> Result<NodeInfo> {
        Control::node_drain(self, name, drained).await
    }

    async fn attach(&self, spec: AttachSpec) -> Result<EndpointInfo> {
        Control::attach(self, spec).await
    }

    async fn detach(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        Control::detach(self, name, network).await
    }

    async fn endpoints(&self, filter: EndpointFilter) -> Result<Vec<EndpointInfo>> {
        Control::endpoints(self, filter).await
    }

    async fn endpoint(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        Control::endpoint(self, name, network).await
    }

    async fn detach_of_engine(&self, spec: DetachSpec) -> Result<Vec<EndpointInfo>> {
        Control::detach_of_engine(self, spec).await
    }

    async fn check(&self, name: &str, spec: CheckSpec) -> Result<Vec<Difference>> {
        Control::check(self, name, spec).await
    }

    async fn publish(&self, name: &str, spec: PublishSpec) -> Result<EndpointInfo> {
        Control::publish(self, name, spec).await
    }

    async fn unpublish(&self, name: &str, spec: UnpublishSpec) -> Result<EndpointInfo> {
        Control::unpublish(self, name, spec).await
    }

    async fn update(&self, name: &str, spec: UpdateSpec) -> Result<EndpointInfo> {
        Control::update(self, name, spec).await
    }

    async fn ports(&self, name: Option<&str>) -> Result<Vec<PortOf>> {
        Control::ports(self, name).await
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Vec<FlowInfo>> {
        Control::flows(self, filter).await
    }

    async fn flows_flush(&self, filter: FlowFilter) -> Result<FlushInfo> {
        Control::flows_flush(self, filter).await
    }

    async fn drops(&self, endpoint: Option<&str>, network: Option<&str>) -> Result<Vec<DropInfo>> {
        Control::drops(self, endpoint, network).await
    }

    async fn events(&self, filter: EventFilter) -> Result<EventStream> {
        Control::events(self, filter).await
    }

    async fn figures(&self) -> Result<Figures> {
        Control::figures(self).await
    }

    async fn status(&self) -> Result<StatusInfo> {
        Control::status(self).await
    }

    async fn doctor(&self) -> Result<Vec<Finding>> {
        Control::doctor(self).await
    }

    async fn reload(&self, settings: Settings) -> Result<()> {
        Control::reload(self, settings).await
    }

    async fn teardown(&self, purge: bool) -> Result<()> {
        Control::teardown(self, purge).await
    }

    async fn shutdown(&self) -> Result<()> {
        Control::shutdown(self).await
    }
}
