//! The routes, one handler each.

use std::sync::LazyLock;

use axum::{Router, extract::DefaultBodyLimit, middleware};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::oneshot;

use super::{
    Api, Done, MAX_BODY, Service, TeardownSpec, VersionInfo,
    guard::guard,
    openapi,
    reject::{not_found, wrong_method},
    route::{Call, NoBody, NoQuery, Route, Verb},
};
use crate::{
    control::{Control, EventStream},
    error::{Code, Error, Result},
    model::*,
};

/// All of the API: the router and the OpenAPI document are made of this.
pub fn routes<S: Service>() -> Vec<Route<S>> {
    use Verb::{Create, Delete, Get, Patch, Post};

    vec![
        Route::new(Get, "/networks", "List the networks", networks),
        Route::new(Create, "/networks", "Make a network", network_create),
        Route::new(
            Post,
            "/networks/prune",
            "Remove all networks without endpoints, `default` aside; their names",
            network_prune,
        ),
        // A network may have that name, too.
        Route::new(
            Get,
            "/networks/prune",
            "Show a network",
            network_named_prune,
        )
        .alias(),
        Route::new(
            Delete,
            "/networks/prune",
            "Remove a network",
            remove_network_named_prune,
        )
        .alias(),
        Route::new(Get, "/networks/{name}", "Show a network", network),
        Route::new(
            Delete,
            "/networks/{name}",
            "Remove a network that has no endpoints",
            network_remove,
        ),
        Route::new(Get, "/nodes", "List the nodes", nodes),
        Route::new(Get, "/nodes/{name}", "Show a node", node),
        Route::new(
            Delete,
            "/nodes/{name}",
            "Remove a node that is away, with all that it had",
            node_remove,
        ),
        Route::new(
            Post,
            "/nodes/{name}/drain",
            "Let a node get no new endpoint on overlay networks, or let it again",
            node_drain,
        ),
        Route::new(Get, "/endpoints", "List the endpoints", endpoints),
        Route::new(Create, "/endpoints", "Connect a container", attach),
        Route::new(
            Get,
            "/endpoints/{name}",
            "Show the endpoints of a name, one for each network it is in",
            endpoint,
        ),
        Route::new(
            Delete,
            "/endpoints/{name}",
            "Disconnect a container, from all its networks or one; what was detached",
            detach,
        ),
        Route::new(
            Patch,
            "/endpoints/{name}",
            "Change allow list or weight of published ports in place",
            update,
        ),
        Route::new(
            Post,
            "/detach",
            "Disconnect what a container engine has attached; what was detached",
            detach_of_engine,
        ),
        Route::new(
            Post,
            "/endpoints/{name}/check",
            "Compare the endpoints of a name with what is in the kernel; what differs",
            check,
        ),
        Route::new(
            Post,
            "/endpoints/{name}/ports",
            "Publish ports of an endpoint, all or none",
            publish,
        ),
        Route::new(
            Delete,
            "/endpoints/{name}/ports",
            "Take back published ports",
            unpublish,
        ),
        Route::new(Get, "/ports", "List the published ports", ports),
        Route::new(Get, "/flows", "List the live connections", flows),
        Route::new(
            Delete,
            "/flows",
            "Forget live connections of containers, all or those that fit; how many",
            flows_flush,
        ),
        Route::new(Get, "/drops", "Count dropped packets by reason", drops),
        Route::stream(
            "/events",
            "Tell what happens from now on, one JSON object a line",
            events,
        ),
        Route::new(
            Get,
            "/status",
            "Show the daemon, its uplinks, programs and maps",
            status,
        ),
        Route::new(
            Get,
            "/doctor",
            "Look at kernel, settings, conflicts, host and maps; what is right and wrong, the most serious first",
            doctor,
        ),
        Route::new(
            Post,
            "/reload",
            "Read the configuration again, apply what can change and say what needs a restart",
            reload,
        ),
        Route::new(
            Post,
            "/teardown",
            "Remove the datapath; the daemon ends",
            teardown,
        ),
        Route::new(
            Get,
            "/version",
            "Show the version of daemon and API",
            version,
        ),
        Route::new(Get, "/openapi.json", "Show this document", document),
    ]
}

/// The router of all of them.
pub fn router<S: Service>(api: Api<S>) -> Router {
    let v1 = routes::<S>()
        .into_iter()
        .fold(Router::new(), |router, route| {
            router.route(route.path, route.handler)
        });
    Router::new()
        .nest("/v1", v1)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(api.clone(), guard::<S>))
        .with_state(api)
}

/// `?network=NAME`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfNetwork {
    /// On this network only.
    network: Option<String>,
}

/// `?endpoint=NAME`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfEndpoint {
    /// Of this endpoint only.
    endpoint: Option<String>,
}

/// `?endpoint=NAME&network=NAME`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfBoth {
    /// Of this endpoint only.
    endpoint: Option<String>,
    /// Of this network only.
    network: Option<String>,
}

async fn networks<S: Service>(api: Api<S>, _: Call) -> Result<Vec<NetworkInfo>> {
    api.service.networks().await
}

async fn network_create<S: Service>(
    api: Api<S>,
    call: Call<NoQuery, NetworkSpec>,
) -> Result<NetworkInfo> {
    api.service.network_create(call.body).await
}

async fn network<S: Service>(api: Api<S>, call: Call) -> Result<NetworkInfo> {
    api.service.network(&call.name).await
}

