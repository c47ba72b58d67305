//! The network configuration that a runtime sends on standard input.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};

use super::{
    error::{CniError, Number},
    version::SpecVersion,
};
use crate::model::{Attachment, Driver, Labels};

/// What is said in any configuration, whatever else is in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    #[serde(default)]
    cni_version: Option<String>,
}

/// What DEL, GC and STATUS need: they have to work with a configuration that has become
/// wrong since.
#[derive(Debug, Deserialize)]
pub struct Place {
    #[serde(default)]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub socket: Option<PathBuf>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Attachments,
}

/// What GC is to keep; nothing said is told from an empty list.
#[derive(Debug, Default)]
pub struct Attachments(pub Option<Vec<Attachment>>);

impl<'de> Deserialize<'de> for Attachments {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Attachments, D::Error> {
        #[derive(Deserialize)]
        struct Valid {
            #[serde(rename = "containerID")]
            container_id: String,
            ifname: String,
        }
        // A list of Go without entries is null.
        let list = Option::<Vec<Valid>>::deserialize(from)?.unwrap_or_default();
        let valid = list.into_iter().map(|valid| Attachment {
            container_id: valid.container_id,
            ifname: valid.ifname,
        });
        Ok(Attachments(Some(valid.collect())))
    }
}

/// The configuration of ADD and CHECK.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    #[serde(default)]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub socket: Option<PathBuf>,
    pub driver: Option<Driver>,
    #[serde(default, deserialize_with = "subnets")]
    pub subnets: Vec<IpNet>,
    pub ipv6: Option<bool>,
    pub internal: Option<bool>,
    pub icc: Option<bool>,
    pub masquerade: Option<bool>,
    /// The specification's word for it.
    pub ip_masq: Option<bool>,
    pub mtu: Option<u16>,
    pub vni: Option<u32>,
    pub parent: Option<String>,
    /// False where the engine listens on published ports itself; left out, that is so for
    /// Podman.
    pub hold_ports: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub dns: Dns,
    #[serde(default, deserialize_with = "or_default")]
    pub args: CallersArgs,
    #[serde(default, deserialize_with = "or_default")]
    pub runtime_config: RuntimeConfig,
    pub prev_result: Option<Map<String, Value>>,
    /// Ours has no IPAM plug-in behind it.
    #[serde(default, deserialize_with = "or_default")]
    pub ipam: Map<String, Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Keys of the specification that need nothing done, and those that Multus and nerdctl put
/// in.
const PASSED_OVER: [&str; 11] = [
    "cniVersion",
    "cniVersions",
    "type",
    "capabilities",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "deviceID",
    "pciBusID",
    "nerdctlID",
    "nerdctlLabels",
];

/// What a runtime puts in for the one container, under the names of the conventions.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct RuntimeConfig {
    #[serde(default, deserialize_with = "or_default")]
    pub port_mappings: Vec<PortMapping>,
    #[serde(default, deserialize_with = "or_default")]
    pub bandwidth: Map<String, Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    ip_ranges: Vec<Value>,
    pub mac: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub aliases: Aliases,
    pub dns: Option<RuntimeDns>,
}

/// A published port. containerd writes Go's names, Podman those of the conventions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct PortMapping {
    #[serde(alias = "HostPort")]
    pub host_port: i64,
    #[serde(alias = "ContainerPort")]
    pub container_port: i64,
    #[serde(alias = "Protocol", default)]
    pub protocol: String,
    #[serde(alias = "HostIP", rename = "hostIP", default)]
    pub host_ip: String,
}

/// Further names: a list, or one for each network, as Podman has it.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "neither a list of names nor one for each network"
)]
pub enum Aliases {
    Here(Vec<String>),
    OfNetworks(std::collections::BTreeMap<String, Vec<String>>),
}

impl Default for Aliases {
    fn default() -> Aliases {
        Aliases::Here(Vec::new())
    }
}

impl Aliases {
    pub fn on(&self, network: &str) -> &[String] {
        match self {
            Aliases::Here(names) => names,
            Aliases::OfNetworks(all) => all.get(network).map_or(&[], Vec::as_slice),
        }
    }
}

/// DNS of the specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(expecting = "an object")]
pub struct Dns {
    #[serde(default, deserialize_with = "or_default")]
    pub nameservers: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub domain: String,
    #[serde(default, deserialize_with = "or_default")]
    pub search: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub options: Vec<String>,
}

