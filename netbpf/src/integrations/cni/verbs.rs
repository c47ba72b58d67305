//! What each verb does: requests to the daemon.

use std::{
    collections::HashSet,
    future::Future,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use serde_json::Value;

use super::{
    call::{Call, Verb},
    config::{Config, Dns, Place},
    error::{CniError, Number},
    name, network, ports,
    result::{self, Expected},
    version::SpecVersion,
};
use crate::{
    client::{Client, ClientError},
    error::Code,
    integrations::{PATIENCE, is_away, is_refusal},
    model::{
        AttachSpec, DifferenceKind, EndpointFilter, EndpointInfo, Engine, EngineSpec, Labels,
        NetnsRef, OpenNetns,
    },
    sys::{netns::Namespace, process},
};

type Done = Result<Option<String>, CniError>;

/// Does what a call asks for; what is to be printed. The configuration's socket goes
/// before the one that was named otherwise.
pub fn run(call: &Call, version: SpecVersion, configuration: Value, socket: Option<&Path>) -> Done {
    let since = match call.verb {
        Verb::Check => SpecVersion::V0_4_0,
        Verb::Gc | Verb::Status => SpecVersion::V1_1_0,
        Verb::Add | Verb::Del | Verb::Version => SpecVersion::V0_3_1,
    };
    if version < since {
        return Err(CniError::new(
            Number::IncompatibleVersion,
            format!(
                "{:?} is of CNI {}, and the configuration of {}",
                call.verb,
                since.as_str(),
                version.as_str()
            ),
        ));
    }
    match call.verb {
        Verb::Add => {
            let config = Config::read(configuration)?;
            let client = Client::find(config.socket.as_deref().or(socket));
            in_time(&client, add(call, version, config, &client))
        }
        Verb::Check => {
            let config = Config::read(configuration)?;
            let client = Client::find(config.socket.as_deref().or(socket));
            in_time(&client, check(call, &config, &client))
        }
        Verb::Del => {
            let place = Place::read(configuration)?;
            let client = Client::find(place.socket.as_deref().or(socket));
            in_time(&client, del(call, &client))
        }
        Verb::Gc => {
            let place = Place::read(configuration)?;
            let client = Client::find(place.socket.as_deref().or(socket));
            in_time(&client, gc(&place, &client))
        }
        Verb::Status => {
            let place = Place::read(configuration)?;
            let client = Client::find(place.socket.as_deref().or(socket));
            in_time(&client, status(&client))
        }
        // Told without asking anybody.
        Verb::Version => Ok(None),
    }
}

/// Waits for the work, and not for ever: what a daemon has not answered then may be tried
/// again.
fn in_time(client: &Client, work: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CniError::new(Number::InputOutput, format!("runtime: {e}")))?;
    let limited = runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
    limited.unwrap_or_else(|_| {
        Err(CniError::new(
            Number::TryAgainLater,
            format!(
                "the daemon on {} did not answer within {} s",
                client.socket().display(),
                PATIENCE.as_secs()
            ),
        ))
    })
}

