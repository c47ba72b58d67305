//! The daemon's configuration: flags beat environment beats file beats default.
//!
//! [`Options`] is the one definition. A flag, a variable and a key of the file of
//! one name are the same text to it, parsed by the same parser; so they cannot
//! drift apart, and of each value it is known where it comes from.

mod cluster;
mod effective;
mod file;
mod options;
mod source;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Args, Command, FromArgMatches};
use netbpf_common::flow::Timeouts;

use self::source::Entry;
pub use self::{
    cluster::ClusterOptions,
    effective::{LIVE, Values},
    options::{Directories, LogLevel, NotYet, Options, TimeoutOf},
    source::{Given, Origin},
};
use crate::{
    cli::LogFormat,
    error::{Code, Error, Result},
    settings::Settings,
};

/// Of `max-flows` and `max-endpoints`: maps have room for a few times as many, which the
/// kernel counts in 32 bits.
const MOST_ENTRIES: u32 = 1 << 25;

/// Read if it exists, when no other file is named.
pub const DEFAULT_FILE: &str = "/etc/netbpf/netbpf.toml";

/// What the daemon runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub settings: Settings,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    /// Of each key that is set anywhere.
    pub origins: BTreeMap<String, Origin>,
}

impl Config {
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}

/// What is typed in front of the file: it stays when the file is read again.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    flags: Vec<Entry>,
    file: Option<PathBuf>,
}

impl Typed {
    /// `socket` is the global flag.
    pub fn new<A>(flags: Given<A>, socket: Option<PathBuf>, file: Option<PathBuf>) -> Typed {
        let mut flags = flags.into_entries();
        flags.extend(socket.map(|path| Entry::flag("socket", vec![path.into()])));
        Typed { flags, file }
    }

    /// Puts it together with environment, file and defaults.
    pub fn load(&self) -> Result<Config> {
        self.load_with(&|name| std::env::var_os(name))
    }

    fn load_with(&self, environment: Environment<'_>) -> Result<Config> {
        let environment: Environment<'_> =
            &|name: &str| environment(name).filter(|value| !value.is_empty());
        let mut entries = self.flags.clone();
        entries.extend(from_environment(environment)?);
        let named = environment("NETBPF_CONFIG").map(PathBuf::from);
        entries.extend(match self.file.as_ref().or(named.as_ref()) {
            Some(path) => file::read(path)?,
            None => file::read_if_there(Path::new(DEFAULT_FILE))?,
        });
        put_together(entries)
    }
}

/// Every flag of the daemon that this version knows, without its dashes.
pub fn flags() -> Vec<String> {
    let parser = parser();
    let options = parser.get_arguments().filter(|arg| !arg.is_hide_set());
    let options = options.filter_map(|arg| arg.get_long());
    // It is no key of itself.
    options.chain(["config"]).map(str::to_owned).collect()
}

/// The environment variable of a flag.
pub fn variable(flag: &str) -> String {
    format!("NETBPF_{}", flag.to_uppercase().replace('-', "_"))
}