/// DNS of the conventions, where the same has other names; containerd writes Go's.
#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "an object")]
pub struct RuntimeDns {
    #[serde(default, alias = "Servers", deserialize_with = "or_default")]
    pub servers: Vec<String>,
    #[serde(default, alias = "Searches", deserialize_with = "or_default")]
    pub searches: Vec<String>,
    #[serde(default, alias = "Options", deserialize_with = "or_default")]
    pub options: Vec<String>,
}

/// `args`; what others have put there is theirs.
#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "an object")]
pub struct CallersArgs {
    #[serde(default, deserialize_with = "or_default")]
    pub cni: CniArgs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "an object")]
pub struct CniArgs {
    #[serde(default, deserialize_with = "or_default")]
    pub ips: Vec<String>,
    pub mac: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    labels: Vec<Label>,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object")]
struct Label {
    key: String,
    #[serde(default)]
    value: String,
}

impl CniArgs {
    pub fn labels(&self) -> Labels {
        let labels = self.labels.iter();
        labels.map(|l| (l.key.clone(), l.value.clone())).collect()
    }
}

/// Null stands for what is not there: Go writes lists without entries so.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Each with what was written, in an error.
fn subnets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(from)?.unwrap_or_default();
    let subnet = |text: String| {
        let parsed = text.parse();
        parsed.map_err(|_| D::Error::custom(format!("{text:?} is no subnet")))
    };
    texts.into_iter().map(subnet).collect()
}

/// Parses standard input: the version that the caller speaks, and the rest, which is
/// read as the verb needs it.
pub fn parse(input: &[u8]) -> Result<(Result<SpecVersion, CniError>, Value), CniError> {
    let undecodable = |reason: String| {
        let message = format!("the network configuration cannot be read: {reason}");
        CniError::new(Number::CannotDecode, message)
    };
    let value: Value = serde_json::from_slice(input).map_err(|e| undecodable(e.to_string()))?;
    if !value.is_object() {
        return Err(undecodable("it is no JSON object".into()));
    }
    let head = Head::deserialize(&value);
    let head = head.map_err(|e| undecodable(format!("cniVersion: {e}")))?;
    Ok((SpecVersion::of(head.cni_version.as_deref()), value))
}

/// Reads a configuration as what a verb needs; an error names the key.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, CniError> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let key = e.path().to_string();
        invalid(match key.as_str() {
            "." => e.into_inner().to_string(),
            _ => format!("{key}: {}", e.into_inner()),
        })
    })
}

impl Config {
    /// Keys that are ours, for the page that explains them.
    #[cfg(test)]
    pub const KEYS: [&str; 13] = [
        "driver",
        "subnets",
        "ipv6",
        "internal",
        "icc",
        "masquerade",
        "ipMasq",
        "mtu",
        "vni",
        "parent",
        "socket",
        "holdPorts",
        "dns",
    ];

    /// Reads and checks what needs no daemon.
    pub fn read(value: Value) -> Result<Config, CniError> {
        let mut config: Config = read(value)?;
        check_name(&config.name)?;
        // Templates write 0 for what is to be found out.
        config.mtu = config.mtu.filter(|mtu| *mtu != 0);
        let unsupported = |key: &str, value: &Value, why: &str| {
            let message = format!("{key}: {value} in the network configuration {why}");
            Err(CniError::new(Number::UnsupportedField, message))
        };
        for (key, value) in &config.others {
            // Keys below cni.dev are the runtime's.
            if !PASSED_OVER.contains(&key.as_str()) && !key.starts_with("cni.dev/") {
                return unsupported(key, value, "is not known to netbpf-cni");
            }
        }
        if let Some(ipam) = config.ipam.get("type") {
            let why = "is not supported: netbpf gives out the addresses of its networks itself";
            return unsupported("ipam.type", ipam, why);
        }
        for (key, value) in &config.runtime_config.bandwidth {
            if value.as_f64() != Some(0.0) && !value.is_null() {
                let why = "is not supported in this version";
                return unsupported(&format!("bandwidth.{key}"), value, why);
            }
        }
        if !config.runtime_config.ip_ranges.is_empty() {
            let ranges = Value::from(config.runtime_config.ip_ranges.clone());
            let why = "is not supported: the network's subnets and ranges are netbpf's";
            return unsupported("ipRanges", &ranges, why);
        }
        match (config.masquerade, config.ip_masq) {
            (Some(masquerade), Some(ip_masq)) if masquerade != ip_masq => Err(invalid(format!(
                "masquerade is {masquerade} and ipMasq, the same, is {ip_masq}"
            ))),
            _ => Ok(config),
        }
    }

    pub fn masquerade(&self) -> Option<bool> {
        self.masquerade.or(self.ip_masq)
    }

