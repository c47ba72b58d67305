//! Errors as HTTP answers, and extractors whose refusals are such errors.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use crate::error::{Code, Error};

/// A body that has not come by then is refused: it would hold a place among the
/// [requests](super::Limits) that run.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An error with the HTTP status that it is answered with.
#[derive(Debug)]
pub struct Rejection {
    status: StatusCode,
    error: Error,
}

impl Rejection {
    pub fn new(status: StatusCode, error: Error) -> Self {
        Rejection { status, error }
    }
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Rejection { status, error }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        (self.status, Json(self.error.body())).into_response()
    }
}

/// A JSON body. Its `Content-Type` is not asked for: there is no other kind,
/// and `curl -d` sends a wrong one.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Rejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, Rejection> {
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let error =
                    Error::invalid(format!("the body is larger than {} bytes", super::MAX_BODY));
                return Err(Rejection::new(StatusCode::PAYLOAD_TOO_LARGE, error));
            }
            Ok(Err(rejection)) => return Err(Error::invalid(rejection.body_text()).into()),
            Err(_) => {
                let error = Error::invalid(format!(
                    "the body did not come within {} s",
                    BODY_TIMEOUT.as_secs()
                ));
                return Err(Rejection::new(StatusCode::REQUEST_TIMEOUT, error));
            }
        };
        match Json::from_bytes(&bytes) {
            Ok(Json(value)) => Ok(Body(value)),
            Err(rejection) => {
                Err(Error::invalid(format!("body: {}", reason(&rejection.body_text()))).into())
            }
        }
    }
}

/// The query of the address.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Params(value)),
            Err(rejection) => {
                Err(Error::invalid(format!("query: {}", reason(&rejection.body_text()))).into())
            }
        }
    }
}

/// The text of a refusal without its general beginning ("Failed to … : "); what
/// is left names field, line and column.
fn reason(text: &str) -> &str {
    match text.split_once(": ") {
        Some((general, reason)) if general.starts_with("Failed to") => reason,
        _ => text,
    }
}

/// For addresses that are no route.
pub async fn not_found(request: Request) -> Rejection {
    let error = Error::new(
        Code::NotFound,
        format!("there is no {} in the API", request.uri().path()),
    );
    error.into()
}

/// For routes that do not have the method.
pub async fn wrong_method(request: Request) -> Rejection {
    let error = Error::invalid(format!(
        "{} is no method of {}",
        request.method(),
        request.uri().path()
    ));
    Rejection::new(StatusCode::METHOD_NOT_ALLOWED, error)
}
