use schemars::JsonSchema;
use serde::Serialize;

use super::{labels, or_dash};
use crate::{
    cli::output::{Columns, Lines, Show},
    model::{Driver, NetworkInfo},
};

/// A network that is no more.
#[derive(Serialize, JsonSchema)]
pub struct Named {
    pub name: String,
}

impl Show for Named {
    fn human(&self, _: Option<u16>) -> String {
        format!("{}\n", self.name)
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

/// Networks that are no more.
impl Show for Vec<Named> {
    fn human(&self, width: Option<u16>) -> String {
        self.iter().map(|one| one.human(width)).collect()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|one| one.name.clone()).collect()
    }
}

/// Names of networks that were removed, or paths of files that were written.
impl Show for Vec<String> {
    fn human(&self, _: Option<u16>) -> String {
        self.iter().map(|name| format!("{name}\n")).collect()
    }

    fn names(&self) -> Vec<String> {
        self.clone()
    }
}

impl Show for NetworkInfo {
    fn human(&self, width: Option<u16>) -> String {
        let subnets = self.subnets.iter().map(|subnet| {
            let range = match subnet.ip_range {
                Some(range) => format!(", addresses of {range}"),
                None => String::new(),
            };
            format!("{} gateway {}{range}", subnet.subnet, subnet.gateway)
        });
        Lines::within(width)
            .add("name", &self.name)
            .add("driver", driver(self.driver))
            .each("subnet", subnets)
            .add("mtu", self.mtu)
            .add("vni", super::or_empty(self.vni.as_ref()))
            .add("parent", super::or_empty(self.parent.as_ref()))
            .add("options", options(self))
            .each("label", labels(&self.labels))
            .each("endpoint", self.endpoints.iter().cloned())
            .to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Show for Vec<NetworkInfo> {
    fn human(&self, width: Option<u16>) -> String {
        let mut columns = Columns::new(
            width,
            &["NAME", "DRIVER", "SUBNETS", "MTU", "ENDPOINTS", "OPTIONS"],
        );
        for network in self {
            let subnets: Vec<String> = network
                .subnets
                .iter()
                .map(|subnet| subnet.subnet.to_string())
                .collect();
            columns.row([
                network.name.clone(),
                driver(network.driver).into(),
                or_dash(subnets.join(", ")),
                network.mtu.to_string(),
                network.endpoints.len().to_string(),
                or_dash(options(network)),
            ]);
        }
        columns.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|network| network.name.clone()).collect()
    }
}

fn driver(driver: Driver) -> &'static str {
    match driver {
        Driver::Bridge => "bridge",
        Driver::Overlay => "overlay",
        Driver::Lan => "lan",
    }
}

/// What was asked for besides the usual, as the flags are called.
fn options(network: &NetworkInfo) -> String {
    let given = [
        (network.internal, "internal"),
        (!network.icc, "no-icc"),
        (!network.masquerade, "no-masquerade"),
    ];
    let given: Vec<&str> = given
        .into_iter()
        .filter_map(|(given, name)| given.then_some(name))
        .collect();
    given.join(", ")
}
