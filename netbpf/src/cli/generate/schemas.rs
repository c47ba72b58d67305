//! JSON schemas of what the commands print with `-j`.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::{SchemaOf, schema_of},
    cli::{
        show::{Named, Nothing},
        top::TopInfo,
    },
    model::*,
};

/// One thing is an object, several are an array.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is asked for")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// The commands that print JSON, by their words, and `error` for what is on stderr.
pub const ANSWERS: [(&str, SchemaOf); 29] = [
    ("network create", schema_of::<NetworkInfo>),
    ("network ls", schema_of::<Vec<NetworkInfo>>),
    ("network inspect", schema_of::<NetworkInfo>),
    ("network rm", schema_of::<OneOrMany<Named>>),
    ("network prune", schema_of::<Vec<String>>),
    ("node ls", schema_of::<Vec<NodeInfo>>),
    ("node inspect", schema_of::<NodeInfo>),
    ("node rm", schema_of::<OneOrMany<Named>>),
    ("node drain", schema_of::<NodeInfo>),
    ("attach", schema_of::<EndpointInfo>),
    ("detach", schema_of::<Vec<EndpointInfo>>),
    ("ps", schema_of::<Vec<EndpointInfo>>),
    ("inspect", schema_of::<OneOrMany<EndpointInfo>>),
    ("publish", schema_of::<EndpointInfo>),
    ("unpublish", schema_of::<EndpointInfo>),
    ("update", schema_of::<EndpointInfo>),
    ("port", schema_of::<Vec<PortOf>>),
    ("status", schema_of::<StatusInfo>),
    ("flows", schema_of::<Vec<FlowInfo>>),
    ("flows flush", schema_of::<FlushInfo>),
    ("drops", schema_of::<Vec<DropInfo>>),
    ("monitor", schema_of::<EventInfo>),
    ("top", schema_of::<TopInfo>),
    ("doctor", schema_of::<Vec<Finding>>),
    ("reload", schema_of::<ReloadInfo>),
    ("daemon --check-config", schema_of::<Vec<SettingInfo>>),
    ("daemon --upgrade-check", schema_of::<Vec<UpgradeInfo>>),
    ("teardown", schema_of::<Nothing>),
    ("error", schema_of::<ErrorBody>),
];

/// Name (`network-create`) and schema of each.
pub fn all() -> Vec<(String, Value)> {
    ANSWERS
        .iter()
        .map(|(words, schema)| {
            let name = words.replace("--", "").replace(' ', "-");
            (name, document(words, *schema))
        })
        .collect()
}

fn document(words: &str, schema: SchemaOf) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let meta_schema = settings.meta_schema.clone();
    let mut generator = settings.into_generator();
    let schema = schema(&mut generator);
    let mut document = serde_json::Map::new();
    let title = match words {
        "error" => "netbpf -j, on stderr".into(),
        words => format!("netbpf {words} -j"),
    };
    document.insert("$schema".into(), meta_schema.as_deref().into());
    document.insert("title".into(), title.into());
    if let Value::Object(fields) = schema.to_value() {
        document.extend(fields);
    }
    let definitions = generator.take_definitions(true);
    if !definitions.is_empty() {
        document.insert("$defs".into(), definitions.into());
    }
    document.into()
}
