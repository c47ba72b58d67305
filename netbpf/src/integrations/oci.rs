//! The hook of OCI runtimes: `createRuntime` attaches the container that a runtime has
//! made, as its annotations say, and `poststop` detaches it. The runtime hands the
//! container's state over on standard input (OCI runtime specification, "State").

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{CallError, PATIENCE, held, in_time, open, short_id};
use crate::{
    client::Client,
    error::Error,
    model::{AttachSpec, DetachSpec, Engine, EngineSpec, Labels, NetnsRef},
    sys::netns::Namespace,
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
    Call(#[from] CallError),
    #[error(transparent)]
    Refused(#[from] Error),
}

/// What a runtime tells of a container.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
struct State {
    id: String,
    /// Of the container's first process, as the runtime sees it.
    #[serde(default)]
    pid: i32,
    /// Ids are of one runtime alone; bundles are of all.
    #[serde(default)]
    bundle: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, serde_json::Value>>,
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
        Stage::CreateRuntime => {
            in_time(client, PATIENCE, attach(&state, client)).await?;
        }
        Stage::Poststop => {
            let spec = of_container(&state);
            let work = async { Ok::<_, CallError>(client.detach_of_engine(&spec).await?) };
            match in_time(client, PATIENCE, work).await {
                // The container is gone, and what it had goes with its namespace.
                Err(error) if error.is_away() => {
                    eprintln!("netbpf: {error}: left to be cleaned up when it is back");
                }
                done => drop(done?),
            }
        }
    }
    Ok(())
}

async fn attach(state: &State, client: &Client) -> Result<(), HookError> {
    if state.pid <= 0 {
        let message = format!("container {:?}: its state has no pid", state.id);
        return Err(Error::invalid(message).into());
    }
    let wishes = Wishes::read(state.annotations.iter().flatten())?;
    // As the runtime sees its process: the daemon may see others.
    let path = format!("/proc/{}/ns/net", state.pid);
    let namespace = open(&path);
    let is_hosts = |n: &Namespace| Namespace::own().is_ok_and(|own| own.id() == n.id());
    if wishes == Wishes::default() && namespace.as_ref().is_some_and(is_hosts) {
        // Nobody has asked for a network of its own.
        return Ok(());
    }
    let netns = match &namespace {
        Some(namespace) => NetnsRef::Opened(held(namespace, &path)),
        None => NetnsRef::Pid(state.pid),
    };
    let mut done = Vec::new();
    for spec in wishes.specs(state, &netns) {
        let error = match client.attach(&spec).await {
            Ok(endpoint) => {
                done.push(endpoint);
                continue;
            }
            Err(error) => error,
        };
        // What this call has made, and nothing of a call before it.
        for endpoint in done {
            let ours = DetachSpec {
                ifname: Some(endpoint.ifname),
                network: Some(endpoint.network),
                ..of_container(state)
            };
            if let Err(e) = client.detach_of_engine(&ours).await {
                eprintln!("netbpf: container {:?} stays attached: {e}", state.id);
            }
        }
        return Err(CallError::from(error).into());
    }
    Ok(())
}

/// All that the container has.
fn of_container(state: &State) -> DetachSpec {
    DetachSpec {
        engine: Engine::Oci,
        container_id: Some(state.id.clone()),
        ifname: None,
        network: None,
        caller: state.bundle.clone(),
        except: Vec::new(),
    }
}

impl Wishes {
    fn read<'a>(
        annotations: impl Iterator<Item = (&'a String, &'a serde_json::Value)>,
    ) -> Result<Wishes, Error> {
        let mut wishes = Wishes::default();
        for (key, value) in annotations {
            let Some(wish) = key.strip_prefix(PREFIX) else {
                continue;
            };
            let value = value
                .as_str()
                .ok_or_else(|| Error::invalid(format!("annotation {key}: {value} is no text")))?;
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
                "network" => {
                    for name in words() {
                        if wishes.networks.iter().any(|n| n == name) {
                            return Err(invalid("names a network twice"));
                        }
                        wishes.networks.push(name.to_owned());
                    }
                }
                "name" => wishes.name = one()?,
                "ifname" => wishes.ifname = one()?,
                "ip" => {
                    let ips = words().map(str::parse).collect::<Result<_, _>>();
                    wishes.ips = ips.map_err(|_| invalid("is no list of IP addresses"))?;
                }
                "mac" => wishes.mac = one()?,
                "publish" => {
                    for spec in value.split_whitespace() {
                        // The long form of a spec has commas.
                        match spec.contains('=') {
                            true => wishes.publish.push(spec.to_owned()),
                            false => {
                                let specs = spec.split(',').filter(|spec| !spec.is_empty());
                                wishes.publish.extend(specs.map(str::to_owned));
                            }
                        }
                    }
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
                        "network, name, ifname, ip, mac, publish, share, alias, link, label";
                    return Err(invalid(&format!("is not known; behind {PREFIX}: {known}")));
                }
            }
        }
        Ok(wishes)
    }

    /// One for each network. Addresses, ports and the interface's name are the first
    /// one's: it has the default route.
    fn specs(self, state: &State, netns: &NetnsRef) -> Vec<AttachSpec> {
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
        if networks.is_empty() {
            networks.push(crate::control::DEFAULT_NETWORK.to_owned());
        }
        let name = name.unwrap_or_else(|| short_id(&state.id));
        let on = |network: String| AttachSpec {
            network: Some(network),
            share,
            aliases: aliases.clone(),
            links: links.clone(),
            labels: labels.clone(),
            engine: Some(EngineSpec {
                kind: Engine::Oci,
                container_id: state.id.clone(),
                caller: state.bundle.clone(),
                holds_ports: false,
            }),
            ..AttachSpec::new(&name, netns.clone())
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
        let annotations: BTreeMap<String, serde_json::Value> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).into()))
            .collect();
        Wishes::read(annotations.iter())
    }

    fn specs(wishes: Wishes, id: &str) -> Vec<AttachSpec> {
        let state = State {
            id: id.into(),
            pid: 7,
            bundle: Some("/b".into()),
            annotations: None,
        };
        wishes.specs(&state, &NetnsRef::Pid(7))
    }

    #[test]
    fn annotations_are_wishes() {
        let wishes = read(&[
            ("netbpf.network", "front, back"),
            (
                "netbpf.publish",
                "8080:80,81:81 published=53,target=53,protocol=udp",
            ),
            ("netbpf.ip", "10.1.0.5,fd00::5"),
            ("netbpf.label", "a=b c="),
            ("org.others", "whatever"),
        ])
        .unwrap();
        assert_eq!(wishes.publish.len(), 3);
        assert_eq!(wishes.labels["c"], "");
        let specs = specs(wishes, "web");
        assert_eq!(specs.len(), 2);
        assert_eq!(specs[0].network.as_deref(), Some("front"));
        assert_eq!((specs[0].ips.len(), specs[0].publish.len()), (2, 3));
        assert_eq!((specs[1].ips.len(), specs[1].publish.len()), (0, 0));
        assert!(specs.iter().all(|spec| spec.name == "web"));
    }

    #[test]
    fn without_annotations_it_is_the_default_network() {
        let specs = specs(read(&[]).unwrap(), &"f".repeat(64));
        assert_eq!(specs.len(), 1);
        assert_eq!(specs[0].network.as_deref(), Some("default"));
        assert_eq!(specs[0].name, "f".repeat(12));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (key, value, shown) in [
            (
                "netbpf.ports",
                "80",
                "annotation netbpf.ports: \"80\" is not known",
            ),
            ("netbpf.network", "a a", "twice"),
            ("netbpf.ip", "ten", "\"ten\""),
            ("netbpf.share", "perhaps", "\"perhaps\""),
            ("netbpf.label", "a", "KEY=VALUE"),
            ("netbpf.mac", " ", "is empty"),
        ] {
            let error = read(&[(key, value)]).unwrap_err();
            assert!(error.message.contains(shown), "{}", error.message);
        }
    }

    /// The time is the test's: nobody waits.
    #[tokio::test]
    async fn a_daemon_that_hangs_keeps_no_container_from_ending() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("netbpf.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        tokio::time::pause();
        let client = Client::new(socket);
        let state = br#"{"id": "web", "pid": 1, "annotations": {"netbpf.network": "front"}}"#;
        run(Stage::Poststop, state, &client).await.unwrap();
        let start = run(Stage::CreateRuntime, state, &client).await;
        let error = start.unwrap_err().to_string();
        assert!(error.contains("within 30 s"), "{error}");
    }

    proptest! {
        #[test]
        fn any_annotations_are_wishes_or_refused(
            key in "netbpf\\.(network|name|ip|publish|share|label|\\PC{0,4})",
            value in "\\PC{0,12}",
        ) {
            if let Ok(wishes) = read(&[(&key, &value)]) {
                prop_assert!(!specs(wishes, "web").is_empty());
            }
        }
    }
}
