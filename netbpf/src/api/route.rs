//! What a route is: the one definition that the router and the OpenAPI document
//! are both made of. What a handler takes and answers is what the document says,
//! as both are the same types.

use std::{convert::Infallible, future::Future, sync::Arc};

use axum::{
    Json,
    body::Body as Stream,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request, State},
    http::{Method, StatusCode, header},
    response::IntoResponse,
    routing::{MethodFilter, MethodRouter, on},
};
use futures_util::{StreamExt, stream::BoxStream};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    Api, Service,
    reject::{Body, Params, Rejection},
};
use crate::error::{Error, Result};

/// The schema of a type, in the words of a generator.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One JSON value.
const JSON: &str = "application/json";
/// JSON values, one a line, as they come.
const LINES: &str = "application/x-ndjson";

/// One method of one path.
pub struct Route<S> {
    pub verb: Verb,
    /// Below `/v1`; `{name}` is a segment.
    pub path: &'static str,
    /// What it does.
    pub summary: &'static str,
    pub query: SchemaOf,
    pub body: Option<SchemaOf>,
    pub answer: SchemaOf,
    /// The type of its content.
    pub content: &'static str,
    /// It answers on a path that another route stands for already.
    pub is_alias: bool,
    pub handler: MethodRouter<Api<S>>,
}

/// What a route does, in the words of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Get,
    /// POST that answers 201.
    Create,
    Post,
    Patch,
    Delete,
}

impl Verb {
    pub const fn method(self) -> Method {
        match self {
            Verb::Get => Method::GET,
            Verb::Create | Verb::Post => Method::POST,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        }
    }

    /// Of success.
    pub const fn status(self) -> StatusCode {
        match self {
            Verb::Create => StatusCode::CREATED,
            Verb::Get | Verb::Post | Verb::Patch | Verb::Delete => StatusCode::OK,
        }
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Verb::Get => MethodFilter::GET,
            Verb::Create | Verb::Post => MethodFilter::POST,
            Verb::Patch => MethodFilter::PATCH,
            Verb::Delete => MethodFilter::DELETE,
        }
    }
}

/// What a handler is called with.
pub struct Call<Q = NoQuery, B = NoBody> {
    /// The path's segment `{name}`; empty where it has none.
    pub name: String,
    pub query: Q,
    pub body: B,
}

/// Routes without a query refuse one: a misspelt filter must not list all.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoQuery {}

/// Routes without a body leave it unread.
pub struct NoBody;

/// The body of a request, or none.
pub trait Input: Sized + Send + 'static {
    const SCHEMA: Option<SchemaOf>;

    fn read(request: Request) -> impl Future<Output = Result<Self, Rejection>> + Send;
}

impl Input for NoBody {
    const SCHEMA: Option<SchemaOf> = None;

    async fn read(_: Request) -> Result<Self, Rejection> {
        Ok(NoBody)
    }
}

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Input for T {
    const SCHEMA: Option<SchemaOf> = Some(schema_of::<T>);

    async fn read(request: Request) -> Result<Self, Rejection> {
        let Body(value) = Body::from_request(request, &()).await?;
        Ok(value)
    }
}

/// As it is referred to from within another.
pub fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl<S: Service> Route<S> {
    pub fn new<Q, B, A, F, W>(
        verb: Verb,
        path: &'static str,
        summary: &'static str,
        handler: F,
    ) -> Route<S>
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        B: Input,
        A: Serialize + JsonSchema + Send + 'static,
        F: Fn(Api<S>, Call<Q, B>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Result<A>> + Send,
    {
        let answers = move |State(api): State<Api<S>>, request: Request| {
            let handler = handler.clone();
            async move {
                let answer = handler(api, read(request).await?).await?;
                Ok::<_, Rejection>((verb.status(), Json(answer)).into_response())
            }
        };
        Route {
            verb,
            path,
            summary,
            query: schema_of::<Q>,
            body: B::SCHEMA,
            answer: schema_of::<A>,
            content: JSON,
            is_alias: false,
            handler: on(verb.filter(), answers),
        }
    }

    /// One that goes on answering, a line for each value, until the client goes or the
    /// daemon ends.
    pub fn stream<Q, A, F, W>(path: &'static str, summary: &'static str, handler: F) -> Route<S>
    where
        Q: DeserializeOwned + JsonSchema + Send + 'static,
        A: Serialize + JsonSchema + Send + Sync + 'static,
        F: Fn(Api<S>, Call<Q>) -> W + Clone + Send + Sync + 'static,
        W: Future<Output = Result<BoxStream<'static, Arc<A>>>> + Send,
    {
        let answers = move |State(api): State<Api<S>>, request: Request| {
            let handler = handler.clone();
            async move {
                let mut stopping = api.stopping.subscribe();
                let values = handler(api, read(request).await?).await?;
                let stopped = async move { stopping.wait_for(|stop| *stop).await.map(drop) };
                let lines = values
                    .filter_map(async |value| {
                        let mut line = serde_json::to_vec(&*value).ok()?;
                        line.push(b'\n');
                        Some(Ok::<_, Infallible>(line))
                    })
                    .take_until(Box::pin(stopped));
                let headers = [(header::CONTENT_TYPE, LINES)];
                let body = Stream::from_stream(lines);
                Ok::<_, Rejection>((headers, body).into_response())
            }
        };
        Route {
            verb: Verb::Get,
            path,
            summary,
            query: schema_of::<Q>,
            body: None,
            answer: schema_of::<A>,
            content: LINES,
            is_alias: false,
            handler: on(Verb::Get.filter(), answers),
        }
    }

    /// It answers on a path that another route stands for already.
    pub fn alias(mut self) -> Route<S> {
        self.is_alias = true;
        self
    }
}

async fn read<Q, B>(request: Request) -> Result<Call<Q, B>, Rejection>
where
    Q: DeserializeOwned + Send,
    B: Input,
{
    let (mut parts, body) = request.into_parts();
    let names = RawPathParams::from_request_parts(&mut parts, &())
        .await
        .map_err(|e| Error::invalid(format!("path: {e}")))?;
    let name = names.iter().next().map(|(_, name)| name.to_owned());
    let Params(query) = Params::from_request_parts(&mut parts, &()).await?;
    Ok(Call {
        name: name.unwrap_or_default(),
        query,
        body: B::read(Request::from_parts(parts, body)).await?,
    })
}