async fn add(call: &Call, version: SpecVersion, mut config: Config, client: &Client) -> Done {
    let mut spec = spec(call, &config)?;
    // The runtime's mounts, where its path leads, need not be the daemon's. What it cannot
    // be opened for here, the daemon says.
    let namespace = Namespace::open(Path::new(&call.netns)).ok();
    if let Some(namespace) = &namespace {
        spec.netns = NetnsRef::Opened(OpenNetns {
            path: call.netns.clone(),
            pid: std::process::id().cast_signed(),
            fd: namespace.as_fd().as_raw_fd(),
            inode: namespace.id().inode,
        });
    }
    network::ensure(client, &config).await?;
    let mut names = name::candidates(call).into_iter();
    spec.name = names.next().unwrap_or_default();
    let endpoint = loop {
        match client.attach(&spec).await {
            Ok(endpoint) => break endpoint,
            Err(error) if is_refusal(&error, Code::AlreadyExists) => match names.next() {
                Some(name) => spec.name = name,
                None => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        }
    };
    let dns = config.dns().or_else(|| of_network(&endpoint));
    let before = config.prev_result.take();
    let told = result::of_endpoint(version, before, &endpoint, &call.netns, dns.as_ref());
    match told {
        Ok(told) => Ok(Some(told.to_string())),
        Err(error) => {
            // Nothing is left of an attachment that could not be told.
            let network = Some(endpoint.network.as_str());
            client.detach(&endpoint.name, network).await?;
            Err(error)
        }
    }
}

/// What is asked for, but for the name.
fn spec(call: &Call, config: &Config) -> Result<AttachSpec, CniError> {
    let pod = call.args.pod_name.iter();
    let aliases = config.runtime_config.aliases.on(&config.name).iter();
    let mut aliases: Vec<String> = aliases.cloned().collect();
    // A name that the engine gave it, where it can be one in DNS, too.
    aliases.extend(pod.filter(|pod| name::is_name(pod)).cloned());
    let mut labels = config.args.cni.labels();
    labels.extend(labels_of_pod(call));
    Ok(AttachSpec {
        name: String::new(),
        network: Some(config.name.clone()),
        netns: NetnsRef::Netns(call.netns.clone()),
        ifname: Some(call.ifname.clone()),
        ips: config.ips(&call.args.ips)?,
        mac: config.mac(call.args.mac.as_deref()),
        publish: ports::specs(&config.runtime_config.port_mappings)?,
        share: false,
        publish_all: false,
        expose: Vec::new(),
        aliases,
        links: Vec::new(),
        labels,
        engine: Some(EngineSpec {
            kind: Engine::Cni,
            container_id: call.container_id.clone(),
            holds_ports: !config.hold_ports.unwrap_or_else(|| !is_podman()),
        }),
    })
}

/// Under the names that Kubernetes' runtimes use.
fn labels_of_pod(call: &Call) -> Labels {
    let args = &call.args;
    [
        ("io.kubernetes.pod.name", &args.pod_name),
        ("io.kubernetes.pod.namespace", &args.pod_namespace),
        ("io.kubernetes.pod.uid", &args.pod_uid),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
    .collect()
}

/// Podman, which calls us, has conmon listen on the published ports of the host.
fn is_podman() -> bool {
    process::parent_name().is_some_and(|name| name == "podman")
}

fn of_network(endpoint: &EndpointInfo) -> Option<Dns> {
    let dns = &endpoint.dns;
    let nameservers: Vec<_> = dns.servers.iter().map(ToString::to_string).collect();
    let is_there = !nameservers.is_empty() || !dns.search.is_empty();
    is_there.then(|| Dns {
        nameservers,
        search: dns.search.clone(),
        ..Dns::default()
    })
}

/// The attachments of the call's container and interface.
async fn attachments(call: &Call, client: &Client) -> Result<Vec<EndpointInfo>, ClientError> {
    let filter = EndpointFilter {
        container_id: Some(call.container_id.clone()),
        ..Default::default()
    };
    let mut found = client.endpoints(&filter).await?;
    found.retain(|e| e.engine == Some(Engine::Cni) && e.ifname == call.ifname);
    Ok(found)
}

async fn del(call: &Call, client: &Client) -> Done {
    let work = async {
        for endpoint in attachments(call, client).await? {
            let network = Some(endpoint.network.as_str());
            client.detach(&endpoint.name, network).await?;
        }
        Ok(None)
    };
    match work.await {
        // What there is goes with the namespace, whenever the daemon comes back.
        Err(error) if is_away(&error) => {
            eprintln!("netbpf-cni: {error}: left to be cleaned up when it is back");
            Ok(None)
        }
        done => done.map_err(CniError::from),
    }
}

async fn check(call: &Call, config: &Config, client: &Client) -> Done {
    let Some(before) = &config.prev_result else {
        let message = "prevResult is missing: CHECK compares with it";
        return Err(CniError::new(Number::InvalidConfiguration, message));
    };
    let expected = Expected::read(before, &call.ifname)?;
    let mut found = attachments(call, client).await?;
    found.retain(|e| e.network == config.name);
    let Some(endpoint) = found.first() else {
        return Err(CniError::new(
            Number::UnknownContainer,
            format!(
                "interface {:?} of container {:?} is not attached to network {:?}",
                call.ifname, call.container_id, config.name
            ),
        ));
    };
    let mut differs = Vec::new();
    if let Some(mac) = &expected.mac
        && !mac.eq_ignore_ascii_case(&endpoint.mac)
    {
        differs.push(format!("its MAC address is {}, not {mac}", endpoint.mac));
    }
    for (address, gateway, _) in result::families(endpoint) {
        let family = expected.addresses.iter();
        let mut family = family.filter(|a| a.addr().is_ipv4() == gateway.is_ipv4());
        if !family.any(|a| *a == address) {
            differs.push(format!("its address {address} is not in prevResult"));
        }
    }
    // A plug-in behind us may have taken our default routes out of the result.
    let has_routes = expected
        .routes
        .iter()
        .any(|dst| dst == "0.0.0.0/0" || dst == "::/0");
    let network = Some(endpoint.network.as_str());
    let found = client.check(&endpoint.name, network).await?.into_iter();
    let found = found.filter(|d| has_routes || d.what != DifferenceKind::Route);
    differs.extend(found.map(|d| d.message));
    match differs.is_empty() {
        true => Ok(None),
        false => Err(CniError::new(
            Number::NotAsMade,
            format!(
                "endpoint {:?} on network {:?}: {}",
                endpoint.name,
                endpoint.network,
                differs.join("; ")
            ),
        )),
    }
}

/// Detaches what CNI has attached to the network and the runtime does not know.
async fn gc(place: &Place, client: &Client) -> Done {
    let Some(valid) = &place.valid_attachments.0 else {
        // An empty list would mean all of them.
        let message = "cni.dev/valid-attachments is missing";
        return Err(CniError::new(Number::InvalidConfiguration, message));
    };
    let valid: HashSet<(&str, &str)> = valid
        .iter()
        .map(|a| (a.container_id.as_str(), a.ifname.as_str()))
        .collect();
    let filter = EndpointFilter {
        network: Some(place.name.clone()),
        ..Default::default()
    };
    let found = match client.endpoints(&filter).await {
        // Where there is no network, nothing is left of it.
        Err(error) if is_refusal(&error, Code::NotFound) => return Ok(None),
        found => found?,
    };
    let mut failed = Vec::new();
    for endpoint in found {
        let (Some(Engine::Cni), Some(id)) = (endpoint.engine, &endpoint.container_id) else {
            continue;
        };
        if valid.contains(&(id.as_str(), endpoint.ifname.as_str())) {
            continue;
        }
        let network = Some(endpoint.network.as_str());
        if let Err(error) = client.detach(&endpoint.name, network).await {
            failed.push(error);
        }
    }
    // One that fails keeps none of the others.
    match failed.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(None),
    }
}

async fn status(client: &Client) -> Done {
    match client.version().await {
        Ok(_) => Ok(None),
        Err(error) => Err(CniError::new(Number::NotAvailable, error.to_string())),
    }
}
