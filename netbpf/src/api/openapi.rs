//! The OpenAPI document, made of the table of routes.

use std::collections::BTreeMap;

use schemars::{
    Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use super::{Service, route::Route};
use crate::{error::Code, model::ErrorBody};

/// Where the schemas of types are.
const SCHEMAS: &str = "/components/schemas";

/// OpenAPI 3.1 of these routes.
pub fn document<S: Service>(routes: &[Route<S>]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in routes.iter().filter(|route| !route.is_alias) {
        let methods = paths.entry(format!("/v1{}", route.path)).or_default();
        let method = route.verb.method().as_str().to_lowercase();
        methods.insert(method, operation(route, &mut schemas));
    }
    let error = schemas.error();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "netbpf",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of the netbpf daemon, on its unix socket. Whoever may \
                            open the socket may do all that is here.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{
            "url": "http://localhost",
            "description": "HTTP/1.1 on the unix socket, by default /run/netbpf/netbpf.sock",
        }],
        "security": [],
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": {"Error": error},
        },
    })
}

fn operation<S: Service>(route: &Route<S>, schemas: &mut Schemas) -> Value {
    let answer = (route.answer)(&mut schemas.answers);
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "responses": {
            route.verb.status().as_str(): {
                "description": "Done",
                "content": {route.content: {"schema": answer}},
            },
            "default": {"$ref": "#/components/responses/Error"},
        },
    });
    let parameters = parameters(route, schemas);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = route.body {
        let schema = body(&mut schemas.inputs);
        operation["requestBody"] = json!({
            "required": true,
            "content": {"application/json": {"schema": schema}},
        });
    }
    operation
}

/// `post_endpoints_name_ports`.
fn operation_id<S: Service>(route: &Route<S>) -> String {
    let path = route.path.replace(['{', '}'], "");
    let words = path.split(['/', '.']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    let method = route.verb.method().as_str().to_lowercase();
    format!("{method}_{}", words.join("_"))
}

fn parameters<S: Service>(route: &Route<S>, schemas: &mut Schemas) -> Vec<Value> {
    let mut parameters = Vec::new();
    if route.path.contains("{name}") {
        parameters.push(json!({
            "name": "name",
            "in": "path",
            "required": true,
            "schema": {"type": "string"},
        }));
    }
    let query = (route.query)(&mut schemas.inputs);
    let query = schemas.inline(query);
    let empty = Map::new();
    let fields = query.get("properties").and_then(Value::as_object);
    for (name, schema) in fields.unwrap_or(&empty) {
        let mut schema = schema.clone();
        // What is not said is left out of a query: it has no null.
        if let Value::Array(types) = &schema["type"]
            && let Some(first) = types.first()
        {
            schema["type"] = first.clone();
        }
        let description = schema.as_object_mut().and_then(|s| s.remove("description"));
        parameters.push(json!({
            "name": name,
            "in": "query",
            "description": description,
            "schema": schema,
        }));
    }
    parameters
}

/// What is taken and what is answered have generators of their own: a field that
/// may be left out of the one is always in the other.
struct Schemas {
    inputs: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let generator = |contract| {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
            settings.contract = contract;
            settings.into_generator()
        };
        Schemas {
            inputs: generator(Contract::Deserialize),
            answers: generator(Contract::Serialize),
        }
    }

    /// The answer of everything that fails.
    fn error(&mut self) -> Value {
        let schema = self.answers.subschema_for::<ErrorBody>();
        let codes: Vec<String> = Code::ALL
            .iter()
            .map(|code| format!("`{}` ({})", code.as_str(), code.http_status()))
            .collect();
        json!({
            "description": format!("Refused or failed; the codes are {}", codes.join(", ")),
            "content": {"application/json": {"schema": schema}},
        })
    }

    /// The definition that a schema refers to, which is taken out: a query is no
    /// type of the document's.
    fn inline(&mut self, schema: Schema) -> Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let name = reference.and_then(|path| path.rsplit('/').next());
        match name {
            Some(name) => self.inputs.definitions_mut().remove(name),
            None => Some(schema.to_value()),
        }
        .unwrap_or_default()
    }

    fn finish(mut self) -> Map<String, Value> {
        let mut all = self.inputs.take_definitions(true);
        for (name, schema) in self.answers.take_definitions(true) {
            debug_assert!(
                all.get(&name).is_none_or(|input| *input == schema),
                "{name} is taken and answered in two forms"
            );
            all.insert(name, schema);
        }
        all
    }
}
