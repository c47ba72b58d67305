//! The one way to change anything: validate, store the intent, plan, apply,
//! store the outcome.

use crate::{error::Result, model::*, settings::Settings};

/// The daemon's state; cheap to clone.
#[derive(Clone)]
pub struct Control {}

impl Control {
    /// Opens store and datapath, brings the kernel to what the store says and
    /// follows what changes.
    pub async fn start(settings: Settings) -> Result<Control> {
        let _ = settings;
        unimplemented!()
    }

    pub async fn network_create(&self, spec: NetworkSpec) -> Result<NetworkInfo> {
        let _ = spec;
        unimplemented!()
    }

    pub async fn networks(&self) -> Result<Vec<NetworkInfo>> {
        unimplemented!()
    }

    pub async fn network(&self, name: &str) -> Result<NetworkInfo> {
        let _ = name;
        unimplemented!()
    }

    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let _ = name;
        unimplemented!()
    }

    /// Removes networks without endpoints, `default` aside; returns their names.
    pub async fn network_prune(&self) -> Result<Vec<String>> {
        unimplemented!()
    }

    pub async fn attach(&self, spec: AttachSpec) -> Result<EndpointInfo> {
        let _ = spec;
        unimplemented!()
    }

    /// Idempotent; returns what was detached.
    pub async fn detach(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let _ = (name, network);
        unimplemented!()
    }

    pub async fn endpoints(&self) -> Result<Vec<EndpointInfo>> {
        unimplemented!()
    }

    /// The endpoints of a name: one per network, `not_found` when there is none.
    pub async fn endpoint(&self, name: &str, network: Option<&str>) -> Result<Vec<EndpointInfo>> {
        let _ = (name, network);
        unimplemented!()
    }

    pub async fn publish(&self, name: &str, spec: PublishSpec) -> Result<EndpointInfo> {
        let _ = (name, spec);
        unimplemented!()
    }

    pub async fn unpublish(&self, name: &str, spec: PublishSpec) -> Result<EndpointInfo> {
        let _ = (name, spec);
        unimplemented!()
    }

    pub async fn ports(&self, name: Option<&str>) -> Result<Vec<PortOf>> {
        let _ = name;
        unimplemented!()
    }

    pub async fn flows(&self) -> Result<Vec<FlowInfo>> {
        unimplemented!()
    }

    pub async fn drops(
        &self,
        endpoint: Option<&str>,
        network: Option<&str>,
    ) -> Result<Vec<DropInfo>> {
        let _ = (endpoint, network);
        unimplemented!()
    }

    pub async fn status(&self) -> Result<StatusInfo> {
        unimplemented!()
    }

    /// Removes every link, program, map, route and pin; with `purge` the state
    /// directory's content too. The daemon is to end afterwards.
    pub async fn teardown(&self, purge: bool) -> Result<()> {
        let _ = purge;
        unimplemented!()
    }

    /// The same without a running daemon, from the store and what is found.
    pub async fn teardown_offline(settings: &Settings, purge: bool) -> Result<()> {
        let _ = (settings, purge);
        unimplemented!()
    }
}
