//! What can be looked at without a daemon: the machine, the directories, and programs
//! of others. What a daemon of before has left goes on; whether it is right only a
//! daemon knows.

use std::path::Path;

use netbpf_common::names;

use super::{
    findings::{Findings, count},
    look,
    machine::Machine,
};
use crate::{
    datapath::{self, Device},
    model::{Check, Finding},
    settings::Settings,
    sys::netlink::Netlink,
};

/// All of it; `why` there is no daemon.
pub fn look(settings: &Settings, socket: &Path, why: &str) -> Vec<Finding> {
    let mut all = no_daemon(socket, why);
    all.extend(Machine::look(settings, false).check());
    all.extend(of_programs());
    all.extend(look::of_firewall());
    all
}

fn no_daemon(socket: &Path, why: &str) -> Vec<Finding> {
    let mut found = Findings::of(Check::Daemon);
    found.error(
        format!("socket {}", socket.display()),
        format!("the daemon cannot be reached ({why}): what only it knows was not looked at"),
        "start it (systemctl start netbpf), or name its --socket; root and the group netbpf may use it",
    );
    found.all()
}

fn of_programs() -> Vec<Finding> {
    let mut found = Findings::of(Check::ForeignProgram);
    match others() {
        Ok((devices, others)) => {
            for (device, kind, name) in others {
                found.warning(
                    format!("device {device}"),
                    format!("{name} ({kind}) is on its way in, which is no program of ours"),
                    "see to it that it passes what is for containers on",
                );
            }
            let message = format!("none of others on {}", count(devices, "device"));
            found.or_ok("programs", message)
        }
        Err(error) => {
            found.unseen("programs", error);
            found.all()
        }
    }
}

type Others = Vec<(String, &'static str, String)>;

/// How many devices there are, and programs on their way in that are not ours.
fn others() -> crate::error::Result<(usize, Others)> {
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let xdp = netlink.xdp_programs()?;
    let mut found = Vec::new();
    for link in &links {
        let device = Device {
            name: link.name.clone(),
            ifindex: link.ifindex,
        };
        let running = datapath::foreign(&mut netlink, &device)?;
        let here = xdp.iter().filter(|(on, _)| *on == link.ifindex);
        let xdp = here.map(|(_, id)| ("xdp", datapath::program_name(*id)));
        let xdp = xdp.filter(|(_, name)| name != names::EARLY_DROP);
        let all = running.into_iter().filter(|r| !r.ours);
        let all = all.map(|r| (r.kind, r.name)).chain(xdp);
        found.extend(all.map(|(kind, name)| (link.name.clone(), kind, name)));
    }
    Ok((links.len(), found))
}
