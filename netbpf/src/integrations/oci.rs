//! The hook of OCI runtimes: `createRuntime` attaches the container that a runtime has
//! made, as its annotations say, and `poststop` detaches it. The runtime hands the
//! container's state over on standard input (OCI runtime specification, "State").

use std::collections::BTreeMap;

use serde::Deserialize;
use tracing::warn;

use super::is_away;
use crate::{
    client::{Client, ClientError},
    error::Error,
    model::{AttachSpec, EndpointFilter, Engine, EngineSpec, Labels, NetnsRef},
};

/// When a runtime calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The namespaces are there, the container's program is not started.
    CreateRuntime,
    /// The container is gone.
    Poststop,
}

/// Why the container is not to run.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Refused(#[from] Error),
}

/// What a runtime tells of a container.
#[derive(Debug, Deserialize)]
struct State {
    id: String,
    /// Of the container's first process, as the runtime sees it.
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// What the annotations ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wishes {
    /// `default` where none is named.
    networks: Vec<String>,
    name: Option<String>,
    ifname: Option<String>,
    ips: Vec<std::net::IpAddr>,
    mac: Option<String>,
    publish: Vec<String>,
    share: bool,
    aliases: Vec<String>,
    links: Vec<String>,
    labels: Labels,
}

/// All of ours begin so.
const PREFIX: &str = "netbpf.";

/// Does what the stage is there for.
pub async fn run(stage: Stage, input: &[u8], client: &Client) -> Result<(), HookError> {
    let state: State = serde_json::from_slice(input)
        .map_err(|e| Error::invalid(format!("the container's state on standard input: {e}")))?;
    match stage {
        Stage::CreateRuntime => attach(&state, client).await,
        Stage::Poststop => detach(&state.id, client).await,
    }
}

async fn attach(state: &State, client: &Client) -> Result<(), HookError> {
    if state.pid <= 0 {
        let message = format!("container {:?}: its state has no pid", state.id);
        return Err(Error::invalid(message).into());
    }
    let wishes = Wishes::read(state.annotations.iter().flatten())?;
    let mut done: Vec<(String, String)> = Vec::new();
    for spec in wishes.specs(&state.id, state.pid) {
        match client.attach(&spec).await {
            Ok(endpoint) => done.push((endpoint.name, endpoint.network)),
            Err(error) => {
                for (name, network) in &done {
                    if let Err(e) = client.detach(name, Some(network)).await {
                        warn!("endpoint {name:?} stays on network {network:?}: {e}");
                    }
                }
                return Err(error.into());
            }
        }
    }
    Ok(())
}

async fn detach(id: &str, client: &Client) -> Result<(), HookError> {
    let filter = EndpointFilter {
        container_id: Some(id.to_owned()),
        ..Default::default()
    };
    let work = async {
        for endpoint in client.endpoints(&filter).await? {
            if endpoint.engine == Some(Engine::Oci) {
                let network = Some(endpoint.network.as_str());
                client.detach(&endpoint.name, network).await?;
            }
        }
        Ok(())
    };
    match work.await {
        // The container is gone, and what it had goes with its namespace.
        Err(error) if is_away(&error) => {
            warn!("{error}: left to be cleaned up when it is back");
            Ok(())
        }
        done => Ok(done?),
    }
}

impl Wishes {
    fn read<'a>(
        annotations: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Result<Wishes, Error> {
        let mut wishes = Wishes::default();
        for (key, value) in annotations {
            let Some(wish) = key.strip_prefix(PREFIX) else {
                continue;
            };
            let invalid = |why: &str| Error::invalid(format!("annotation {key}: {value:?} {why}"));
            let words = || {
                value
                    .split([',', ' ', '\t', '\n'])
                    .filter(|w| !w.is_empty())
            };
            let list = || words().map(str::to_owned).collect();
            let one = || match value.trim() {
                "" => Err(invalid("is empty")),
                value => Ok(Some(value.to_owned())),
            };
            match wish {
                "network" => wishes.networks = list(),
                "name" => wishes.name = one()?,
                "ifname" => wishes.ifname = one()?,
                "ip" => {
                    let ips = words().map(str::parse).collect::<Result<_, _>>();
                    wishes.ips = ips.map_err(|_| invalid("is no list of IP addresses"))?;
                }
                "mac" => wishes.mac = one()?,
                // The long form of a spec has commas.
                "publish" => {
                    wishes.publish = value.split_whitespace().map(str::to_owned).collect();
                }
                "share" => {
                    let share = value.trim().parse();
                    wishes.share = share.map_err(|_| invalid("is neither true nor false"))?;
                }
                "alias" => wishes.aliases = list(),
                "link" => wishes.links = list(),
                "label" => {
                    for word in words() {
                        let (key, value) = word
                            .split_once('=')
                            .ok_or_else(|| invalid("is no list of KEY=VALUE"))?;
                        wishes.labels.insert(key.to_owned(), value.to_owned());
                    }
                }
                _ => {
                    let known =
                        "network, name, ifname, ip, mac, publish, share, alias, link or label";
                    let message = format!("annotation {key}: netbpf knows {PREFIX}{known}");
                    return Err(Error::invalid(message));
                }
            }
        }
        Ok(wishes)
    }

