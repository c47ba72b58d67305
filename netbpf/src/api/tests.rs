//! Every route over a real unix socket: through the client where it can ask
//! for it, else byte by byte.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::{fake::Fake, *};
use crate::{
    client::{Client, ClientError},
    model::*,
};

struct Daemon {
    client: Client,
    fake: Fake,
    busy: Busy,
    _socket: Socket,
    _dir: TempDir,
}

/// An API with a fake behind it; it ends with the test's runtime.
fn start() -> Daemon {
    start_with(Limits::default())
}

fn start_with(limits: Limits) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let mut socket = Socket::bind(&path, "").unwrap();
    let fake = Fake::default();
    let (api, _) = Api::with_limits(fake.clone(), limits);
    let busy = api.busy.clone();
    let listener = socket.listener().unwrap();
    tokio::spawn(serve(listener, api, std::future::pending()));
    Daemon {
        client: Client::new(path),
        fake,
        busy,
        _socket: socket,
        _dir: dir,
    }
}

impl Daemon {
    fn path(&self) -> PathBuf {
        self.client.socket().into()
    }

    /// Status, head and body of the answer to a request as it is written here.
    async fn raw(&self, method: &str, path: &str, body: &[u8]) -> (u16, String, Value) {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The daemon may refuse, and close, before it has read all.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_str(body).unwrap_or(Value::Null);
        (status, head.to_lowercase(), body)
    }

    /// The same where an error is expected: status, code, message.
    async fn refused(&self, method: &str, path: &str, body: &str) -> (u16, String, String) {
        let (status, _, answer) = self.raw(method, path, body.as_bytes()).await;
        let error: ErrorBody = serde_json::from_value(answer).unwrap();
        (status, error.error.code, error.error.message)
    }
}

fn attach(name: &str, network: &str, publish: &[&str]) -> AttachSpec {
    AttachSpec {
        network: Some(network.into()),
        publish: publish.iter().map(ToString::to_string).collect(),
        ..AttachSpec::new(name, NetnsRef::Pid(1))
    }
}