/// The value of an environment variable; an empty one counts as none.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// All that is a key: the options and the global flag.
#[derive(Debug, Default, Args)]
struct Keys {
    #[arg(long)]
    socket: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

fn parser() -> Command {
    Keys::augment_args(Command::new("netbpf"))
        .no_binary_name(true)
        .disable_help_flag(true)
}

fn parse(entries: &[&Entry]) -> Result<Keys, clap::Error> {
    let line = entries.iter().flat_map(|entry| entry.as_flags());
    let matches = parser().try_get_matches_from(line)?;
    Keys::from_arg_matches(&matches)
}

/// An entry must make sense also where another one beats it.
fn check(entry: Entry) -> Result<Entry> {
    match parse(&[&entry]) {
        Ok(_) => Ok(entry),
        Err(e) => {
            let reason = crate::cli::usage_reason(&e);
            Err(Error::invalid(entry.origin.blame(&entry.key, &reason)))
        }
    }
}

/// `NETBPF_STATE_DIR` is `--state-dir`; lists are split at commas.
fn from_environment(environment: Environment<'_>) -> Result<Vec<Entry>> {
    let parser = parser();
    let mut entries = Vec::new();
    for arg in parser.get_arguments() {
        let Some(key) = arg.get_long() else { continue };
        let variable = variable(key);
        let Some(value) = environment(&variable) else {
            continue;
        };
        let values = match (arg.get_action(), value.to_str()) {
            (ArgAction::Append, Some(list)) => list.split(',').map(OsString::from).collect(),
            _ => vec![value],
        };
        entries.push(check(Entry {
            key: key.to_owned(),
            origin: Origin::Environment(variable),
            values,
        })?);
    }
    Ok(entries)
}

/// Takes of each key the first entry.
fn put_together(entries: Vec<Entry>) -> Result<Config> {
    let mut winners: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in entries {
        winners.entry(entry.key.clone()).or_insert(entry);
    }
    let all: Vec<&Entry> = winners.values().collect();
    // Each is parsed already, by the command line or by `check`.
    let keys = parse(&all).map_err(|e| Error::invalid(crate::cli::usage_reason(&e)))?;
    if let Some(key) = keys.options.not_yet() {
        let origin = winners
            .get(key)
            .map_or(&Origin::Flag, |entry| &entry.origin);
        let message = origin.blame(key, &format!("--{key} is not implemented in this version"));
        return Err(Error::new(Code::NotImplemented, message));
    }
    let origins = winners.into_values().map(|entry| (entry.key, entry.origin));
    finish(keys, origins.collect())
}

/// Fills in the defaults and checks what the parts could not check alone.
fn finish(keys: Keys, origins: BTreeMap<String, Origin>) -> Result<Config> {
    let Keys { socket, options } = keys;
    let directories = options.directories;
    let default = Settings::default();
    let settings = Settings {
        socket: socket.unwrap_or(default.socket),
        socket_group: options.socket_group.unwrap_or(default.socket_group),
        state_dir: directories.state_dir.unwrap_or(default.state_dir),
        run_dir: directories.run_dir.unwrap_or(default.run_dir),
        bpffs: directories.bpffs.unwrap_or(default.bpffs),
        cgroup: directories.cgroup,
        uplinks: options.uplink.unwrap_or(default.uplinks),
        node: match options.node {
            Some(node) => node,
            None => host_name(),
        },
        pools: options.pool.unwrap_or(default.pools),
        publish_ip: options.publish_ip,
        reserve_ports: !options.no_reserve_ports.unwrap_or(!default.reserve_ports),
        max_flows: options.max_flows.unwrap_or(default.max_flows),
        max_endpoints: options.max_endpoints.unwrap_or(default.max_endpoints),
        teardown_on_exit: options.teardown_on_exit.unwrap_or(default.teardown_on_exit),
        xdp: options.xdp.unwrap_or(default.xdp),
        client_rate: options.client_rate.unwrap_or(default.client_rate),
        as_kernel: options.as_kernel,
        metrics: options.metrics,
        node_ip: options.cluster.node_ip,
        vxlan_port: options.cluster.vxlan_port.unwrap_or(default.vxlan_port),
        etcd: options.cluster.etcd(&origins)?,
        timeouts: timeouts(options.timeout.unwrap_or_default(), &origins)?,
    };
    let config = Config {
        settings,
        log_format: options.log_format.unwrap_or_default(),
        log_level: options.log_level.unwrap_or_default(),
        origins,
    };
    let wrong = |key: &str, reason: &str| Error::invalid(config.origin(key).blame(key, reason));
    for (key, value) in [
        ("max-flows", config.settings.max_flows),
        ("max-endpoints", config.settings.max_endpoints),
    ] {
        if value == 0 {
            return Err(wrong(key, &format!("{key} 0: at least 1 is needed")));
        }
        if value > MOST_ENTRIES {
            return Err(wrong(
                key,
                &format!("{key} {value}: at most {MOST_ENTRIES}"),
            ));
        }
    }
    for (key, path) in [
        ("state-dir", &config.settings.state_dir),
        ("run-dir", &config.settings.run_dir),
        ("bpffs", &config.settings.bpffs),
    ] {
        // What is found again from another directory.
        if !path.is_absolute() {
            let reason = format!("{key} {:?}: the path must be absolute", path.display());
            return Err(wrong(key, &reason));
        }
    }
    if config.settings.node.is_empty() {
        return Err(wrong("node", "node \"\": a node needs a name"));
    }
    Ok(config)
}

/// The defaults, with those that are given; each once.
fn timeouts(given: Vec<TimeoutOf>, origins: &BTreeMap<String, Origin>) -> Result<Timeouts> {
    let mut timeouts = Timeouts::DEFAULT;
    let mut seen = BTreeSet::new();
    for TimeoutOf { name, seconds } in given {
        if !seen.insert(name) {
            let reason = format!("timeout \"{name}={seconds}s\": {name} is given twice");
            let origin = origins.get("timeout").unwrap_or(&Origin::Flag);
            return Err(Error::invalid(origin.blame("timeout", &reason)));
        }
        if let Some(timeout) = timeouts.named(name) {
            *timeout = seconds;
        }
    }
    Ok(timeouts)
}

/// The host name of our UTS namespace.
fn host_name() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) if !name.trim().is_empty() => name.trim().into(),
        _ => "localhost".into(),
    }
}
