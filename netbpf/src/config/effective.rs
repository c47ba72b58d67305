//! What a configuration comes to, key by key: to be shown, and to be compared with
//! another one.

use std::{collections::BTreeMap, fmt::Display};

use serde_json::{Value, json};

use super::{Config, Origin, options::LogLevel};
use crate::{
    cli::LogFormat,
    model::{SettingChange, SettingInfo, SettingSource},
    settings::Settings,
};

/// By key; null is left to the daemon.
pub type Values = BTreeMap<&'static str, Value>;

/// What changes while the daemon runs; the rest needs a restart.
pub const LIVE: [&str; 8] = [
    "log-level",
    "no-reserve-ports",
    "pool",
    "publish-ip",
    "socket-group",
    "teardown-on-exit",
    "timeout",
    "uplink",
];

impl Config {
    pub fn values(&self) -> Values {
        let Settings {
            socket,
            socket_group,
            state_dir,
            run_dir,
            bpffs,
            cgroup,
            uplinks,
            node,
            pools,
            publish_ip,
            reserve_ports,
            max_flows,
            max_endpoints,
            teardown_on_exit,
            as_kernel,
            xdp,
            client_rate,
            timeouts,
            metrics,
            node_ip,
            vxlan_port,
            etcd,
        } = &self.settings;
        let format = match self.log_format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        BTreeMap::from([
            ("socket", json!(socket)),
            ("socket-group", json!(socket_group)),
            ("state-dir", json!(state_dir)),
            ("run-dir", json!(run_dir)),
            ("bpffs", json!(bpffs)),
            ("cgroup", json!(cgroup)),
            ("uplink", list(uplinks)),
            ("node", json!(node)),
            ("pool", list(pools)),
            ("publish-ip", json!(publish_ip)),
            ("no-reserve-ports", json!(!reserve_ports)),
            ("max-flows", json!(max_flows)),
            ("max-endpoints", json!(max_endpoints)),
            ("teardown-on-exit", json!(teardown_on_exit)),
            ("xdp", json!(xdp)),
            ("client-rate", json!(client_rate)),
            (
                "timeout",
                json!(timeouts.all().map(|t| format!("{}={}s", t.name, t.seconds))),
            ),
            (
                "as-kernel",
                json!(as_kernel.map(|release| release.to_string())),
            ),
            ("metrics", json!(metrics)),
            ("node-ip", json!(node_ip)),
            ("vxlan-port", json!(vxlan_port)),
            ("etcd", list(&etcd.endpoints)),
            ("etcd-prefix", json!(etcd.prefix)),
            ("etcd-cacert", json!(etcd.cacert)),
            ("etcd-cert", json!(etcd.cert)),
            ("etcd-key", json!(etcd.key)),
            ("etcd-user", json!(etcd.user)),
            ("etcd-password-file", json!(etcd.password_file)),
            (
                "lease-ttl",
                json!(humantime::format_duration(etcd.lease_ttl).to_string()),
            ),
            ("log-format", json!(format)),
            ("log-level", json!(self.log_level.as_str())),
        ])
    }

    /// Every key with its value and where it comes from.
    pub fn shown(&self) -> Vec<SettingInfo> {
        let values = self.values().into_iter();
        values
            .map(|(key, value)| {
                let (source, from) = match self.origin(key) {
                    Origin::Flag => (SettingSource::Flag, Some(format!("--{key}"))),
                    origin @ Origin::Environment(_) => {
                        (SettingSource::Environment, Some(origin.to_string()))
                    }
                    origin @ Origin::File { .. } => (SettingSource::File, Some(origin.to_string())),
                    Origin::Default => (SettingSource::Default, None),
                };
                SettingInfo {
                    key: key.into(),
                    value,
                    source,
                    from,
                }
            })
            .collect()
    }

    /// What differs in `new`: what can be applied now, and what needs a restart.
    pub fn changes(&self, new: &Config) -> (Vec<SettingChange>, Vec<SettingChange>) {
        let before = self.values();
        new.values()
            .into_iter()
            .filter_map(|(key, after)| {
                let before = before.get(key).filter(|before| **before != after)?;
                Some(SettingChange {
                    key: key.into(),
                    before: before.clone(),
                    after,
                })
            })
            .partition(|change| LIVE.contains(&change.key.as_str()))
    }

    /// This one, with what of `new` can be applied while it runs.
    pub fn with_live(&self, new: &Config) -> Config {
        let settings = Settings {
            socket_group: new.settings.socket_group.clone(),
            uplinks: new.settings.uplinks.clone(),
            pools: new.settings.pools.clone(),
            publish_ip: new.settings.publish_ip,
            reserve_ports: new.settings.reserve_ports,
            teardown_on_exit: new.settings.teardown_on_exit,
            timeouts: new.settings.timeouts,
            ..self.settings.clone()
        };
        Config {
            settings,
            log_level: new.log_level,
            log_format: self.log_format,
            origins: new.origins.clone(),
        }
    }
}

/// An empty list leaves it to the daemon.
fn list(items: &[impl Display]) -> Value {
    match items {
        [] => Value::Null,
        items => items.iter().map(ToString::to_string).collect(),
    }
}

impl LogLevel {
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}
