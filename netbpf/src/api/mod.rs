//! The HTTP API on the daemon's unix socket: routes, what they take and answer,
//! and the socket itself. Everything that changes something is handed to a
//! [`Service`]; nothing is decided here but what HTTP asks for.
//!
//! HTTP/1.1, paths under `/v1`, JSON both ways. An error is an
//! [`ErrorBody`](crate::model::ErrorBody) with the code's HTTP status.

mod guard;
mod limits;
mod openapi;
mod reject;
mod route;
mod routes;
mod server;
mod service;
mod socket;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::{
    limits::{Busy, Limits},
    route::{Route, SchemaOf, Verb, schema_of},
    routes::{router, routes},
    server::{answer_all, serve},
    service::Service,
    socket::Socket,
};
use crate::{control::Control, error::Result, model::ReloadInfo};

/// The largest body that is read.
pub const MAX_BODY: usize = 1024 * 1024;

/// What a teardown takes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeardownSpec {
    /// Empties the state directory, too.
    #[serde(default)]
    pub purge: bool,
}

/// Which daemon and which API answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionInfo {
    pub version: String,
    /// Prefix of all paths.
    pub api: String,
}

/// Done, and there is nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {}

/// What the routes share.
#[derive(Clone)]
pub struct Api<S> {
    pub service: S,
    pub busy: Busy,
    /// Told when a teardown was answered, so that the daemon ends.
    pub torn_down: watch::Sender<bool>,
    /// True once the daemon ends: what would answer for ever is to end, too.
    pub stopping: watch::Sender<bool>,
    /// Asks the daemon to read its configuration again.
    pub reloads: mpsc::Sender<Reload>,
}

/// Where the answer to a reload goes.
pub type Reload = oneshot::Sender<Result<ReloadInfo>>;

impl<S: Service> Api<S> {
    /// The API, and what it asks the daemon for.
    pub fn new(service: S) -> (Self, mpsc::Receiver<Reload>) {
        Api::with_limits(service, Limits::default())
    }

    pub fn with_limits(service: S, limits: Limits) -> (Self, mpsc::Receiver<Reload>) {
        let (reloads, asked) = mpsc::channel(1);
        let api = Api {
            service,
            busy: Busy::new(limits),
            torn_down: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            reloads,
        };
        (api, asked)
    }
}

/// The OpenAPI document of the whole API.
pub fn openapi() -> Value {
    openapi::document(&routes::<Control>())
}
