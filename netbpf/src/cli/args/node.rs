//! `netbpf node`.

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

/// List, drain and remove the nodes of the cluster
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  netbpf node ls
  netbpf node inspect n2
  netbpf node drain n2
  netbpf node rm n2

Without --etcd there is one node, this one."
)]
pub struct Node {
    #[command(subcommand)]
    pub verb: NodeVerb,
}

#[derive(Debug, Subcommand)]
pub enum NodeVerb {
    /// List the nodes
    #[command(
        alias = "list",
        after_help = "\
Examples:
  netbpf node ls
  netbpf node ls -q

A node is `away` when its daemon has not renewed its lease for --lease-ttl. Its
endpoints leave listings then; traffic to them goes on."
    )]
    Ls,
    /// Show one node in full
    #[command(after_help = "Examples:\n  netbpf node inspect n2\n  netbpf node inspect n2 -j")]
    Inspect(NamedNode),
    /// Remove a node that is away, with its blocks, addresses and endpoints
    #[command(
        alias = "remove",
        after_help = "\
Examples:
  netbpf node rm n2
  netbpf node rm n2 n3

Each is tried; what cannot be removed is told by name, and the exit status is 1."
    )]
    Rm(NamedNodes),
    /// Let a node get no new endpoint on overlay networks
    #[command(
        after_help = "Examples:\n  netbpf node drain n2\n  netbpf node drain n2 --undo\n\nWhat runs there goes on."
    )]
    Drain(DrainNode),
}

#[derive(Debug, Args)]
pub struct NamedNode {
    /// Name of the node
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct NamedNodes {
    /// Names of the nodes
    #[arg(value_name = "NAME", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct DrainNode {
    /// Name of the node
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Let it get new endpoints again
    #[arg(long)]
    pub undo: bool,
}
