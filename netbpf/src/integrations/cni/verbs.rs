//! What each verb does: requests to the daemon.

use std::{path::Path, time::Duration};

use serde_json::Value;

use super::{
    call::{Call, Verb},
    config::{Config, Dns, Place},
    error::{CniError, Number},
    name,
    network::{self, Network},
    ports,
    result::{self, Expected},
    version::SpecVersion,
};
use crate::{
    client::{Client, ClientError},
    error::Code,
    integrations::{CallError, PATIENCE, held, in_time, is_refusal, open},
    model::{
        AttachSpec, CheckSpec, DetachSpec, DifferenceKind, EndpointFilter, EndpointInfo, Engine,
        EngineSpec, Labels, NetnsRef,
    },
    sys::process,
};

/// A daemon that is well says so at once.
const SOON: Duration = Duration::from_secs(5);

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
                "{} is of CNI {}, and the configuration of {}",
                call.verb.name(),
                since.as_str(),
                version.as_str()
            ),
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CniError::new(Number::InputOutput, format!("runtime: {e}")))?;
    let find = |named: Option<&Path>| Client::find(named.or(socket));
    match call.verb {
        Verb::Add => {
            let config = Config::read(configuration)?;
            let client = find(config.socket.as_deref());
            let add = add(call, version, config, &client);
            runtime.block_on(in_time(&client, PATIENCE, add))
        }
        Verb::Check => {
            let config = Config::read(configuration)?;
            let client = find(config.socket.as_deref());
            runtime.block_on(in_time(&client, PATIENCE, check(call, &config, &client)))
        }
        Verb::Del => {
            let place = Place::read(configuration)?;
            let client = find(place.socket.as_deref());
            runtime.block_on(del(call, place, &client))
        }
        Verb::Gc => {
            let place = Place::read(configuration)?;
            let client = find(place.socket.as_deref());
            runtime.block_on(in_time(&client, PATIENCE, gc(place, &client)))
        }
        Verb::Status => {
            let place = Place::read(configuration)?;
            let client = find(place.socket.as_deref());
            runtime.block_on(status(&client))
        }
        // Told without asking anybody.
        Verb::Version => Ok(None),
    }
}

async fn add(call: &Call, version: SpecVersion, config: Config, client: &Client) -> Done {
    let namespace = open(&call.netns);
    let mut spec = spec(call, &config)?;
    // What cannot be opened here, the daemon says.
    if let Some(namespace) = &namespace {
        spec.netns = NetnsRef::Opened(held(namespace, &call.netns));
    }
    let network = network::ensure(client, &config).await?;
    let added = attach_and_tell(call, version, &config, spec, client).await;
    if added.is_err() && network == Network::Made {
        // With nothing on it, and else it stays.
        _ = client.network_remove(&config.name).await;
    }
    added
}

async fn attach_and_tell(
    call: &Call,
    version: SpecVersion,
    config: &Config,
    spec: AttachSpec,
    client: &Client,
) -> Done {
    let endpoint = attach(call, config, spec, client).await?;
    let dns = config.dns().or_else(|| of_network(&endpoint));
    let before = config.prev_result.clone();
    let told = result::of_endpoint(version, before, &endpoint, &call.netns, dns.as_ref());
    match told {
        Ok(told) => Ok(Some(told.to_string())),
        Err(error) => {
            // Nothing is left of an attachment that could not be told.
            client
                .detach_of_engine(&meant(call, Some(&config.name)))
                .await?;
            Err(error)
        }
    }
}

/// Under the first name that is free.
async fn attach(
    call: &Call,
    config: &Config,
    mut spec: AttachSpec,
    client: &Client,
) -> Result<EndpointInfo, CniError> {
    let mut names = name::candidates(call).into_iter();
    spec.name = names.next().unwrap_or_default();
    let mut made_again = false;
    loop {
        let error = match client.attach(&spec).await {
            Ok(endpoint) => return Ok(endpoint),
            Err(error) => error,
        };
        if is_refusal(&error, Code::AlreadyExists)
            && let Some(name) = names.next()
        {
            spec.name = name;
        } else if is_refusal(&error, Code::NotFound)
            && !made_again
            && let Err(gone) = client.network(&config.name).await
            && is_refusal(&gone, Code::NotFound)
        {
            // Another container's ADD has failed and taken its network back.
            made_again = true;
            network::ensure(client, config).await?;
        } else {
            return Err(error.into());
        }
    }
}

