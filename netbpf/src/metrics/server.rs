//! `/metrics` by HTTP, for whoever reaches the address.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{
        StatusCode,
        header::{CONNECTION, CONTENT_TYPE as TYPE},
    },
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tracing::warn;

use super::text;
use crate::{
    api::{Service, answer_all},
    error::{Code, Error, Result},
};

/// Prometheus' text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Scrapes at a time. Each is some work, and anybody may ask.
const CONNECTIONS: usize = 8;

/// Of one scrape. Prometheus gives up after ten seconds, unless it is told otherwise.
const TIME: Duration = Duration::from_secs(30);

/// Listens there.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let code = match e.kind() {
            io::ErrorKind::AddrInUse => Code::PortInUse,
            io::ErrorKind::AddrNotAvailable => Code::InvalidArgument,
            io::ErrorKind::PermissionDenied => Code::MissingCapability,
            _ => Code::Internal,
        };
        Error::new(
            code,
            format!("cannot listen on {address} for --metrics: {e}"),
        )
    })
}

/// Answers until `stop` is ready.
pub async fn serve<S: Service>(
    listener: TcpListener,
    service: S,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics::<S>))
        .fallback(async || (StatusCode::NOT_FOUND, "metrics are at /metrics\n"))
        // One answer a connection: few may be open, and who asks once a minute needs none
        // in between.
        .layer(middleware::map_response(async |answer: Response| {
            ([(CONNECTION, "close")], answer)
        }))
        .with_state(service);
    answer_all(listener, router, CONNECTIONS, Some(TIME), stop).await
}

async fn metrics<S: Service>(State(service): State<S>) -> Response {
    match service.figures().await.and_then(|figures| text(&figures)) {
        Ok(text) => ([(TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            warn!(%error, "no metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}