fn code(error: ClientError) -> String {
    match error {
        ClientError::Refused(info) => info.code,
        other => panic!("must be a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn networks() {
    let daemon = start();
    let client = &daemon.client;
    assert_eq!(client.networks().await.unwrap(), []);
    let spec = NetworkSpec {
        name: "a b/c".into(),
        icc: true,
        ..NetworkSpec::default()
    };
    let made = client.network_create(&spec).await.unwrap();
    assert!(made.icc && !made.masquerade);
    let again = client.network_create(&spec).await.unwrap_err();
    assert_eq!(code(again), "already_exists");
    assert_eq!(client.network("a b/c").await.unwrap(), made);
    assert_eq!(client.networks().await.unwrap(), [made]);
    client.network_remove("a b/c").await.unwrap();
    let gone = client.network_remove("a b/c").await.unwrap_err();
    assert_eq!(code(gone), "not_found");
}

#[tokio::test]
async fn a_network_may_be_called_prune() {
    let daemon = start();
    let client = &daemon.client;
    let spec = NetworkSpec {
        name: "prune".into(),
        ..NetworkSpec::default()
    };
    client.network_create(&spec).await.unwrap();
    assert_eq!(client.network("prune").await.unwrap().name, "prune");
    client.network_remove("prune").await.unwrap();
    client.network_create(&spec).await.unwrap();
    assert_eq!(client.network_prune().await.unwrap(), ["prune"]);
}

#[tokio::test]
async fn endpoints() {
    let daemon = start();
    let client = &daemon.client;
    let made = client.attach(&attach("web", "front", &[])).await.unwrap();
    client.attach(&attach("web", "back", &[])).await.unwrap();
    assert_eq!(
        client
            .endpoints(&EndpointFilter::default())
            .await
            .unwrap()
            .len(),
        2
    );
    assert_eq!(client.endpoint("web", None).await.unwrap().len(), 2);
    assert_eq!(client.endpoint("web", Some("front")).await.unwrap(), [made]);
    let missing = client.endpoint("db", None).await.unwrap_err();
    assert_eq!(code(missing), "not_found");
    assert_eq!(client.detach("web", Some("front")).await.unwrap().len(), 1);
    assert_eq!(client.detach("web", None).await.unwrap().len(), 1);
    assert_eq!(client.detach("web", None).await.unwrap(), []);
}

#[tokio::test]
async fn ports() {
    let daemon = start();
    let client = &daemon.client;
    client
        .attach(&attach("web", "front", &["8080:80"]))
        .await
        .unwrap();
    client
        .attach(&attach("db", "front", &["5432:5432"]))
        .await
        .unwrap();
    let spec = PublishSpec {
        network: Some("front".into()),
        publish: vec!["8443:443".into()],
        share: false,
    };
    let taken_back = UnpublishSpec {
        network: spec.network.clone(),
        publish: spec.publish.clone(),
        drain: None,
    };
    assert_eq!(client.publish("web", &spec).await.unwrap().ports.len(), 2);
    assert_eq!(client.ports(None).await.unwrap().len(), 3);
    assert_eq!(client.ports(Some("web")).await.unwrap().len(), 2);
    assert_eq!(
        client
            .unpublish("web", &taken_back)
            .await
            .unwrap()
            .ports
            .len(),
        1
    );
    let missing = client.publish("nobody", &spec).await.unwrap_err();
    assert_eq!(code(missing), "not_found");
}

#[tokio::test]
async fn what_can_be_seen() {
    let daemon = start();
    let client = &daemon.client;
    let filter = FlowFilter {
        endpoint: Some("a&b".into()),
        reply_dst: Some("[fd00::1]:80".into()),
        ..FlowFilter::default()
    };
    assert_eq!(client.flows(&filter).await.unwrap(), []);
    assert_eq!(daemon.fake.flows_asked(), std::slice::from_ref(&filter));
    assert_eq!(client.flows_flush(&filter).await.unwrap().flows, 3);
    assert_eq!(daemon.fake.flushed(), [filter]);
    assert_eq!(client.status().await.unwrap().node, "n1");
    let version = client.version().await.unwrap();
    assert_eq!(
        (version.version.as_str(), version.api.as_str()),
        (env!("CARGO_PKG_VERSION"), "v1")
    );
    client.drops(None, None).await.unwrap();
    client.drops(Some("a&b"), Some("ü")).await.unwrap();
    let expected = [(None, None), (Some("a&b".into()), Some("ü".into()))];
    assert_eq!(daemon.fake.drops_asked(), expected);
}

#[tokio::test]
async fn events_come_as_lines_until_the_end() {
    let daemon = start();
    let filter = EventFilter {
        drops: true,
        endpoint: Some("a&b".into()),
        network: None,
    };
    let mut lines = daemon.client.events(&filter).await.unwrap();
    let event: EventInfo = lines.next().await.unwrap();
    assert_eq!(event.endpoint, filter.endpoint);
    let end = lines.next::<EventInfo>().await.unwrap_err();
    assert!(matches!(end, ClientError::Lost { .. }), "{end}");
    assert!(end.to_string().ends_with("has ended"), "{end}");
    let (status, _, _) = daemon.refused("GET", "/v1/events?drops=maybe", "").await;
    assert_eq!(status, 400);
    let document = openapi();
    let answer = &document["paths"]["/v1/events"]["get"]["responses"]["200"]["content"];
    let schema = &answer["application/x-ndjson"]["schema"]["$ref"];
    assert_eq!(schema, "#/components/schemas/EventInfo");
}

#[tokio::test]
async fn statuses_of_success() {
    let daemon = start();
    let (status, head, body) = daemon.raw("POST", "/v1/networks", br#"{"name":"a"}"#).await;
    assert_eq!((status, &body["masquerade"]), (201, &json!(true)));
    assert!(head.contains("content-type: application/json"), "{head}");
    let (status, _, body) = daemon.raw("DELETE", "/v1/networks/a", b"").await;
    assert_eq!((status, body), (200, json!({})));
    let (status, _, body) = daemon.raw("POST", "/v1/teardown", b"{}").await;
    assert_eq!((status, body), (200, json!({})));
    assert_eq!(daemon.fake.torn_down(), [false]);
}

#[tokio::test]
async fn codes_have_their_status() {
    let daemon = start();
    let (status, code, message) = daemon.refused("GET", "/v1/networks/x", "").await;
    assert_eq!((status, code.as_str()), (404, "not_found"));
    assert!(message.contains("\"x\""), "{message}");
    daemon.raw("POST", "/v1/networks", br#"{"name":"a"}"#).await;
    let (status, code, _) = daemon
        .refused("POST", "/v1/networks", r#"{"name":"a"}"#)
        .await;
    assert_eq!((status, code.as_str()), (409, "already_exists"));
}

#[tokio::test]
async fn bad_bodies_are_told_where() {
    let daemon = start();
    let rows = [
        (
            "/v1/networks",
            r#"{"name":"a","subnt":[]}"#,
            "unknown field `subnt`",
        ),
        (
            "/v1/networks",
            r#"{"name":"a","subnets":["10.0.0.0/33"]}"#,
            "subnets[0] \"10.0.0.0/33\": ",
        ),
        ("/v1/networks", r#"{"name":"a",}"#, "line 1 column 13"),
        (
            "/v1/networks",
            "{\n\"name\":7}",
            "name 7: invalid type: integer `7`, expected a string at line 2",
        ),
        ("/v1/networks", "", "line 1 column 0"),
        ("/v1/networks", "{}", "missing field `name`"),
        ("/v1/networks", r#"{"name":"a"} x"#, "trailing characters"),
        (
            "/v1/endpoints",
            r#"{"name":"a","netns":{"pid":1},"ips":["1.2.3"]}"#,
            "ips[0] \"1.2.3\": ",
        ),
        ("/v1/endpoints", r#"{"name":"a"}"#, "missing field `netns`"),
        (
            "/v1/endpoints/a/ports",
            r#"{"publish":["1"],"shares":true}"#,
            "unknown field `shares`",
        ),
        ("/v1/teardown", r#"{"purge":1}"#, "purge 1: "),
    ];
    for (path, body, expected) in rows {
        let (status, code, message) = daemon.refused("POST", path, body).await;
        assert_eq!(
            (status, code.as_str()),
            (400, "invalid_argument"),
            "{body}: {message}"
        );
        assert!(message.contains(expected), "{body}: {message}");
    }
    assert!(daemon.fake.torn_down().is_empty());
}

#[tokio::test]
async fn bad_queries_are_refused() {
    let daemon = start();
    for path in [
        "/v1/networks?network=a",
        "/v1/endpoints?name=a",
        "/v1/endpoints/a?net=b",
        "/v1/ports?name=a",
        "/v1/drops?endpoint=a&x=b",
    ] {
        let (status, code, message) = daemon.refused("GET", path, "").await;
        assert_eq!((status, code.as_str()), (400, "invalid_argument"), "{path}");
        assert!(message.contains("unknown field"), "{path}: {message}");
    }
    for path in ["/v1/endpoints/a?net=b", "/v1/flows?port=80"] {
        let (status, ..) = daemon.refused("DELETE", path, "").await;
        assert_eq!(status, 400, "{path}");
    }
    assert_eq!(
        daemon.fake.flushed(),
        [],
        "a misspelt filter flushes nothing"
    );
}

#[tokio::test]
async fn unknown_routes_and_methods() {
    let daemon = start();
    for path in [
        "/",
        "/v1",
        "/v1/networks/",
        "/v1/nothing",
        "/v2/networks",
        "/v1/networks/a/b",
    ] {
        let (status, code, message) = daemon.refused("GET", path, "").await;
        assert_eq!((status, code.as_str()), (404, "not_found"), "{path}");
        assert!(message.contains(path), "{message}");
    }
    let (status, head, body) = daemon.raw("PUT", "/v1/networks", b"").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (405, &json!("invalid_argument"))
    );
    assert!(head.contains("allow: "), "{head}");
    let (status, ..) = daemon.refused("GET", "/v1/teardown", "").await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn oversized_bodies_are_refused() {
    let daemon = start();
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_BODY));
    let (status, code, message) = daemon.refused("POST", "/v1/networks", &body).await;
    assert_eq!((status, code.as_str()), (413, "invalid_argument"));
    assert!(message.contains("1048576"), "{message}");
    // Just within the limit.
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_BODY - 100));
    let (status, ..) = daemon.raw("POST", "/v1/networks", body.as_bytes()).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_daemon_goes_on() {
    let daemon = start();
    let (status, code, message) = daemon.refused("GET", "/v1/networks/panic", "").await;
    assert_eq!((status, code.as_str()), (500, "internal"));
    assert!(message.contains("/v1/networks/panic"), "{message}");
    daemon.client.status().await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_its_request() {
    let daemon = start();
    let hanging = daemon.client.network("hang");
    let gone = tokio::time::timeout(Duration::from_millis(50), hanging).await;
    assert!(gone.is_err());
    assert!(!daemon.busy.idle(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn one_connection_takes_several_requests() {
    let daemon = start();
    let mut stream = UnixStream::connect(daemon.path()).await.unwrap();
    let mut buffer = vec![0; 4096];
    for _ in 0..3 {
        let request = "GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_requests_is_closed() {
    let daemon = start();
    let mut stream = UnixStream::connect(daemon.path()).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let patience = began.elapsed();
    assert!((10..120).contains(&patience.as_secs()), "{patience:?}");
    daemon.client.status().await.unwrap();
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait() {
    let daemon = start_with(Limits {
        connections: 2,
        ..Limits::default()
    });
    let first = UnixStream::connect(daemon.path()).await.unwrap();
    let _second = UnixStream::connect(daemon.path()).await.unwrap();
    let asked = daemon.client.status();
    let asked = tokio::time::timeout(Duration::from_millis(50), asked).await;
    assert!(asked.is_err(), "it waits");
    drop(first);
    daemon.client.status().await.unwrap();
}

#[tokio::test]
async fn an_open_connection_does_not_hold_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let mut socket = Socket::bind(&path, "").unwrap();
    let (api, _) = Api::new(Fake::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = socket.listener().unwrap();
    let server = tokio::spawn(serve(listener, api, async {
        let _ = stopped.await;
    }));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let request = "GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    assert!(stream.read(&mut buffer).await.unwrap() > 0);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { drop(listener.accept().await) });
    let error = Client::new(&path).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "{error:?}");
    let error = Client::new(dir.path().join("none"))
        .status()
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::Unreachable { .. }),
        "{error:?}"
    );
}

/// What a route needs to be there: its methods by path, the document's and the
/// router's.
type Methods = std::collections::BTreeSet<(String, String)>;

fn documented() -> Methods {
    let document = openapi();
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| (path.clone(), method.to_uppercase()))
        })
        .collect()
}

#[tokio::test]
async fn the_document_has_every_route_and_the_router_every_path() {
    let table: Methods = routes::<Fake>()
        .iter()
        .filter(|route| !route.is_alias)
        .map(|route| {
            let method = route.verb.method().to_string();
            (format!("/v1{}", route.path), method)
        })
        .collect();
    assert_eq!(documented(), table);
    let daemon = start();
    for (path, method) in documented() {
        // `hang` and `panic` have a meaning to the fake.
        let path = path.replace("{name}", "anybody");
        let (status, _, body) = daemon.raw(&method, &path, b"").await;
        assert!(status != 405 && status != 501, "{method} {path}: {status}");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert!(
            !message.contains("in the API"),
            "{method} {path}: {message}"
        );
    }
    // And no method more than that.
    for path in ["/v1/networks", "/v1/status", "/v1/endpoints/a/ports"] {
        for method in ["PUT", "PATCH"] {
            assert_eq!(daemon.raw(method, path, b"").await.0, 405);
        }
    }
}

#[tokio::test]
async fn the_document_is_served_and_holds_together() {
    let daemon = start();
    let (status, _, served) = daemon.raw("GET", "/v1/openapi.json", b"").await;
    assert_eq!((status, &served), (200, &openapi()));
    assert_eq!(served["openapi"], "3.1.0");

    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in served["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(!operation["summary"].as_str().unwrap().is_empty());
            let no_parameters = Vec::new();
            let parameters = operation["parameters"].as_array();
            let in_path = parameters.unwrap_or(&no_parameters).iter();
            let in_path = in_path.filter(|parameter| parameter["in"] == "path");
            assert_eq!(
                in_path.count(),
                path.matches('{').count(),
                "{method} {path}"
            );
        }
    }
    references(&served, &mut |reference| {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(served.pointer(pointer).is_some(), "{reference} is nowhere");
    });
}

fn references(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if name == "$ref" => found(text),
                    field => references(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn too_many_changes_are_refused_with_the_time_to_come_again() {
    let daemon = start_with(Limits {
        burst: 2,
        per_second: 1,
        ..Limits::default()
    });
    for _ in 0..2 {
        assert_eq!(daemon.raw("POST", "/v1/networks/prune", b"").await.0, 200);
    }
    let (status, head, body) = daemon.raw("POST", "/v1/networks/prune", b"").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (429, &json!("too_many_requests"))
    );
    assert!(head.contains("retry-after: 1"), "{head}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("changes"), "{message}");
    // Who looks is let in, and the client waits for its turn.
    assert_eq!(daemon.raw("GET", "/v1/networks", b"").await.0, 200);
    assert_eq!(daemon.client.network_prune().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn more_requests_than_may_wait_are_refused() {
    let daemon = start_with(Limits {
        running: 1,
        waiting: 1,
        ..Limits::default()
    });
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut stream = UnixStream::connect(daemon.path()).await.unwrap();
        let request = "GET /v1/networks/hang HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        hanging.push(stream);
    }
    while daemon.busy.places() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = daemon.raw("GET", "/v1/version", b"").await;
    let (status, head, body) = answer;
    assert_eq!(
        (status, &body["error"]["code"]),
        (429, &json!("too_many_requests"))
    );
    assert!(head.contains("retry-after: "), "{head}");
}
