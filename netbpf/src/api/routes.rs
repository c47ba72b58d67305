//! The routes, one handler each.

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    middleware,
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    Api, Done, MAX_BODY, Service, TeardownSpec, VersionInfo,
    guard::guard,
    reject::{Body, Params, Rejection, not_found, wrong_method},
};
use crate::model::*;

type Answer<T> = Result<Json<T>, Rejection>;
type Created<T> = Result<(StatusCode, Json<T>), Rejection>;

/// All of the API.
pub fn router<S: Service>(api: Api<S>) -> Router {
    let v1 = Router::new()
        .route("/networks", get(networks::<S>).post(network_create::<S>))
        .route(
            "/networks/prune",
            // A network may have that name, too.
            post(network_prune::<S>)
                .get(network_named_prune::<S>)
                .delete(remove_network_named_prune::<S>),
        )
        .route(
            "/networks/{name}",
            get(network::<S>).delete(network_remove::<S>),
        )
        .route("/endpoints", get(endpoints::<S>).post(attach::<S>))
        .route(
            "/endpoints/{name}",
            get(endpoint::<S>).delete(detach::<S>).patch(update::<S>),
        )
        .route(
            "/endpoints/{name}/ports",
            post(publish::<S>).delete(unpublish::<S>),
        )
        .route("/ports", get(ports::<S>))
        .route("/flows", get(flows::<S>))
        .route("/drops", get(drops::<S>))
        .route("/status", get(status::<S>))
        .route("/teardown", post(teardown::<S>))
        .route("/version", get(version));
    Router::new()
        .nest("/v1", v1)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(api.clone(), guard::<S>))
        .with_state(api)
}

/// `?network=NAME`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfNetwork {
    network: Option<String>,
}

/// `?endpoint=NAME`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfEndpoint {
    endpoint: Option<String>,
}

/// `?endpoint=NAME&network=NAME`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfBoth {
    endpoint: Option<String>,
    network: Option<String>,
}

/// Routes without a query refuse one: a misspelt filter must not list all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn networks<S: Service>(
    State(api): State<Api<S>>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<Vec<NetworkInfo>> {
    Ok(Json(api.service.networks().await?))
}

async fn network_create<S: Service>(
    State(api): State<Api<S>>,
    Body(spec): Body<NetworkSpec>,
) -> Created<NetworkInfo> {
    let made = api.service.network_create(spec).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn network<S: Service>(
    State(api): State<Api<S>>,
    Path(name): Path<String>,
) -> Answer<NetworkInfo> {
    Ok(Json(api.service.network(&name).await?))
}

async fn network_remove<S: Service>(
    State(api): State<Api<S>>,
    Path(name): Path<String>,
) -> Answer<Done> {
    api.service.network_remove(&name).await?;
    Ok(Json(Done {}))
}

async fn network_prune<S: Service>(State(api): State<Api<S>>) -> Answer<Vec<String>> {
    Ok(Json(api.service.network_prune().await?))
}

async fn network_named_prune<S: Service>(state: State<Api<S>>) -> Answer<NetworkInfo> {
    network(state, Path("prune".into())).await
}

async fn remove_network_named_prune<S: Service>(state: State<Api<S>>) -> Answer<Done> {
    network_remove(state, Path("prune".into())).await
}

async fn endpoints<S: Service>(
    State(api): State<Api<S>>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<Vec<EndpointInfo>> {
    Ok(Json(api.service.endpoints().await?))
}

async fn attach<S: Service>(
    State(api): State<Api<S>>,
    Body(spec): Body<AttachSpec>,
) -> Created<EndpointInfo> {
    let made = api.service.attach(spec).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn endpoint<S: Service>(
    State(api): State<Api<S>>,
    Path(name): Path<String>,
    Params(of): Params<OfNetwork>,
) -> Answer<Vec<EndpointInfo>> {
    Ok(Json(
        api.service.endpoint(&name, of.network.as_deref()).await?,
    ))
}

async fn detach<S: Service>(
    State(api): State<Api<S>>,
    Path(name): Path<String>,
    Params(of): Params<OfNetwork>,
) -> Answer<Vec<EndpointInfo>> {
    Ok(Json(
        api.service.detach(&name, of.network.as_deref()).await?,
    ))
}

async fn publish<S: Service>(
    State(api): State<Api<S>>,
    Path(name): Path<String>,
    Body(spec): Body<PublishSpec>,
) -> Answer<EndpointInfo> {
    Ok(Json(api.service.publish(&name, spec).await?))
}

async fn unpublish<S: Service>(
    State(api): State<Api<S>>,
    Path(name): Path<String>,
    Body(spec): Body<UnpublishSpec>,
) -> Answer<EndpointInfo> {
    Ok(Json(api.service.unpublish(&name, spec).await?))
}

async fn update<S: Service>(
    State(api): State<Api<S>>,
    Path(name): Path<String>,
    Body(spec): Body<UpdateSpec>,
) -> Answer<EndpointInfo> {
    Ok(Json(api.service.update(&name, spec).await?))
}

async fn ports<S: Service>(
    State(api): State<Api<S>>,
    Params(of): Params<OfEndpoint>,
) -> Answer<Vec<PortOf>> {
    Ok(Json(api.service.ports(of.endpoint.as_deref()).await?))
}

async fn flows<S: Service>(
    State(api): State<Api<S>>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<Vec<FlowInfo>> {
    Ok(Json(api.service.flows().await?))
}

async fn drops<S: Service>(
    State(api): State<Api<S>>,
    Params(of): Params<OfBoth>,
) -> Answer<Vec<DropInfo>> {
    let drops = api
        .service
        .drops(of.endpoint.as_deref(), of.network.as_deref());
    Ok(Json(drops.await?))
}

async fn status<S: Service>(
    State(api): State<Api<S>>,
    Params(Nothing {}): Params<Nothing>,
) -> Answer<StatusInfo> {
    Ok(Json(api.service.status().await?))
}

/// Takes all down; the daemon ends once this is answered. Where it fails the
/// daemon stays, so that it can be asked again.
async fn teardown<S: Service>(
    State(api): State<Api<S>>,
    Body(spec): Body<TeardownSpec>,
) -> Answer<Done> {
    api.service.teardown(spec.purge).await?;
    api.torn_down.send_replace(true);
    Ok(Json(Done {}))
}

async fn version() -> Json<VersionInfo> {
    Json(VersionInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        api: "v1".into(),
    })
}
