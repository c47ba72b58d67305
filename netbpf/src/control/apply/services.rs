//! Steps on published ports.

use super::Apply;
use crate::{
    control::{
        plan::{Endpoint, Leave, Service},
        ports,
    },
    datapath::{self, ServiceAt, ServiceBackend},
    error::Result,
    store::PortRecord,
};

impl Apply<'_> {
    pub(super) fn set_service(
        &mut self,
        before: Option<&Service>,
        after: Option<&Service>,
        leave: Leave,
    ) -> Result<()> {
        match (before, after) {
            (_, Some(after)) => {
                let after = self.service(after);
                self.on_datapath(|d| d.publish(&after))?;
            }
            (Some(before), None) => {
                let before = self.service(before);
                self.on_datapath(|d| d.unpublish(&before))?;
            }
            (None, None) => {}
        }
        let left = before.iter().flat_map(|s| &s.members);
        for (endpoint, port) in left.filter(|(_, p)| !after.is_some_and(|a| a.has(p.slot))) {
            match leave {
                Leave::AtOnce => self.end_connections(endpoint, port)?,
                Leave::WithEndpoint => self.on_datapath(|d| d.end_slot(port.slot))?,
                Leave::Later => {}
            }
        }
        Ok(())
    }

    /// The entry of what is published at a place.
    pub(super) fn service(&self, service: &Service) -> datapath::Service {
        let (_, first) = &service.members[0];
        datapath::Service {
            at: ServiceAt {
                protocol: ports::number(first.protocol),
                host_ip: first.host_ip,
                first: first.host_port,
                last: first.host_port_end,
            },
            held: !first.unheld,
            affinity: first.affinity,
            allow: first.allow.clone(),
            backends: service
                .members
                .iter()
                .map(|(endpoint, port)| ServiceBackend {
                    slot: port.slot,
                    container_port: port.container_port,
                    weight: port.weight,
                    endpoint: self.entry(endpoint),
                })
                .collect(),
        }
    }

    /// Ends the connections of a published port, while its flows still carry what
    /// the sockets have to say: resets to the clients, and an abort in the container.
    pub(super) fn end_connections(&mut self, endpoint: &Endpoint, port: &PortRecord) -> Result<()> {
        let ended = match self.datapath {
            Some(datapath) => self.end_sockets(datapath, &endpoint.record, port),
            None => Ok(()),
        };
        // Also where no socket could be ended: packets of either side are answered.
        self.on_datapath(|d| d.end_slot(port.slot))?;
        ended
    }
}