async fn network_remove<S: Service>(api: Api<S>, call: Call) -> Result<Done> {
    api.service.network_remove(&call.name).await?;
    Ok(Done {})
}

async fn network_prune<S: Service>(api: Api<S>, _: Call) -> Result<Vec<String>> {
    api.service.network_prune().await
}

async fn network_named_prune<S: Service>(api: Api<S>, _: Call) -> Result<NetworkInfo> {
    api.service.network("prune").await
}

async fn remove_network_named_prune<S: Service>(api: Api<S>, _: Call) -> Result<Done> {
    api.service.network_remove("prune").await?;
    Ok(Done {})
}

async fn nodes<S: Service>(api: Api<S>, _: Call) -> Result<Vec<NodeInfo>> {
    api.service.nodes().await
}

async fn node<S: Service>(api: Api<S>, call: Call) -> Result<NodeInfo> {
    api.service.node(&call.name).await
}

async fn node_remove<S: Service>(api: Api<S>, call: Call) -> Result<Done> {
    api.service.node_remove(&call.name).await?;
    Ok(Done {})
}

async fn node_drain<S: Service>(api: Api<S>, call: Call<NoQuery, DrainSpec>) -> Result<NodeInfo> {
    api.service.node_drain(&call.name, call.body.drained).await
}

async fn endpoints<S: Service>(
    api: Api<S>,
    call: Call<EndpointFilter>,
) -> Result<Vec<EndpointInfo>> {
    api.service.endpoints(call.query).await
}

async fn detach_of_engine<S: Service>(
    api: Api<S>,
    call: Call<NoQuery, DetachSpec>,
) -> Result<Vec<EndpointInfo>> {
    api.service.detach_of_engine(call.body).await
}

async fn check<S: Service>(api: Api<S>, call: Call<NoQuery, CheckSpec>) -> Result<Vec<Difference>> {
    api.service.check(&call.name, call.body).await
}

async fn attach<S: Service>(api: Api<S>, call: Call<NoQuery, AttachSpec>) -> Result<EndpointInfo> {
    api.service.attach(call.body).await
}

async fn endpoint<S: Service>(api: Api<S>, call: Call<OfNetwork>) -> Result<Vec<EndpointInfo>> {
    let network = call.query.network.as_deref();
    api.service.endpoint(&call.name, network).await
}

async fn detach<S: Service>(api: Api<S>, call: Call<OfNetwork>) -> Result<Vec<EndpointInfo>> {
    let network = call.query.network.as_deref();
    api.service.detach(&call.name, network).await
}

async fn publish<S: Service>(
    api: Api<S>,
    call: Call<NoQuery, PublishSpec>,
) -> Result<EndpointInfo> {
    api.service.publish(&call.name, call.body).await
}

async fn unpublish<S: Service>(
    api: Api<S>,
    call: Call<NoQuery, UnpublishSpec>,
) -> Result<EndpointInfo> {
    api.service.unpublish(&call.name, call.body).await
}

async fn update<S: Service>(api: Api<S>, call: Call<NoQuery, UpdateSpec>) -> Result<EndpointInfo> {
    api.service.update(&call.name, call.body).await
}

async fn ports<S: Service>(api: Api<S>, call: Call<OfEndpoint>) -> Result<Vec<PortOf>> {
    api.service.ports(call.query.endpoint.as_deref()).await
}

async fn flows<S: Service>(api: Api<S>, call: Call<FlowFilter>) -> Result<Vec<FlowInfo>> {
    api.service.flows(call.query).await
}

async fn flows_flush<S: Service>(api: Api<S>, call: Call<FlowFilter>) -> Result<FlushInfo> {
    api.service.flows_flush(call.query).await
}

async fn drops<S: Service>(api: Api<S>, call: Call<OfBoth>) -> Result<Vec<DropInfo>> {
    let OfBoth { endpoint, network } = call.query;
    let drops = api.service.drops(endpoint.as_deref(), network.as_deref());
    drops.await
}

async fn events<S: Service>(api: Api<S>, call: Call<EventFilter>) -> Result<EventStream> {
    api.service.events(call.query).await
}

async fn status<S: Service>(api: Api<S>, _: Call) -> Result<StatusInfo> {
    api.service.status().await
}

async fn doctor<S: Service>(api: Api<S>, _: Call) -> Result<Vec<Finding>> {
    api.service.doctor().await
}

async fn reload<S: Service>(api: Api<S>, _: Call<NoQuery, NoBody>) -> Result<ReloadInfo> {
    let (answer, answered) = oneshot::channel();
    let ends = || Error::new(Code::Unavailable, "the daemon is about to end");
    api.reloads.send(answer).await.map_err(|_| ends())?;
    answered.await.map_err(|_| ends())?
}

/// Takes all down; the daemon ends once this is answered. Where it fails the
/// daemon stays, so that it can be asked again.
async fn teardown<S: Service>(api: Api<S>, call: Call<NoQuery, TeardownSpec>) -> Result<Done> {
    api.service.teardown(call.body.purge).await?;
    api.torn_down.send_replace(true);
    Ok(Done {})
}

async fn version<S: Service>(_: Api<S>, _: Call) -> Result<VersionInfo> {
    Ok(VersionInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        api: "v1".into(),
    })
}

async fn document<S: Service>(_: Api<S>, _: Call) -> Result<Value> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| openapi::document(&routes::<Control>()));
    Ok(DOCUMENT.clone())
}
