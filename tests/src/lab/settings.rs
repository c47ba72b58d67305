//! What a host is like before and after us: settings, devices, addresses,
//! routes, rules and firewall.

use std::{collections::BTreeMap, fs, path::Path};

use super::{Namespace, has_tools};

/// A picture of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    pub sysctls: BTreeMap<String, String>,
    pub links: String,
    pub addresses: String,
    pub rules: String,
    pub routes: String,
    pub firewall: String,
}

impl Settings {
    #[track_caller]
    pub fn of(space: &Namespace) -> Settings {
        let both = |what: &str| space.ip(&format!("-4 {what}")) + &space.ip(&format!("-6 {what}"));
        Settings {
            sysctls: sysctls(space),
            links: space.ip("-o link show"),
            addresses: space.ip("-o addr show"),
            rules: both("rule show"),
            routes: both("route show table all"),
            firewall: firewall(space),
        }
    }
}

/// All rules of nftables and iptables.
#[track_caller]
pub fn firewall(space: &Namespace) -> String {
    let mut rules = String::new();
    if has_tools("firewall rules by nft", &["nft"]) {
        rules += &space.run(&["nft", "list", "ruleset"]).ok();
    }
    rules
}

/// Every setting below /proc/sys/net as the namespace sees it, with its value.
/// Counters that stand among them are left out.
#[track_caller]
pub fn sysctls(space: &Namespace) -> BTreeMap<String, String> {
    space.enter(|| {
        let mut values = BTreeMap::new();
        collect(Path::new("/proc/sys/net"), &mut values);
        values
    })
}

fn collect(dir: &Path, values: &mut BTreeMap<String, String>) {
    const COUNTERS: [&str; 2] = ["nf_conntrack_count", "flush"];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, values);
        } else if !COUNTERS.contains(&entry.file_name().to_string_lossy().as_ref())
            && let Ok(value) = fs::read_to_string(&path)
        {
            values.insert(path.display().to_string(), value.trim().to_owned());
        }
    }
}
