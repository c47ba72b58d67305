//! The daemon's configuration: flags beat environment beats file beats default.
//!
//! [`Options`] is all three at once: the flags as the parser leaves them, the
//! file as TOML leaves it, and the environment, each variable of which is
//! parsed as the flag of the same name. So they cannot drift apart.

mod file;
mod options;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;

pub use self::options::{NotYet, Options};
use crate::{
    cli::LogFormat,
    error::{Code, Error, Result},
    settings::Settings,
};

/// Read if it exists, when no other file is named.
pub const DEFAULT_FILE: &str = "/etc/netbpf/netbpf.toml";

/// What the daemon starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub settings: Settings,
    pub log_format: LogFormat,
}

/// Puts everything together. `socket` is the global flag.
pub fn load(flags: Options, socket: Option<PathBuf>, file: Option<&Path>) -> Result<Config> {
    load_with(flags, socket, file, &|name| std::env::var_os(name))
}

/// Every flag of the daemon that this version knows, without its dashes.
pub fn flags() -> Vec<String> {
    let parser = Options::augment_args(clap::Command::new("netbpf"));
    let options = parser.get_arguments().filter(|arg| !arg.is_hide_set());
    let options = options.filter_map(|arg| arg.get_long());
    // Flags beside those of the options.
    options
        .chain(["socket", "config"])
        .map(str::to_owned)
        .collect()
}

/// The environment variable of a flag.
pub fn variable(flag: &str) -> String {
    format!("NETBPF_{}", flag.to_uppercase().replace('-', "_"))
}

/// The value of an environment variable; an empty one counts as none.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn load_with(
    flags: Options,
    socket: Option<PathBuf>,
    file: Option<&Path>,
    environment: Environment<'_>,
) -> Result<Config> {
    let environment: Environment<'_> =
        &|name: &str| environment(name).filter(|value| !value.is_empty());
    let flags = Options { socket, ..flags };
    let from_environment = options::from_environment(environment)?;
    let named = environment("NETBPF_CONFIG").map(PathBuf::from);
    let from_file = match file.or(named.as_deref()) {
        Some(path) => file::read(path)?,
        None => file::read_if_there(Path::new(DEFAULT_FILE))?,
    };
    finish(flags.over(from_environment).over(from_file))
}

/// Fills in the defaults and checks what the parts could not check alone.
fn finish(options: Options) -> Result<Config> {
    if let Some(name) = options.not_yet() {
        return Err(Error::new(
            Code::NotImplemented,
            format!("--{name} is not implemented in this version"),
        ));
    }
    let default = Settings::default();
    let settings = Settings {
        socket: options.socket.unwrap_or(default.socket),
        socket_group: options.socket_group.unwrap_or(default.socket_group),
        state_dir: options.state_dir.unwrap_or(default.state_dir),
        run_dir: options.run_dir.unwrap_or(default.run_dir),
        bpffs: options.bpffs.unwrap_or(default.bpffs),
        cgroup: options.cgroup,
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
    };
    for (what, value) in [
        ("max-flows", settings.max_flows),
        ("max-endpoints", settings.max_endpoints),
    ] {
        if value == 0 {
            return Err(Error::invalid(format!("{what} 0: at least 1 is needed")));
        }
    }
    if settings.node.is_empty() {
        return Err(Error::invalid("node \"\": a node needs a name"));
    }
    Ok(Config {
        settings,
        log_format: options.log_format.unwrap_or_default(),
    })
}

/// The host name of our UTS namespace.
fn host_name() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(name) if !name.trim().is_empty() => name.trim().into(),
        _ => "localhost".into(),
    }
}
