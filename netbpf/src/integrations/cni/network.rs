//! The network of a configuration: made where there is none, and the same as the
//! configuration says where there is.

use serde::Serialize;
use serde_json::json;

use super::{
    config::Config,
    error::{CniError, Number},
};
use crate::{
    client::Client,
    error::Code,
    integrations::is_refusal,
    model::{NetworkInfo, NetworkSpec},
};

/// Whether the network was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Ours, unless somebody has put something on it: gone again with what fails.
    Made,
    Found,
}

/// Makes it, or sees that it is as it should be.
pub async fn ensure(client: &Client, config: &Config) -> Result<Network, CniError> {
    let found = match client.network(&config.name).await {
        Ok(found) => found,
        Err(error) if is_refusal(&error, Code::NotFound) => {
            match client.network_create(&spec(config)).await {
                Ok(_) => return Ok(Network::Made),
                // Another container of it was quicker.
                Err(error) if is_refusal(&error, Code::AlreadyExists) => {
                    client.network(&config.name).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(error) => return Err(error.into()),
    };
    let differs = differences(config, &found);
    match differs.is_empty() {
        true => Ok(Network::Found),
        false => Err(CniError::new(
            Number::Conflict,
            format!(
                "network {:?} exists otherwise than the configuration says: {}",
                config.name,
                differs.join("; ")
            ),
        )),
    }
}

fn spec(config: &Config) -> NetworkSpec {
    NetworkSpec {
        name: config.name.clone(),
        driver: config.driver.unwrap_or_default(),
        subnets: config.subnets.clone(),
        ipv6: config.ipv6.unwrap_or_default(),
        internal: config.internal.unwrap_or_default(),
        icc: config.icc.unwrap_or(true),
        masquerade: config.masquerade().unwrap_or(true),
        mtu: config.mtu,
        vni: config.vni,
        parent: config.parent.clone(),
        ..NetworkSpec::default()
    }
}

/// What of a network is not as the configuration says, as far as it says anything.
fn differences(config: &Config, found: &NetworkInfo) -> Vec<String> {
    fn differ<T: PartialEq + Serialize>(
        differs: &mut Vec<String>,
        key: &str,
        wanted: Option<T>,
        found: T,
    ) {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            differs.push(format!("{key} is {}, not {}", json!(found), json!(wanted)));
        }
    }
    let mut differs = Vec::new();
    let d = &mut differs;
    let mut wanted: Vec<_> = config.subnets.iter().map(|net| net.trunc()).collect();
    wanted.sort();
    let mut subnets: Vec<_> = found.subnets.iter().map(|s| s.subnet).collect();
    subnets.sort();
    let has_ipv6 = subnets.iter().any(|net| net.addr().is_ipv6());
    // Where IPv6 was asked for beside, its subnet was chosen for it.
    if config.ipv6 == Some(true) && wanted.iter().all(|net| net.addr().is_ipv4()) {
        subnets.retain(|net| net.addr().is_ipv4());
    }
    if !wanted.is_empty() && wanted != subnets {
        let shown = |nets: &[ipnet::IpNet]| {
            let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
            nets.join(", ")
        };
        d.push(format!(
            "its subnets are {}, not {}",
            shown(&subnets),
            shown(&wanted)
        ));
    }
    // Not in the way of a subnet of IPv6 that is named.
    let ipv6 = config.ipv6.filter(|ipv6| *ipv6 || wanted.is_empty());
    differ(d, "ipv6", ipv6, has_ipv6);
    differ(d, "driver", config.driver, found.driver);
    differ(d, "internal", config.internal, found.internal);
    differ(d, "icc", config.icc, found.icc);
    differ(d, "masquerade", config.masquerade(), found.masquerade);
    differ(d, "mtu", config.mtu, found.mtu);
    differ(d, "vni", config.vni, found.vni.unwrap_or_default());
    let parent = found.parent.clone().unwrap_or_default();
    differ(d, "parent", config.parent.clone(), parent);
    differs
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn config(more: Value) -> Config {
        let mut all = json!({"cniVersion": "1.0.0", "name": "front", "type": "netbpf-cni"});
        let more = more.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        Config::read(all).unwrap()
    }

    fn found() -> NetworkInfo {
        serde_json::from_value(json!({
            "name": "front", "driver": "bridge", "mtu": 1500, "vni": null, "internal": false,
            "subnets": [
                {"subnet": "fd00::/64", "gateway": "fd00::1", "ip_range": null},
                {"subnet": "10.1.0.0/16", "gateway": "10.1.0.1", "ip_range": null},
            ],
            "icc": true, "masquerade": true, "parent": null, "labels": {}, "endpoints": [],
        }))
        .unwrap()
    }

    #[test]
    fn what_is_not_said_may_be_anything() {
        for same in [
            json!({}),
            json!({"subnets": ["10.1.0.0/16", "fd00::/64"], "mtu": 1500, "icc": true}),
            json!({"subnets": ["10.1.0.0/16"], "ipv6": true, "driver": "bridge"}),
            json!({"subnets": ["10.1.0.0/16", "fd00::/64"], "ipv6": false}),
        ] {
            assert_eq!(
                differences(&config(same.clone()), &found()),
                [""; 0],
                "{same}"
            );
        }
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        for (more, message) in [
            (
                json!({"subnets": ["10.2.0.0/16"]}),
                "its subnets are 10.1.0.0/16, fd00::/64, not 10.2.0.0/16",
            ),
            (json!({"mtu": 1400}), "mtu is 1500, not 1400"),
            (json!({"internal": true}), "internal is false, not true"),
            (
                json!({"driver": "lan"}),
                "driver is \"bridge\", not \"lan\"",
            ),
            (json!({"ipv6": false}), "ipv6 is true, not false"),
            (json!({"parent": "eth0"}), "parent is \"\", not \"eth0\""),
        ] {
            assert_eq!(differences(&config(more), &found()), [message]);
        }
    }
}