    /// One for each network. Addresses, ports and the interface's name are the first
    /// one's: it has the default route.
    fn specs(self, id: &str, pid: i32) -> Vec<AttachSpec> {
        let Wishes {
            mut networks,
            name,
            ifname,
            ips,
            mac,
            publish,
            share,
            aliases,
            links,
            labels,
        } = self;
        // Ids of engines are long: as many digits of them as they show themselves.
        let short = || match id.len() {
            ..=63 => id.to_owned(),
            _ => id.chars().take(12).collect(),
        };
        if networks.is_empty() {
            networks.push(crate::control::DEFAULT_NETWORK.to_owned());
        }
        let on = |network: String| AttachSpec {
            name: name.clone().unwrap_or_else(short),
            network: Some(network),
            netns: NetnsRef::Pid(pid),
            ifname: None,
            ips: Vec::new(),
            mac: None,
            publish: Vec::new(),
            share,
            publish_all: false,
            expose: Vec::new(),
            aliases: aliases.clone(),
            links: links.clone(),
            labels: labels.clone(),
            engine: Some(EngineSpec {
                kind: Engine::Oci,
                container_id: id.to_owned(),
                holds_ports: false,
            }),
        };
        let mut specs: Vec<AttachSpec> = networks.into_iter().map(on).collect();
        if let Some(first) = specs.first_mut() {
            (first.ifname, first.ips, first.mac, first.publish) = (ifname, ips, mac, publish);
        }
        specs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(annotations: &[(&str, &str)]) -> Result<Wishes, Error> {
        let annotations: BTreeMap<String, String> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Wishes::read(annotations.iter())
    }

    #[test]
    fn annotations_are_wishes() {
        let wishes = read(&[
            ("netbpf.network", "front, back"),
            (
                "netbpf.publish",
                "8080:80 published=53,target=53,protocol=udp",
            ),
            ("netbpf.ip", "10.1.0.5,fd00::5"),
            ("netbpf.label", "a=b c="),
            ("org.others", "whatever"),
        ])
        .unwrap();
        assert_eq!(wishes.publish.len(), 2);
        assert_eq!(wishes.labels["c"], "");
        let specs = wishes.specs("web", 7);
        assert_eq!(specs.len(), 2);
        assert_eq!(specs[0].network.as_deref(), Some("front"));
        assert_eq!((specs[0].ips.len(), specs[0].publish.len()), (2, 2));
        assert_eq!((specs[1].ips.len(), specs[1].publish.len()), (0, 0));
        assert!(specs.iter().all(|spec| spec.name == "web"));
    }

    #[test]
    fn without_annotations_it_is_the_default_network() {
        let specs = read(&[]).unwrap().specs(&"f".repeat(64), 7);
        assert_eq!(specs.len(), 1);
        assert_eq!(specs[0].network.as_deref(), Some("default"));
        assert_eq!(specs[0].name, "f".repeat(12));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (key, value, shown) in [
            ("netbpf.ports", "80", "annotation netbpf.ports"),
            ("netbpf.ip", "ten", "\"ten\""),
            ("netbpf.share", "perhaps", "\"perhaps\""),
            ("netbpf.label", "a", "KEY=VALUE"),
            ("netbpf.mac", " ", "is empty"),
        ] {
            let error = read(&[(key, value)]).unwrap_err();
            assert!(error.message.contains(shown), "{}", error.message);
        }
    }

    proptest! {
        #[test]
        fn any_annotations_are_wishes_or_refused(
            key in "netbpf\\.(network|name|ip|publish|share|label|\\PC{0,4})",
            value in "\\PC{0,12}",
        ) {
            if let Ok(wishes) = read(&[(&key, &value)]) {
                prop_assert!(!wishes.specs("web", 1).is_empty());
            }
        }
    }
}
