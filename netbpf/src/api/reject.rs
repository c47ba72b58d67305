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
use serde_json::Value;

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
        parse(&bytes).map(Body).map_err(Rejection::from)
    }
}

/// The value, or what is wrong with it: field, value, line and column.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut parser);
    let value = read.map_err(|e| {
        let path = e.path().to_string();
        let shown = value_at(bytes, e.path()).map_or(String::new(), |value| format!(" {value}"));
        match path.as_str() {
            "." => Error::invalid(format!("body: {}", e.inner())),
            path => Error::invalid(format!("body: {path}{shown}: {}", e.inner())),
        }
    })?;
    let end = parser.end();
    end.map_err(|e| Error::invalid(format!("body: {e}")))?;
    Ok(value)
}

/// What stands at that place, where it is short enough to be shown.
fn value_at(bytes: &[u8], path: &serde_path_to_error::Path) -> Option<Value> {
    use serde_path_to_error::Segment;

    let body: Value = serde_json::from_slice(bytes).ok()?;
    let value = path
        .iter()
        .try_fold(&body, |value, segment| match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            Segment::Enum { .. } | Segment::Unknown => None,
        })?;
    let is_short = !value.is_object() && value.to_string().len() <= 100;
    is_short.then(|| value.clone())
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
