//! Steps on published ports.

use super::{Apply, end_of_host};
use crate::{
    control::{
        plan::{Leave, Service},
        ports,
        programs::Programs,
    },
    datapath::{self, ServiceAt, ServiceBackend},
    error::Result,
};

/// A program may have taken a port between the look and the moment from which on it
/// is held; now none can.
fn check_programs(service: &Service) -> Result<()> {
    let mut programs = Programs::default();
    for (endpoint, port) in service.members.iter().filter(|(_, p)| !p.unheld) {
        if let Some((_, in_use)) = programs.in_the_way(&endpoint.record, port)? {
            return Err(in_use);
        }
    }
    Ok(())
}

impl Apply<'_> {
    pub(super) fn set_service(
        &mut self,
        before: Option<&Service>,
        after: Option<&Service>,
        leave: Leave,
    ) -> Result<()> {
        let mut unpublished = Ok(());
        match (before, after) {
            (_, Some(after)) => {
                let entry = self.service(after);
                let is_new = self.on_datapath(|d| d.publish(&entry))?.unwrap_or(false);
                if is_new {
                    check_programs(after)?;
                }
            }
            (Some(before), None) => {
                let before = self.service(before);
                unpublished = self.on_datapath(|d| d.unpublish(&before)).map(drop);
            }
            (None, None) => {}
        }
        let left = before.iter().flat_map(|s| &s.members);
        for (endpoint, port) in left.filter(|(_, p)| !after.is_some_and(|a| a.has(p.slot))) {
            if leave == Leave::AtOnce {
                let ended = self.end_sockets(&[(endpoint.clone(), vec![port.clone()])]);
                // Also where no socket could be ended: packets of either side are answered.
                self.on_datapath(|d| d.end_slot(port.slot))?;
                ended?;
            }
        }
        unpublished
    }

    /// What is left are packets of either side, which are answered from now on, and sockets
    /// of the host's programs that connected meanwhile: they would talk to whoever has the
    /// endpoint's address next.
    pub(super) fn end_slots(&mut self, slots: &[u32]) -> Result<()> {
        let Some(datapath) = self.datapath else {
            return Ok(());
        };
        let left = datapath.host_connections(&slots.iter().copied().collect());
        let mut ended = left.map_err(Into::into).and_then(|c| end_of_host(&c));
        // All of them, whatever became of the others.
        for &slot in slots {
            let done = datapath.end_slot(slot).map_err(Into::into);
            ended = ended.and(done.map(drop));
        }
        ended
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
}
