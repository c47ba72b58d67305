//! `netbpf flows`.

use clap::{
    Args, Subcommand,
    builder::{NonEmptyStringValueParser, PossibleValuesParser},
};
use netbpf_common::flow::State;

use crate::model::{FLOW_KINDS, FlowFilter};

/// List live connections with both sides of their translation
#[derive(Debug, Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "\
Examples:
  netbpf flows
  netbpf flows --endpoint web --protocol tcp
  netbpf flows --dst 192.0.2.0/24 --state opening
  netbpf flows -j | jq '.[] | select(.packets > 1000)'
  netbpf flows flush --endpoint web     forget those of an endpoint"
)]
pub struct Flows {
    #[command(flatten)]
    pub filter: Filter,
    #[command(subcommand)]
    pub verb: Option<FlowsVerb>,
}

#[derive(Debug, Subcommand)]
pub enum FlowsVerb {
    Flush(Flush),
}

/// Forget live connections of containers: all of them, or those that fit all that is said
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  netbpf flows flush --endpoint web
  netbpf flows flush --protocol udp --dst 192.0.2.53:53
  netbpf flows flush --kind masquerade --src 10.20.0.0/24
  netbpf flows flush                    all of the containers'

The next packet begins the connection anew where it can: of udp and icmp any packet of
the side that began it, of tcp a SYN alone, so established tcp connections do not go
on. An outside port whose connections are all flushed is given back. The host's own (of
no endpoint) stay: a program of the host would lose its connection.")]
pub struct Flush {
    #[command(flatten)]
    pub filter: Filter,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Of this endpoint only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub endpoint: Option<String>,
    /// Of this network only
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// tcp, udp, icmp, icmp6, sctp or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = NonEmptyStringValueParser::new())]
    pub protocol: Option<String>,
    /// In this state only
    #[arg(long, value_parser = PossibleValuesParser::new(State::ALL.map(State::label)))]
    pub state: Option<String>,
    /// Made by a published port, by masquerade, by routing, or by the host itself
    #[arg(long, value_parser = PossibleValuesParser::new(FLOW_KINDS))]
    pub kind: Option<String>,
    /// Begun from here: IP, IP/LEN, IP:PORT, [IP6]:PORT or :PORT
    #[arg(long, value_name = "ADDRESS", value_parser = NonEmptyStringValueParser::new())]
    pub src: Option<String>,
    /// Begun to here
    #[arg(long, value_name = "ADDRESS", value_parser = NonEmptyStringValueParser::new())]
    pub dst: Option<String>,
    /// Answered from here
    #[arg(long, value_name = "ADDRESS", value_parser = NonEmptyStringValueParser::new())]
    pub reply_src: Option<String>,
    /// Answered to here: the outside address and port of masqueraded ones
    #[arg(long, value_name = "ADDRESS", value_parser = NonEmptyStringValueParser::new())]
    pub reply_dst: Option<String>,
}

impl Filter {
    /// What is said before a verb counts for what is not said behind it.
    pub fn or(self, before: Filter) -> FlowFilter {
        FlowFilter {
            endpoint: self.endpoint.or(before.endpoint),
            network: self.network.or(before.network),
            protocol: self.protocol.or(before.protocol),
            state: self.state.or(before.state),
            kind: self.kind.or(before.kind),
            src: self.src.or(before.src),
            dst: self.dst.or(before.dst),
            reply_src: self.reply_src.or(before.reply_src),
            reply_dst: self.reply_dst.or(before.reply_dst),
        }
    }
}
