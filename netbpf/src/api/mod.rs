//! The HTTP API on the daemon's unix socket: routes, what they take and answer,
//! and the socket itself. Everything that changes something is handed to a
//! [`Service`]; nothing is decided here but what HTTP asks for.
//!
//! HTTP/1.1, paths under `/v1`, JSON both ways. An error is an
//! [`ErrorBody`](crate::model::ErrorBody) with the code's HTTP status.

mod guard;
mod reject;
mod routes;
mod service;
mod socket;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod tests;

use std::{future::Future, io};

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

pub use self::{guard::Busy, routes::router, service::Service, socket::Socket};

/// The largest body that is read.
pub const MAX_BODY: usize = 1024 * 1024;

/// Requests that are worked on at a time; more wait.
pub const MAX_REQUESTS: usize = 256;

/// `POST /v1/teardown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeardownSpec {
    /// Empties the state directory, too.
    #[serde(default)]
    pub purge: bool,
}

/// `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    pub version: String,
    /// Prefix of all paths.
    pub api: String,
}

/// `{}`: done, and there is nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// What the routes share.
#[derive(Clone)]
pub struct Api<S> {
    pub service: S,
    pub busy: Busy,
    /// Told when a teardown was answered, so that the daemon ends.
    pub torn_down: tokio::sync::watch::Sender<bool>,
}

impl<S: Service> Api<S> {
    pub fn new(service: S) -> Self {
        Api {
            service,
            busy: Busy::new(MAX_REQUESTS),
            torn_down: tokio::sync::watch::Sender::new(false),
        }
    }
}

/// Answers on `listener` until `stop` is ready and the connections that are
/// open then are done.
pub async fn serve<S: Service>(
    listener: UnixListener,
    api: Api<S>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(api))
        .with_graceful_shutdown(stop)
        .await
}
