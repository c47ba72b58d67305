//! The result of ADD, in the form of the caller's version; one that was handed to us by a
//! plug-in before us in the chain goes on with ours behind.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{
    config::Dns,
    error::{CniError, Number},
    version::SpecVersion,
};
use crate::model::EndpointInfo;

/// What an endpoint is told as.
pub fn of_endpoint(
    version: SpecVersion,
    before: Option<Map<String, Value>>,
    endpoint: &EndpointInfo,
    netns: &str,
    dns: Option<&Dns>,
) -> Result<Value, CniError> {
    let mut result = before.unwrap_or_default();
    result.insert("cniVersion".into(), version.as_str().into());
    let interfaces = list(&mut result, "interfaces")?;
    interfaces.push(json!({"name": endpoint.host_ifname}));
    let index = interfaces.len();
    let mut interface = json!({
        "name": endpoint.ifname,
        "mac": endpoint.mac,
        "sandbox": netns,
    });
    if version >= SpecVersion::V1_1_0 {
        interface["mtu"] = endpoint.mtu.into();
    }
    interfaces.push(interface);

    let ips = list(&mut result, "ips")?;
    for (address, gateway, _) in families(endpoint) {
        let mut ip = json!({
            "address": address.to_string(),
            "gateway": gateway.to_string(),
            "interface": index,
        });
        if version < SpecVersion::V1_0_0 {
            ip["version"] = if gateway.is_ipv4() { "4" } else { "6" }.into();
        }
        ips.push(ip);
    }
    let routes = list(&mut result, "routes")?;
    for (_, gateway, is_default) in families(endpoint) {
        if is_default {
            routes.push(json!({"dst": default_route(gateway), "gw": gateway.to_string()}));
        }
    }
    if let Some(dns) = dns {
        result.insert("dns".into(), shown(dns));
    }
    Ok(Value::Object(result))
}

/// Everywhere, in the family of an address.
pub fn default_route(family: IpAddr) -> &'static str {
    match family {
        IpAddr::V4(_) => "0.0.0.0/0",
        IpAddr::V6(_) => "::/0",
    }
}

/// Address, gateway, and whether the default route leads there, of each family.
pub fn families(endpoint: &EndpointInfo) -> Vec<(IpNet, IpAddr, bool)> {
    let net = |text: &Option<String>| text.as_ref()?.parse::<IpNet>().ok();
    let v4 = net(&endpoint.ipv4).zip(endpoint.gateway.map(IpAddr::V4));
    let v6 = net(&endpoint.ipv6).zip(endpoint.gateway6.map(IpAddr::V6));
    let v4 = v4.map(|(net, gateway)| (net, gateway, endpoint.default_route));
    let v6 = v6.map(|(net, gateway)| (net, gateway, endpoint.default_route6));
    v4.into_iter().chain(v6).collect()
}

/// A list of the result, made where it is not there.
fn list<'a>(result: &'a mut Map<String, Value>, key: &str) -> Result<&'a mut Vec<Value>, CniError> {
    let place = result.entry(key).or_insert_with(|| json!([]));
    if place.is_null() {
        *place = json!([]);
    }
    place.as_array_mut().ok_or_else(|| {
        let message = format!("prevResult.{key} is no list");
        CniError::new(Number::InvalidConfiguration, message)
    })
}

fn shown(dns: &Dns) -> Value {
    let mut shown = Map::new();
    for (key, list) in [
        ("nameservers", &dns.nameservers),
        ("search", &dns.search),
        ("options", &dns.options),
    ] {
        if !list.is_empty() {
            shown.insert(key.into(), json!(list));
        }
    }
    if !dns.domain.is_empty() {
        shown.insert("domain".into(), dns.domain.as_str().into());
    }
    Value::Object(shown)
}

/// What an earlier result says of one interface of the container.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    pub mac: Option<String>,
    pub addresses: Vec<IpNet>,
    /// Destinations of all routes of the result.
    pub routes: Vec<String>,
}

