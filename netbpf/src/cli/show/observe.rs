//! Status, flows and drops.

use super::{or_dash, or_empty};
use crate::{
    cli::output::{Columns, Lines, Show},
    model::{
        ClusterInfo, DropInfo, FlowInfo, FlushInfo, MapInfo, ProgramInfo, StatusInfo, UplinkInfo,
    },
};

impl Show for StatusInfo {
    fn human(&self, width: Option<u16>) -> String {
        let head = Lines::within(width)
            .add("version", &self.version)
            .add("node", &self.node)
            .add("pid", self.pid)
            .add("kernel", &self.kernel)
            .add("networks", self.networks)
            .add("endpoints", self.endpoints)
            .each(
                "feature",
                self.features
                    .iter()
                    .map(|(name, use_)| format!("{name}: {use_}")),
            )
            .add("cluster", cluster(self.cluster.as_ref()))
            .each("note", self.notes.iter().cloned())
            .to_string();
        [
            head,
            uplinks(&self.uplinks, width),
            programs(&self.programs, width),
            maps(&self.maps, width),
        ]
        .join("\n")
    }

    /// Nothing: `status -q` only says by its exit code whether it answers.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

fn cluster(cluster: Option<&ClusterInfo>) -> String {
    let Some(of) = cluster else {
        return String::new();
    };
    let mut text = of.state.clone();
    if let Some(since) = &of.since {
        text += &format!(" since {since}");
    }
    if let Some(url) = &of.url {
        text += &format!(", {url}");
    }
    text += &format!(", {} nodes", of.nodes);
    if of.nodes_away > 0 {
        text += &format!(", {} of them away", of.nodes_away);
    }
    match &of.error {
        Some(error) if of.state != "connected" => format!("{text}: {error}"),
        _ => text,
    }
}

fn uplinks(uplinks: &[UplinkInfo], width: Option<u16>) -> String {
    let mut columns = Columns::new(
        width,
        &["UPLINK", "INDEX", "MTU", "LINK", "EARLY DROP", "ADDRESSES"],
    );
    for uplink in uplinks {
        let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
        columns.row([
            uplink.name.clone(),
            uplink.ifindex.to_string(),
            uplink.mtu.to_string(),
            uplink.link.clone(),
            uplink.early_drop.clone(),
            or_dash(addresses.join(", ")),
        ]);
    }
    columns.to_string()
}

fn programs(programs: &[ProgramInfo], width: Option<u16>) -> String {
    let mut columns = Columns::new(width, &["PROGRAM", "ID", "VERIFIED", "ATTACHED TO"]);
    for program in programs {
        columns.row([
            program.name.clone(),
            program.id.to_string(),
            or_dash(or_empty(program.verified_instructions.as_ref())),
            or_dash(program.attached_to.join(", ")),
        ]);
    }
    columns.to_string()
}

fn maps(maps: &[MapInfo], width: Option<u16>) -> String {
    let mut columns = Columns::new(width, &["MAP", "ENTRIES", "OF"]);
    for map in maps {
        columns.row([
            map.name.clone(),
            or_dash(or_empty(map.entries.as_ref())),
            map.max_entries.to_string(),
        ]);
    }
    columns.to_string()
}

impl Show for Vec<FlowInfo> {
    fn human(&self, width: Option<u16>) -> String {
        let header = [
            "PROTO",
            "KIND",
            "STATE",
            "ENDPOINT",
            "SRC",
            "DST",
            "REPLY SRC",
            "REPLY DST",
            "AGE",
            "PACKETS",
            "BYTES",
        ];
        let mut columns = Columns::new(width, &header);
        for flow in self {
            columns.row([
                flow.protocol.clone(),
                flow.kind.clone(),
                flow.state.clone(),
                or_dash(or_empty(flow.endpoint.as_ref())),
                flow.src.clone(),
                flow.dst.clone(),
                flow.reply_src.clone(),
                flow.reply_dst.clone(),
                format!("{}s", flow.age),
                format!("{}/{}", flow.packets, flow.reply_packets),
                format!("{}/{}", flow.bytes, flow.reply_bytes),
            ]);
        }
        columns.to_string()
    }

    /// A flow has no name but its tuple.
    fn names(&self) -> Vec<String> {
        self.iter()
            .map(|flow| format!("{} {} {}", flow.protocol, flow.src, flow.dst))
            .collect()
    }
}

impl Show for FlushInfo {
    fn human(&self, _: Option<u16>) -> String {
        let of = |count: u64, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        let (flows, mappings) = (of(self.flows, "flow"), of(self.mappings, "mapping"));
        format!("{flows} and {mappings} removed\n")
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Show for Vec<DropInfo> {
    fn human(&self, width: Option<u16>) -> String {
        let mut columns = Columns::new(width, &["REASON", "PACKETS", "DESCRIPTION"]);
        for drop in self {
            columns.row([
                drop.reason.clone(),
                drop.packets.to_string(),
                drop.description.clone(),
            ]);
        }
        columns.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|drop| drop.reason.clone()).collect()
    }
}
