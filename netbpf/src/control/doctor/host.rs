//! The host as the store has it: what would be put back, and what is left over.

use std::path::PathBuf;

use super::findings::{Findings, PUT_BACK, RESTART, count, endpoint};
use crate::{
    control::plan::{Found, Step, Wanted},
    model::{Check, Finding},
    store::EndpointRecord,
};

/// What the steps that would put things back say of them.
pub fn undone(wanted: &Wanted, found: &Found, steps: &[Step]) -> Vec<Finding> {
    let mut networks = Findings::of(Check::Network);
    let mut endpoints = Findings::of(Check::Endpoint);
    for step in steps {
        match step {
            Step::AddGateway(address) => networks.error(
                format!("address {address}"),
                "the gateway's address is not on lo: the host does not answer containers",
                PUT_BACK,
            ),
            Step::HoldSubnet(subnet) => networks.error(
                format!("route {subnet}"),
                "the subnet is not held by an unreachable route: what is for absent addresses leaves by other routes",
                PUT_BACK,
            ),
            Step::SetUpHostEnd(of) => endpoints.error(
                endpoint(&of.record),
                format!("interface {} is down or has lost its alias", of.record.host_ifname),
                PUT_BACK,
            ),
            Step::AddHostRoutes(of) => endpoints.error(
                endpoint(&of.record),
                format!("the host lacks {}", lacking_routes(&of.record, found)),
                PUT_BACK,
            ),
            Step::SetHostNeighbours(of) => endpoints.error(
                endpoint(&of.record),
                format!(
                    "the host lacks a neighbour entry on {}",
                    of.record.host_ifname
                ),
                PUT_BACK,
            ),
            _ => {}
        }
    }
    let held = wanted.networks.iter().map(|n| n.subnets.len()).sum();
    let message = format!(
        "gateway addresses and routes of {} are there",
        count(held, "subnet")
    );
    let mut all = networks.or_ok("networks", message);
    all.extend(endpoints.all());
    all
}

/// `the route to 10.10.1.2/32 by nb0a1b2c3d`.
fn lacking_routes(record: &EndpointRecord, found: &Found) -> String {
    let routes = record.host_routes().filter(|(route, source)| {
        let held = found.host_routes.get(route);
        held != Some(&Some(*source))
    });
    let routes: Vec<String> = routes
        .map(|((destination, _), source)| {
            format!(
                "the route to {destination} by {} with source {source}",
                record.host_ifname
            )
        })
        .collect();
    routes.join(" and ")
}

/// What bears our mark and belongs to nothing.
pub fn strays(steps: &[Step]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Stray);
    for step in steps {
        let (object, message) = match step {
            Step::RemoveGateway(address) => (
                format!("address {address}"),
                "on lo, and the gateway of no network",
            ),
            Step::ReleaseSubnet(subnet) => {
                (format!("route {subnet}"), "it holds a subnet of no network")
            }
            Step::RemoveStrayRoute { destination, .. } => {
                (format!("route {destination}"), "it leads to no endpoint")
            }
            Step::RemoveStrayVeth { name, .. } => {
                (format!("device {name}"), "it belongs to no endpoint")
            }
            _ => continue,
        };
        found.warning(object, message, RESTART);
    }
    found.or_ok("host", "nothing of ours is left over")
}

/// What of the endpoints is not as it was made, by endpoint.
pub fn endpoints(all: usize, differing: &[(String, Vec<String>)]) -> Vec<Finding> {
    let mut found = Findings::of(Check::Endpoint);
    for (object, messages) in differing {
        for message in messages {
            found.error(
                object,
                message,
                "detach it and attach it again: what was changed in a container is not put back",
            );
        }
    }
    found.or_ok(
        "endpoints",
        format!("{} as they were made", count(all, "endpoint")),
    )
}

/// The store beside what the daemon knows.
pub fn store(
    stored: Result<Vec<EndpointRecord>, String>,
    known: &[EndpointRecord],
    lost: &[PathBuf],
) -> Vec<Finding> {
    let mut found = Findings::of(Check::Store);
    for file in lost {
        found.error(
            format!("file {}", file.display()),
            "somebody has removed it: what it holds is in the kernel's copies alone, which a reboot loses",
            "restart the daemon, which makes it anew of the copies; traffic goes on meanwhile",
        );
    }
    let advice = "look at space and permissions of the daemon's directories, and at its log";
    let stored = match stored {
        Ok(stored) => stored,
        Err(error) => {
            found.error("store", error, advice);
            return found.all();
        }
    };
    for record in known {
        if !stored.contains(record) {
            let message = "the store does not have it as it is: a restart would lose that";
            found.error(endpoint(record), message, advice);
        }
    }
    let message = format!(
        "it has {} as the daemon does",
        count(known.len(), "endpoint")
    );
    found.or_ok("store", message)
}

#[cfg(test)]
mod tests {
    use super::{super::findings::tests::short, *};
    use crate::{
        control::plan::{self, tests as plans},
        model::Severity::{Error, Ok, Warning},
    };

    #[test]
    fn what_is_right_is_said_so() {
        let wanted = plans::wanted();
        let found = plans::found(&wanted);
        let steps = plan::repairs(&wanted, &found);
        let findings = undone(&wanted, &found, &steps);
        assert_eq!(short(&findings), [(Ok, "networks")]);
        let findings = strays(&plan::strays(&wanted, &found));
        assert_eq!(short(&findings), [(Ok, "host")]);
        assert_eq!(short(&endpoints(2, &[])), [(Ok, "endpoints")]);
    }

    #[test]
    fn what_was_undone_is_named() {
        let wanted = plans::wanted();
        let mut found = plans::found(&wanted);
        let record = &wanted.endpoints[0].record;
        let subnet = &wanted.networks[0].subnets[0];
        found.addresses.remove(&subnet.gateway);
        found.held.remove(&subnet.subnet);
        found.host_routes.clear();
        let steps = plan::repairs(&wanted, &found);
        let findings = undone(&wanted, &found, &steps);
        let all = short(&findings);
        let gateway = format!("address {}", subnet.gateway);
        let route = format!("route {}", subnet.subnet);
        assert!(all.contains(&(Error, gateway.as_str())), "{all:?}");
        assert!(all.contains(&(Error, route.as_str())), "{all:?}");
        let object = endpoint(record);
        let of = findings.iter().find(|f| f.object == object).unwrap();
        let ((destination, _), source) = record.host_routes().next().unwrap();
        assert!(of.message.contains(&destination.to_string()), "{of:?}");
        assert!(of.message.contains(&source.to_string()), "{of:?}");
    }

    #[test]
    fn what_is_left_over_is_named() {
        let steps = [Step::RemoveStrayVeth {
            ifindex: 9,
            name: "nb0000000f".into(),
        }];
        assert_eq!(short(&strays(&steps)), [(Warning, "device nb0000000f")]);
    }

    #[test]
    fn the_store_has_what_the_daemon_knows() {
        let wanted = plans::wanted();
        let known: Vec<EndpointRecord> = wanted
            .endpoints
            .iter()
            .map(|e| EndpointRecord::clone(&e.record))
            .collect();
        let same = store(Result::Ok(known.clone()), &known, &[]);
        assert_eq!(short(&same), [(Ok, "store")]);
        let lost = store(Result::Ok(Vec::new()), &known[..1], &[]);
        assert_eq!(short(&lost), [(Error, endpoint(&known[0]).as_str())]);
        let torn = store(Err("corrupt".into()), &known, &[]);
        assert_eq!(short(&torn), [(Error, "store")]);
    }
}