/// What is asked for, but for the name.
fn spec(call: &Call, config: &Config) -> Result<AttachSpec, CniError> {
    // Pods of one name may be in several namespaces.
    let pod = call.args.pod_name.iter();
    let pod = pod.filter(|_| call.args.pod_namespace.is_none());
    let aliases = config.runtime_config.aliases.on(&config.name).iter();
    let mut aliases: Vec<String> = aliases.cloned().collect();
    // A name that the engine gave it, where it can be one in DNS, too.
    aliases.extend(pod.filter(|pod| name::is_name(pod)).cloned());
    let mut labels = config.args.cni.labels();
    labels.extend(labels_of_pod(call));
    Ok(AttachSpec {
        network: Some(config.name.clone()),
        ifname: Some(call.ifname.clone()),
        ips: config.ips(&call.args.ips)?,
        mac: config.mac(call.args.mac.as_deref()),
        publish: ports::specs(&config.runtime_config.port_mappings)?,
        aliases,
        labels,
        engine: Some(EngineSpec {
            kind: Engine::Cni,
            container_id: call.container_id.clone(),
            caller: process::parent_name(),
            holds_ports: !config.hold_ports.unwrap_or_else(|| !is_podman()),
        }),
        // Of the names that may be, the first free one.
        ..AttachSpec::new("", NetnsRef::Netns(call.netns.clone()))
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

/// The call's container and interface.
fn meant(call: &Call, network: Option<&str>) -> DetachSpec {
    DetachSpec {
        engine: Engine::Cni,
        container_id: Some(call.container_id.clone()),
        ifname: Some(call.ifname.clone()),
        network: network.map(str::to_owned),
        caller: None,
        except: Vec::new(),
    }
}

async fn del(call: &Call, place: Place, client: &Client) -> Done {
    let spec = meant(call, Some(&place.name));
    let work = async { Ok::<_, CallError>(client.detach_of_engine(&spec).await?) };
    match in_time(client, PATIENCE, work).await {
        Ok(_) => Ok(None),
        // What there is goes with the namespace, whenever the daemon comes back.
        Err(error) if error.is_away() => {
            eprintln!("netbpf-cni: {error}: left to be cleaned up when it is back");
            Ok(None)
        }
        Err(error) => Err(error.into()),
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
    let namespace = open(&call.netns);
    let namespace = namespace.as_ref().ok_or_else(|| {
        let message = format!("CNI_NETNS {:?} is no network namespace", call.netns);
        CniError::new(Number::UnknownContainer, message)
    })?;
    let spec = CheckSpec {
        network: Some(endpoint.network.clone()),
        netns: Some(held(namespace, &call.netns)),
    };
    let found = client.check(&endpoint.name, &spec).await?.into_iter();
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

/// Detaches what this runtime has attached to the network by CNI and does not know any
/// more; several runtimes may have containers on it.
async fn gc(place: Place, client: &Client) -> Done {
    let Some(valid) = place.valid_attachments.0 else {
        // An empty list would mean all of them.
        let message = "cni.dev/valid-attachments is missing";
        return Err(CniError::new(Number::InvalidConfiguration, message));
    };
    let spec = DetachSpec {
        engine: Engine::Cni,
        container_id: None,
        ifname: None,
        network: Some(place.name),
        caller: process::parent_name(),
        except: valid,
    };
    client.detach_of_engine(&spec).await?;
    Ok(None)
}

async fn status(client: &Client) -> Done {
    let work = async { Ok::<_, CallError>(client.version().await?) };
    match in_time(client, SOON, work).await {
        Ok(_) => Ok(None),
        Err(error) => Err(CniError::new(Number::NotAvailable, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A daemon that has its socket and does nothing, as systemd holds it for one that does
    /// not start. The time is the test's: nobody waits.
    async fn at_a_dead_socket<T>(work: impl AsyncFnOnce(Client) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("netbpf.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        tokio::time::pause();
        work(Client::new(socket)).await
    }

    fn call(verb: Verb) -> Call {
        Call {
            verb,
            container_id: "c1".into(),
            netns: "/nowhere".into(),
            ifname: "eth0".into(),
            args: Default::default(),
        }
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_is_away() {
        at_a_dead_socket(async |client| {
            let place = Place::read(json!({"name": "front"})).unwrap();
            assert_eq!(del(&call(Verb::Del), place, &client).await.unwrap(), None);

            let error = status(&client).await.unwrap_err();
            assert_eq!(error.number, Number::NotAvailable);

            let config = Config::read(json!({"name": "front"})).unwrap();
            let call = call(Verb::Add);
            let add = add(&call, SpecVersion::LATEST, config, &client);
            let error = in_time(&client, PATIENCE, add).await.unwrap_err();
            assert_eq!(error.number, Number::TryAgainLater);
            assert!(error.message.contains("within 30 s"), "{}", error.message);
        })
        .await;
    }
}
