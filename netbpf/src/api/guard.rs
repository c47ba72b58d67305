//! What stands around every request: a bound on how many run at a time, and a
//! task of its own for each, so that a client that goes away does not leave an
//! operation half-done and a panic does not end the daemon.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::Semaphore;
use tracing::{debug, error};

use super::{Api, reject::Rejection};
use crate::error::Error;

/// Counts the requests that are being worked on.
#[derive(Clone)]
pub struct Busy {
    places: Arc<Semaphore>,
    max: u32,
}

impl Busy {
    pub fn new(max: usize) -> Self {
        Busy {
            places: Arc::new(Semaphore::new(max)),
            max: max as u32,
        }
    }

    /// Waits until no request is being worked on, also none whose client is
    /// gone; false when `limit` passes before.
    pub async fn idle(&self, limit: Duration) -> bool {
        let all = self.places.acquire_many(self.max);
        tokio::time::timeout(limit, all).await.is_ok()
    }
}

/// Runs the request in a task of its own, with a place of [`Busy`].
pub async fn guard<S: super::Service>(
    State(api): State<Api<S>>,
    request: Request,
    next: Next,
) -> Response {
    let what = format!("{} {}", request.method(), request.uri());
    let places = api.busy.places.clone();
    let task = tokio::spawn(async move {
        // Never closed, so it is always granted in the end.
        let _place = places.acquire_owned().await;
        next.run(request).await
    });
    match task.await {
        Ok(response) => {
            debug!(request = what, status = response.status().as_u16());
            response
        }
        Err(failed) => {
            error!(request = what, "{failed}");
            Rejection::from(Error::internal(format!(
                "{what}: the daemon failed, its log says more"
            )))
            .into_response()
        }
    }
}