impl Expected {
    pub fn read(result: &Map<String, Value>, ifname: &str) -> Result<Expected, CniError> {
        let items = |key: &str| {
            let list = result.get(key).and_then(Value::as_array);
            list.map_or(&[][..], Vec::as_slice)
        };
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        let interfaces = items("interfaces");
        let in_container = |i: &Value| text(i, "sandbox").is_some_and(|s| !s.is_empty());
        let is_it = |i: &Value| in_container(i) && text(i, "name").as_deref() == Some(ifname);
        let Some(index) = interfaces.iter().position(is_it) else {
            let message = format!("prevResult has no interface {ifname:?} of a container");
            return Err(CniError::new(Number::InvalidConfiguration, message));
        };
        let mut addresses = Vec::new();
        for ip in items("ips") {
            if ip.get("interface").and_then(Value::as_u64) != Some(index as u64) {
                continue;
            }
            let address = text(ip, "address").unwrap_or_default();
            addresses.push(address.parse().map_err(|_| {
                let message = format!("prevResult.ips: {address:?} is no address with prefix");
                CniError::new(Number::InvalidConfiguration, message)
            })?);
        }
        Ok(Expected {
            mac: text(&interfaces[index], "mac").filter(|mac| !mac.is_empty()),
            addresses,
            routes: items("routes")
                .iter()
                .filter_map(|r| text(r, "dst"))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> EndpointInfo {
        serde_json::from_value(json!({
            "name": "web", "network": "front", "container_id": "c", "engine": "cni",
            "netns": "/run/netns/c", "ifname": "eth0", "host_ifname": "nb1",
            "host_ifindex": 7, "mac": "02:00:00:00:00:01", "ipv4": "10.1.0.2/16",
            "ipv6": "fd00::2/64", "gateway": "10.1.0.1", "gateway6": "fd00::1",
            "default_route": true, "default_route6": false, "mtu": 1500, "aliases": [],
            "links": [], "ports": [], "labels": {}, "rx_bytes": 0, "rx_packets": 0,
            "tx_bytes": 0, "tx_packets": 0, "dropped_packets": 0,
            "created_at": "2026-01-01T00:00:00Z", "dns": {"servers": [], "search": []},
        }))
        .unwrap()
    }

    #[test]
    fn the_result_is_of_the_callers_version() {
        let told = |version| of_endpoint(version, None, &endpoint(), "/n", None).unwrap();
        assert_eq!(
            told(SpecVersion::V0_3_1),
            json!({
                "cniVersion": "0.3.1",
                "interfaces": [
                    {"name": "nb1"},
                    {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n"},
                ],
                "ips": [
                    {"version": "4", "address": "10.1.0.2/16", "gateway": "10.1.0.1", "interface": 1},
                    {"version": "6", "address": "fd00::2/64", "gateway": "fd00::1", "interface": 1},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
            })
        );
        assert!(told(SpecVersion::V1_0_0)["ips"][0].get("version").is_none());
        assert!(
            told(SpecVersion::V1_0_0)["interfaces"][1]
                .get("mtu")
                .is_none()
        );
        assert_eq!(told(SpecVersion::V1_1_0)["interfaces"][1]["mtu"], 1500);
    }

    #[test]
    fn an_earlier_result_goes_on_with_ours_behind() {
        let before = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}],
            "ips": null,
            "dns": {"nameservers": ["10.9.0.1"]},
            "more": {"of": "theirs"},
        });
        let before = before.as_object().unwrap().clone();
        let told = of_endpoint(SpecVersion::V1_0_0, Some(before), &endpoint(), "/n", None);
        let told = told.unwrap();
        assert_eq!(told["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(told["ips"][0]["interface"], 2);
        assert_eq!(told["dns"]["nameservers"][0], "10.9.0.1");
        assert_eq!(told["more"]["of"], "theirs");
        let bad = json!({"ips": 7}).as_object().unwrap().clone();
        let bad = of_endpoint(SpecVersion::V1_0_0, Some(bad), &endpoint(), "/n", None);
        assert!(bad.unwrap_err().message.contains("prevResult.ips"));
    }

    #[test]
    fn what_was_told_is_what_is_expected() {
        for version in SpecVersion::ALL {
            let told = of_endpoint(version, None, &endpoint(), "/n", None).unwrap();
            let expected = Expected::read(told.as_object().unwrap(), "eth0").unwrap();
            assert_eq!(
                expected,
                Expected {
                    mac: Some("02:00:00:00:00:01".into()),
                    addresses: vec![
                        "10.1.0.2/16".parse().unwrap(),
                        "fd00::2/64".parse().unwrap()
                    ],
                    routes: vec!["0.0.0.0/0".into()],
                }
            );
            let other = Expected::read(told.as_object().unwrap(), "eth1").unwrap_err();
            assert!(other.message.contains("\"eth1\""));
        }
    }
}
