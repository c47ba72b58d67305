use super::{or_dash, or_empty};
use crate::{
    cli::output::{Columns, Lines, Show},
    model::{NodeInfo, NodeState},
};

impl Show for NodeInfo {
    fn human(&self, width: Option<u16>) -> String {
        let blocks = self.blocks.iter();
        Lines::within(width)
            .add("name", &self.name)
            .add("address", or_empty(self.address.as_ref()))
            .add("state", state(self))
            .add("mtu", or_empty(self.mtu.as_ref()))
            .add("version", &self.version)
            .add("endpoints", self.endpoints)
            .each(
                "block",
                blocks.map(|of| format!("{} of {}", of.block, of.network)),
            )
            .to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Show for Vec<NodeInfo> {
    fn human(&self, width: Option<u16>) -> String {
        let header = ["NAME", "ADDRESS", "STATE", "MTU", "ENDPOINTS", "VERSION"];
        let mut columns = Columns::new(width, &header);
        for node in self {
            let star = if node.this { " *" } else { "" };
            columns.row([
                format!("{}{star}", node.name),
                or_dash(or_empty(node.address.as_ref())),
                state(node),
                or_dash(or_empty(node.mtu.as_ref())),
                node.endpoints.to_string(),
                node.version.clone(),
            ]);
        }
        columns.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|node| node.name.clone()).collect()
    }
}

fn state(node: &NodeInfo) -> String {
    let state = match node.state {
        NodeState::Alive => "alive",
        NodeState::Away => "away",
    };
    match node.drained {
        true => format!("{state}, drained"),
        false => state.into(),
    }
}