    /// The addresses that are asked for, wherever; those of the call are read already.
    pub fn ips(&self, of_call: &[IpAddr]) -> Result<Vec<IpAddr>, CniError> {
        let mut all = Vec::new();
        let texts = self.runtime_config.ips.iter().chain(&self.args.cni.ips);
        for ip in texts
            .map(|text| address(text))
            .chain(of_call.iter().map(|ip| Ok(*ip)))
        {
            let ip = ip?;
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        Ok(all)
    }

    /// The MAC address that is asked for.
    pub fn mac(&self, of_call: Option<&str>) -> Option<String> {
        let mac = &self.runtime_config.mac;
        let mac = mac.as_deref().or(self.args.cni.mac.as_deref()).or(of_call);
        mac.filter(|mac| !mac.is_empty()).map(str::to_owned)
    }

    /// DNS for the container, where anybody says something of it.
    pub fn dns(&self) -> Option<Dns> {
        let of_runtime = self.runtime_config.dns.as_ref().map(|dns| Dns {
            nameservers: dns.servers.clone(),
            domain: String::new(),
            search: dns.searches.clone(),
            options: dns.options.clone(),
        });
        let is_said = |dns: &Dns| *dns != Dns::default();
        of_runtime
            .filter(is_said)
            .or_else(|| Some(self.dns.clone()).filter(is_said))
    }
}

impl Place {
    pub fn read(value: Value) -> Result<Place, CniError> {
        let place: Place = read(value)?;
        check_name(&place.name)?;
        Ok(place)
    }
}

fn check_name(name: &str) -> Result<(), CniError> {
    match name.is_empty() {
        true => Err(invalid("name, of the network, is missing".into())),
        // The daemon says what else is wrong with it.
        false => Ok(()),
    }
}

/// An address with or without a prefix length; that of the subnet is what counts.
fn address(text: &str) -> Result<IpAddr, CniError> {
    let net = || text.parse::<IpNet>().map(|net| net.addr());
    let parsed = text.parse().or_else(|_| net());
    parsed.map_err(|_| invalid(format!("ips: {text:?} is no IP address")))
}

fn invalid(message: String) -> CniError {
    CniError::new(Number::InvalidConfiguration, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(more: Value) -> Result<Config, CniError> {
        let mut all = json!({"cniVersion": "1.0.0", "name": "front", "type": "netbpf-cni"});
        let more = more.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        Config::read(all)
    }

    fn refused(more: Value) -> (Number, String) {
        let error = config(more).unwrap_err();
        (error.number, error.message)
    }

    #[test]
    fn keys_of_the_interface_are_read() {
        let config = config(json!({
            "driver": "bridge", "subnets": ["10.1.0.0/16", "fd00:1::/64"], "internal": false,
            "icc": true, "ipMasq": true, "mtu": 1400, "vni": 7, "parent": "eth0",
            "socket": "/run/x.sock", "capabilities": {"portMappings": true},
            "cni.dev/whatever": 1, "ipam": {}, "dns": {"nameservers": ["10.1.0.1"]},
            "args": {"cni": {"labels": [{"key": "a", "value": "b"}]}, "podman_labels": {}},
        }))
        .unwrap();
        assert_eq!(config.subnets.len(), 2);
        assert_eq!(config.masquerade(), Some(true));
        assert_eq!(config.socket, Some("/run/x.sock".into()));
        assert_eq!(config.args.cni.labels()["a"], "b");
        assert_eq!(config.dns().unwrap().nameservers, ["10.1.0.1"]);
    }

    #[test]
    fn both_spellings_of_ports_are_read() {
        let config = config(json!({"runtimeConfig": {"portMappings": [
            {"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "10.0.0.1"},
        ]}}))
        .unwrap();
        let [first, second] = &config.runtime_config.port_mappings[..] else {
            panic!("two");
        };
        assert_eq!((first.host_port, first.container_port), (8080, 80));
        assert_eq!(
            (second.host_ip.as_str(), second.protocol.as_str()),
            ("10.0.0.1", "udp")
        );
    }

    #[test]
    fn null_is_nothing() {
        let config = config(json!({
            "subnets": null, "mtu": null, "prevResult": null, "args": null,
            "runtimeConfig": {"portMappings": null, "bandwidth": null, "aliases": null},
        }))
        .unwrap();
        assert!(config.subnets.is_empty() && config.prev_result.is_none());
    }

    #[test]
    fn unsupported_fields_are_named_with_their_value() {
        let (number, message) = refused(json!({"subnet": "10.0.0.0/8"}));
        assert_eq!(number, Number::UnsupportedField);
        assert!(message.starts_with("subnet: \"10.0.0.0/8\""), "{message}");
        let (number, message) = refused(json!({"ipam": {"type": "host-local"}}));
        assert_eq!(number, Number::UnsupportedField);
        assert!(
            message.starts_with("ipam.type: \"host-local\""),
            "{message}"
        );
        let bandwidth = json!({"ingressRate": 0, "egressRate": 1000});
        let (number, message) = refused(json!({"runtimeConfig": {"bandwidth": bandwidth}}));
        assert_eq!(number, Number::UnsupportedField);
        assert!(
            message.starts_with("bandwidth.egressRate: 1000"),
            "{message}"
        );
        let bandwidth = json!({"ingressRate": 0, "egressRate": 0});
        assert!(config(json!({"runtimeConfig": {"bandwidth": bandwidth}})).is_ok());
    }

    #[test]
    fn values_that_cannot_be_are_named_with_their_key() {
        for (more, shown) in [
            (json!({"mtu": "big"}), "mtu: "),
            (json!({"subnets": ["10.0.0.0/33"]}), "\"10.0.0.0/33\""),
            (
                json!({"runtimeConfig": {"aliases": 7}}),
                "neither a list of names",
            ),
            (json!({"args": 5}), "expected an object"),
            (
                json!({"runtimeConfig": {"portMappings": [{"containerPort": 80}]}}),
                "portMappings[0]: missing field `hostPort`",
            ),
            (json!({"driver": "macvlan"}), "macvlan"),
            (json!({"name": ""}), "name, of the network"),
            (json!({"ipMasq": true, "masquerade": false}), "ipMasq"),
        ] {
            let (number, message) = refused(more);
            assert_eq!(number, Number::InvalidConfiguration);
            assert!(message.contains(shown), "{message}");
        }
    }

    #[test]
    fn the_conventions_places_go_before_the_environment() {
        let of_call = [IpAddr::from([10, 0, 0, 9])];
        let empty = config(json!({})).unwrap();
        assert_eq!(empty.ips(&of_call).unwrap(), [IpAddr::from([10, 0, 0, 9])]);
        assert_eq!(
            empty.mac(Some("02:00:00:00:00:09")).unwrap(),
            "02:00:00:00:00:09"
        );
        let said = config(json!({
            "args": {"cni": {"ips": ["10.0.0.8"]}},
            "runtimeConfig": {"ips": ["10.0.0.7/24"], "mac": "02:00:00:00:00:07"},
        }))
        .unwrap();
        let all = [[10, 0, 0, 7], [10, 0, 0, 8], [10, 0, 0, 9]].map(IpAddr::from);
        assert_eq!(said.ips(&of_call).unwrap(), all);
        assert_eq!(said.mac(Some("x")).unwrap(), "02:00:00:00:00:07");
        let bad = config(json!({"runtimeConfig": {"ips": ["ten"]}})).unwrap();
        assert!(bad.ips(&[]).unwrap_err().message.contains("\"ten\""));
    }

    #[test]
    fn aliases_are_those_of_the_network() {
        let list = config(json!({"runtimeConfig": {"aliases": ["db"]}})).unwrap();
        assert_eq!(list.runtime_config.aliases.on("front"), ["db"]);
        let all = json!({"front": ["db"], "back": ["no"]});
        let map = config(json!({"runtimeConfig": {"aliases": all}})).unwrap();
        assert_eq!(map.runtime_config.aliases.on("front"), ["db"]);
        assert!(map.runtime_config.aliases.on("other").is_empty());
    }

    #[test]
    fn what_gc_keeps_is_told_from_nothing_said() {
        let place = |more: Value| {
            let mut all = json!({"name": "front"});
            let more = more.as_object().unwrap().clone();
            all.as_object_mut().unwrap().extend(more);
            Place::read(all).unwrap().valid_attachments.0
        };
        assert!(place(json!({})).is_none());
        assert!(
            place(json!({"cni.dev/valid-attachments": null}))
                .unwrap()
                .is_empty()
        );
        let one = json!([{"containerID": "a", "ifname": "eth0"}]);
        assert_eq!(
            place(json!({"cni.dev/valid-attachments": one}))
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn what_is_no_configuration_cannot_be_decoded() {
        for input in ["", "{", "[]", "7", r#"{"cniVersion": 1}"#] {
            let error = parse(input.as_bytes()).unwrap_err();
            assert_eq!(error.number, Number::CannotDecode, "{input}");
        }
    }
}
