//! What stands around every request: the limits, and a task of its own for each,
//! so that a client that goes away does not leave an operation half-done and a
//! panic does not end the daemon.

use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::{debug, error};

use super::{Api, limits::TooMany, reject::Rejection};
use crate::error::{Code, Error};

/// Runs the request in a task of its own, within the limits.
pub async fn guard<S: super::Service>(
    State(api): State<Api<S>>,
    request: Request,
    next: Next,
) -> Response {
    let what = format!("{} {}", request.method(), request.uri());
    let admitted = match api.busy.admit(request.method()) {
        Ok(admitted) => admitted,
        Err(too_many) => {
            debug!(request = what, too_many = too_many.what);
            return refused(too_many);
        }
    };
    match tokio::spawn(admitted.run(next.run(request))).await {
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

fn refused(too_many: TooMany) -> Response {
    // Whole seconds, as the header has them.
    let seconds = too_many.retry_after.as_secs_f64().ceil().max(1.0) as u64;
    let message = format!("too many {}: try again in {seconds} s", too_many.what);
    let error = Error::new(Code::TooManyRequests, message);
    let mut response = Rejection::from(error).into_response();
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}
