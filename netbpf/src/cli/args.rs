//! The one definition of the command line. The parser and the help are made of
//! it, and by `cli::generate` the manual and the completions. What later versions
//! bring is hidden and refused in `cli::later`.
//!
//! The help of every command has examples: a paragraph that begins with a line
//! `Examples:`; each further paragraph is a note.

mod daemon;
mod endpoint;
mod engines;
mod flows;
mod network;
mod node;
mod values;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint, builder::NonEmptyStringValueParser,
};

pub use self::values::duration;
pub use self::{
    daemon::{Daemon, Doctor, Reload, Teardown},
    endpoint::{Attach, Detach, InspectEndpoint, Publish, Unpublish, Update, Whose},
    engines::{Cni, OciHook},
    flows::{Filter, Flows, FlowsVerb},
    network::{CreateNetwork, Encap, Network, NetworkVerb},
    node::{Node, NodeVerb},
};
use super::top::Order;

/// Container networking in eBPF: networks, endpoints and published ports
/// without bridges and firewall rules
#[derive(Debug, Parser)]
#[command(
    name = "netbpf",
    version,
    after_help = "\
Examples:
  netbpf daemon &                                     start the daemon (or: systemctl start netbpf)
  netbpf network create front                         make a network
  netbpf attach --name web --network front --pid 4711 -p 8080:80
                                                      connect a container, publish a port
  netbpf ps                                           what is connected, and by which interface
  netbpf port web                                     its published ports
  netbpf detach web                                   disconnect it

`netbpf help COMMAND` says more. Exit codes: 0 done, 1 refused or failed,
2 wrong usage, 3 no daemon answers."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags that stand before or after the command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Socket of the daemon [env: NETBPF_SOCKET] [default: /run/netbpf/netbpf.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON, errors too
    #[arg(short, long, global = true)]
    pub json: bool,
    /// Print names only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more about what is done; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Daemon(Daemon),
    Network(Network),
    Node(Node),
    Attach(Box<Attach>),
    Detach(Detach),
    Ps(Ps),
    Inspect(InspectEndpoint),
    Publish(Publish),
    Unpublish(Unpublish),
    Update(Update),
    Port(Port),
    Status(Status),
    Flows(Box<Flows>),
    Drops(Drops),
    Monitor(Monitor),
    Top(Top),
    Doctor(Doctor),
    Reload(Reload),
    Teardown(Teardown),
    Cni(Cni),
    OciHook(OciHook),
    Completions(Completions),
    #[command(hide = true)]
    Generate(Generate),

    #[command(hide = true)]
    Run(Later),
    #[command(hide = true)]
    Exec(Later),
    #[command(hide = true)]
    Stop(Later),
    #[command(hide = true)]
    Capture(Later),
    #[command(hide = true)]
    Trace(Later),
}

/// A command of a later version, with whatever follows it.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Later {
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        num_args = 0..,
        hide = true
    )]
    pub rest: Vec<OsString>,
}

/// List the endpoints and the interfaces that they hang on
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf ps
  netbpf ps --network front
  netbpf ps --container ID              of one container of an engine
  netbpf ps -q                          names only
  netbpf ps -j | jq -r '.[].ipv4'")]
pub struct Ps {
    /// On this network only
    #[arg(long, value_name = "NET", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Of this container only, by the id that its engine gave it
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub container: Option<String>,
}

/// List published ports
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf port
  netbpf port web
  netbpf port web -j | jq '.[].host_port'")]
pub struct Port {
    /// Of this endpoint only
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
}

/// Show the daemon, its uplinks, programs and maps
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf status
  netbpf status --wait 10s -q           wait for the daemon, print nothing")]
pub struct Status {
    /// Wait as long as this for the daemon to answer: 10s, 1m, 500ms, or seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,
}

/// Count dropped packets by reason
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf drops
  netbpf drops --endpoint web
  netbpf drops --network front -j")]
pub struct Drops {
    /// Of this endpoint only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub endpoint: Option<String>,
    /// Of this network only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
}

/// Tell what happens: connections that begin and end, dropped packets
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf monitor
  netbpf monitor --drops --endpoint web
  netbpf monitor --count 1 --duration 10s       the next event, if there is one in time
  netbpf monitor -j | jq -c 'select(.event == \"close\")'

One line for each event, with -j one JSON object. A connection is told with the
tuple of its first packet and what that was translated into. Lines `lost` say how
many events were lost: the programs were quicker than the daemon could read
(buffer_full), or this reader was too slow (slow_reader). It ends on SIGINT and
SIGTERM; --count and --duration end it with exit code 0.")]
pub struct Monitor {
    /// Dropped packets only
    #[arg(long)]
    pub drops: bool,
    /// Of this endpoint only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub endpoint: Option<String>,
    /// Of this network only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after this time: 10s, 1m, 500ms, or seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
}

/// Watch what goes through the containers, the busiest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf top
  netbpf top --network front --sort drops
  netbpf top --count 1 --interval 10s           what the next ten seconds bring
  netbpf top -j | jq .rx_rate

In is into the container, out is out of it. Keys: q quits; t, r, x, d and n order by
total, in, out, drops and name. Where the output is no terminal, or with --count, each
look is printed after the other, with -j one JSON object a line. It ends on SIGINT and
SIGTERM.")]
pub struct Top {
    /// Of this network only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Between two looks: 2s, 500ms, or seconds
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub interval: Duration,
    /// What comes first
    #[arg(long, value_enum, value_name = "ORDER", default_value_t)]
    pub sort: Order,
    /// End after so many looks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// The daemon is asked each time.
fn interval(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    match duration(text)? {
        time if time < LEAST => Err(format!("{text:?} is less than 100ms")),
        time => Ok(time),
    }
}

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(netbpf completions bash)     in this shell
  netbpf completions bash > /usr/share/bash-completion/completions/netbpf
  netbpf completions zsh > /usr/local/share/zsh/site-functions/_netbpf
  netbpf completions fish > ~/.config/fish/completions/netbpf.fish")]
pub struct Completions {
    pub shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Write the manual, the completions and all else that is made of the program
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf generate target/generated")]
pub struct Generate {
    /// Made if it is missing
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: PathBuf,
}
