use serde::Serialize;

use super::{labels, or_dash, or_empty, port};
use crate::{
    cli::output::{Columns, Lines, Show},
    model::EndpointInfo,
};

impl Show for EndpointInfo {
    fn human(&self, width: Option<u16>) -> String {
        let address = |address: Option<&String>, gateway: String| match (address, gateway) {
            (Some(address), gateway) if !gateway.is_empty() => {
                format!("{address} gateway {gateway}")
            }
            (address, _) => or_empty(address),
        };
        Lines::within(width)
            .add("name", &self.name)
            .add("network", &self.network)
            .add("container", or_empty(self.container_id.as_ref()))
            .add("netns", &self.netns)
            .add("interface", &self.ifname)
            .add(
                "host interface",
                format!("{} ({})", self.host_ifname, self.host_ifindex),
            )
            .add("mac", &self.mac)
            .add(
                "ipv4",
                address(self.ipv4.as_ref(), or_empty(self.gateway.as_ref())),
            )
            .add(
                "ipv6",
                address(self.ipv6.as_ref(), or_empty(self.gateway6.as_ref())),
            )
            .add("mtu", self.mtu)
            .each("port", port::all_mappings(self))
            .each("alias", self.aliases.iter().cloned())
            .each("link", self.links.iter().cloned())
            .each("label", labels(&self.labels))
            .each(
                "dns server",
                self.dns.servers.iter().map(ToString::to_string),
            )
            .add("received", traffic(self.rx_packets, self.rx_bytes))
            .add("sent", traffic(self.tx_packets, self.tx_bytes))
            .add("dropped", format!("{} packets", self.dropped_packets))
            .add("created", &self.created_at)
            .to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

fn traffic(packets: u64, bytes: u64) -> String {
    format!("{packets} packets, {bytes} bytes")
}

impl Show for Vec<EndpointInfo> {
    fn human(&self, width: Option<u16>) -> String {
        let header = [
            "NAME",
            "NETWORK",
            "IPV4",
            "IPV6",
            "INTERFACE",
            "HOST INTERFACE",
            "PORTS",
        ];
        let mut columns = Columns::new(width, &header);
        for endpoint in self {
            let ports: Vec<String> = endpoint.ports.iter().map(port::short).collect();
            columns.row([
                endpoint.name.clone(),
                endpoint.network.clone(),
                or_dash(or_empty(endpoint.ipv4.as_ref())),
                or_dash(or_empty(endpoint.ipv6.as_ref())),
                endpoint.ifname.clone(),
                endpoint.host_ifname.clone(),
                or_dash(ports.join(", ")),
            ]);
        }
        columns.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|endpoint| endpoint.name.clone()).collect()
    }
}

/// Endpoints of one name in full, a blank line between them.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Details(pub Vec<EndpointInfo>);

impl Show for Details {
    fn human(&self, width: Option<u16>) -> String {
        let each: Vec<String> = self.0.iter().map(|one| one.human(width)).collect();
        each.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}

/// Endpoints that are no more.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Detached(pub Vec<EndpointInfo>);

impl Show for Detached {
    fn human(&self, _: Option<u16>) -> String {
        self.0
            .iter()
            .map(|gone| format!("{} detached from {}\n", gone.name, gone.network))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}
